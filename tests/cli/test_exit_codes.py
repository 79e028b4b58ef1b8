"""What a command ends with: the exit code and one line on stderr."""

from __future__ import annotations

import click
import pytest

from quantkit import cli as cli_package
from quantkit.errors import AccuracyGoalMissed, ModelError, UsageError


@pytest.fixture
def failing(monkeypatch):
    """Run a command line whose only command raises what is given."""

    def run(error: BaseException) -> int:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setitem(cli_package.cli.commands, "failing", command)
        return cli_package.main(["failing"])

    return run


def test_wrong_usage_is_one_line_that_names_the_help(capsys):
    assert cli_package.main(["quantize", "model.onnx"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("quantkit: Missing option '--data'. Folder of images, .npz")
    assert shown.endswith("See `quantkit quantize --help`\n")
    assert shown.count("\n") == 1


def test_a_model_in_the_place_of_a_command_gets_the_command_that_fits(capsys):
    assert cli_package.main(["net.onnx"]) == 2
    assert "quantkit quantize net.onnx --data DATA" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("x.onnx: not a model"), 1),
        (UsageError("no such preset"), 2),
        (AccuracyGoalMissed("too low"), 3),
        (KeyboardInterrupt("interrupted"), 130),
        (ValueError("surprise"), 1),
    ],
)
def test_errors_end_in_their_exit_code_and_one_line_on_stderr(failing, capsys, error, code):
    assert failing(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    line = err.lstrip("\n")  # a new line after the ^C of a terminal
    assert line.startswith("quantkit: ")
    assert line.count("\n") == 1
    assert str(error) in err


def test_an_unexpected_error_says_that_it_is_internal(failing, capsys, monkeypatch):
    monkeypatch.delenv("QUANTKIT_DEBUG", raising=False)
    failing(ZeroDivisionError("division by zero"))
    assert "internal error: ZeroDivisionError" in capsys.readouterr().err


def test_debugging_lets_an_unexpected_error_through(failing, monkeypatch):
    monkeypatch.setenv("QUANTKIT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())
