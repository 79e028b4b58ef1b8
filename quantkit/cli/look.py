"""Commands that explain: inspect, doctor, demo."""

from __future__ import annotations

from pathlib import Path

import click

from quantkit.cli.console import Console
from quantkit.cli.help import command
from quantkit.cli.options import (
    FILE,
    console_options,
    isa_option,
    json_option,
    model_argument,
    overwrite_option,
    threads_option,
)


@command(short_help="Where every node runs, and why.")
@model_argument()
@json_option
@overwrite_option
@isa_option
@console_options
def inspect(model: Path, json_path: Path | None, force: bool, isa: str | None, quiet: bool, verbose: bool) -> None:
    """Show every node of a model: op, shape, type, where it runs and why."""
    from quantkit.report.files import check_output, write_json
    from quantkit.report.inspect import inspect_model

    console = Console(quiet, verbose)
    if json_path:
        check_output(json_path, inputs=[model], force=force)
    inspection = inspect_model(model, isa=isa)
    console.result(inspection.to_text())
    if json_path:
        write_json(json_path, inspection.to_json())


@command(short_help="Check this machine and self-test the kernels.")
@json_option
@overwrite_option
@threads_option
@isa_option
@console_options
def doctor(
    json_path: Path | None, force: bool, threads: int | None, isa: str | None, quiet: bool, verbose: bool
) -> None:
    """Check this machine: CPU features, chosen instruction set, threads, versions, a self-test of the kernels."""
    from quantkit.cli.walkthrough import self_test_model
    from quantkit.errors import EngineError
    from quantkit.report.doctor import PASSED, examine
    from quantkit.report.files import check_output, write_json

    console = Console(quiet, verbose)
    if json_path:
        check_output(json_path, force=force)
    diagnosis = examine(*self_test_model(), isa=isa, threads=threads)
    console.result(diagnosis.to_text())
    if json_path:
        write_json(json_path, diagnosis.to_json())
    if diagnosis.self_test != PASSED:
        raise EngineError(f"self-test {diagnosis.self_test}; do not trust results of this machine, and report it")


@command(short_help="A script that lets the shell complete commands and options.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets SHELL complete commands and options; load it in the shell's start-up file."""
    from click.shell_completion import get_completion_class

    from quantkit.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "quantkit", "_QUANTKIT_COMPLETE").source())


@command(short_help="The whole road on the embedded model and data.")
@click.argument("directory", metavar="[DIR]", type=FILE, default=Path("demo"))
@click.option("--force", is_flag=True, help="Overwrite the outputs of an earlier demo.")
@threads_option
@isa_option
@console_options
def demo(directory: Path, force: bool, threads: int | None, isa: str | None, quiet: bool, verbose: bool) -> None:
    """Walk the whole road on the embedded model and data: convert, calibrate, compare. Default DIR: demo."""
    from quantkit.cli.walkthrough import walk

    walk(directory, force, threads, isa, Console(quiet, verbose))
