"""What was tried for an accuracy goal, from the INT8 model's metadata, as rows for every form of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantkit.quantize.calibration import GOAL_KEY
from quantkit.report import text

ATTEMPT_COLUMNS = ("tried", "layers in FP32", "output SQNR", "agreement", "top-1 drop", "goal")
SENSITIVITY_COLUMNS = ("layer", "alone in INT8", "alone in FP32", "MACs a sample", "")
NAMES = {
    "max_drop": "at most {:g} points of top-1 lost",
    "min_agreement": "the class of FP32 for at least {:g} of the samples",
    "min_sqnr": "an output SQNR of at least {:g} dB",
}


def goal_record(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """quantkit.quantize.search.Found.record, or None: no goal, or a record that is damaged."""
    try:
        record = json.loads(metadata.get(GOAL_KEY, "null"))
        return record if isinstance(record, dict) and {"goal", "reached", "tried"} <= record.keys() else None
    except ValueError:
        return None


def goal_sentence(record: Mapping[str, Any]) -> str:
    """The goal, whether it was reached on the calibration samples, and what it took."""
    wanted = " and ".join(NAMES[key].format(value) for key, value in record["goal"].items() if key in NAMES)
    end = "reached" if record["reached"] else "missed; this is the nearest model found"
    kept = len(record.get("kept_fp32", []))
    return (
        f"Asked for: {wanted}. On the calibration samples: {end}, after {len(record['tried'])} attempts, "
        f"with {kept} layers kept in FP32 for it."
    )


def attempt_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A row for each of ATTEMPT_COLUMNS' attempts, in the order of time."""
    return [
        [entry["what"], str(entry["fp32_layers"]), text.decibel(entry["sqnr_db"]), text.percent(entry["agreement"]),
         text.MISSING if entry["drop"] is None else f"{entry['drop']:.2f} points",
         "reached" if entry["reached"] else "missed"]
        for entry in record["tried"]
    ]  # fmt: skip


def sensitivity_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A row of SENSITIVITY_COLUMNS for each layer that was measured, first what is worth most in FP32."""
    kept = set(record.get("kept_fp32", []))
    return [
        [entry["layer"], text.decibel(entry["only_int8_db"]), text.decibel(entry["only_fp32_db"]),
         f"{entry['macs']:,}", "kept in FP32" if entry["layer"] in kept else ""]
        for entry in record.get("sensitivity", [])
    ]  # fmt: skip
