"""The site lists every page, and the page of the Python interface is current."""

from __future__ import annotations

import importlib.util
import re

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"


def test_the_python_page_is_current():
    spec = importlib.util.spec_from_file_location("generate_api", DOCS / "generate_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "api.md").read_text(encoding="utf-8") == module.page(), "docs/api.md is out of date; run `make docs`"


def test_every_footnote_of_the_comparison_is_used_and_explained():
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\[\^([a-z]+)\]: .*https://", text, re.M))
    used = set(re.findall(r"\[\^([a-z]+)\](?!:)", text))
    assert len(used) >= 6
    assert used == explained


def test_the_site_lists_every_page():
    settings = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([a-z0-9/-]+\.md)$", settings, re.M))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
