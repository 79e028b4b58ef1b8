"""The documentation does what it says: commands run, pages are current and listed."""

from __future__ import annotations

import importlib.util
import re
import shlex

import pytest

from quantkit.cli import cli, main
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
HOW_TO = sorted(f"docs/how-to/{path.name}" for path in (DOCS / "how-to").iterdir())


def blocks(page: str, language: str) -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def test_the_python_page_is_current():
    spec = importlib.util.spec_from_file_location("generate_api", DOCS / "generate_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "api.md").read_text(encoding="utf-8") == module.page(), "docs/api.md is out of date; run `make docs`"


def test_every_command_of_the_tutorial_runs_in_its_order(tmp_path, monkeypatch):
    (tmp_path / "calib").symlink_to(REPOSITORY / "calib")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("docs/tutorial.md", "sh") for line in block.splitlines()]
    assert len(lines) >= 6
    for line in [*lines, *blocks("docs/how-to/other-runtimes.md", "sh")]:
        assert main(shlex.split(line)[1:]) == 0, line
    (code,) = blocks("docs/tutorial.md", "python")
    values: dict = {}
    exec(compile(code, "tutorial.md", "exec"), values)
    assert values["scores"].shape == (1, 10)


@pytest.mark.parametrize("page", ["README.md", "docs/comparison.md", *HOW_TO])
def test_every_command_in_the_docs_is_one_that_the_command_line_takes(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    lines = [line for block in blocks(page, "(?:sh|text)") for line in block.splitlines()]
    lines += re.findall(r"`(quantkit [a-z]+ [^`]*)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["quantkit"]:
            cli.commands[words[1]].make_context(words[1], words[2:])


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
