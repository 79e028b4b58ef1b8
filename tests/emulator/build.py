"""Builds kernel_test: the engine as it is shipped, with its own compiler flags, in one program.

python tests/emulator/build.py OUTPUT [--static]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def build(output: Path, *, static: bool = False, optimize: str = "-O3") -> None:
    """The last -O counts, so `optimize` overrides the engine's.

    Raises CalledProcessError if the compiler refuses; its messages go to stderr.
    """
    sys.path.insert(0, str(ROOT / "native"))
    import build_engine

    sources = [*build_engine.sources(), "tests/emulator/kernel_test.c"]
    link = ["-static"] if static else []
    flags = [*build_engine.COMPILE_ARGS, optimize, "-Inative", *link]
    command = [os.environ.get("CC", "cc"), *flags, *sources, "-lm", "-o", str(output)]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), static="--static" in sys.argv[2:])
