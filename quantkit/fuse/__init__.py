"""fuse: rewrites a folded FP32 graph into fused ops of domain `quantkit`, still in FP32 and in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx_ir as ir

from quantkit.errors import StepFailedError
from quantkit.fuse.affine import fuse_affine
from quantkit.fuse.dimensions import read_sizes_from_inputs
from quantkit.fuse.graph import Reject
from quantkit.fuse.norms import fuse_norms
from quantkit.fuse.opnames import DOMAIN, DOMAIN_VERSION, WEIGHTED, OpName, parse
from quantkit.fuse.patterns import fuse_compositions
from quantkit.fuse.rules import RULES, apply_rule
from quantkit.types import Decision

__all__ = ["DOMAIN", "OpName", "fuse", "parse"]


COMPOSITIONS = (read_sizes_from_inputs, fuse_compositions, fuse_affine, fuse_norms)
"""What runs before the rules: rewrites of several nodes into one op."""


def fuse(
    model: ir.Model, keep: Callable[[str], bool] = lambda name: False, skip: Collection[str] = ()
) -> list[Decision]:
    """Fuses `model` in place. keep(node name) -> True leaves a node as it is, in FP32. skip: COMPOSITIONS left out.

    Afterwards weighted nodes that can be quantized are nodes of domain `quantkit` (inputs x, weight, bias
    [, residual]), binary nodes with an activation likewise; everything else is untouched.
    Returns what was fused, and for each anchor that was not, the reason. Raises StepFailedError for what one of
    COMPOSITIONS raises: the model is then half rewritten.
    """
    decisions: list[Decision] = []
    for step in COMPOSITIONS:
        try:
            decisions += step(model) if step.__name__ not in skip else []
        except Exception as error:
            raise StepFailedError("fuse", step.__name__, error) from error
    for weighted in (True, False):
        # Backwards, so that of two convolutions that meet in an Add the later one takes it in.
        for node in reversed(list(model.graph)):
            is_anchor = node.domain == "" and node.op_type in RULES and (node.op_type in WEIGHTED) == weighted
            if node.graph is None or not is_anchor:
                continue
            if keep(node.name or ""):
                decisions.append(Decision("fuse", "kept", node.name or "", "FP32 as asked (--keep-fp32)"))
                continue
            try:
                name, match = apply_rule(model.graph, node)
            except Reject as refusal:
                if weighted:
                    decisions.append(Decision("fuse", "refused", node.name or "", f"{node.op_type}: {refusal}"))
                continue
            except Exception as error:  # rules edit only after everything is matched: the node stays as it was
                reason = f"{type(error).__name__}: {error}"
                decisions.append(Decision("fuse", "refused", node.name or "", f"{node.op_type}: {reason}"))
                continue
            detail = " + ".join(n.op_type for n in match.nodes)
            decisions.append(Decision("fuse", "fused", node.name or "", f"{detail} -> {name.op_type}"))
    model.graph.sort()
    model.opset_imports[DOMAIN] = DOMAIN_VERSION
    return decisions
