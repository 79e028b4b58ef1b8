"""Where every node of a model runs, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit.execute.session import Session
from quantkit.report.provenance import recipe, recipe_facts
from quantkit.report.text import MISSING, percent, preformatted, shape, size, table

NATIVE = "native"


@dataclass(frozen=True)
class Inspection:
    """The plan of one model on one instruction set. recipe: how it was made (provenance.recipe)."""

    isa: str
    nodes: list[dict[str, Any]]
    coverage: dict[str, float]
    arena_bytes: int
    recipe: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The JSON of `quantkit inspect`."""
        return {
            "isa": self.isa,
            "nodes": self.nodes,
            "coverage": self.coverage,
            "arena_bytes": self.arena_bytes,
            "recipe": self.recipe,
        }

    def _repr_html_(self) -> str:
        """What a notebook shows: the text, as it is."""
        return preformatted(self.to_text())

    def to_text(self) -> str:
        """One line a node, then the totals, then how the model was made, if it says so."""
        rows = [
            [
                node["name"],
                node["op"],
                shape(node["shape"]),
                node["dtype"] or MISSING,
                node["runs_on"],
                node["kernel"] or MISSING,
                f"{node['macs']:,}" if node["macs"] else MISSING,
                node["reason"] or "",
            ]
            for node in self.nodes
        ]
        headers = ["node", "op", "shape", "dtype", "runs on", "kernel", "macs", "why"]
        nodes, macs = (percent(self.coverage[key]) for key in ("native_nodes", "native_macs"))
        total = (
            f"{len(self.nodes)} nodes on {self.isa}; native: {nodes} of the nodes, {macs} of the multiply-accumulates; "
            f"{size(self.arena_bytes)} for intermediate tensors at batch 1"
        )
        facts = recipe_facts(self.recipe) if self.recipe["quantkit"] else {}
        width = max(map(len, facts), default=0)
        lines = [f"{key:{width}}  {value}" for key, value in facts.items()]
        return "\n\n".join([table(headers, rows), total, *(["\n".join(lines)] if lines else [])])


def inspect_model(model: Path | Any, isa: str | None = None) -> Inspection:
    """Plan `model` (path, ModelProto or onnx_ir.Model) without running it. Raises ModelError, EngineError."""
    session = Session(model, isa=isa)
    plan = session.plan
    nodes = [plan_entry(node) for node in plan]
    return Inspection(session.isa, nodes, coverage(plan), session.arena_bytes, recipe(session.metadata))


def plan_entry(node: Any) -> dict[str, Any]:
    """A NodePlan as JSON."""
    return {
        "name": node.name,
        "op": node.op,
        "shape": None if node.shape is None else list(node.shape),
        "dtype": None if node.dtype is None else str(node.dtype),
        "runs_on": node.runs_on,
        "kernel": node.kernel,
        "reason": node.reason,
        "macs": node.macs,
    }


def coverage(plan: Sequence[Any]) -> dict[str, float]:
    """Fractions of the multiply-accumulates and of the nodes that the native engine runs; 0 for a plan without any."""
    macs = sum(node.macs or 0 for node in plan)
    native = [node for node in plan if node.runs_on == NATIVE]
    return {
        "native_macs": sum(node.macs or 0 for node in native) / macs if macs else 0.0,
        "native_nodes": len(native) / len(plan) if plan else 0.0,
    }


def placed_nodes(session: Session) -> list[dict[str, Any]]:
    """`plan_entry` of every node, with "feeds": indices of the earlier nodes whose outputs it takes."""
    plan = session.plan
    nodes = list(session.steps[0].nodes[0].graph or ()) if plan else []
    index = {node: i for i, node in enumerate(nodes)}
    entries = []
    for node, placed in zip(nodes, plan, strict=True):
        producers = (value.producer() for value in node.inputs if value is not None)
        feeds = sorted({index[producer] for producer in producers if producer in index})
        entries.append({**plan_entry(placed), "feeds": feeds})
    return entries
