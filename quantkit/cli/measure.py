"""Commands that run models: run, compare, bench."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.cli.console import Console
from quantkit.cli.help import command
from quantkit.cli.options import (
    FILE,
    DataOptions,
    console_options,
    data_option,
    isa_option,
    json_option,
    model_argument,
    overwrite_option,
    sample_options,
    taken,
    threads_option,
)
from quantkit.errors import UsageError

if TYPE_CHECKING:
    from quantkit.report.compare import Comparison

RUNTIMES = ("onnxruntime", "openvino", "torch")


@command(short_help="Run any model on samples and save its outputs.")
@model_argument()
@click.option("-i", "--input", "--data", "data", required=True, metavar="DATA", help="The samples to run.")
@click.option("-o", "--output", type=FILE, metavar="OUT.npz", help="Outputs by name. Default: MODEL.outputs.npz.")
@overwrite_option
@sample_options
@threads_option
@isa_option
@console_options
def run(model: Path, data: str, output: Path | None, force: bool, quiet: bool, verbose: bool, **options: Any) -> None:
    """Run any model, FP32, converted or calibrated, on samples, and save its outputs."""
    from quantkit.report.files import check_output
    from quantkit.report.run import run_model, save_arrays

    console = Console(quiet, verbose)
    sampling = taken(DataOptions, options)
    target = check_output(output or model.with_suffix(".outputs.npz"), inputs=[model], force=force)
    outputs = run_model(model, data, **vars(sampling), **options, progress=console.progress, warn=console.warn)
    save_arrays(target, outputs)
    if not quiet:
        shapes = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in outputs.items())
        console.result(f"wrote {target}: {shapes}")


@command(short_help="Accuracy, fidelity, size, speed, error by layer.")
@model_argument("fp32", "FP32.onnx")
@model_argument("int8", "INT8.onnx")
@data_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0),
    default=4.0,
    show_default=True,
    metavar="S",
    help="Time to measure throughput for; 0: do not.",
)
@click.option("--against", metavar="RUNTIMES", default="", help="Also time INT8 in onnxruntime, openvino, torch.")
@click.option(
    "--report", type=FILE, metavar="OUT.html", help="Also write a report: one self-contained .html page, or .md."
)
@json_option
@overwrite_option
@sample_options
@threads_option
@isa_option
@console_options
def compare(fp32: Path, int8: Path, data: str, **options: Any) -> None:
    """Compare an INT8 model with its FP32 original: accuracy, fidelity, size, throughput, error by layer."""
    from quantkit import pipeline
    from quantkit.report.files import check_output, write_json, write_text

    console = Console(options.pop("quiet"), options.pop("verbose"))
    report, json_path, force = options.pop("report"), options.pop("json_path"), options.pop("force")
    render = None if report is None else report_writer(report)
    options["against"] = parse_runtimes(options["against"])
    for path in filter(None, (report, json_path)):
        check_output(path, inputs=[fp32, int8], force=force)
    sampling = taken(DataOptions, options)
    comparison = pipeline.compare(
        fp32, int8, data, **vars(sampling), **options, progress=console.progress, warn=console.warn
    )
    console.result(comparison.to_text(every_layer=console.verbose))
    if json_path:
        write_json(json_path, comparison.to_json())
    if report and render:
        write_text(report, render(comparison, fp32.name, int8.name))
        console.note(f"report: {report}")


def report_writer(path: Path) -> Callable[[Comparison, str, str], str]:
    """What makes the report that the file name asks for. Raises UsageError for a name that is neither .html nor .md."""
    if path.suffix.lower() in (".html", ".htm"):
        from quantkit.report.html import comparison_page

        return comparison_page
    if path.suffix.lower() in (".md", ".markdown"):
        from quantkit.report.markdown import comparison_markdown

        return comparison_markdown
    raise UsageError(f"--report {path}: {path.suffix or 'no suffix'} is no kind of report; name it .html or .md")


@command(short_help="Time models side by side; ratios first.")
@model_argument("models", nargs=-1, required=True)
@click.option("--against", metavar="RUNTIMES", default="", help="Also time in onnxruntime, openvino, torch (by comma).")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Samples a run.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=D,D,...",
    help="Shape of an input whose other dimensions are dynamic; may repeat.",
)
@click.option("--seconds", type=click.FloatRange(min=0.0), default=10.0, show_default=True, help="Time to measure for.")
@click.option("--per-layer", is_flag=True, help="Also time every op of every model in quantkit.")
@click.option(
    "--streams", metavar="N,N,...", default="", help="Also measure the throughput of so many callers at once."
)
@click.option("--batches", metavar="N,N,...", default="", help="Also measure the throughput with such batches.")
@click.option(
    "--trace",
    type=FILE,
    metavar="OUT.json",
    help="Also write one run of each model as a trace for ui.perfetto.dev or chrome://tracing.",
)
@json_option
@overwrite_option
@threads_option
@isa_option
@console_options
def bench(models: tuple[Path, ...], against: str, json_path: Path | None, force: bool, **options: Any) -> None:
    """Time models side by side, in interleaved rounds on random input; ratios first."""
    from quantkit.cli.walkthrough import peak_model
    from quantkit.report.bench import bench as bench_models
    from quantkit.report.files import check_output, write_json
    from quantkit.report.trace import chrome_trace

    console = Console(options.pop("quiet"), options.pop("verbose"))
    trace = options.pop("trace")
    for path in filter(None, (json_path, trace)):
        check_output(path, inputs=models, force=force)
    options["shapes"] = parse_shapes(options["shapes"])
    for name in ("streams", "batches"):
        options[name] = parse_counts(name, options[name])
    shown, options["per_layer"] = options["per_layer"], bool(options["per_layer"] or trace)
    options["peak"] = peak_model() if shown else None
    result = bench_models(
        models, against=parse_runtimes(against), **options, progress=console.progress, warn=console.warn
    )
    if trace:
        write_json(trace, chrome_trace(result.layers or [], result.machine))
    result = result if shown else replace(result, layers=None)
    console.result(result.to_text())
    if json_path:
        write_json(json_path, result.to_json())


def parse_runtimes(text: str) -> tuple[str, ...]:
    """`"onnxruntime,openvino"` -> names, each once. Raises UsageError for one that is not known."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in RUNTIMES:
            raise UsageError(f"--against {name}: no such runtime; choose from {', '.join(RUNTIMES)}")
    return names


def parse_counts(option: str, text: str) -> tuple[int, ...]:
    """`"1,2,4"` -> numbers of at least 1. Raises UsageError for anything else."""
    items = [item.strip() for item in text.split(",") if item.strip()]
    if not all(item.isdigit() and int(item) >= 1 for item in items):
        raise UsageError(f"--{option} {text}: write numbers of at least 1, such as 1,2,4")
    return tuple(int(item) for item in items)


def parse_shapes(items: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`("x=1,3,224,224",)` -> {"x": (1, 3, 224, 224)}. Raises UsageError for anything else."""
    shapes = {}
    for item in items:
        name, _, dimensions = item.rpartition("=")
        try:
            shapes[name] = tuple(int(d) for d in dimensions.split(","))
        except ValueError:
            shapes[name] = ()
        if not name or not shapes[name] or min(shapes[name]) < 1:
            raise UsageError(f"--shape {item}: write NAME=D,D,... with positive numbers, such as input=1,3,224,224")
    return shapes
