"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ["QUANTKIT_CACHE"] = "off"
"""Tests neither read nor fill the user's cache; those of the cache name a folder of their own."""

os.environ["QUANTKIT_KEEP_INT8"] = "1"
"""What becomes INT8 must not hang on how busy the machine is; the tests of the choice itself time nothing real."""


@pytest.fixture(scope="session")
def shared_root() -> Callable[[str], Path]:
    """As `shared`, for fixtures that live longer than one test."""
    root = Path(os.environ.get("QUANTKIT_SHARED", REPOSITORY.parent / "shared"))

    def locate(relative: str) -> Path:
        path = root / relative
        if not path.exists():
            pytest.skip(f"{relative} is not in the shared folder (set QUANTKIT_SHARED)")
        return path

    return locate


@pytest.fixture
def shared(shared_root: Callable[[str], Path]) -> Callable[[str], Path]:
    """shared(relative_path) -> Path of a shared model or data file; the test is skipped where it is absent."""
    return shared_root
