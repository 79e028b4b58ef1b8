"""What runs where, and why: the table behind `inspect` and Session.plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx_ir as ir

from quantkit.fuse.graph import Reject, constant, has_int8_body, quantkit_name
from quantkit.fuse.opnames import WEIGHTED
from quantkit.lower.regions import Step, shape_operands, why_not_native
from quantkit.quantize.support import static_form


@dataclass(frozen=True)
class NodePlan:
    """Where a node runs. runs_on: "native" | "onnxruntime"; shape, dtype: of its first output; macs: at batch 1
    where the batch is dynamic, 0 if shapes are not known or the op multiplies no matrices."""

    name: str
    op: str
    runs_on: str
    kernel: str
    reason: str
    macs: int
    shape: tuple[int | str | None, ...] | None
    dtype: str


RECURRENT = ("LSTM", "GRU", "RNN")
MAC_BASES = ("Conv", "Gemm", "MatMul", "ActivationMatMul", "ConvTranspose")


def _size(value: ir.Value | None, start: int = 0) -> int | None:
    """Number of elements from axis `start` on; symbolic dimensions count 1; None if the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return prod(d if isinstance(d, int) else 1 for d in list(value.shape)[start:])


def node_macs(node: ir.Node) -> int:
    """Multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul, in standard or quantkit form, and of LSTM, GRU and
    RNN."""
    name = quantkit_name(node)
    base = name.base if name is not None else node.op_type
    if name is None and base in RECURRENT:
        return _recurrent_macs(node)
    if base not in (*MAC_BASES, "MatMulInteger", "ConvInteger"):
        return 0
    index = 3 if name is not None and name.level == "static" else 1
    weights = node.inputs[index]
    array = constant(weights)
    out = _size(node.outputs[0])
    if out is None:
        return 0
    if base == "ConvTranspose":
        taps = prod(array.shape[1:]) if array is not None else 0
        if name is not None and array is not None:  # [C_out, C_in / group, *kernel]
            taps = array.shape[0] // node.attributes["group"].as_int() * prod(array.shape[2:])
        return (_size(node.inputs[0]) or 0) * taps
    if array is None:
        inner = node.inputs[0].shape if node.inputs[0] is not None else None
        last = inner[-1] if inner is not None and len(inner) else 1
        return out * (last if isinstance(last, int) else 1)
    if base in ("Conv", "ConvInteger"):
        return out * prod(array.shape[1:])
    transposed = base == "Gemm" and (
        name is not None or bool(node.attributes.get("transB") and node.attributes["transB"].as_int())
    )
    return out * (array.shape[1] if transposed else array.shape[-2] if array.ndim > 1 else array.shape[0])


def _recurrent_macs(node: ir.Node) -> int:
    """Every step of every sequence multiplies W and R once. Source: ONNX LSTM-14, GRU-14, RNN-14."""
    steps = node.inputs[0].shape if node.inputs[0] is not None else None
    weights = [constant(value) for value in node.inputs[1:3]]
    times = prod(d if isinstance(d, int) else 1 for d in list(steps)[:2]) if steps is not None else 1
    return times * sum(array.size for array in weights if array is not None)


def native_share(graph: ir.Graph) -> float:
    """The native part of a graph's multiply-accumulates, 0 to 1; 0 if it has none."""
    macs = [(node_macs(node), not why_not_native(node)) for node in graph]
    return sum(count for count, native in macs if native) / max(1, sum(count for count, _ in macs))


FORM_UNUSED = "its INT8 form was not used here; the decisions of `quantize -v` say why"


def why_in_onnxruntime(node: ir.Node) -> str:
    """`why_not_native` for a reader: integers and the like are said to be such, and a node whose only reason is that it
    is FP32 gets the reason why it has no INT8 form here, if it has none."""
    reason = why_not_native(node)
    out = node.outputs[0].dtype
    if reason != f"{node.op_type} runs in float32":
        return reason
    if out is not None and not out.is_floating_point():
        return f"{node.op_type} gives {out.name.lower()}, which is not quantized"
    try:
        if node.op_type not in WEIGHTED:  # which get theirs when they are fused
            static_form(node)
    except Reject as refusal:
        return f"{reason}: {refusal}"
    except Exception:  # a malformed node, which is not for a table of nodes to tell
        return reason
    return f"{reason}: {FORM_UNUSED}"


INT8_BODIES = "INT8 in its bodies, each a session of its own"


def node_plans(graph: ir.Graph, steps: Sequence[Step], runners: Sequence[Any], isa: str) -> list[NodePlan]:
    """One row a node, in graph order."""
    kernels: dict[str, str] = {}
    for step, runner in zip(steps, runners, strict=True):
        if step.native:
            kernels.update(_kernels(step, runner, isa))
    rows = []
    for node in graph:
        inside = has_int8_body(node)
        reason = "" if inside else why_in_onnxruntime(node)
        out = node.outputs[0]
        shape = None if out.shape is None else tuple(d if isinstance(d, int) else d.value for d in out.shape)
        rows.append(NodePlan(
            node.name or "", node.op_type, "onnxruntime" if reason else "native",
            "" if reason else "bodies" if inside else kernels.get(node.name or "", "view"),
            reason or (INT8_BODIES if inside else "u8 kernel"), node_macs(node), shape,
            out.dtype.name.lower() if out.dtype is not None else "",
        ))  # fmt: skip
    return rows


def _kernels(step: Step, runner: Any, isa: str) -> Mapping[str, str]:
    """The kernels of a region, from its plan for the declared shapes, dynamic dimensions as EXAMPLE_SIZES; where these
    do not fit together, from the plan of the latest run."""
    compiled, given = runner.latest_plan, shape_operands(step)
    for size in EXAMPLE_SIZES:
        try:
            compiled = runner.plan_for(tuple(_example_dims(given.get(v, v), size) for v in step.inputs))
            break
        except Exception:  # any error of a shape that no run need have
            continue
    if compiled is None:
        return dict.fromkeys((n.name or "" for n in step.nodes), f"chosen at run time ({isa})")
    names: dict[str, list[str]] = {}
    for op, kernel in zip(compiled.plan.ops, compiled.kernel_names(), strict=True):
        names.setdefault(op.node, []).append(kernel)
    return {node: "+".join(dict.fromkeys(kernels)) for node, kernels in names.items()}


EXAMPLE_SIZES = (224, 1)
"""What a dynamic dimension is taken to be when kernels are listed: an image's side; where that does not fit, 1."""


def _example_dims(value: ir.Value, size: int) -> tuple[int, ...]:
    if value.shape is None:
        return (1,)
    return tuple(d if isinstance(d, int) else (1 if i == 0 else size) for i, d in enumerate(value.shape))
