"""What a page tells a reader to type, in its order, and a reader that types it.

Blocks of `sh` and inline commands of quantkit are run line by line, blocks of `python` in one namespace a page. A block
whose first line is `# NAME.py` or `# NAME.toml` is that file. One that begins with `# needs TOOL; not run by the tests`
is only parsed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.cli import cli, main
from tests.conftest import REPOSITORY

BLOCK = re.compile(r"^ *```(sh|python|toml)\n(.*?)^ *```|`(quantkit [a-z]+ [^`]*)`", re.S | re.M)
NEEDS = re.compile(r"# needs (\w+); not run by the tests$", re.M)
FILE = re.compile(r"# ([\w-]+\.(?:py|toml))\n")
PLACEHOLDER = re.compile(r"\b(?:MODEL|DATA)\b")
SHELL_SIGNS = set("|>&~$")
PORT = "8000"
SHORT = {"bench": ["--seconds", "0.1"], "compare": ["--seconds", "0.1"]}
"""Appended to a command that does not say how long to measure."""
FEW = ["--samples", "2", "--method", "minmax"]
"""Appended to what would try all methods on all samples for long: `--effort best`."""
INSTALLS = ("make", ".")
"""First words of commands that set a machine up, which is what continuous integration itself begins with."""


@dataclass(frozen=True)
class Step:
    """kind: sh, python, toml or inline. text: without the fences."""

    kind: str
    text: str

    @property
    def needs(self) -> str | None:
        """The tool without which this cannot run, as the page says."""
        found = NEEDS.match(self.text)
        return found.group(1) if found else None

    @property
    def file(self) -> str | None:
        """The file that this block is the content of."""
        found = FILE.match(self.text)
        return found.group(1) if found else None

    @property
    def lines(self) -> list[str]:
        """Commands, without comments and with continued lines joined."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [line for line in joined if shlex.split(line, comments=True)]


def steps(page: str) -> list[Step]:
    """Every block and inline command of a page, in order."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    found = ((kind, textwrap.dedent(block), " ".join(inline.split())) for kind, block, inline in BLOCK.findall(text))
    return [Step(kind or "inline", block or inline) for kind, block, inline in found]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def parse(step: Step) -> None:
    """Fails if Python or quantkit's command line would not take the step as it is written."""
    if step.kind == "python":
        compile(step.text, "page", "exec")
    for line in step.lines if step.kind in ("sh", "inline") else ():
        command = re.split(r"[|>&]", line)[0]
        if words(command)[:1] == ["quantkit"]:
            cli.commands[words(command)[1]].make_context(words(command)[1], words(command)[2:])


@dataclass
class Reader:
    """Follows a page in `folder`, which is the current one; `names` are what its Python finds defined."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    port: str = field(default_factory=lambda: str(free_port()))

    def follow(self, page: str) -> int:
        """Do everything that the page says; returns how many lines and blocks were run."""
        return sum(self.do(step) for step in steps(page))

    def do(self, step: Step) -> int:
        """Do one step; returns how many commands it had."""
        parse(step)
        text = step.text.replace(PORT, self.port)
        if step.needs or (step.kind == "inline" and PLACEHOLDER.search(text)):
            return 0
        if step.file:
            (self.folder / step.file).write_text(text, encoding="utf-8")
        elif step.kind == "python":
            exec(compile(text, "page", "exec"), self.names)
        elif step.kind in ("sh", "inline"):
            for line in step.lines:
                self.type(line.replace(PORT, self.port))
            return len(step.lines)
        return 1

    def type(self, line: str) -> None:
        """One command line: of quantkit in this process, everything else by the shell."""
        typed = words(line)
        if typed[0] in INSTALLS or (typed[0] == "curl" and not shutil.which("curl")):
            return
        if typed[0] == "quantkit" and not SHELL_SIGNS & set(line.split("#")[0]):
            wanted = [] if "--seconds" in typed else SHORT.get(typed[1], [])
            wanted = [*wanted, *(FEW if "best" in typed else [])]
            with warnings.catch_warnings():  # the command line has words of its own for what it warns of
                warnings.simplefilter("error", UserWarning)
                assert main([*typed[1:], *wanted]) == 0, line
        elif line.rstrip().endswith("&"):
            self.servers.append(subprocess.Popen(line.rstrip()[:-1], shell=True, env=self.environment(),
                                                 start_new_session=True))  # fmt: skip
            self.wait_for_port()
        else:
            subprocess.run(line, shell=True, check=True, env=self.environment(), timeout=60)

    def environment(self) -> dict[str, str]:
        """With `python` and `quantkit` that are the ones under test, and a home of its own."""
        tools = self.folder / "tools"
        if not tools.exists():
            tools.mkdir()
            for name, command in {"python": "", "quantkit": " -m quantkit"}.items():
                (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n', encoding="utf-8")
                (tools / name).chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), "HOME": str(self.folder)}

    def wait_for_port(self, most_seconds: float = 60.0) -> None:
        """Until somebody listens on the port. Fails after `most_seconds`, or if the server has ended."""
        end = time.monotonic() + most_seconds
        while time.monotonic() < end and self.servers[-1].poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(self.port))) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the server does not listen")

    def close(self) -> None:
        """End the servers that the page has started."""
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)  # SIGINT is ignored by what a shell runs behind &
            server.wait(timeout=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
