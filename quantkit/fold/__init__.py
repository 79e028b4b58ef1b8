"""Rewrite the FP32 graph into fewer, plainer ops that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir

    from quantkit.types import Decision

__all__ = ["fold"]


def fold(model: ir.Model, skip: Collection[str] = ()) -> list[Decision]:
    """Run every pass over `model`, in place, until nothing changes; value-preserving and idempotent.

    Graph inputs and outputs keep names, shapes and dtypes; shared weights are never rewritten in place; shapes are
    inferred anew. skip: names of passes to leave out. Returns what was done in order, then the refusals that still
    stand, each once. Raises StepFailedError for what a pass raises: the model is then half rewritten.
    """
    from quantkit.fold.passes import run_passes

    return run_passes(model, skip)
