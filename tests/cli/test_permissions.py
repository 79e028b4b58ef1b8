"""Files and folders that the user may not read or write: one clear line, exit code 1 or 2, nothing written."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantkit.cli import main
from tests.digits import Digits

NOBODY = 65534
pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions as POSIX has them")


@pytest.fixture
def place(digits: Digits) -> Iterator[Path]:
    """A folder with the model and the data, which any user may read."""
    folder = Path(tempfile.mkdtemp(prefix="quantkit-permissions-"))
    folder.chmod(0o777)
    for source, name in ((digits.fp32, "model.onnx"), (digits.calib, "calib.npz"), (digits.recipe, "recipe.toml")):
        shutil.copy(source, folder / name)
        (folder / name).chmod(0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def imported(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Everything is imported before the user changes, who may not be allowed to read where Python is installed."""
    folder = tmp_path_factory.mktemp("imported")
    for source, name in ((digits.fp32, "model.onnx"), (digits.calib, "calib.npz"), (digits.recipe, "recipe.toml")):
        shutil.copy(source, folder / name)
    assert quantize(folder, folder / "out.onnx") == 0


@pytest.fixture
def ordinary_user(imported: None) -> Iterator[None]:
    """Root may do everything, so root becomes nobody for the test."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def quantize(place: Path, output: Path) -> int:
    return main(
        ["quantize", str(place / "model.onnx"), "--data", str(place / "calib.npz"), "-o", str(output),
         "--preprocess", str(place / "recipe.toml"), "--effort", "fast", "--samples", "16"]
    )  # fmt: skip


def test_what_the_others_take_away_is_enough_to_quantize(place, request):
    request.getfixturevalue("ordinary_user")
    assert quantize(place, place / "out.onnx") == 0


@pytest.mark.parametrize("name", ["model.onnx", "calib.npz", "recipe.toml"])
def test_a_file_that_may_not_be_read_is_named_in_one_line(place, name, request, capsys):
    (place / name).chmod(0)
    request.getfixturevalue("ordinary_user")
    assert quantize(place, place / "out.onnx") in (1, 2)
    assert not (place / "out.onnx").exists()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quantkit: ")]
    assert len(lines) == 1
    assert name in lines[0]
    assert "internal error" not in lines[0]


def test_a_folder_that_may_not_be_written_to_is_named_in_one_line(place, request, capsys):
    closed = place / "closed"
    closed.mkdir(mode=0o555)
    request.getfixturevalue("ordinary_user")
    assert quantize(place, closed / "out.onnx") in (1, 2)
    assert not list(closed.iterdir())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quantkit: ")]
    assert len(lines) == 1
    assert "closed" in lines[0]
    assert "internal error" not in lines[0]
