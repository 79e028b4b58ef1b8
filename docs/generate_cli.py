"""Writes docs/cli.md from the command line itself. Run by `make docs`; a test checks that the page is current."""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from quantkit.cli import cli
from quantkit.cli.help import EXAMPLES

PAGE = Path(__file__).resolve().parent / "cli.md"

INTRODUCTION = """\
# Command line

Generated from the commands themselves by `make docs`; edit the help texts in `quantkit/cli/`, not this page.

Results go to stdout; progress, notes and errors to stderr. Progress shows only on a terminal.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: one line on stderr says where, what and what to do |
| 2 | wrong usage |
| 3 | an accuracy goal was missed; the best model was saved all the same |
| 130 | interrupted with Ctrl-C; nothing partial is left behind |

`DATA` is one of: a folder of images (JPEG, PNG, BMP, WebP), labelled by a `labels.csv` in it, by `--labels` or by class
sub-folders; a `.npz` with `images` (uint8 NHWC, preprocessed like images) and optional `labels`, or with one array per
model input (used as it is); a `.npy` for a model of one input; a folder of ONNX `test_data_set_*`; `module:callable`
returning an iterable of dicts (a `CalibrationDataReader` works).

Preprocessing is a preset or a TOML file. A calibrated model carries its own in its metadata, so the other commands
prepare samples alike without being told:

```toml
resize = { short_side = 256 }          # or { width = 224, height = 224 }
crop = { size = 224 }                  # centre; { size = 224, padding = 32 }: side int(224/(224+32)*min(width, height))
interpolation = "bicubic"              # bilinear | bicubic | nearest | lanczos, as Pillow does them
color = "RGB"                          # or "BGR", "L"
scale = 255.0                          # (x / scale - mean) / std, per channel
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
layout = "NCHW"
```

Environment: `QUANTKIT_ISA` (scalar, avx2, avxvnni, avx512vnni) and `QUANTKIT_NUM_THREADS` set what `--isa` and
`--threads` set; `QUANTKIT_KEEP_INT8=1` sets `--keep-int8` everywhere; `QUANTKIT_DEBUG=1` shows the traceback of an
internal error.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(section(name, command) for name, command in cli.commands.items())])


def section(name: str, command: click.Command) -> str:
    """One command: usage, what it does, its options as a table."""
    arguments = [p.metavar or p.name or "" for p in command.params if isinstance(p, click.Argument)]
    many = [p for p in command.params if isinstance(p, click.Argument) and p.nargs == -1]
    options = [p for p in command.params if isinstance(p, click.Option)]
    required = [f"{p.opts[-1]} {value_name(p)}" for p in options if p.required]
    usage = " ".join(["quantkit", name, *arguments, *(["..."] if many else []), *required, "[OPTIONS]"])
    rows = [f"| {option_names(p)} | {cell(description(p))} |" for p in options]
    return "\n".join(
        [
            f"## {name}\n",
            f"```\n{usage}\n```\n",
            inspect.cleandoc(command.help or ""),
            "",
            "```sh\n" + "\n".join(EXAMPLES[name]) + "\n```\n",
            *(["| option | |", "|---|---|", *rows, ""] if rows else []),
        ]
    )


def option_names(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len))
    return names if option.is_flag else f"{names} `{cell(value_name(option))}`"


def value_name(option: click.Option) -> str:
    """What stands for the option's value: its metavar, its choices, or N."""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "|".join(str(choice) for choice in option.type.choices)
    return "N"


def description(option: click.Option) -> str:
    default = f" Default: {option.default}." if option.show_default else ""
    return f"{option.help}{default}"


def cell(text: str) -> str:
    """Text inside a Markdown table: a bar would end the cell."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
