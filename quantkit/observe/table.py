"""The calibration table: statistics and ranges in a JSON file, bound to the model, the data and the preprocessing."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantkit.errors import CalibrationError, OutputError
from quantkit.observe.histogram import TensorStatistics
from quantkit.observe.preprocess import Preprocess
from quantkit.observe.ranges import range_for
from quantkit.types import METHODS, QuantConfig, Range

FORMAT, VERSION = "quantkit calibration table", 2
READABLE = (1, 2)
"""Versions that load. 2 added the channel sums of the tensors that weighted ops read; they are optional."""
NO_PREPROCESS = "none"


def preprocess_digest(preprocess: Preprocess | None) -> str:
    """What the table keeps of the preprocessing; "none" for ready inputs."""
    return NO_PREPROCESS if preprocess is None else preprocess.digest


@dataclass
class CalibrationTable:
    """Statistics and the range of each tensor by each method, with the hashes of what they were made from.

    model_sha256: of the FP32 model. data_sha256: Dataset.digest. preprocess_sha256: preprocess_digest.
    """

    model_sha256: str
    data_sha256: str
    preprocess_sha256: str
    samples: int
    statistics: dict[str, TensorStatistics]
    ranges: dict[str, dict[str, Range]] = field(default_factory=dict)

    def fill(self, config: QuantConfig, methods: tuple[str, ...] = METHODS) -> None:
        """Computes the ranges by the given methods."""
        for name, statistics in self.statistics.items():
            self.ranges[name] = {method: range_for(statistics, method, config) for method in methods}

    def require(self, *, model: str | None = None, data: str | None = None, preprocess: str | None = None) -> None:
        """Raises CalibrationError, naming what differs, unless the given hashes are those of the table."""
        checks = (
            ("FP32 model", model, self.model_sha256),
            ("data", data, self.data_sha256),
            ("preprocessing", preprocess, self.preprocess_sha256),
        )
        differ = [f"{what} ({kept[:12]} then, {now[:12]} now)" for what, now, kept in checks if now not in (None, kept)]
        if differ:
            raise CalibrationError(
                f"the calibration table was made from another {' and another '.join(differ)}; calibrate again without "
                "the table, or give what it was made from"
            )

    def save(self, path: str | Path) -> None:
        """Writes the JSON atomically: the file is whole or not there. Raises OutputError when it cannot be written."""
        target = Path(path)
        text = "{\n" + ",\n".join(_lines(self._document())) + "\n}\n"
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(temporary, target)
        except OSError as error:
            if temporary:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise OutputError(f"{target}: the table cannot be written ({error.strerror})") from error

    @classmethod
    def load(cls, path: str | Path) -> CalibrationTable:
        """Reads a table. Raises CalibrationError when the file is none, or of a newer version."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CalibrationError(f"{path}: not a readable calibration table ({error})") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CalibrationError(f"{path}: not a calibration table; give a file that calibrate has written")
        if document.get("version") not in READABLE:
            raise CalibrationError(
                f"{path}: table version {document.get('version')}, this quantkit reads {VERSION}; calibrate again"
            )
        try:
            return cls._from_document(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(f"{path}: the table is damaged ({error!r}); calibrate again") from error

    def _document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "model_sha256": self.model_sha256,
            "data_sha256": self.data_sha256,
            "preprocess_sha256": self.preprocess_sha256,
            "samples": self.samples,
            "tensors": {
                name: {
                    **statistics.to_json(),
                    "ranges": {method: [r.low, r.high] for method, r in self.ranges.get(name, {}).items()},
                }
                for name, statistics in self.statistics.items()
            },
        }

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> CalibrationTable:
        tensors = document["tensors"]
        return cls(
            str(document["model_sha256"]),
            str(document["data_sha256"]),
            str(document["preprocess_sha256"]),
            int(document["samples"]),
            {name: TensorStatistics.from_json(entry) for name, entry in tensors.items()},
            {
                name: {method: Range(float(low), float(high)) for method, (low, high) in entry["ranges"].items()}
                for name, entry in tensors.items()
            },
        )


def _lines(document: Mapping[str, Any]) -> list[str]:
    """A line for every key, and one for every tensor: readable, and small differences stay small."""
    lines = []
    for key, value in document.items():
        if key != "tensors":
            lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
            continue
        rows = [f"  {json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in value.items()]
        lines.append('"tensors": {\n' + ",\n".join(rows) + "\n}")
    return lines
