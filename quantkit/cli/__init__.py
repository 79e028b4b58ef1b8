"""The command line: parse, call the pipeline, print.

Results go to stdout, messages and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 accuracy goal
missed, 130 interrupted. Only click and the standard library are imported until a command runs, so help is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from quantkit import __version__
from quantkit.cli.look import completion, demo, doctor, inspect
from quantkit.cli.measure import bench, compare, run
from quantkit.cli.produce import calibrate, convert, export, quantize
from quantkit.errors import QuantkitError

INTERRUPTED = 130


class _InOrder(click.Group):
    """Lists commands in the order of the work, not of the alphabet."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="quantkit %(version)s")
def cli() -> None:
    """Turn an FP32 ONNX model and a folder of samples into an exact, fast INT8 model."""


EXAMPLES = {
    "convert": ["quantkit convert model.onnx", "quantkit convert model.onnx --keep-fp32 'head.*'"],
    "calibrate": ["quantkit calibrate model.converted.onnx --data images/ --preprocess imagenet"],
    "quantize": [
        "quantkit quantize model.onnx --data images/ --preprocess imagenet",
        "quantkit quantize model.onnx --data images/ --labels labels.csv --max-drop 0.5",
    ],
    "run": ["quantkit run model.int8.onnx --input images/ -o outputs.npz"],
    "compare": ["quantkit compare model.onnx model.int8.onnx --data validation/ --report report.html"],
    "bench": [
        "quantkit bench model.onnx model.int8.onnx --against onnxruntime",
        "quantkit bench model.int8.onnx --per-layer --trace trace.json",
    ],
    "inspect": ["quantkit inspect model.int8.onnx"],
    "export": ["quantkit export model.int8.onnx --format qdq"],
    "doctor": ["quantkit doctor"],
    "demo": ["quantkit demo"],
    "completion": ["quantkit completion bash >> ~/.bashrc"],
}
"""Shown at the end of each command's help and in docs/cli.md."""

for command in (convert, calibrate, quantize, run, compare, bench, inspect, export, doctor, demo, completion):
    command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[command.name or ""])
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code; errors become one line on stderr."""
    try:
        cli.main(args=arguments, prog_name="quantkit", standalone_mode=False)
    except QuantkitError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing partial was left behind", INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout went away (`| head`): keep the interpreter's last flush silent
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("QUANTKIT_DEBUG"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error}. Set QUANTKIT_DEBUG=1 to see where, and please report it",
            1,
        )
    return 0


def _fail(message: str, code: int) -> int:
    click.echo(f"quantkit: {' '.join(message.split())}", err=True)
    return code
