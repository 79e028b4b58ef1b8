"""The rules of the architecture that a reader relies on: imports go one way, cffi in one file, files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantkit"
STAGES = "errors types cores budgets load fold fuse observe quantize foreign lower execute report pipeline cli __main__"
ORDER = STAGES.split()  # each may import only what stands before it
LONGEST_FILE = 450
SOURCES = sorted(PACKAGE.rglob("*.py"))


def stage(module: str) -> str | None:
    """`quantkit.fold.pads` -> `fold`; the top package itself belongs to no stage."""
    parts = module.split(".")
    return parts[1] if parts[0] == "quantkit" and len(parts) > 1 else None


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and under TYPE_CHECKING included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def backward_imports(path: Path, source: str) -> list[str]:
    own = stage(module_name(path))
    if own is None:
        return []
    return [
        f"{path.name}:{line} {own} imports {target}"
        for line, module in imported(ast.parse(source))
        if (target := stage(module)) in ORDER and ORDER.index(target) > ORDER.index(own)
    ]


def test_every_stage_of_the_package_has_a_place_in_the_order():
    stages = {stage(module_name(path)) for path in SOURCES} - {None}
    assert stages <= set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path):
    assert backward_imports(path, path.read_text(encoding="utf-8")) == []


def test_a_backward_import_would_be_found():
    source = "def f():\n    from quantkit import pipeline\n    from quantkit.fold import fold\n"
    found = backward_imports(PACKAGE / "lower" / "plan.py", source)
    assert found == ["plan.py:2 lower imports pipeline"]


def test_no_relative_import_hides_from_the_order():
    for path in SOURCES:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), path


def test_cffi_and_the_engine_module_are_imported_by_at_most_one_file():
    users = {
        path
        for path in SOURCES
        for _, module in imported(ast.parse(path.read_text(encoding="utf-8")))
        if "_engine" in module.split(".") or module.split(".")[0] in ("cffi", "_cffi_backend")
    }
    assert len(users) <= 1, users


def test_models_and_calib_are_data_and_never_imported():
    for path in SOURCES:
        modules = {module.split(".")[0] for _, module in imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert not modules & {"models", "calib", "tests", "native", "benchmarks"}, path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
