"""Sizes of inner tensors are read from the graph's inputs."""

import numpy as np

from quantkit.execute import Session
from quantkit.load.prepared import is_prepared
from quantkit.quantize.apply import apply
from quantkit.quantize.initial import all_weights
from quantkit.quantize.qparams import params_from_range
from quantkit.quantize.select import select
from quantkit.types import QuantConfig, Range
from tests.graphs import CONV, all_in_int8, fused, image, model, run_onnxruntime

BODY = (
    f"c = Conv<{CONV}>(x, w, b) s = Shape(c) n = Gather<axis=0>(s, zero) k = Unsqueeze(n, axes) "
    "z = Concat<axis=0>(k, rest) t = Expand(token, z) g = GlobalAveragePool(c) f = Flatten(g) y = Concat<axis=1>(f, t)"
)
WEIGHTS = {"w": (4, 3, 3, 3), "b": (4,), "zero": np.array(0), "axes": np.array([0]), "rest": np.array([2]),
           "token": (1, 2)}  # fmt: skip
PROTO = model(BODY, WEIGHTS, outputs="float[N,6] y")


def test_the_batch_size_is_read_from_the_input_and_has_a_type():
    (shape,) = [node for node in fused(PROTO).graph if node.op_type == "Shape"]
    assert shape.inputs[0].name == "x"
    assert (shape.outputs[0].dtype.name, list(shape.outputs[0].shape)) == ("INT64", [4])


def test_what_is_calibrated_from_it_opens_without_being_loaded_again():
    """Every value has a type, which quantkit.quantize.apply asks for."""
    made = fused(PROTO)
    selection = select(made)
    params = {group: params_from_range(Range(-4.0, 4.0)) for group in set(selection.group_of.values())}
    apply(made, selection, params, all_weights(selection, params, QuantConfig()))
    assert is_prepared(made)


def test_results_are_those_of_the_file():
    x = image(2, 3, 8, 8, seed=5)
    got = Session(all_in_int8(PROTO, [x])).run(None, {"x": x})[0]
    wanted = run_onnxruntime(PROTO, {"x": x})[0]
    assert got.shape == wanted.shape == (2, 6)
    assert np.abs(got - wanted).max() < 0.2
