"""Names: every node has one, no two nodes share one, no name changes that need not."""

from __future__ import annotations

import onnx_ir as ir


def name_nodes(model: ir.Model) -> list[str]:
    """Name unnamed nodes "Conv_12" (12: position in the file) and make duplicates unique; subgraphs included.

    Stable: the same file gives the same names. Returns the duplicates that were renamed, by their old name.
    """
    nodes = list(model.graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    duplicates = []
    for position, node in enumerate(nodes):
        if not node.name:
            node.name = _unused(f"{node.op_type}_{position}", taken)
        elif node.name in seen:
            duplicates.append(node.name)
            node.name = _unused(f"{node.name}_{position}", taken)
        seen.add(node.name)
    return duplicates


def _unused(name: str, taken: set[str]) -> str:
    candidate, suffix = name, 1
    while candidate in taken:
        candidate, suffix = f"{name}_{suffix}", suffix + 1
    taken.add(candidate)
    return candidate
