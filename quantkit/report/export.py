"""Calibrated models for runtimes that know no local functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import ModelError
from quantkit.load import artifact_kind, load, to_proto
from quantkit.load.kind import DOMAIN

if TYPE_CHECKING:
    import onnx


def export_qdq(model: Path | Any) -> onnx.ModelProto:
    """Inline the quantkit functions of a converted or calibrated model; only standard operators remain.

    Graph inputs, outputs and metadata stay. Raises ModelError if the model holds no quantkit op.
    """
    from onnx import inliner

    loaded = load(model)
    kind = artifact_kind(loaded)
    if kind not in ("converted", "calibrated"):
        label = model if isinstance(model, (str, Path)) else "the model"
        raise ModelError(f"{label} is {kind}, not a model of quantkit; run `quantkit quantize` on it first")
    proto = to_proto(loaded)
    inlined = inliner.inline_local_functions(proto)
    kept = [opset for opset in inlined.opset_import if opset.domain != DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(kept)
    return inlined
