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
from quantkit.cli.help import START
from quantkit.cli.look import completion, demo, doctor, inspect
from quantkit.cli.measure import bench, compare, run
from quantkit.cli.produce import calibrate, convert, export, quantize
from quantkit.errors import QuantkitError

INTERRUPTED = 130


class _InOrder(click.Group):
    """Lists commands in the order of the work, not of the alphabet."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments[0].endswith(".onnx"):
            context.fail(f"{arguments[0]} is no command; quantkit quantize {arguments[0]} --data DATA makes it INT8.")
        return super().resolve_command(context, arguments)


@click.group(
    cls=_InOrder, epilog=START, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, message="quantkit %(version)s")
def cli() -> None:
    """Turn an FP32 ONNX model and a folder of samples into an exact, fast INT8 model."""


for command in (convert, calibrate, quantize, run, compare, bench, inspect, export, doctor, demo, completion):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code; errors become one line on stderr."""
    try:
        cli.main(args=arguments, prog_name="quantkit", standalone_mode=False)
    except QuantkitError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "quantkit"
        return _fail(f"{error.format_message()} See `{where} --help`", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing partial was left behind", INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout went away (`| head`): keep the interpreter's last flush silent
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        return _fail(f"not enough memory ({error}); give a smaller --batch, --batch-size or --shape", 1)
    except OSError as error:
        if os.environ.get("QUANTKIT_DEBUG"):
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}; check the path, its permissions and the space left", 1)
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
