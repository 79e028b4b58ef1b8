"""Progress is for people: silent off a terminal, one line a phase on one."""

from __future__ import annotations

import io

import click
import pytest

from quantkit.cli import cli, main
from quantkit.cli.console import Console, Progress, progress_line
from quantkit.errors import ModelError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def put_on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_progress_is_silent_when_stderr_is_not_a_terminal(capsys):
    progress = Progress()
    progress("calibrate", 5, 10)
    progress.close()
    assert capsys.readouterr() == ("", "")


def test_progress_is_silent_when_quiet(monkeypatch):
    terminal = put_on_terminal(monkeypatch)
    Console(quiet=True).progress("calibrate", 5, 10)
    assert terminal.getvalue() == ""


def test_progress_rewrites_one_line_a_phase(monkeypatch):
    terminal = put_on_terminal(monkeypatch)
    progress = Progress()
    progress("fold", 1, 1)
    progress("calibrate", 1, 2)
    progress("calibrate", 2, 2)
    progress.close()
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 3
    assert "fold  1/1" in lines[0]
    assert lines[1].count("\r") == 2
    assert "calibrate  2/2" in lines[1]


def test_a_progress_line_has_count_rate_and_time_left():
    assert progress_line("calibrate", 40, 100, 2.0) == "calibrate  40/100  20.0/s  3 s left"
    assert progress_line("observe", 7, None, 1.0) == "observe  7  7.0/s"
    assert progress_line("fold", 0, 9, 0.0) == "fold  0/9"
    assert progress_line("throughput", 0, None, 0.0) == "throughput ..."


def test_notes_are_dropped_when_quiet_but_warnings_are_not(capsys):
    console = Console(quiet=True)
    console.note("by the way")
    console.warn("broken.jpg skipped")
    console.result("the result")
    assert capsys.readouterr() == ("the result\n", "warning: broken.jpg skipped\n")


def test_an_error_starts_on_a_line_of_its_own(monkeypatch):
    @click.command()
    def command() -> None:
        Console().progress("calibrate", 1, 9)
        raise ModelError("m.onnx: broken")

    monkeypatch.setitem(cli.commands, "failing", command)
    terminal = put_on_terminal(monkeypatch)
    assert main(["failing"]) == 1
    assert terminal.getvalue().split("\n")[1:] == ["quantkit: m.onnx: broken", ""]
