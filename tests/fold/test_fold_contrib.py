"""onnxruntime's fused ops written out: the values that onnxruntime gives for them; what has no such form stays."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit import pipeline
from quantkit.fold import fold
from quantkit.fold.contrib import write_out_contrib
from quantkit.load import load, to_proto
from tests.fold.fold_cases import FOLDED, normal, run
from tests.graphs import CONV as CONV_TEXT
from tests.graphs import all_in_int8, op_types, sqnr_db

MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32)
X = (2, 5, 16)


def fused(
    op_type, shapes, attributes=None, *, weights=None, version=17, outputs=(0,), domain="com.microsoft", mask=None
):
    """One fused op. shapes: those of its inputs, None where one is left out; weights: input index -> array."""
    weights = weights or {}
    names = ["" if shape is None else f"i{index}" for index, shape in enumerate(shapes)]
    if mask is not None:
        names[mask] = "mask"
    written = [f"o{index}" if index in outputs else "" for index in range(max(outputs) + 1)]
    node = helper.make_node(op_type, names, written, "fused", domain=domain, **(attributes or {}))
    fed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
           for index, (name, shape) in enumerate(zip(names, shapes, strict=True))
           if name.startswith("i") and index not in weights]  # fmt: skip
    if mask is not None:
        fed.append(helper.make_tensor_value_info("mask", TensorProto.INT32, MASK.shape))
    held = [numpy_helper.from_array(array, f"i{index}") for index, array in weights.items()]
    results = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, None) for i in outputs]
    graph = helper.make_graph([node], "g", fed, results, held)
    imports = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]}
IMAGE = [(2, 4, 6, 6), (8, 4, 3, 3), (8,)]
VECTORS = {index: normal(16, seed=index) for index in (2, 3, 4)}
QKV = {1: normal(16, 48) / 4, 2: normal(48)}
CASES = {
    "FusedConv": [
        (IMAGE, {**CONV, "activation": "Relu"}, {}),
        (IMAGE, {**CONV, "activation": "LeakyRelu", "activation_params": [0.2]}, {}),
        (IMAGE, {**CONV, "activation": "HardSigmoid", "activation_params": [0.2, 0.4]}, {}),
        ([*IMAGE, (2, 8, 6, 6)], {**CONV, "activation": "Relu"}, {}),
        (IMAGE, {**CONV, "activation": "Clip", "activation_params": [0.0, 0.5]}, {}),
    ],
    "FusedGemm": [
        ([(3, 4), (5, 4), (5,)], {"transB": 1, "alpha": 0.5, "activation": "LeakyRelu", "activation_alpha": 0.3}, {}),
        ([(3, 4), (4, 5), (5,)], {"activation": "Tanh"}, {}),
    ],
    "FusedMatMul": [
        ([(2, 3, 5, 4), (2, 3, 6, 4)], {"transB": 1, "alpha": 0.25}, {}),
        ([(2, 4, 5), (4, 6)], {"transA": 1}, {}),
    ],
    "Gelu": [([X], {}, {})],
    "BiasGelu": [([X, (16,)], {}, {})],
    "FastGelu": [([X], {}, {}), ([X, (16,)], {}, {})],
    "QuickGelu": [([X], {}, {}), ([X], {"alpha": 1.0}, {})],
    "SkipLayerNormalization": [
        ([X, X, (16,), (16,)], {"epsilon": 1e-5}, {}),
        ([X, X, (16,), (16,), (16,)], {"epsilon": 1e-5}, {"outputs": (0, 3)}),
    ],
    "SkipSimplifiedLayerNormalization": [([X, X, (16,)], {"epsilon": 1e-6}, {"outputs": (0, 3)})],
    "SimplifiedLayerNormalization": [([X, (16,)], {"axis": -1, "epsilon": 1e-6}, {"domain": ""})],
    "Attention": [
        ([X, (16, 48), (48,)], {"num_heads": 4}, {"weights": QKV}),
        ([X, (16, 48), (48,), MASK.shape], {"num_heads": 2, "scale": 0.3}, {"weights": QKV, "mask": 3}),
        (
            [X, (16, 40), (40,), None, None, (2, 2, 5, 5)],
            {"num_heads": 2, "qkv_hidden_sizes": [16, 16, 8]},
            {"weights": {1: normal(16, 40) / 4, 2: normal(40)}},
        ),
    ],
    "MultiHeadAttention": [
        ([X, (2, 7, 16), (2, 7, 16)], {"num_heads": 4}, {}),
        ([X, X, X, (48,), MASK.shape], {"num_heads": 2}, {"weights": {3: normal(48)}, "mask": 4}),
    ],
}
IDS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int32)


def embedded(masked):
    """EmbedLayerNormalization in front of an Attention that takes its count of shown keys as a mask."""
    held = {"words": normal(10, 16), "places": normal(5, 16), "kinds": normal(2, 16), "g": normal(16), "z": normal(16),
            "w": QKV[1], "b": QKV[2]}  # fmt: skip
    first = ["ids", "segments", "words", "places", "kinds", "g", "z", *(["mask"] if masked else [])]
    nodes = [
        helper.make_node("EmbedLayerNormalization", first, ["e", "count"], domain="com.microsoft", epsilon=1e-5),
        helper.make_node("Attention", ["e", "w", "b", "count"], ["y"], domain="com.microsoft", num_heads=2),
    ]
    ids = [helper.make_tensor_value_info(name, TensorProto.INT32, ["N", 5]) for name in ("ids", "segments", "mask")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", ids[: 3 if masked else 2], [out], weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("masked", [True, False])
def test_embeddings_and_the_mask_that_they_count_are_written_out(masked):
    proto = embedded(masked)
    given = {"ids": IDS, "segments": IDS % 2} | ({"mask": MASK} if masked else {})
    model = load(proto)
    fold(model)
    assert not [node for node in model.graph if node.domain]
    for batch in (1, 2):
        part = {name: array[:batch] for name, array in given.items()}
        np.testing.assert_allclose(run(to_proto(model), part)[0], run(proto, part)[0], rtol=2e-3, atol=2e-3)


EACH = [pytest.param(op, *case, id=f"{op}{i}") for op, cases in CASES.items() for i, case in enumerate(cases)]


def feeds(proto):
    return {
        value.name: MASK
        if value.name == "mask"
        else normal(*(dim.dim_value for dim in value.type.tensor_type.shape.dim), seed=len(value.name))
        for value in proto.graph.input
    }


@pytest.mark.parametrize("version", [17, 21])
@pytest.mark.parametrize(("op", "shapes", "attributes", "more"), EACH)
def test_a_fused_op_is_written_out_with_the_values_that_onnxruntime_gives(op, shapes, attributes, more, version):
    proto = fused(op, shapes, attributes, version=version, **more)
    model, given = load(proto), feeds(proto)
    (decision,) = write_out_contrib(model)
    assert decision.action == "rewritten"
    assert not [node for node in model.graph if node.domain]
    assert op not in op_types(model)
    fold(model)
    onnx.checker.check_model(to_proto(model))
    for expected, got in zip(run(proto, given), run(to_proto(model), given), strict=True):
        np.testing.assert_allclose(got, expected, **FOLDED)


REFUSED = {
    "past": ("Attention", [X, (16, 48), (48,), None, (2, 2, 4, 3, 4)], {"num_heads": 4}, {"weights": QKV}),
    "unidirectional": ("Attention", [X, (16, 48), (48,)], {"num_heads": 4, "unidirectional": 1}, {"weights": QKV}),
    "is read": ("SkipLayerNormalization", [X, X, (16,)], {}, {"outputs": (0, 1)}),
    "not constant": ("Attention", [X, (16, 48), (48,)], {"num_heads": 4}, {}),
    "activation Softplus": ("FusedConv", IMAGE, {**CONV, "activation": "Softplus"}, {}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_plain_form_stays_whole_with_its_reason(reason):
    op, shapes, attributes, more = REFUSED[reason]
    model = load(fused(op, shapes, attributes, **more), strict=False)
    held = set(model.graph.initializers)
    (decision,) = write_out_contrib(model)
    assert decision.action == "refused"
    assert reason in decision.detail
    assert op_types(model) == [op]
    assert set(model.graph.initializers) == held


def network():
    """One block as onnxruntime's transformer tools write it: Attention, a norm of the sum, two layers with BiasGelu."""
    weights = {"wqkv": normal(32, 96) / 6, "bqkv": normal(96) / 4, "g": np.ones(32, np.float32), "z": normal(32) / 4,
               "w1": normal(32, 64) / 6, "b1": normal(64) / 4, "w2": normal(64, 32) / 8,
               "b2": normal(32) / 4}  # fmt: skip
    node = helper.make_node
    own = {"domain": "com.microsoft"}
    nodes = [
        node("Attention", ["x", "wqkv", "bqkv"], ["a"], num_heads=4, **own),
        node("SkipLayerNormalization", ["a", "x", "g", "z"], ["n"], epsilon=1e-5, **own),
        node("MatMul", ["n", "w1"], ["m1"]),
        node("BiasGelu", ["m1", "b1"], ["h"], **own),
        node("MatMul", ["h", "w2"], ["m2"]),
        node("SkipLayerNormalization", ["m2", "n", "g", "z", "b2"], ["y"], epsilon=1e-5, **own),
    ]
    shape = ["N", 12, 32]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    imports = [helper.make_opsetid("", 14), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_a_transformer_of_fused_ops_runs_in_int8():
    proto = network()
    samples = [normal(1, 12, 32, seed=seed) for seed in range(6)]
    int8 = all_in_int8(proto, samples)
    assert {"QMatMul", "QActivationMatMul"} <= {op.removesuffix("Float") for op in op_types(int8)}
    assert not [node for node in int8.graph if node.domain == "com.microsoft"]
    fed = {"x": normal(1, 12, 32, seed=9)}
    assert sqnr_db(run(proto, fed)[0], run(to_proto(int8), fed)[0]) > 20


def test_a_model_that_onnxruntime_saved_optimized_folds_to_the_same_layers(tmp_path):
    body = f"c = Conv<{CONV_TEXT}>(x, w, b) r = Relu(c) y = Conv<kernel_shape = [1, 1]>(r, v)"
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,4,8,8] y) {{ {body} }}'
    )
    for name, shape in {"w": (8, 3, 3, 3), "b": (8,), "v": (4, 8, 1, 1)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(normal(*shape), name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    saved = onnx.load(tmp_path / "saved.onnx")
    assert "FusedConv" in op_types(saved)
    assert op_types(pipeline.fused_model(saved)[0]) == op_types(pipeline.fused_model(proto)[0])
