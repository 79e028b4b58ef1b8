"""Help is instant and complete; the shared option values equal the package's."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from quantkit.cli import cli, main
from quantkit.cli.options import EFFORTS, METHODS

HEAVY = ("numpy", "onnx", "onnx_ir", "onnxruntime", "PIL")


def test_importing_the_command_line_imports_nothing_heavy():
    code = f"import sys, quantkit.cli; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_contract_names_all_exist():
    names = "convert calibrate quantize run compare bench inspect export doctor demo completion"
    assert list(cli.commands) == names.split()


@pytest.mark.parametrize("command", [[], *[[name] for name in cli.commands]])
def test_every_command_has_help_on_stdout(command, capsys):
    assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Usage: quantkit")
    assert err == ""


def test_every_option_has_help_text():
    silent = [
        f"{name} {parameter.name}"
        for name, command in cli.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


def test_option_choices_equal_the_package_constants():
    from quantkit import types

    assert types.METHODS == METHODS
    assert types.EFFORTS == EFFORTS


def test_an_unknown_option_is_wrong_usage(capsys):
    assert main(["convert", "--no-such-option"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--no-such-option" in err


def test_an_unknown_method_is_wrong_usage_and_lists_the_known(capsys):
    assert main(["quantize", "m.onnx", "--data", "d", "--method", "best"]) == 2
    assert "percentile" in capsys.readouterr().err
