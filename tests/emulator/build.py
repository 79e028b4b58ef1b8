"""Builds kernel_test: the engine as it is shipped, with its own compiler flags, in one program.

python tests/emulator/build.py OUTPUT [--static] [--sanitize] [--scalar]

CC names the compiler; a cross compiler will do. --sanitize: AddressSanitizer and UndefinedBehaviorSanitizer, which end
the program at the first finding. --scalar: without the x86 kernels.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
OPTIONS = {
    "--static": ["-static"],
    "--sanitize": ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "--scalar": ["-DQK_X86=0"],
}
"""Option -> what it adds to the engine's flags; the last -O counts."""


def build(output: Path, *flags: str) -> None:
    """kernel_test with the engine's flags and then `flags`.

    Raises CalledProcessError if the compiler refuses; its messages go to stderr.
    """
    sys.path.insert(0, str(ROOT / "native"))
    import build_engine

    sources = [*build_engine.sources(), "tests/emulator/kernel_test.c"]
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, *build_engine.COMPILE_ARGS, *flags, "-Inative", *sources, "-lm", "-o", str(output)]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), *(flag for option in sys.argv[2:] for flag in OPTIONS[option]))
