"""Commands that write a model: convert, calibrate, quantize, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.console import Console
from quantkit.cli.goals import check_goals, goal_reference, require_labels
from quantkit.cli.help import command
from quantkit.cli.options import (
    DATA_HELP,
    DataOptions,
    GoalOptions,
    QuantizeOptions,
    calibration_options,
    console_options,
    keep_option,
    model_argument,
    output_options,
    taken,
)

if TYPE_CHECKING:
    from quantkit.pipeline import ModelResult
    from quantkit.types import QuantConfig


@command(short_help="Fold and rewrite an FP32 model; ranges stay open.")
@model_argument()
@output_options("MODEL.converted.onnx")
@keep_option
@console_options
def convert(
    model: Path, output: Path | None, force: bool, keep_fp32: tuple[str, ...], quiet: bool, verbose: bool
) -> None:
    """Fold an FP32 model and rewrite it into quantized ops whose ranges are not fixed yet.

    Prints what was folded and fused, and what stays FP32 and why.
    """
    from quantkit import pipeline

    console = Console(quiet, verbose)
    target = _target(model, output, ".converted.onnx", force)
    result = pipeline.convert(model, keep_fp32=keep_fp32, progress=console.progress)
    _save(result, target, force, console)


@command(short_help="Fix the ranges of a converted model with samples.")
@model_argument(metavar="CONVERTED.onnx")
@calibration_options
@console_options
def calibrate(model: Path, data: str | None, **options: Any) -> None:
    """Fix the ranges of a converted model with sample data and fuse the requantization."""
    _quantize("calibrate", model, data, options)


@command(short_help="Both: an FP32 model in, an INT8 model out.")
@model_argument()
@calibration_options
@click.option("--partial", is_flag=True, help="The model is quantized in part: keep that, quantize the FP32 rest.")
@console_options
def quantize(model: Path, data: str | None, **options: Any) -> None:
    """Convert and calibrate in one step: an FP32 model in, an INT8 model out."""
    _quantize("quantize", model, data, options)


@command(short_help="Write plain standard ONNX for other runtimes.")
@model_argument(metavar="INT8.onnx")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["qdq", "qoperator"]),
    default="qdq",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--exact/--fusable",
    default=None,
    help="QDQ that gives quantkit's results elsewhere [default], or QDQ that runtimes join to INT8 kernels.",
)
@output_options("MODEL.FORMAT.onnx")
@console_options
def export(
    model: Path, format_: str, exact: bool | None, output: Path | None, force: bool, quiet: bool, verbose: bool
) -> None:
    """Write a model for runtimes that know no local functions: plain standard ONNX operators.

    qdq: standard operators of ai.onnx, in one of two forms.

    --exact, the default: integers in float32, one rounding an op; onnxruntime and OpenVINO compute quantkit's results.

    --fusable: DequantizeLinear, op, QuantizeLinear, as runtimes recognise and join to INT8 kernels: fast there; results
    differ by ties.

    qoperator: QLinearConv, QLinearAdd and their like, of ai.onnx and com.microsoft; --fusable around the rest.

    What `quantize` kept in FP32 is plain ONNX already and is written as it is.
    """
    from quantkit.report.export import REWRITTEN, save_export
    from quantkit.report.export import export as exported

    console = Console(quiet, verbose)
    if exact and format_ != "qdq":
        raise click.UsageError("--exact is a form of qdq, not of qoperator; leave one of the two out.")
    target = _target(model, output, f".{format_}.onnx", force)
    result = exported(model, format_, exact)
    save_export(result, target)
    if format_ == "qdq" and result.meta[REWRITTEN]:
        console.note(FORM_NOTES[exact is not False])
    if not quiet:
        console.result(f"wrote {target} ({_size(target)})")


FORM_NOTES = {
    True: "exact form: other runtimes compute quantkit's results with it, in float32; "
    "--fusable writes the one that they join to INT8 kernels",
    False: "fusable form: runtimes join it to INT8 kernels, and results differ from quantkit's by ties; "
    "--exact writes the one that gives the same results",
}
"""Whether the QDQ file is exact -> what that form is good for, and how to get the other."""


def _data(model: Path, data: str | None, synthetic: bool, console: Console) -> Any:
    """--data, or with --synthetic random inputs and a warning. Raises click.UsageError for both or none."""
    if (data is None) != synthetic:
        problem = (
            f"Missing option '--data'. {DATA_HELP}" if data is None else "--data and --synthetic exclude each other."
        )
        raise click.UsageError(problem)
    if not synthetic:
        return data
    from quantkit.load import load
    from quantkit.observe import FloatRunner
    from quantkit.observe.synthetic import WARNING, working_feeds

    console.warn(WARNING)
    return working_feeds(FloatRunner(load(model)))


def _quantize(command: str, model: Path, data: Any, options: dict[str, Any]) -> None:
    """Run the stage `command`, save its result, and judge it by the accuracy goals if there are any."""
    from quantkit import pipeline

    console = Console(options["quiet"], options["verbose"])
    sampling, quantizing = taken(DataOptions, options), taken(QuantizeOptions, options)
    goals, threads, force = taken(GoalOptions, options), options["threads"], options["force"]
    target = _target(model, options["output"], ".int8.onnx", force)
    data = _data(model, data, options["synthetic"], console)
    reference = goal_reference(goals, model, quantizing.reference, is_fp32=command == "quantize")
    require_labels(goals, model, data, sampling)
    settings = {key: value for key, value in vars(sampling).items() if key != "seed"}
    settings.update(
        config=_config(quantizing, goals, sampling.seed),
        threads=threads,
        table_in=quantizing.table_in,
        table_out=quantizing.table_out,
        progress=console.progress,
        warn=console.warn,
    )
    if options.get("partial"):
        settings["partial"] = True
    if quantizing.reference is not None:
        settings["reference"] = quantizing.reference
    result = getattr(pipeline, command)(model, data, **settings)
    _save(result, target, force, console)
    if result.kind == "fp32":
        console.warn(f"nothing in {model} could be quantized; {target} is an FP32 model")
    elif isinstance(data, str):
        original = result.sources[-1] if result.sources[-1] != model or command == "quantize" else "FP32.onnx"
        console.hint(f"next: quantkit compare {original} {target} --data DATA, with samples that it has not seen")
    if reference is not None:
        check_goals(goals, reference, target, data, sampling, threads, options["isa"], console)


def _config(options: QuantizeOptions, goals: GoalOptions, seed: int) -> QuantConfig:
    from quantkit.types import Goal, QuantConfig

    goal = Goal(**vars(goals)) if goals != GoalOptions(None, None, None) else None
    return QuantConfig(
        method=options.method,
        keep_fp32=options.keep_fp32,
        keep_int8=options.keep_int8,
        effort=options.effort,
        per_channel=not options.per_tensor_weights,
        time_budget=options.time_budget,
        seed=seed,
        goal=goal,
    )


def _target(model: Path, output: Path | None, suffix: str, force: bool) -> Path:
    from quantkit.report.files import check_output

    return check_output(output or default_output(model, suffix), inputs=[model], force=force)


def default_output(model: Path, suffix: str) -> Path:
    """`a/net.onnx` -> `a/net` + suffix; a `.converted` of an earlier stage is dropped."""
    stem = model.name.removesuffix(".onnx").removesuffix(".converted")
    return model.with_name(stem + suffix)


def _save(result: ModelResult, target: Path, force: bool, console: Console) -> None:
    from quantkit.report.decisions import summarize

    result.save(target, force=force)
    console.decisions(result.decisions)
    if not console.quiet:
        console.result(summarize(result.decisions, everything=console.verbose))
        console.result(_outcome(result, target))


def _outcome(result: ModelResult, target: Path) -> str:
    """The last line of a command: the file, its size beside the model's, and what became of the nodes."""
    from quantkit.load.kind import DOMAIN

    nodes = [node.domain == DOMAIN for node in result.model.graph]
    size = _size(target)
    sources = [path for path in result.sources if path.is_file()]
    before = f"{_size(sources[-1])} before, " if sources else ""
    return f"wrote {target} ({size}; {before}{sum(nodes)} of {len(nodes)} nodes quantized)"


def _size(path: Path) -> str:
    from quantkit.report.models import model_bytes
    from quantkit.report.text import size

    return size(model_bytes(path))
