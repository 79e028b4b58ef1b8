"""Model-local functions of the user are inlined, so that later stages see plain ops; quantkit's own stay."""

from __future__ import annotations

import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from quantkit.load.kind import DOMAIN
from quantkit.types import Decision


def inline_functions(model: ir.Model, label: str) -> tuple[ir.Model, list[Decision]]:
    """Inline every local function outside the domain "quantkit"; one that cannot be inlined stays, with the reason."""
    foreign = [function for function in model.functions.values() if function.domain != DOMAIN]
    if not foreign:
        return model, []
    names = ", ".join(sorted({f"{function.domain}::{function.name}" for function in foreign}))
    reason = ""
    for inline in (_inline_here, _inline_by_onnx):
        try:
            return inline(model), [Decision("load", "inlined", label, f"local functions {names}")]
        except Exception as error:
            reason = reason or str(error).strip() or type(error).__name__
    return model, [
        Decision("load", "kept", label, f"local functions {names} cannot be inlined: {reason.splitlines()[0]}")
    ]


def _inline_here(model: ir.Model) -> ir.Model:
    copy = model.clone()
    InlinePass(criteria=lambda function: function.domain != DOMAIN)(copy)
    for identifier in [key for key, function in copy.functions.items() if function.domain != DOMAIN]:
        del copy.functions[identifier]
    return copy


def _inline_by_onnx(model: ir.Model) -> ir.Model:
    """onnx's inliner converts function bodies of another opset version, but inlines all and needs one proto."""
    if any(function.domain == DOMAIN for function in model.functions.values()):
        raise ValueError("a function body has another opset version than the model")
    return ir.from_proto(onnx.inliner.inline_local_functions(ir.to_proto(model), convert_version=True))
