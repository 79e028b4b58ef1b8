"""Which of the three artifacts a model is: FP32, converted or calibrated; or quantized by another tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "quantkit"
"""Domain of the fused ops and their model-local functions."""

ArtifactKind = Literal["fp32", "converted", "calibrated", "foreign-int8"]

# fmt: off
FOREIGN_OPS = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
        "ConvInteger", "MatMulInteger", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool",
        "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax",
        "QLinearReduceMean", "QLinearWhere", "QGemm", "QAttention", "QEmbedLayerNormalization",
        "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4",
        "FakeQuantize",
    }
)
# fmt: on
"""Ops that only a quantized model holds, of the domains ai.onnx and com.microsoft."""


def artifact_kind(model: ir.Model) -> ArtifactKind:
    """Recognise the artifact by its nodes, those in subgraphs included.

    "calibrated": quantkit nodes whose op type starts with Q. "converted": quantkit DynQ* nodes and none of those.
    "foreign-int8": standard or vendor quantization ops without quantkit's. "fp32": none of these.
    """
    own = [node.op_type for node in model.graph.all_nodes() if node.domain == DOMAIN]
    if any(op.startswith("Q") for op in own):
        return "calibrated"
    if any(op.startswith("DynQ") for op in own):
        return "converted"
    bodies = [model.graph, *(f.graph for f in model.functions.values() if f.domain != DOMAIN)]
    if any(node.op_type in FOREIGN_OPS for body in bodies for node in body.all_nodes()):
        return "foreign-int8"
    return "fp32"
