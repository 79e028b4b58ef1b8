"""The table of kernels in docs/kernels.md names every kernel there is."""

from __future__ import annotations

from pathlib import Path

from quantkit.execute._engine import ffi, lib

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"


def test_every_kernel_stands_in_the_table_with_its_cases() -> None:
    page = PAGE.read_text()
    for i in range(lib.qk_kernel_count()):
        isa = ffi.string(lib.qk_isa_name(lib.qk_kernel_isa(i))).decode()
        name = ffi.string(lib.qk_kernel_name(i)).decode().removesuffix(f"_{isa}")
        assert f"`{name}`" in page, f"{name}: run docs/generate_kernels.py"
        assert f"`{name}` 0" not in page, f"{name}: no test ran it"
