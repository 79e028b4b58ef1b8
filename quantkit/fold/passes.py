"""The order of the passes, and the loop to the fixed point."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from quantkit.errors import StepFailedError
from quantkit.fold.activations import name_activations
from quantkit.fold.batchnorm import batchnorm_to_conv, fold_batchnorm
from quantkit.fold.branches import take_known_branches
from quantkit.fold.cleanup import remove_unused
from quantkit.fold.constants import fold_constants
from quantkit.fold.contrib import write_out_contrib
from quantkit.fold.editing import DONE_NOTHING, Pass
from quantkit.fold.einsum import matrix_products
from quantkit.fold.explicit import write_out_attributes
from quantkit.fold.extremes import pool_maxima
from quantkit.fold.factors import carry_factors
from quantkit.fold.gemm import normalize_gemm
from quantkit.fold.identities import remove_identities
from quantkit.fold.norms import name_layer_norms
from quantkit.fold.padding import fold_pads
from quantkit.fold.plain import name_plainly
from quantkit.fold.scale_shift import fold_scale_shift
from quantkit.fold.shapes import annotate_shapes, fold_shapes
from quantkit.fold.transposes import merge_transposes
from quantkit.types import Decision

ROUND_LIMIT = 50
"""Rounds until a fixed point: real models need 3 to 6; the limit only guards against two passes undoing each other."""

PASSES: tuple[Pass, ...] = (
    remove_unused,
    write_out_contrib,
    fold_shapes,
    fold_constants,
    take_known_branches,
    remove_identities,
    matrix_products,
    pool_maxima,
    merge_transposes,
    write_out_attributes,
    normalize_gemm,
    name_activations,
    name_plainly,
    name_layer_norms,
    fold_scale_shift,
    carry_factors,
    fold_batchnorm,
    fold_pads,
)
"""The order of one round."""
LAST_PASSES: tuple[Pass, ...] = (batchnorm_to_conv,)
"""Run when the others find nothing more: what they would still have folded must not be rewritten before."""


def run_passes(model: ir.Model, skip: Collection[str] = ()) -> list[Decision]:
    """All rounds; see quantkit.fold.fold. skip: names of passes to leave out."""
    annotate_shapes(model)
    done: list[Decision] = []
    refused: list[Decision] = []
    for _ in range(ROUND_LIMIT):
        changes, refused = _run(model, PASSES, skip)
        if not changes:
            changes, late = _run(model, LAST_PASSES, skip)
            refused += late
        done += changes
        if not changes:
            break
    return [*done, *dict.fromkeys(refused)]


def _run(model: ir.Model, passes: tuple[Pass, ...], skip: Collection[str]) -> tuple[list[Decision], list[Decision]]:
    """One round: what changed and what was refused. Raises StepFailedError: the model is then half rewritten."""
    decisions = []
    for one_pass in passes:
        if one_pass.__name__ in skip:
            continue
        try:
            decisions += one_pass(model)
        except Exception as error:
            raise StepFailedError("fold", one_pass.__name__, error) from error
    changes = [decision for decision in decisions if decision.action != DONE_NOTHING]
    if changes:
        remove_unused(model)
        annotate_shapes(model)
    return changes, [decision for decision in decisions if decision.action == DONE_NOTHING]
