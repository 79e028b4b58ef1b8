"""What a benchmark ran on, for its JSON and for the pages that quote it."""

from __future__ import annotations

import datetime
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def header(isa: str | None, rivals_avx2: bool = False) -> dict[str, Any]:
    """Machine, instruction sets, versions, date, commit. Threads and batch stand with each result."""
    from quantkit.execute.binding import choose_isa
    from quantkit.report.machine import describe_machine

    limited = "AVX2 for OpenVINO; onnxruntime has no switch and uses all the CPU has"
    facts = describe_machine(choose_isa(isa), 0)
    del facts["threads"]
    facts["versions"] |= {"nncf": metadata.version("nncf")} if find_spec("nncf") else {}
    facts["rivals_isa"] = limited if rivals_avx2 else "all the CPU has"
    facts["date"] = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    facts["commit"] = commit()
    return facts


def commit() -> str | None:
    """The commit that is checked out, with a + if files differ from it; None outside of a clone."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return name.stdout.strip() + "+" * bool(changed.stdout.strip())
