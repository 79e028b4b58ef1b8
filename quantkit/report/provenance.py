"""What a result was made from, so that it can be made again: hashes, configuration, command. No folder is named."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import DataError
from quantkit.load import FILE_KEY, SHA256_KEY, VERSION_KEY, file_digest
from quantkit.quantize.calibration import CONFIG_KEY, DATA_KEY, GOAL_KEY, METHOD_KEY, PREPROCESS_KEY, SAMPLES_KEY
from quantkit.report.goal import goal_record
from quantkit.report.models import model_proto

NOT_A_FILE = "in memory"
OPTIONS = {"max_drop": "--max-drop", "min_agreement": "--min-agreement", "min_sqnr": "--min-sqnr"}
"""Accuracy goals as the command line names them."""


def provenance(
    fp32: Any, int8: Any, dataset: Any, metadata: Mapping[str, str], sampling: Mapping[str, Any]
) -> dict[str, Any]:
    """{"models", "calibration", "comparison", "metadata"}: names and SHA-256 of both models and of the samples.

    dataset: observe.Dataset. metadata: of the INT8 model. sampling: keywords of `open_samples` that were given.
    """
    return {
        "models": {
            "fp32": {"file": _name(fp32), "sha256": _digest(fp32)},
            "int8": {"file": _name(int8), "sha256": _digest(int8)},
        },
        "calibration": recipe(metadata),
        "comparison": {
            "data_sha256": _data_digest(dataset),
            "samples": sampling.get("samples"),
            "seed": sampling.get("seed", 0),
            "preprocess": json.loads(dataset.preprocess.to_json()) if dataset.preprocess is not None else None,
        },
        "metadata": {key: value for key, value in sorted(metadata.items()) if key != GOAL_KEY},
    }


def recipe(metadata: Mapping[str, str]) -> dict[str, Any]:
    """How an INT8 model was made, by its metadata; None for what they do not say, as those of other tools do not.

    quantkit: the version. config: the QuantConfig asked for, as a dict. method: the one that ranges were found by.
    goal: the accuracy goal, and whether the calibration samples reached it.
    """
    goal = goal_record(metadata)
    return {
        "quantkit": metadata.get(VERSION_KEY),
        "fp32_file": metadata.get(FILE_KEY),
        "fp32_sha256": metadata.get(SHA256_KEY),
        "data_sha256": metadata.get(DATA_KEY),
        "samples": metadata.get(SAMPLES_KEY),
        "method": metadata.get(METHOD_KEY),
        "config": _object(metadata.get(CONFIG_KEY)),
        "goal": {**goal["goal"], "reached": goal["reached"]} if goal else None,
        "preprocess": _object(metadata.get(PREPROCESS_KEY)),
    }


def recipe_facts(made: Mapping[str, Any]) -> dict[str, str]:
    """`recipe` for a reader: what -> value, without what is not known or was left as it is by default."""
    config, goal = made["config"] or {}, made["goal"] or {}
    wanted = " ".join(_goal_options(goal))
    facts = {
        "made by quantkit": made["quantkit"],
        "from": made["fp32_file"],
        "FP32 SHA-256": made["fp32_sha256"],
        "samples": made["samples"],
        "samples' SHA-256": made["data_sha256"],
        "preprocessing": made["preprocess"] and json.dumps(made["preprocess"]),
        "ranges by": made["method"],
        "effort": config.get("effort"),
        "seed": str(config["seed"]) if "seed" in config else None,
        "kept in FP32 by name": ", ".join(config.get("keep_fp32", ())),
        "accuracy goal": wanted and f"{wanted}: {'reached' if goal.get('reached') else 'missed'}",
    }
    return {key: value for key, value in facts.items() if value}


def recipe_command(made: Mapping[str, Any]) -> str | None:
    """The `quantkit quantize` command that makes the model again from the same samples; None if it is not known."""
    config = made["config"]
    if config is None or not config.keys() >= {"effort", "seed", "method"} or not made["fp32_file"]:
        return None
    words = ["quantkit", "quantize", made["fp32_file"], "--data", "DATA"]
    if made["preprocess"] is not None:
        words += ["--preprocess", "RECIPE.toml"]
    words += ["--samples", made["samples"]] if made["samples"] else []
    words += ["--effort", config["effort"], "--seed", str(config["seed"])]
    words += ["--method", config["method"]] if config["method"] else []
    words += [word for expression in config.get("keep_fp32", ()) for word in ("--keep-fp32", expression)]
    words += [] if config.get("per_channel", True) else ["--per-tensor-weights"]
    words += ["--keep-int8"] if config.get("keep_int8") else []
    return shlex.join([*words, *_goal_options(config.get("goal") or {})])


def _goal_options(goal: Mapping[str, Any]) -> list[str]:
    wanted = {OPTIONS[key]: value for key, value in goal.items() if key in OPTIONS and value is not None}
    return [word for option, value in wanted.items() for word in (option, f"{value:g}")]


def _object(text: str | None) -> dict[str, Any] | None:
    """A JSON object, or None if there is none or it is damaged: metadata must not stop a report."""
    try:
        value = json.loads(text or "null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _name(model: Any) -> str:
    return Path(model).name if isinstance(model, (str, Path)) else NOT_A_FILE


def _digest(model: Any) -> str:
    if isinstance(model, (str, Path)):
        return file_digest(model)
    return hashlib.sha256(model_proto(model).SerializeToString(deterministic=True)).hexdigest()


def _data_digest(dataset: Any) -> str | None:
    try:
        return str(dataset.digest)
    except DataError:  # a file that was skipped as unreadable: its warning has been given
        return None
