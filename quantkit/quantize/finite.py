"""Calibration of models in which some samples bring NaN or infinities about that the outputs do not show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from quantkit.errors import NotFiniteError
from quantkit.quantize.calibration import Calibrated, Observed, calibrate_fused
from quantkit.quantize.select import Selection, select
from quantkit.types import Decision, QuantConfig


def calibrate_where_finite(fused: ir.Model, selection: Selection, data: Any, config: QuantConfig,
                           observed: Observed | None = None, **options: Any) -> Calibrated:  # fmt: skip
    """`calibrate_fused`; nodes whose tensors hold NaN or infinities for a sample stay FP32, and the data are read anew.

    observed: of an earlier call with the same model and data, so that the model is not run over them once more.
    Raises NotFiniteError where that leaves nothing to quantize, or where the data can be read but once.
    """
    notes: list[Decision] = []
    if observed is not None:
        selection, notes = observed.selection, list(observed.notes)
        options |= {"table_in": observed.table, "table_out": None}
    while True:
        try:
            done = calibrate_fused(fused, selection, data, config, **options)
            found = None if done.observed is None else replace(done.observed, notes=tuple(notes))
            return Calibrated(done.model, [*notes, *done.decisions], found)
        except NotFiniteError as error:
            names = {node.name or "" for node in selection.forms}
            spoilt = {node.name or "" for node, form in selection.forms.items()
                      if any(value.name in error.tensors for value in (*form.data, *node.outputs))}  # fmt: skip
            if isinstance(data, Iterator) or not spoilt or spoilt == names:
                raise
            left = names - spoilt
            selection = select(fused, lambda name, left=left: name not in left)  # type: ignore[misc]
            reason = f"stays FP32: {str(error).split(';')[0]}"
            notes += [Decision("quantize", "kept", name, reason) for name in sorted(spoilt)]
