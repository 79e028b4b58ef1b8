"""docs/cli.md is what the commands say."""

from __future__ import annotations

import importlib.util

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
