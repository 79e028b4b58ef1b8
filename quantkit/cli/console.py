"""What a command says while it works, all on stderr: progress, notes and warnings."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantkit.errors import OutputError

if TYPE_CHECKING:
    from quantkit.types import Decision

REFRESH_SECONDS = 0.1
BAR_CELLS = 20
LOG_KEY = "quantkit-log"
"""Where a command's context keeps the EventLog of --log-json."""


class EventLog:
    """One JSON object a line: {"time": seconds since the start, "event": ..., ...}, for programs that watch.

    Events: progress (phase, done, total), note, warning and result (message), decision (stage, action, node, detail).
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{path}: the log cannot be written ({error.strerror}); choose another --log-json"
            ) from error
        self._started = time.monotonic()
        self._phase: tuple[str, float] = ("", 0.0)

    def write(self, event: str, **values: Any) -> None:
        """Append one event; it is on disk when this returns."""
        entry = {"time": round(time.monotonic() - self._started, 3), "event": event, **values}
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def progress(self, phase: str, done: int, total: int | None) -> None:
        """At most one event a phase in REFRESH_SECONDS, and always its last."""
        now = time.monotonic()
        if phase != self._phase[0] or done == total or now - self._phase[1] >= REFRESH_SECONDS:
            self._phase = (phase, now)
            self.write("progress", phase=phase, done=done, total=total)

    def close(self) -> None:
        self._file.close()


class Progress:
    """One line a phase, rewritten in place: count, rate and time left. Writes nothing unless stderr is a terminal.

    Called as `progress(phase, done, total)`; total None: unknown.
    """

    def __init__(self, enabled: bool = True, log: EventLog | None = None) -> None:
        self._log = log
        self.enabled = enabled and sys.stderr is not None and sys.stderr.isatty()  # None: closed by `2>&-`
        self._phase = ""
        self._started = 0.0
        self._written = 0.0
        self._latest: tuple[int, int | None] = (0, None)

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        if self._log:
            self._log.progress(phase, done, total)
        if not self.enabled:
            return
        now = time.monotonic()
        if phase != self._phase:
            self.close()
            self._phase, self._started, self._written = phase, now, float("-inf")
        self._latest = (done, total)
        if now - self._written >= REFRESH_SECONDS or done == total:
            self._written = now
            self._show(progress_line(phase, done, total, now - self._started))

    def _show(self, line: str) -> None:
        """One line in place of the last; cut, for one that wraps could not be rewritten."""
        sys.stderr.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the last state standing with the time it took; what follows starts on a line of its own."""
        if self._phase:
            seconds = time.monotonic() - self._started
            self._show(f"{progress_line(self._phase, *self._latest, seconds, ended=True)}  {seconds:.1f} s")
            sys.stderr.write("\n")
            self._phase = ""


def progress_line(phase: str, done: int, total: int | None, seconds: float, ended: bool = False) -> str:
    """The text of one progress line, such as `calibrate  [########............]  40/100  21.3/s  3 s left`."""
    if total is None and not done:
        return phase if ended else f"{phase} ..."
    filled = 0 if not total else round(BAR_CELLS * min(1.0, done / total))
    bar = [] if not total else ["[" + "#" * filled + "." * (BAR_CELLS - filled) + "]"]
    parts = [phase, *bar, str(done) if total is None else f"{done}/{total}"]
    if done and seconds >= REFRESH_SECONDS:
        parts.append(f"{done / seconds:.1f}/s")
        if total is not None and done < total and not ended:
            parts.append(f"{seconds / done * (total - done):.0f} s left")
    return "  ".join(parts)


class Console:
    """Where a command's messages go. quiet: errors and results only. verbose: everything that was decided."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose and not quiet
        self._warned: set[str] = set()
        context = click.get_current_context(silent=True)
        self.log: EventLog | None = context.meta.get(LOG_KEY) if context is not None else None
        self.progress = Progress(enabled=not quiet, log=self.log)
        if context is not None:  # an error message then starts on a line of its own
            context.call_on_close(self.progress.close)

    def _record(self, event: str, message: str) -> None:
        if self.log:
            self.log.write(event, message=message)

    def decisions(self, decisions: Iterable[Decision]) -> None:
        """Put what the stages decided into the log."""
        for decision in decisions if self.log else ():
            assert self.log
            self.log.write("decision", **vars(decision))

    def note(self, message: str) -> None:
        """Say something useful but not asked for, on stderr."""
        self._record("note", message)
        if not self.quiet:
            self.progress.close()
            click.echo(message, err=True)

    def hint(self, message: str) -> None:
        """Say on a terminal what to do next."""
        if self.progress.enabled:
            self.progress.close()
            click.echo(message, err=True)

    def warn(self, message: str) -> None:
        """Say what may be wrong, on stderr; also when quiet, for a result may rest on it."""
        self._record("warning", message)
        self.progress.close()
        if message not in self._warned:  # data that are read twice warn twice
            self._warned.add(message)
            click.echo(f"warning: {message}", err=True)

    def result(self, text: str) -> None:
        """Print a result to stdout."""
        self._record("result", text)
        self.progress.close()
        click.echo(text)
