"""Constant folding and shape arithmetic: what is known becomes constant, the batch stays free."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.fold.constants import fold_constants
from quantkit.fold.input_shapes import from_input_shapes
from quantkit.fold.shape_analysis import ShapeAnalysis, infer_types
from quantkit.fold.shapes import fold_shapes
from quantkit.load import load
from tests.fold.fold_cases import array_of, build, folded, node_of, normal, op_types, refusals


def ints(*values):
    return np.array(values, np.int64)


SCALARS = {f"i{value}": np.array(value, np.int64) for value in range(6)} | {f"v{v}": ints(v) for v in range(6)}
SIZES = [{"N": 2, "H": 4, "W": 6}, {"N": 3, "H": 8, "W": 10}]

SHUFFLE = """
s = Shape(x)
n = Gather(s, i0)
c = Gather(s, i1)
half = Div(c, i2)
nv = Unsqueeze(n, v0)
hv = Unsqueeze(half, v0)
to = Concat<axis=0>(nv, v2, hv, v4, v4)
r = Reshape(x, to)
t = Transpose<perm=[0,2,1,3,4]>(r)
back = Concat<axis=0>(nv, m, v4, v4)
y = Reshape(t, back)
"""


def test_a_channel_shuffle_with_dynamic_batch_has_constant_shapes():
    proto = build("(float[N,6,4,4] x) => (float[N,6,4,4] y)", SHUFFLE, m=ints(-1), **SCALARS)
    model, _ = folded(proto)
    assert op_types(model) == ["Reshape", "Transpose", "Reshape"]
    assert array_of(model.graph[0].inputs[1]).tolist() == [0, 2, 3, 4, 4]
    assert array_of(model.graph[2].inputs[1]).tolist() == [0, -1, 4, 4]


def test_a_slice_to_half_of_the_channels_has_constant_bounds():
    body = """
    s = Shape(x)
    c = Gather(s, i1)
    cv = Unsqueeze(c, v0)
    one = Add(cv, v1)
    half = Div(one, v2)
    twice = Mul(half, v2)
    a = Slice(x, v0, half, v1)
    b = Slice(x, half, twice, v1)
    y = Concat<axis=1>(b, a)
    """
    model, _ = folded(build("(float[N,6,4,4] x) => (float[N,6,4,4] y)", body, **SCALARS))
    assert op_types(model) == ["Slice", "Slice", "Concat"]
    assert [array_of(node.inputs[2]).tolist() for node in model.graph if node.op_type == "Slice"] == [[3], [6]]


def test_a_slice_bound_relative_to_an_unknown_size_counts_from_the_end():
    body = """
    s = Shape(x)
    h = Slice(s, v2, v3)
    end = Sub(h, v1)
    a = Slice(x, v1, end, v2)
    b = Slice(x, v0, h, v3)
    y = Relu(a)
    z = Relu(b)
    """
    proto = build("(float[N,2,H,H] x) => (float[N,2,U,H] y, float[N,2,H,H] z)", body, **SCALARS)
    model, _ = folded(proto, symbols=SIZES)
    slices = [node for node in model.graph if node.op_type == "Slice"]
    assert [array_of(node.inputs[2]).tolist() for node in slices] == [[-1]]


def test_a_slice_bound_that_depends_on_the_size_is_refused():
    body = "s = Shape(x)\n h = Slice(s, v2, v3)\n half = Div(h, v2)\n y = Slice(x, v0, half, v2)"
    model, decisions = folded(build("(float[N,2,H,W] x) => (float[N,2,U,W] y)", body, **SCALARS), symbols=SIZES)
    assert op_types(model) == ["Shape", "Slice", "Div", "Slice"]
    assert "known only at run time" in refusals(decisions)


@pytest.mark.parametrize(
    ("target", "expected"),
    [("nv, m", [0, -1]), ("nv, cv, m", [0, 3, -1]), ("nv, cv, hw", [0, 3, -1]), ("m, hw", [-1, None])],
)
def test_a_reshape_copies_or_infers_what_is_not_known(target, expected):
    body = f"""
    s = Shape(x)
    nv = Slice(s, v0, v1)
    cv = Slice(s, v1, v2)
    hv = Slice(s, v2, v3)
    wv = Slice(s, v3, v4)
    hw = Mul(hv, wv)
    to = Concat<axis=0>({target})
    y = Reshape(x, to)
    """
    rank = len(expected)
    signature = f"(float[N,3,H,W] x) => (float[{','.join('ABC'[:rank])}] y)"
    model, decisions = folded(build(signature, body, m=ints(-1), **SCALARS), symbols=SIZES)
    if None in expected:
        assert "[-1, H*W], from the inputs' shapes" in decisions[-1].detail
    else:
        assert op_types(model) == ["Reshape"]
        assert array_of(model.graph[0].inputs[1]).tolist() == expected


def test_a_reshape_to_two_computed_sizes_of_a_smaller_input_waits_for_the_inputs_alone():
    body = "s = Shape(x)\n to = Slice(s, v2, v4)\n y = Reshape(f, to)"
    proto = build("(float[1,1,H,W] x, float[F] f) => (float[H,W] y)", body, **SCALARS)
    model, _ = folded(proto, symbols=[{"H": 2, "W": 3, "F": 6}, {"H": 5, "W": 1, "F": 5}])
    assert from_input_shapes(node_of(model, "Reshape").inputs[1])


LINEAR_OF_TOKENS = """
c = Relu(x)
s = Shape(c)
n = Slice(s, v0, v1)
l = Slice(s, v1, v2)
flat = Concat<axis=0>(m, v4)
rows = Reshape(c, flat)
z = Gemm(rows, w)
to = Concat<axis=0>(n, l, m)
r = Reshape(z, to)
nl = Mul(n, l)
less = Sub(nl, v1)
more = Add(less, v1)
to2 = Concat<axis=0>(more, v2, v3)
y = Reshape(r, to2)
"""


def test_a_linear_layer_over_all_tokens_gets_its_shape_from_the_inputs_of_the_model():
    proto = build("(float[N,L,4] x) => (float[M,2,3] y)", LINEAR_OF_TOKENS, m=ints(-1), w=normal(4, 6), **SCALARS)
    model, decisions = folded(proto, symbols=[{"N": 2, "L": 5}, {"N": 1, "L": 1}, {"N": 4, "L": 3}])
    shape = node_of(model, "Shape")
    assert shape.inputs[0].is_graph_input()
    reshapes = [node for node in model.graph if node.op_type == "Reshape"]
    assert all(r.inputs[1].const_value is not None or from_input_shapes(r.inputs[1]) for r in reshapes)
    assert "[N, L, -1], from the inputs' shapes" in "".join(d.detail for d in decisions)


def test_rows_and_columns_after_a_strided_convolution_are_divided_from_those_of_the_inputs():
    body = """
    c = Conv<kernel_shape=[2,2], strides=[2,2]>(x, w)
    s = Shape(c)
    n = Slice(s, v0, v1)
    size = Slice(s, v2, v4)
    flat = Concat<axis=0>(n, v5, m)
    rows = Reshape(c, flat)
    tokens = Transpose<perm=[0,2,1]>(rows)
    to = Concat<axis=0>(n, size, v5)
    y = Reshape(tokens, to)
    """
    proto = build("(float[N,3,H,W] x) => (float[N,P,Q,5] y)", body, m=ints(-1), w=normal(5, 3, 2, 2), **SCALARS)
    model, _ = folded(proto, symbols=[{"N": 2, "H": 5, "W": 8}, {"N": 1, "H": 9, "W": 3}])
    assert "Div" in op_types(model)
    assert from_input_shapes([node for node in model.graph if node.op_type == "Reshape"][-1].inputs[1])


def test_equal_shapes_are_worked_out_once():
    body = """
    s = Shape(x)
    to = Concat<axis=0>(v4, s)
    a = Reshape(f, to)
    b = Reshape(g, to)
    y = Add(a, b)
    """
    signature = "(float[H,W] x, float[F] f, float[F] g) => (float[4,H,W] y)"
    model, _ = folded(build(signature, body, **SCALARS), symbols=[{"H": 2, "W": 3, "F": 24}])
    assert op_types(model).count("Shape") == 1


def test_a_reshape_by_the_number_of_what_was_found_is_refused():
    body = """
    found = NonZero(x)
    s = Shape(found)
    k = Slice(s, v1, v2)
    less = Sub(k, v2)
    to = Concat<axis=0>(k, less, m)
    t = Tile(found, repeats)
    i = Cast<to=1>(t)
    y = Reshape(i, to)
    """
    proto = build("(float[3] x) => (float[A,B,C] y)", body, m=ints(-1), repeats=ints(1, 3), **SCALARS)
    assert "more than one size" in refusals(folded(proto, symbols=[{}])[1])


@pytest.mark.parametrize(("stop", "axis", "length"), [("L", 64, "L"), ("L", 1, "L")])
def test_what_is_cut_to_the_length_of_the_tokens_leaves_their_number_as_it_is(stop, axis, length):
    body = """
    s = Shape(x)
    l = Slice(s, v1, v2)
    p = Slice(positions, v0, l, v1)
    y = Add(x, p)
    """
    proto = build("(float[N,L,4] x) => (float[N,L,4] y)", body, positions=normal(1, axis, 4), **SCALARS)
    model = load(proto)
    analysis = ShapeAnalysis(model)
    assert [str(dim) for dim in analysis.dims(model.graph.outputs[0])] == ["N", length, "4"]


def test_a_range_has_as_many_elements_as_its_bounds_are_apart():
    body = """
    s = Shape(x)
    n = Gather(s, i0)
    minus = Neg(n)
    double = Mul(n, i2)
    a = Range(i0, double, i1)
    b = Range(n, minus, down)
    c = Range(i0, minus, i1)
    y = Add(a, b)
    """
    model = load(build("(float[N] x) => (int64[M] y)", body, down=np.array(-1, np.int64), **SCALARS))
    analysis = ShapeAnalysis(model)
    lengths = {node.outputs[0].name: analysis.dims(node.outputs[0]) for node in model.graph if node.op_type == "Range"}
    assert [str(lengths[name][0]) for name in "ab"] == ["2*N", "2*N"]
    assert str(lengths["c"][0]).startswith("$"), "it is empty, not -N long"


def test_an_expand_to_its_own_batch_is_removed():
    body = "s = Shape(x)\n n = Slice(s, v0, v1)\n to = Concat<axis=0>(n, v3, v1)\n a = Relu(x)\n y = Expand(a, to)"
    model, _ = folded(build("(float[N,3,5] x) => (float[N,3,5] y)", body, **SCALARS))
    assert op_types(model) == ["Relu"]


def test_an_expand_of_a_constant_over_the_batch_is_refused():
    body = "s = Shape(x)\n n = Slice(s, v0, v1)\n to = Concat<axis=0>(n, v1)\n e = Expand(k, to)\n y = Add(x, e)"
    model, decisions = folded(build("(float[N,3] x) => (float[N,3] y)", body, k=normal(1, 3), **SCALARS))
    assert "Expand" in op_types(model)
    assert "known only at run time" in refusals(decisions)


def test_resize_sizes_that_are_a_multiple_become_scales():
    body = """
    s = Shape(x)
    hw = Slice(s, v2, v4)
    nc = Slice(s, v0, v2)
    twice = Mul(hw, v2)
    to = Concat<axis=0>(nc, twice)
    y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , , to)
    """
    model, _ = folded(build("(float[N,3,H,W] x) => (float[N,3,U,V] y)", body, **SCALARS), symbols=SIZES)
    assert op_types(model) == ["Resize"]
    assert array_of(model.graph[0].inputs[2]).tolist() == [1, 1, 2, 2]


def test_resize_to_the_size_of_another_tensor_is_refused():
    body = 's = Shape(z)\n y = Resize<mode="nearest">(x, , , s)'
    proto = build("(float[N,3,4,4] x, float[N,3,H,W] z) => (float[N,3,U,V] y)", body)
    assert "no fixed multiple" in refusals(folded(proto, symbols=SIZES)[1])


def test_spatial_sizes_follow_through_convolutions():
    body = """
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
    b = Conv<pads=[1,1,1,1]>(a, u)
    c = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)
    y = Relu(b)
    """
    proto = build(
        "(float[N,3,H,W] x) => (float[N,3,U,V] y, float[N,3,P,Q] c)", body, w=normal(3, 3, 3, 3), u=normal(3, 3, 3, 3)
    )
    model = load(proto)
    analysis = ShapeAnalysis(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    assert analysis.same_shape(values["a"], values["b"])
    assert [str(dim) for dim in analysis.dims(values["a"])] == [
        "N",
        "3",
        "floor((H - 1)/2) + 1",
        "floor((W - 1)/2) + 1",
    ]
    assert [str(dim) for dim in analysis.dims(values["c"])] == [
        "N",
        "3",
        "floor((H - 2)/2) + 1",
        "floor((W - 2)/2) + 1",
    ]


def test_two_dimensions_written_as_a_question_mark_are_not_the_same():
    proto = build("(float[N,3,H,W] x) => (float[N,3,U,V] y)", "y = Transpose<perm=[0,1,3,2]>(x)")
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "?"
    model = load(proto)
    dims = ShapeAnalysis(model).dims(model.graph.inputs[0])
    assert dims[2] != dims[3]


def test_floor_of_a_scaled_size_is_left_to_constant_folding_when_known():
    body = """
    s = Shape(x)
    f = Cast<to=1>(s)
    g = Mul(f, scale)
    h = Floor(g)
    to = Cast<to=7>(h)
    y = Resize<mode="nearest">(x, , , to)
    """
    proto = build("(float[2,3,5,5] x) => (float[2,3,7,7] y)", body, scale=np.array([1, 1, 1.5, 1.5], np.float32))
    model, _ = folded(proto, symbols=[{}])
    assert op_types(model) == ["Resize"]
    assert array_of(model.graph[0].inputs[3]).tolist() == [2, 3, 7, 7]


def test_constants_are_folded_and_names_are_fresh():
    proto = build("(float[N,4] x) => (float[N,3] y)", "t = Transpose(w)\n y = MatMul(x, t)", w=normal(3, 4))
    model, _ = folded(proto, fold_constants)
    assert op_types(model) == ["MatMul"]
    assert model.graph[0].inputs[1].name == "t_folded"


def test_a_constant_graph_output_keeps_its_node():
    proto = build(
        "(float[N,4] x) => (float[4,3] t, float[N,3] y)", "t = Transpose(w)\n y = MatMul(x, t)", w=normal(3, 4)
    )
    assert op_types(folded(proto)[0]) == ["Transpose", "MatMul"]


@pytest.mark.parametrize("op", ["RandomNormal<shape=[4]>()", "RandomUniformLike(k)", "Bernoulli(k)"])
def test_random_nodes_are_not_folded(op):
    proto = build("(float[N,4] x) => (float[N,4] y)", f"r = {op}\n y = Add(x, r)", k=np.full(4, 0.5, np.float32))
    assert len(folded(proto, fold_constants, symbols=[])[0].graph) == 2


def test_a_result_far_larger_than_its_inputs_is_refused():
    body = "big = ConstantOfShape(k)\n s = ReduceSum<keepdims=0>(big)\n y = Add(x, s)"
    model, decisions = folded(
        build("(float[N,4] x) => (float[N,4] y)", body, k=ints(1 << 14, 1 << 14)), fold_constants, symbols=[]
    )
    assert op_types(model)[0] == "ConstantOfShape"
    assert "1024 MiB" in refusals(decisions)


def test_a_node_that_cannot_be_computed_is_refused_and_stays():
    proto = build("(float[N,4] x) => (float[M] y)", "r = Reshape(k, bad)\n y = Relu(r)", k=normal(4), bad=ints(3))
    model, decisions = folded(proto, fold_constants, symbols=[])
    assert op_types(model) == ["Reshape", "Relu"]
    assert refusals(decisions)


def test_a_shared_constant_operand_stays_for_its_other_reader():
    body = "t = Transpose(w)\n y = MatMul(x, t)\n u = Add(x, w)"
    model, _ = folded(build("(float[4,4] x) => (float[4,4] y, float[4,4] u)", body, w=normal(4, 4)))
    assert sorted(model.graph.initializers) == ["t_folded", "w"]


def test_known_shapes_are_folded_without_constant_inputs():
    body = "s = Shape(x)\n p = ReduceProd<keepdims=0>(s)\n f = Cast<to=1>(p)\n y = Add(x, f)"
    model, _ = folded(build("(float[3,4] x) => (float[3,4] y)", body))
    assert op_types(model) == ["Add"]
    assert array_of(model.graph[0].inputs[1]).tolist() == 12.0


def test_every_shape_is_written_back():
    proto = build("(float[N,6,4,4] x) => (float[N,6,4,4] y)", SHUFFLE, m=ints(-1), **SCALARS)
    model, _ = folded(proto)
    assert [[str(d) for d in node.outputs[0].shape] for node in model.graph] == [
        ["N", "2", "3", "4", "4"],
        ["N", "3", "2", "4", "4"],
        ["N", "6", "4", "4"],
    ]


def test_fold_shapes_alone_makes_the_reshape_constant():
    proto = build("(float[N,6,4,4] x) => (float[N,6,4,4] y)", SHUFFLE, m=ints(-1), **SCALARS)
    model, decisions = folded(proto, fold_shapes)
    assert {decision.action for decision in decisions} == {"folded"}
    assert node_of(model, "Transpose").outputs[0].name == "t"


def test_an_expand_to_fewer_dimensions_is_aligned_at_the_end():
    body = "s = Shape(x)\n w = Slice(s, v3, v4)\n a = Relu(x)\n y = Expand(a, w)"
    model, _ = folded(build("(float[N,3,H,W] x) => (float[N,3,H,W] y)", body, **SCALARS), symbols=SIZES)
    assert op_types(model) == ["Relu"]


def test_equal_blocks_are_inferred_once_and_other_ones_anew():
    """By op, attributes, input shapes and the elements that are known: names do not count."""
    proto = build("(float[N,6,4,4] x) => (float[N,24,4,1] y)",
                  "a = Transpose<perm=[0,2,1,3]>(x)\n b = Transpose<perm=[0,2,1,3]>(a)\n "
                  "c = Transpose<perm=[0,2,1,3]>(b)\n"
                  "y = Reshape(c, m)", m=ints(0, 24, 4, 1))  # fmt: skip
    model = load(proto)
    infer_types.cache_clear()
    analysis = ShapeAnalysis(model)
    assert [str(dim) for dim in analysis.dims(model.graph[1].outputs[0])] == ["N", "6", "4", "4"]
    assert (infer_types.cache_info().misses, infer_types.cache_info().hits) == (3, 1)
    ShapeAnalysis(model)
    assert (infer_types.cache_info().misses, infer_types.cache_info().hits) == (3, 5)
