"""What leads to no output goes, together with what only the body of such a node reads."""

from __future__ import annotations

import onnx_ir as ir

from quantkit.fold.cleanup import remove_unused_nodes
from quantkit.load import load
from tests.graphs import model, op_types

BODIES = """
    a = Exp (x)
    y = Relu (x)
    yes = Cast <to = 9> (flag)
    z = If (yes) <
        then_branch = then_body () => (float[N] t) { t = Abs (a) },
        else_branch = else_body () => (float[N] e) { e = Neg (a) }
    >
"""


def loaded(outputs: str) -> ir.Model:
    return load(model(BODIES, {}, inputs="float[N] x, float flag", outputs=outputs))


def test_what_only_the_body_of_an_unused_node_reads_goes_with_it():
    net = loaded("float[N] y, float[N] z")
    net.graph.outputs[:] = [value for value in net.graph.outputs if value.name == "y"]
    assert remove_unused_nodes(net.graph) == 3
    assert op_types(net) == ["Relu"]


def test_what_the_body_of_a_used_node_reads_stays():
    net = loaded("float[N] z")
    assert remove_unused_nodes(net.graph) == 1
    assert sorted(op_types(net)) == ["Cast", "Exp", "If"]
