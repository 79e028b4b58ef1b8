"""What was tried for an accuracy goal comes back in every form of the report, through the command line too."""

from __future__ import annotations

import json

import onnx
import pytest
from click.testing import CliRunner

from quantkit.cli import cli
from quantkit.errors import AccuracyGoalMissed
from quantkit.report.goal import attempt_rows, goal_record, goal_sentence, sensitivity_rows

RECORD = {
    "goal": {"max_drop": 0.3, "min_sqnr": 20.0},
    "reached": True,
    "tried": [
        {
            "what": "effort best",
            "effort": "best",
            "fp32_layers": 0,
            "reached": False,
            "sqnr_db": 19.04,
            "agreement": 0.9876,
            "drop": None,
        },
        {
            "what": "1 layers in FP32",
            "effort": "balanced",
            "fp32_layers": 1,
            "reached": True,
            "sqnr_db": 21.0,
            "agreement": None,
            "drop": -0.2,
        },
    ],
    "kept_fp32": ["b"],
    "sensitivity": [{"layer": name, "only_int8_db": 30.0, "only_fp32_db": 22.0, "macs": 12345} for name in "ab"],
}


def test_rows_and_sentence_say_what_the_record_holds():
    assert goal_sentence(RECORD) == (
        "Asked for: at most 0.3 points of top-1 lost and an output SQNR of at least 20 dB. On the calibration samples: "
        "reached, after 2 attempts, with 1 layers kept in FP32 for it."
    )
    assert "missed; this is the nearest" in goal_sentence({**RECORD, "reached": False})
    assert attempt_rows(RECORD) == [
        ["effort best", "0", "19.0 dB", "98.76 %", "-", "missed"],
        ["1 layers in FP32", "1", "21.0 dB", "-", "-0.20 points", "reached"],
    ]
    assert [(row[0], row[3], row[4]) for row in sensitivity_rows(RECORD)] == [
        ("a", "12,345", ""),
        ("b", "12,345", "kept in FP32"),
    ]


@pytest.mark.parametrize("damaged", ["", "{", "[]", "null", '{"goal": {}}'])
def test_a_damaged_record_is_no_record(damaged):
    assert goal_record({"quantkit.goal": damaged}) is None
    assert goal_record({}) is None
    assert goal_record({"quantkit.goal": json.dumps(RECORD)}) == RECORD


@pytest.fixture(scope="module")
def missed(digits, tmp_path_factory):
    """(result of the command, INT8 model): 99 dB, which nothing reaches; a budget that ends after the first attempt."""
    target = tmp_path_factory.mktemp("goal") / "missed.onnx"
    arguments = [
        "quantize",
        str(digits.fp32),
        "--data",
        str(digits.calib),
        "--preprocess",
        str(digits.recipe),
        "--samples",
        "24",
        "--min-sqnr",
        "99",
        "--effort",
        "fast",
        "--time-budget",
        "0.001",
        "-o",
        str(target),
    ]
    return CliRunner().invoke(cli, arguments), target


def test_a_missed_goal_is_said_and_the_nearest_model_is_saved_with_its_record(missed):
    result, target = missed
    assert isinstance(result.exception, AccuracyGoalMissed), result.output
    record = goal_record({p.key: p.value for p in onnx.load(target).metadata_props})
    assert (record["goal"], record["reached"]) == ({"min_sqnr": 99.0}, False)
    assert [entry["what"] for entry in record["tried"]] == ["effort fast"]


def test_compare_shows_what_was_tried_as_text_json_html_and_markdown(missed, digits, tmp_path):
    shown = {}
    for report in ("r.html", "r.md"):
        result = CliRunner().invoke(
            cli,
            [
                "compare",
                str(digits.fp32),
                str(missed[1]),
                "--data",
                str(digits.test),
                "--samples",
                "16",
                "--seconds",
                "0",
                "--force",
                "--json",
                str(tmp_path / "r.json"),
                "--report",
                str(tmp_path / report),
            ],
        )
        assert result.exit_code == 0, result.output
        shown[report] = (tmp_path / report).read_text(encoding="utf-8")
    document = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert document["goal"]["tried"][0]["what"] == "effort fast"
    assert "quantkit.goal" not in document["provenance"]["metadata"]
    for text in (result.output, *shown.values()):
        assert "an output SQNR of at least 99 dB" in text
        assert "effort fast" in text


def test_one_scale_for_all_weights_of_a_layer_can_be_asked_for(digits, tmp_path):
    scales = {}
    for flag in ((), ("--per-tensor-weights",)):
        target = tmp_path / f"{len(flag)}.onnx"
        result = CliRunner().invoke(
            cli,
            [
                "quantize",
                str(digits.fp32),
                "--data",
                str(digits.calib),
                "--samples",
                "8",
                "--preprocess",
                str(digits.recipe),
                "--effort",
                "fast",
                "-o",
                str(target),
                *flag,
            ],
        )
        assert result.exit_code == 0, result.output
        arrays = [onnx.numpy_helper.to_array(t) for t in onnx.load(target).graph.initializer]
        scales[flag] = max(len(set(a.tolist())) for a in arrays if a.dtype == "float32" and a.ndim == 1)
    assert scales[("--per-tensor-weights",)] == 1 < scales[()]
