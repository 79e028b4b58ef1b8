"""Progress is for people: silent off a terminal, one line a phase on one."""

from __future__ import annotations

import io
import json
import shlex

import click
import pytest

from quantkit.cli import cli, main
from quantkit.cli.console import Console, Progress, progress_line
from quantkit.cli.help import EXAMPLES
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
    assert "1/1" in lines[0]
    assert lines[1].count("\r") == 3  # twice while it runs, once with the time it took
    assert "2/2" in lines[1]


def test_a_progress_line_has_count_rate_and_time_left():
    assert progress_line("calibrate", 40, 100, 2.0) == "calibrate  [########............]  40/100  20.0/s  3 s left"
    assert progress_line("observe", 7, None, 1.0) == "observe  7  7.0/s"
    assert progress_line("fold", 0, 9, 0.0) == "fold  [....................]  0/9"
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


def test_a_progress_line_has_a_bar_where_the_total_is_known():
    assert progress_line("calibrate", 5, 20, 1.0).startswith("calibrate  [#####...............]  5/20")
    assert "[" not in progress_line("calibrate", 5, None, 1.0)


def test_events_are_one_json_object_a_line(digits, tmp_path):
    log = tmp_path / "events.jsonl"
    target = tmp_path / "out.onnx"
    assert main(["convert", str(digits.fp32), "-o", str(target), "--log-json", str(log)]) == 0
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert {event["event"] for event in events} == {"progress", "decision", "result"}
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["phase"], last["done"], last["total"]) == ("convert", 2, 2)


def test_a_log_in_a_missing_folder_is_one_clear_error(digits, tmp_path, capsys):
    missing = tmp_path / "missing" / "events.jsonl"
    assert main(["inspect", str(digits.int8), "--log-json", str(missing)]) == 1
    assert "--log-json" in capsys.readouterr().err


def test_a_phase_ends_with_its_last_count_and_the_time_it_took(monkeypatch):
    clock = iter([0.0, 0.01, 5.0])
    monkeypatch.setattr("quantkit.cli.console.time.monotonic", lambda: next(clock))
    terminal = put_on_terminal(monkeypatch)
    progress = Progress()
    progress("compare", 1, None)
    progress("compare", 2, None)  # too soon to be shown at once
    progress.close()
    assert terminal.getvalue().splitlines()[-1].endswith("compare  2  0.4/s  5.0 s")


def test_a_progress_line_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    terminal = put_on_terminal(monkeypatch)
    Progress()("calibrate", 40, 100)
    assert terminal.getvalue() == "\r\x1b[K" + "calibrate  [########............]"[:29]


def test_a_hint_is_for_people_at_a_terminal(monkeypatch, capsys):
    Console().hint("next: compare")
    assert capsys.readouterr() == ("", "")
    terminal = put_on_terminal(monkeypatch)
    Console().hint("next: compare")
    assert terminal.getvalue() == "next: compare\n"


def test_help_lists_sections_in_order_and_examples_last(capsys):
    assert main(["quantize", "--help"]) == 0
    shown = capsys.readouterr().out
    titles = [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[titles.index("Samples") :] == [
        "Samples",
        "Quantization",
        "Accuracy goal",
        "Output",
        "Machine",
        "Messages",
        "Examples",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_names_the_program(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "_QUANTKIT_COMPLETE" in capsys.readouterr().out


@pytest.mark.parametrize("command", list(cli.commands))
def test_help_shows_examples_that_the_command_accepts(command):
    lines = EXAMPLES[command]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" >> ")[0])[1:]
        assert words[0] == command
        cli.commands[command].make_context(command, words[1:])


def test_every_phase_of_quantize_is_told_and_ends_complete(digits, tmp_path):
    log, target = tmp_path / "events.jsonl", tmp_path / "out.onnx"
    command = ["quantize", str(digits.fp32), "--data", str(digits.calib), "--preprocess", str(digits.recipe)]
    assert main([*command, "--samples", "16", "-o", str(target), "--log-json", str(log)]) == 0
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last = {event["phase"]: event for event in events if event["event"] == "progress"}
    assert [phase for phase in last if phase != "prepare"] == ["calibrate", "methods", "tune"]
    assert all(last[phase]["done"] == last[phase]["total"] for phase in ("calibrate", "methods", "tune"))
