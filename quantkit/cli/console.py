"""What a command says while it works, all on stderr: progress, notes and warnings."""

from __future__ import annotations

import sys
import time

import click

REFRESH_SECONDS = 0.1


class Progress:
    """One line a phase, rewritten in place: count, rate and time left. Writes nothing unless stderr is a terminal.

    Called as `progress(phase, done, total)`; total None: unknown.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled and sys.stderr.isatty()
        self._phase = ""
        self._started = 0.0
        self._written = 0.0

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        if not self.enabled:
            return
        now = time.monotonic()
        if phase != self._phase:
            self.close()
            self._phase, self._started, self._written = phase, now, 0.0
        if now - self._written >= REFRESH_SECONDS or done == total:
            self._written = now
            sys.stderr.write("\r\x1b[K" + progress_line(phase, done, total, now - self._started))
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the last line standing, so that what follows starts on a line of its own."""
        if self._phase:
            sys.stderr.write("\n")
            self._phase = ""


def progress_line(phase: str, done: int, total: int | None, seconds: float) -> str:
    """The text of one progress line, such as `calibrate  40/100  21.3/s  3 s left`."""
    if total is None and not done:
        return f"{phase} ..."
    parts = [phase, str(done) if total is None else f"{done}/{total}"]
    if done and seconds > 0:
        parts.append(f"{done / seconds:.1f}/s")
        if total is not None and done < total:
            parts.append(f"{seconds / done * (total - done):.0f} s left")
    return "  ".join(parts)


class Console:
    """Where a command's messages go. quiet: errors and results only. verbose: everything that was decided."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose and not quiet
        self.progress = Progress(enabled=not quiet)
        context = click.get_current_context(silent=True)
        if context is not None:  # an error message then starts on a line of its own
            context.call_on_close(self.progress.close)

    def note(self, message: str) -> None:
        """Say something useful but not asked for, on stderr."""
        if not self.quiet:
            self.progress.close()
            click.echo(message, err=True)

    def warn(self, message: str) -> None:
        """Say what may be wrong, on stderr; also when quiet, for a result may rest on it."""
        self.progress.close()
        click.echo(f"warning: {message}", err=True)

    def result(self, text: str) -> None:
        """Print a result to stdout."""
        self.progress.close()
        click.echo(text)
