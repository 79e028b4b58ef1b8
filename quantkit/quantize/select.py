"""Which nodes become u8, and which tensors must share their parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from quantkit.fuse.expand import pre_activation_name
from quantkit.fuse.graph import Reject, given_params, is_standard, quantkit_name
from quantkit.fuse.opnames import MOVEMENT
from quantkit.quantize.support import StaticForm, static_form
from quantkit.types import Decision, Range

NO_LAYERS = "no Conv, Gemm or MatMul with constant weights"
BLOCKED_DOMAIN = "com.microsoft.nchwc"
BLOCKED_LAYOUT = (
    "onnxruntime saved it with weights laid out for one kind of CPU (com.microsoft.nchwc), "
    "give the model from before or one saved at ORT_ENABLE_EXTENDED"
)
FOLLOWING = (*MOVEMENT, "MaxPool", "GlobalMaxPool", "Split")
"""Ops that also become u8 in front of a quantized consumer: they lose nothing by it."""


@dataclass
class Selection:
    """forms: what each selected node becomes, in graph order. group_of: tensor name -> name of its parameter group.

    given: tensors that are u8 already, of a model quantized in part, and the range that their u8 values cover.
    why_empty: why no node is selected, in a few words; empty where one is.
    """

    forms: dict[ir.Node, StaticForm]
    decisions: list[Decision]
    group_of: dict[str, str] = field(default_factory=dict)
    given: dict[str, Range] = field(default_factory=dict)
    why_empty: str = ""

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors whose ranges are needed, in graph order, pre-activations included."""
        return list(self.group_of)

    def group_ranges(self, ranges: dict[str, Range]) -> dict[str, Range]:
        """One range for each group: the union of its tensors' ranges, or that of a given tensor that covers it."""
        merged: dict[str, Range] = {}
        for tensor, group in self.group_of.items():
            span, known = ranges[tensor], merged.get(group)
            merged[group] = span if known is None else Range(min(span.low, known.low), max(span.high, known.high))
        for tensor, span in self.given.items():
            group = self.group_of[tensor]
            slack = (span.high - span.low) / 255 / 2
            if span.low - slack <= merged[group].low and merged[group].high <= span.high + slack:
                merged[group] = span
        return merged


def _candidates(graph: ir.Graph, keep: Callable[[str], bool]) -> tuple[dict[ir.Node, StaticForm], list[Decision]]:
    forms, decisions = {}, []
    for node in graph:
        try:
            if keep(node.name or ""):
                raise Reject("FP32 as asked (--keep-fp32)")
            forms[node] = static_form(node)
        except Exception as error:  # a malformed node is no worse than an unsupported one
            reason = str(error) if isinstance(error, Reject) else f"{type(error).__name__}: {error}"
            decisions.append(Decision("quantize", "kept", node.name or "", f"{node.op_type} stays FP32: {reason}"))
    return forms, decisions


def _consumers(node: ir.Node) -> list[ir.Node | None]:
    """The users of a node's outputs; None stands for the graph's output."""
    users: list[ir.Node | None] = [use.node for out in node.outputs for use in out.uses()]
    return users + [None for out in node.outputs if out.is_graph_output()]


def _grow(graph: ir.Graph, candidates: dict[ir.Node, StaticForm]) -> set[ir.Node]:
    """Weighted nodes, then forward whatever takes a u8 input, then backward what only moves values into u8 nodes."""
    chosen: set[ir.Node] = set()
    for node in graph:
        form = candidates.get(node)
        if form is not None and (form.name.is_weighted or any(_is_u8(v, chosen) for v in form.data)):
            chosen.add(node)
    for node in reversed(list(graph)):
        form = candidates.get(node)
        if form is None or node in chosen or form.name.base not in FOLLOWING:
            continue
        users = _consumers(node)
        if users and all(user in chosen for user in users):
            chosen.add(node)
    for node in reversed(list(graph)):
        is_unary = node in chosen and len(candidates[node].data) == 1 and not candidates[node].shares
        is_elementwise = (
            is_unary and not candidates[node].name.is_weighted and candidates[node].name.base not in _REDUCING
        )
        if is_elementwise and all(user not in chosen for user in _consumers(node)):
            chosen.discard(node)
    return chosen


def _is_u8(value: ir.Value, chosen: set[ir.Node]) -> bool:
    return value.producer() in chosen or given_params(value) is not None


_REDUCING = ("AveragePool", "GlobalAveragePool", "ReduceMean")


class _Groups:
    """Union-find over tensor names; the representative is the name that came first."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def find(self, name: str) -> str:
        self.parent.setdefault(name, name)
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def union(self, a: str, b: str) -> None:
        first, second = self.find(a), self.find(b)
        self.parent[second] = first


def _share(forms: dict[ir.Node, StaticForm]) -> dict[str, str]:
    groups = _Groups()
    for node, form in forms.items():
        if form.name.is_stream:  # what others read of it as u8 stands among their data
            continue
        for value in form.data:
            groups.find(value.name or "")
        if form.name.is_lookup:
            groups.find(pre_activation_name(node.outputs[0].name or ""))
        if form.name.is_weighted and becomes_float(node, form, forms):
            continue
        for out in node.outputs:
            groups.find(out.name or "")
            if form.shares:
                groups.union(form.data[0].name or "", out.name or "")
        if form.name.base == "Concat":
            for value in form.data:
                if value.producer() in forms and len(value.uses()) == 1 and not value.is_graph_output():
                    groups.union(value.name or "", node.outputs[0].name or "")
    return {name: groups.find(name) for name in groups.parent}


def becomes_float(node: ir.Node, form: StaticForm, forms: dict[ir.Node, StaticForm]) -> bool:
    """A plain weighted op that nobody reads as u8 ends in float32: one rounding less. So does what sums float32."""
    plain = form.name.is_weighted and not form.name.add and not form.name.activation
    return form.name.is_stream or (plain and all(not reads_u8(user, forms) for user in _consumers(node)))


def reads_u8(user: ir.Node | None, forms: dict[ir.Node, StaticForm]) -> bool:
    """Whether a user of a tensor (None: the graph's output) takes it as u8."""
    return user is not None and user in forms and not forms[user].name.is_stream


def _why_empty(graph: ir.Graph, decisions: Sequence[Decision]) -> str:
    """There are no layers, or there is what keeps those that there are in FP32."""
    if any(node.domain == BLOCKED_DOMAIN for node in graph):
        return BLOCKED_LAYOUT
    layers = {node.name for node in graph if _is_layer(node)}
    details = [decision.detail for decision in decisions if decision.node in layers]
    reasons = dict.fromkeys(detail.partition(" stays FP32: ")[2] for detail in details)
    return f"{NO_LAYERS} to quantize ({'; '.join(reasons)})" if reasons else NO_LAYERS


def _is_layer(node: ir.Node) -> bool:
    """Whether a node in FP32, fused or not, has constant weights."""
    name = quantkit_name(node)
    if name is not None:
        return name.is_weighted and name.level == "float"
    plain = is_standard(node, "Conv", "ConvTranspose", "Gemm", "MatMul") and len(node.inputs) > 1
    return plain and node.inputs[1] is not None and node.inputs[1].const_value is not None


def select(model: ir.Model, keep: Callable[[str], bool] = lambda name: False) -> Selection:
    """Decides for a fused FP32 model which nodes become u8. The model is not changed."""
    candidates, decisions = _candidates(model.graph, keep)
    chosen = _grow(model.graph, candidates)
    forms = {node: candidates[node] for node in model.graph if node in chosen}
    decisions += [
        Decision("quantize", "kept", node.name or "", f"{node.op_type} stays FP32: no INT8 neighbour to gain from")
        for node in candidates
        if node not in chosen
    ]
    group_of = _share(forms)
    params = {value.name or "": given_params(value) for form in forms.values() for value in form.data}
    given = {name: p.range for name, p in params.items() if p is not None and name in group_of}
    return Selection(forms, decisions, group_of, given, "" if forms else _why_empty(model.graph, decisions))
