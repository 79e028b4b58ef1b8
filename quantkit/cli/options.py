"""Options that several commands share, and the values they give.

A group of options is a decorator; `taken(Group, options)` moves the group's values out of a command's keywords.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click

# The same names as in quantkit.types, which imports numpy: too slow for `--help`. A test keeps them equal.
METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse")
AUTO = "auto"
EFFORTS = ("fast", "balanced", "best")
ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni")

Command = Callable[..., Any]
Group = TypeVar("Group")

FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class DataOptions:
    """Which samples to read and how to make them model inputs; the keywords of `observe.open_data`."""

    labels: Path | None
    preprocess: str | None
    samples: int | None
    batch_size: int | None
    seed: int
    strict: bool


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize."""

    method: str | None
    keep_fp32: tuple[str, ...]
    keep_int8: bool
    effort: str
    per_tensor_weights: bool
    time_budget: float
    reference: Path | None
    table_in: Path | None
    table_out: Path | None


@dataclass(frozen=True)
class GoalOptions:
    """The accuracy that the result must reach; None: no such goal."""

    max_drop: float | None
    min_agreement: float | None
    min_sqnr: float | None


def taken(group: type[Group], options: dict[str, Any]) -> Group:
    """Move the values of `group`'s fields out of `options` into an instance of it."""
    return group(**{field.name: options.pop(field.name) for field in fields(group)})  # type: ignore[arg-type]


def _stacked(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def model_argument(name: str = "model", metavar: str = "MODEL.onnx", **settings: Any) -> Callable[[Command], Command]:
    """A model file; whether it can be read is for the loader to say, in its own words."""
    return click.argument(name, metavar=metavar, type=FILE, **settings)


def output_options(default: str) -> Callable[[Command], Command]:
    """-o and --force, with the default's name in the help."""
    return _stacked(
        click.option("-o", "--output", type=FILE, metavar="OUT", help=f"Where to write. Default: {default}."),
        click.option("--force", is_flag=True, help="Overwrite an existing output (never the input)."),
    )


DATA_HELP = "Folder of images, .npz, .npy, folder of test_data_set_*, or module:callable."

data_option = click.option("--data", required=True, metavar="DATA", help=DATA_HELP)

data_or_noise_option = _stacked(
    click.option("--data", metavar="DATA", help=DATA_HELP),
    click.option("--synthetic", is_flag=True, help="No data: ranges from random numbers, to try a model out only."),
)

sample_options = _stacked(
    click.option("--labels", type=FILE, metavar="FILE.csv", help="Columns file (relative to the CSV) and class_index."),
    click.option(
        "--preprocess",
        metavar="NAME|FILE.toml",
        help="imagenet, efficientnet-lite, cifar, none, or a TOML file. Default: what the model's metadata say.",
    ),
    click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use a seeded random N of the samples."),
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Samples a batch."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of every random choice."),
    click.option("--strict", is_flag=True, help="An unreadable sample is an error, not a warning."),
)

keep_option = click.option(
    "--keep-fp32",
    multiple=True,
    metavar="REGEX",
    help="Keep the nodes whose names match in FP32; may repeat. A name that matches nothing is an error.",
)

quantize_options = _stacked(
    click.option(
        "--method",
        type=click.Choice((*METHODS, AUTO)),
        help="How to find ranges; auto: measured for each tensor. Default: the one for all that measures best.",
    ),
    keep_option,
    click.option("--keep-int8", is_flag=True, help="Quantize also what INT8 makes no faster here."),
    click.option("--effort", type=click.Choice(EFFORTS), default="balanced", show_default=True, help="Time spent."),
    click.option("--per-tensor-weights", is_flag=True, help="One scale for all weights of a layer, not one a channel."),
    click.option(
        "--time-budget",
        type=click.FloatRange(min=0, min_open=True),
        default=1200.0,
        show_default=True,
        metavar="SECONDS",
        help="After it the search for a goal, or for a method by tensor, starts nothing new.",
    ),
    click.option("--reference", type=FILE, metavar="FP32.onnx", help="The FP32 model, if it is not beside the input."),
    click.option("--table-in", type=FILE, metavar="TABLE.json", help="Reuse saved ranges; refused if of other data."),
    click.option("--table-out", type=FILE, metavar="TABLE.json", help="Save the ranges found."),
)

goal_options = _stacked(
    click.option(
        "--max-drop",
        type=click.FloatRange(0, 100),
        metavar="POINTS",
        help="Goal: largest loss of top-1 points (needs labels).",
    ),
    click.option(
        "--min-agreement",
        type=click.FloatRange(0, 1),
        metavar="FRACTION",
        help="Goal: same class as FP32 for at least this fraction.",
    ),
    click.option("--min-sqnr", type=float, metavar="DB", help="Goal: least signal-to-noise ratio of the outputs."),
)

threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Threads. Default: QUANTKIT_NUM_THREADS, or all cores.",
)
isa_option = click.option("--isa", type=click.Choice(ISAS), help="Force it. Default: QUANTKIT_ISA, or the best.")

calibration_options = _stacked(
    data_or_noise_option,
    output_options("MODEL.int8.onnx"),
    sample_options,
    quantize_options,
    goal_options,
    threads_option,
    isa_option,
)
"""Of the commands that fix ranges."""

json_option = click.option("--json", "json_path", type=FILE, metavar="OUT.json", help="Also write the result as JSON.")
overwrite_option = click.option("--force", is_flag=True, help="Overwrite existing outputs.")


def _open_log(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    from quantkit.cli.console import LOG_KEY, EventLog

    if path is not None:
        log = EventLog(path)
        context.meta[LOG_KEY] = log
        context.call_on_close(log.close)


console_options = _stacked(
    click.option(
        "--log-json",
        type=FILE,
        metavar="EVENTS.jsonl",
        expose_value=False,
        callback=_open_log,
        help="Also write progress, decisions, warnings and results as one JSON object a line.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="No progress, no notes: results, warnings and errors only."),
    click.option("-v", "--verbose", is_flag=True, help="List every decision."),
)
