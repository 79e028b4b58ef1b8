"""docs/cli.md is what the commands say."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.conftest import REPOSITORY

GENERATOR = REPOSITORY / "docs" / "generate_cli.py"


def generated() -> str:
    spec = importlib.util.spec_from_file_location("generate_cli", GENERATOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_the_command_line_page_is_current():
    page = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == generated(), "docs/cli.md is out of date; run `make docs`"


PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_between_pages_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_every_dependency_has_its_reason():
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.S | re.M).group(1)
    packages = re.findall(r'^  "([a-z-]+)', listed, re.M)
    reasons = (REPOSITORY / "docs" / "decisions" / "0006-dependencies.md").read_text(encoding="utf-8")
    assert len(packages) >= 7
    assert [package for package in packages if f"| {package} |" not in reasons] == []


def test_every_metadata_key_that_the_package_writes_is_documented():
    page = (REPOSITORY / "docs" / "format.md").read_text(encoding="utf-8")
    sources = (path.read_text(encoding="utf-8") for path in (REPOSITORY / "quantkit").rglob("*.py"))
    keys = {key for source in sources for line in re.findall(r'_KEY\b[^=\n]*= (".*)', source) for key in quoted(line)}
    assert keys >= {"quantkit.fp32.sha256", "quantkit.preprocess"}
    assert [key for key in sorted(keys - IN_MEMORY) if f"`{key}`" not in page] == []


IN_MEMORY = {
    "quantkit.prepared",
    "quantkit.load.decisions",
    "quantkit.load.map_types",
    "quantkit.foreign.lone",
    "quantkit.foreign.reason",
    "quantkit.fold.input_shapes",
    "quantkit.fold.value_names",
}
"""Keys of onnx_ir's `meta`, which is not written to files."""


def quoted(text: str) -> list[str]:
    return re.findall(r'"(quantkit\.[a-z0-9_.]+)"', text)
