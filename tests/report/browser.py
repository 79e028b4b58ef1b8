"""Headless Chromium for pages that must work in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=5000"
).split()
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def visit(page: Path, script: str) -> tuple[Any, str]:
    """Open a copy of `page` with `script` at its end. Returns (what the script returns, as JSON; console messages).

    Skips the test where there is no Chromium.
    """
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "page.html")
        ending = f"<script>document.title = JSON.stringify((() => {{{script}}})());</script></body>"
        copy.write_text(page.read_text(encoding="utf-8").replace("</body>", ending), encoding="utf-8")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}/profile", "--dump-dom", copy.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    title = re.search(r"<title>(.*?)</title>", result.stdout, re.S)
    assert title is not None
    console = "\n".join(line for line in result.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(unescape(title.group(1))), console
