"""Rewrite the FP32 graph into fewer, plainer ops that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantkit.types import Decision

__all__ = ["fold"]


def fold(model: ir.Model) -> list[Decision]:
    """Run every pass over `model`, in place, until nothing changes; value-preserving and idempotent.

    Graph inputs and outputs keep names, shapes and dtypes; shared weights are never rewritten in place; shapes are
    inferred anew. Returns what was done in order, then the refusals that still stand, each once.
    """
    from quantkit.fold.passes import run_passes

    return run_passes(model)
