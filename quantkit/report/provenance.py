"""What a result was made from, so that it can be made again: hashes, configuration, command. No folder is named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit.errors import DataError
from quantkit.load import FILE_KEY, SHA256_KEY, file_digest
from quantkit.quantize.calibration import DATA_KEY, GOAL_KEY, METHOD_KEY, PREPROCESS_KEY, SAMPLES_KEY
from quantkit.report.models import model_proto

NOT_A_FILE = "in memory"


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
        "calibration": {
            "fp32_file": metadata.get(FILE_KEY),
            "fp32_sha256": metadata.get(SHA256_KEY),
            "data_sha256": metadata.get(DATA_KEY),
            "samples": metadata.get(SAMPLES_KEY),
            "method": metadata.get(METHOD_KEY),
            "preprocess": json.loads(metadata[PREPROCESS_KEY]) if PREPROCESS_KEY in metadata else None,
        },
        "comparison": {
            "data_sha256": _data_digest(dataset),
            "samples": sampling.get("samples"),
            "seed": sampling.get("seed", 0),
            "preprocess": json.loads(dataset.preprocess.to_json()) if dataset.preprocess is not None else None,
        },
        "metadata": {key: value for key, value in sorted(metadata.items()) if key != GOAL_KEY},
    }


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
