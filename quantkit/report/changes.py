"""What INT8 changed, sample by sample: the answers of both models, and pictures of the samples that changed most."""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.report.accuracy import PowerRatio, class_axis

if TYPE_CHECKING:
    from quantkit.observe import Batch, Preprocess

MOST_CHANGED = 24
"""Samples that are kept with their picture: about 4 kB each in a report."""
THUMBNAIL_SIDE = 112
RECORDS_KEPT = 20_000
"""Samples listed one by one; a data set beyond that is summed up only."""
ORDER = {"broken": 3.0, "changed": 2.0, "fixed": 1.0, "same": 0.0}
"""What comes first among the most changed samples; equal ones are ordered by distance, which is at most 1."""


@dataclass(frozen=True)
class SampleChange:
    """Both answers for one sample. kind: "broken" | "fixed" | "changed" (neither is right, or no label) | "same".

    fp32_class, int8_class: None for outputs without classes. confidence: the softmax probability of the own answer,
    0..1. distance: total variation between both distributions, or without classes the noise-to-signal amplitude, 0..1.
    """

    name: str
    kind: str
    label: int | None
    fp32_class: int | None
    int8_class: int | None
    fp32_confidence: float | None
    int8_confidence: float | None
    distance: float


class ChangeLog:
    """Collects SampleChange batch by batch; memory is bounded whatever the number of samples."""

    def __init__(self, preprocess: Preprocess | None = None) -> None:
        self._preprocess = preprocess
        self.records: list[SampleChange] = []
        self._heap: list[tuple[float, int, SampleChange, str | None]] = []
        self._count = 0

    def add(self, batch: Batch, fp32: np.ndarray, int8: np.ndarray) -> None:
        """Add one batch: the first output of both models, [N, ...], of which the first `batch.valid` rows count."""
        if isinstance(fp32, list):  # a sequence
            return
        fp32, int8 = np.asarray(fp32), np.asarray(int8)
        if fp32.shape != int8.shape or fp32.ndim == 0 or len(fp32) < batch.valid or fp32.dtype.kind not in "fiu":
            return
        for row in range(batch.valid):
            label = None if batch.labels is None else int(batch.labels[row])
            change = sample_change(batch.names[row], fp32[row], int8[row], label, class_axis(fp32) == 1)
            if len(self.records) < RECORDS_KEPT:
                self.records.append(change)
            self._keep(change, batch.feeds, row)

    def _keep(self, change: SampleChange, feeds: Mapping[str, np.ndarray], row: int) -> None:
        rank = ORDER[change.kind] + change.distance
        self._count += 1
        if len(self._heap) == MOST_CHANGED and rank <= self._heap[0][0]:
            return
        entry = (rank, -self._count, change, thumbnail(feeds, row, self._preprocess))
        if len(self._heap) < MOST_CHANGED:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heapreplace(self._heap, entry)

    @property
    def most_changed(self) -> list[tuple[SampleChange, str | None]]:
        """At most MOST_CHANGED samples with their pictures (data URI or None), worst first."""
        return [(change, picture) for _, _, change, picture in sorted(self._heap, key=lambda entry: entry[:2])[::-1]]


def sample_change(name: str, fp32: np.ndarray, int8: np.ndarray, label: int | None, classes: bool) -> SampleChange:
    """One sample's answers. fp32, int8: the model's output for it, [C] if it scores classes."""
    if not classes or fp32.ndim != 1:
        power = PowerRatio()
        power.add(fp32, int8)
        distance = min(1.0, 10 ** (-power.db / 20))
        return SampleChange(name, "same", label, None, None, None, None, distance)
    p, q = softmax(fp32), softmax(int8)
    before, after = int(fp32.argmax()), int(int8.argmax())
    kind = "same" if before == after else "broken" if before == label else "fixed" if after == label else "changed"
    distance = float(np.abs(p - q).sum() / 2)
    return SampleChange(name, kind, label, before, after, float(p[before]), float(q[after]), distance)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities in float64; scores that already are probabilities (in 0..1, sum 1) stay as they are."""
    values = scores.astype(np.float64)
    if values.min() >= 0 and abs(values.sum() - 1) < 1e-2:  # 1e-2: an INT8 softmax sums to 1 within its steps
        return values / values.sum()
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def thumbnail(feeds: Mapping[str, np.ndarray], row: int, preprocess: Preprocess | None) -> str | None:
    """The picture that the model saw, as a JPEG data URI at most THUMBNAIL_SIDE wide; None if no input looks like one.

    The preprocessing is inverted where it is known, else values are stretched to 0..255.
    """
    from PIL import Image

    pixels = next((p for array in feeds.values() if (p := _pixels(array, row, preprocess)) is not None), None)
    if pixels is None:
        return None
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = THUMBNAIL_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pixels(array: np.ndarray, row: int, preprocess: Preprocess | None) -> np.ndarray | None:
    """uint8 [H, W, 1 or 3] of one row of a [N, C, H, W] or [N, H, W, C] input, or None."""
    if array.ndim != 4 or array.dtype.kind not in "fu":
        return None
    image = np.asarray(array[row], np.float64)
    if image.shape[0] in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.shape[-1] not in (1, 3) or min(image.shape[:2]) < 4:
        return None
    if preprocess is not None:
        image = (image * np.array(preprocess.std) + np.array(preprocess.mean)) * preprocess.scale
        image = image[..., ::-1] if preprocess.color == "BGR" else image
    elif image.max() > image.min():
        image = (image - image.min()) * (255 / (image.max() - image.min()))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def class_names(data: Any, labels: Path | str | None) -> dict[int, str]:
    """Class index -> name, from a column `name` of the labels' CSV or from class sub-folders; empty if there is none.

    data, labels: as `open_samples` takes them. Never raises: names only decorate a report.
    """
    import csv

    if not isinstance(data, (str, Path)):
        return {}
    folder = Path(data)
    tables = [Path(labels)] if labels else [folder / "labels.csv", folder.parent / "labels.csv"]
    for table in tables:
        try:
            with table.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            return {int(row["class_index"]): row["name"].replace("_", " ") for row in rows if row.get("name")}
        except (OSError, ValueError, KeyError, csv.Error):
            continue
    if not folder.is_dir():
        return {}
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return {} if all(map(str.isdecimal, names)) else dict(enumerate(names))
