"""A model says how it was made, and the command that its report gives makes it again, to the byte."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape

import pytest

from quantkit import pipeline
from quantkit.cli import main
from quantkit.load import file_digest, load
from quantkit.quantize.calibration import CONFIG_KEY
from quantkit.report.assets import asset
from quantkit.report.html import reproducing_commands
from quantkit.report.inspect import inspect_model
from quantkit.report.provenance import recipe, recipe_command, recipe_facts
from quantkit.types import Goal, QuantConfig

CONFIG = QuantConfig(effort="fast", method="minmax", seed=3, keep_fp32=("stem/conv",), goal=Goal(min_sqnr=5.0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The embedded model, quantized with every setting that the metadata must keep."""
    path = tmp_path_factory.mktemp("made") / "made.int8.onnx"
    data, preprocess = asset("digits_calib.npz"), asset("digits.toml")
    pipeline.quantize(asset("digits_cnn.onnx"), data, config=CONFIG, preprocess=preprocess, samples=8).save(path)
    return path


def test_metadata_keep_version_effort_seed_goal_and_preprocessing(made):
    found = inspect_model(made).to_json()["recipe"]
    assert found["quantkit"]
    assert (found["fp32_file"], found["samples"], found["method"]) == ("digits_cnn.onnx", "8", "minmax")
    assert (found["config"]["effort"], found["config"]["seed"]) == ("fast", 3)
    assert found["config"]["keep_fp32"] == ["stem/conv"]
    assert found["goal"] == {"min_sqnr": 5.0, "reached": True}
    assert found["preprocess"]["color"] == "L"
    shown = inspect_model(made).to_text()
    assert all(value in shown for value in ("fast", "stem/conv", "--min-sqnr 5: reached", found["data_sha256"]))


def test_the_command_of_the_report_makes_the_same_file_again(made, tmp_path):
    command = recipe_command(recipe(load(made).metadata_props))
    names = {
        "digits_cnn.onnx": asset("digits_cnn.onnx"),
        "DATA": asset("digits_calib.npz"),
        "RECIPE.toml": asset("digits.toml"),
    }
    words = [str(names.get(word, word)) for word in shlex.split(command)]
    assert main([*words[1:], "-o", str(tmp_path / "again.onnx")]) == 0
    assert file_digest(tmp_path / "again.onnx") == file_digest(made)


def test_the_report_shows_both_commands_and_the_recipe(made, tmp_path):
    comparison = pipeline.compare(asset("digits_cnn.onnx"), made, asset("digits_test.npz"), samples=8, seconds=0.0)
    again, compare = reproducing_commands(comparison, "digits_cnn.onnx", "made.int8.onnx")
    assert again.startswith("quantkit quantize digits_cnn.onnx --data DATA --preprocess RECIPE.toml")
    assert compare.startswith("quantkit compare digits_cnn.onnx made.int8.onnx")
    page, markdown = comparison.to_html(), comparison.to_markdown()
    assert all("--min-sqnr 5: reached" in form for form in (page, markdown))
    assert again in re.sub(r"<[^>]*>", "", unescape(page))


def test_a_model_that_says_nothing_has_no_recipe():
    found = inspect_model(asset("digits_cnn.onnx"))
    assert found.recipe["quantkit"] is None
    assert "made by quantkit" not in found.to_text()
    assert recipe_command(found.recipe) is None


@pytest.mark.parametrize("damaged", ["{", "[]", '"text"', "null", json.dumps({"effort": "fast"})])
def test_damaged_metadata_stop_no_report(damaged):
    found = recipe({CONFIG_KEY: damaged, "quantkit.fp32.file": "a.onnx", "quantkit.preprocess": "{"})
    assert recipe_command(found) is None
    assert recipe_facts(found)["from"] == "a.onnx"
