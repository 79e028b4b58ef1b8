"""The vectors file and kernel_test on this machine's own CPU: all equal, and a wrong byte is found."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from quantkit.execute._engine import ffi, lib

from tests.emulator.build import ROOT, build
from tests.emulator.recorder import BLOBS, MAGIC

HERE = Path(__file__).resolve().parent
ISAS = [ffi.string(lib.qk_isa_name(i)).decode() for i in range(lib.QK_ISA_COUNT) if lib.qk_isa_available(i)]
WORDS = "epilogue extremes image bounds slices average quantize lookup move copy resize fill stream"
SOME_OF_EVERY_KERNEL = " or ".join(WORDS.split())
EMULATED_SECONDS = 1800

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler named cc")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vectors") / "vectors.bin"
    plugin = ["-p", "tests.emulator.recorder", "--record-vectors", str(path), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "tests/kernels", "-q", "-k", SOME_OF_EVERY_KERNEL, *plugin]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "kernel_test"
    build(path, "-O0")  # twice as fast to compile; what is tested here is the program, not the kernels
    return path


def run(program: Path, vectors: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, vectors, *arguments], capture_output=True, text=True, check=False)


def blob_offsets(content: bytes | bytearray) -> list[dict[str, tuple[int, int]]]:
    """For each case, blob name -> (offset, size), of the blobs that are there."""
    assert content.startswith(MAGIC)
    (count,) = struct.unpack_from("<I", content, len(MAGIC))
    at, cases = len(MAGIC) + 8, []
    for _ in range(count):
        at, case = at + 8, {}
        for name in BLOBS:
            (size,) = struct.unpack_from("<q", content, at)
            case[name] = (at + 8, size)
            at += 8 + (-(-size // 8) * 8 if size >= 0 else 0)
        cases.append({name: place for name, place in case.items() if place[1] >= 0})
    assert at == len(content)
    return cases


def test_every_kernel_gives_the_recorded_bytes(program: Path, vectors: Path) -> None:
    result = run(program, vectors, ",".join(ISAS))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(f"PASS: {len(blob_offsets(vectors.read_bytes()))} cases\n")


def test_one_wrong_bit_in_any_output_is_found(program: Path, vectors: Path, tmp_path: Path) -> None:
    content = bytearray(vectors.read_bytes())
    chosen = blob_offsets(content)[::50]
    for case in chosen:
        offset, size = case["after"]
        content[offset + size - 1] ^= 1
    spoilt = tmp_path / "spoilt.bin"
    spoilt.write_bytes(content)
    result = run(program, spoilt)
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if line.endswith(": 1 bytes differ")]
    assert len(lines) == len(chosen) * len(ISAS) * 2  # on one and on three threads
    offset, size = chosen[0]["name"]
    assert content[offset : offset + size - 1].decode() in lines[0]


def test_another_set_of_isas_than_expected_is_a_failure(program: Path, vectors: Path) -> None:
    result = run(program, vectors, "scalar,neon")
    assert result.returncode == 1
    assert "expected scalar,neon" in result.stdout


@pytest.mark.parametrize("length", [0, 9, 3000])
def test_a_file_that_is_cut_short_is_refused(program: Path, vectors: Path, tmp_path: Path, length: int) -> None:
    short = tmp_path / "short.bin"
    short.write_bytes(vectors.read_bytes()[:length])
    result = run(program, short)
    assert result.returncode == 2
    assert "vectors file" in result.stderr


@pytest.mark.slow
def test_every_kernel_on_emulated_cpus() -> None:
    if shutil.which("bochs") is None or shutil.which("cpio") is None:
        pytest.skip("the Bochs emulator is not installed; see tests/emulator/README.md")
    command = [str(HERE / "run.sh"), "sapphire_rapids", "arrow_lake"]
    result = subprocess.run(
        command, env={"PYTHON": sys.executable} | os.environ, capture_output=True, text=True, timeout=EMULATED_SECONDS
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
