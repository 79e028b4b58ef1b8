"""Builds the engine: every C file of this folder in one cffi extension, quantkit.execute._engine.

The ISA of a kernel file is a function attribute, not a compiler flag, so one compiler call with the same flags builds
them all. qk.h is read by cffi as it is.
"""

import hashlib
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# -ffp-contract=off: a fused multiply-add would change the last bit on some ISAs. Never -ffast-math.
COMPILE_ARGS = ["-std=gnu11", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
COMPILE_ARGS += ["-Wall", "-Wextra"]


def sources() -> list[str]:
    """Every C file, relative to the project, in a stable order."""
    files = sorted(HERE.glob("*.c")) + sorted(HERE.glob("*/*.c"))
    return [str(path.relative_to(ROOT)) for path in files]


def headers() -> list[str]:
    """What the C files include: a change in one of these rebuilds the extension."""
    files = [path for pattern in ("*.h", "*.inc", "*/*.h", "*/*.inc") for path in sorted(HERE.glob(pattern))]
    return [str(path.relative_to(ROOT)) for path in files]


INTERFACE = HERE / "qk.h"
FINGERPRINT = hashlib.sha256(INTERFACE.read_bytes()).hexdigest()
"""Of the interface that is built: quantkit/execute/binding.py compares it with the qk.h of the source tree, if any."""

ffibuilder = FFI()
ffibuilder.cdef(INTERFACE.read_text() + "\nconst char *qk_interface(void);")
ffibuilder.set_source(
    "quantkit.execute._engine",
    f'#include "internal.h"\nstatic const char *qk_interface(void) {{ return "{FINGERPRINT}"; }}',
    sources=sources(),
    depends=headers(),
    include_dirs=[str(HERE.relative_to(ROOT))],
    extra_compile_args=COMPILE_ARGS,
    extra_link_args=["-pthread"],
    libraries=["m"],
)

if __name__ == "__main__":
    ffibuilder.compile(tmpdir=str(ROOT), verbose=True)
