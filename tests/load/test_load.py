"""load: what is read, what is refused and with which words, and the form the model has afterwards."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.errors import ModelError
from quantkit.load import (
    FILE_KEY,
    SHA256_KEY,
    artifact_kind,
    file_digest,
    infer_shapes,
    input_specs,
    load,
    load_decisions,
    output_specs,
)

SAME_VALUES = {"rtol": 1e-5, "atol": 1e-6}  # the same float32 ops in another opset


def array(name, shape, seed=0, dtype=np.float32):
    values = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    return numpy_helper.from_array(values, name)


def make(nodes, inputs, outputs, initializers=(), opset=17, ir_version=8, functions=(), extra_opsets=()):
    value_info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in extra_opsets)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))


def conv_model(**options):
    return make(
        [helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])],
        [("x", ["N", 3, 8, 8])],
        [("y", ["N", 4, 6, 6])],
        [array("w", (4, 3, 3, 3))],
        **options,
    )


def run(model, feeds):
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feed(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_a_file_gives_its_name_and_digest_in_the_metadata(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path)
    model = load(path)
    assert model.metadata_props[FILE_KEY] == "net.onnx"
    assert model.metadata_props[SHA256_KEY] == file_digest(path)
    assert len(file_digest(path)) == 64


def test_a_model_in_memory_has_a_digest_but_no_file_name():
    model = load(conv_model())
    assert FILE_KEY not in model.metadata_props
    assert len(model.metadata_props[SHA256_KEY]) == 64


def test_the_digest_covers_external_data(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    before = file_digest(path)
    data = bytearray((tmp_path / "net.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "net.data").write_bytes(data)
    assert file_digest(path) != before


def test_external_data_is_read_lazily_and_right(tmp_path):
    path = tmp_path / "net.onnx"
    proto = conv_model()
    expected = numpy_helper.to_array(proto.graph.initializer[0])
    onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
    model = load(str(path))
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), expected)


def test_missing_external_data_is_named(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ModelError, match=r"net\.data"):
        load(path)


def test_truncated_external_data_is_named(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(conv_model(), path, save_as_external_data=True, location="net.data", size_threshold=0)
    data = (tmp_path / "net.data").read_bytes()
    (tmp_path / "net.data").write_bytes(data[:100])
    with pytest.raises(ModelError, match="truncated"):
        load(path)


@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, fraction):
    path = tmp_path / "cut.onnx"
    data = conv_model().SerializeToString()
    path.write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "cut.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello, this is a text file\n", b"# readme\n" * 50, bytes(range(256)) * 9])
def test_a_file_that_is_not_onnx_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_another_protobuf_is_refused(tmp_path):
    path = tmp_path / "tensor.onnx"
    path.write_bytes(array("w", (4, 3)).SerializeToString())
    with pytest.raises(ModelError):
        load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            load(path)


def test_stripped_weights_are_refused_by_name():
    proto = conv_model()
    proto.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(ModelError, match="'w'"):
        load(proto)


def test_what_the_checker_rejects_is_refused_unless_not_strict():
    proto = conv_model()
    proto.graph.node[0].attribute.append(helper.make_attribute("nonsense", 1))
    with pytest.raises(ModelError, match="nonsense"):
        load(proto)
    assert any("nonsense" in d.detail for d in load_decisions(load(proto, strict=False)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(bad):
    proto = conv_model()
    weight = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    weight[1, 2, 0, 1] = bad
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with pytest.raises(ModelError, match="'w'"):
        load(proto)


def test_a_mask_may_hold_minus_infinity():
    mask = numpy_helper.from_array(np.full((1, 4), -np.inf, np.float32), "mask")
    proto = make([helper.make_node("Add", ["x", "mask"], ["y"])], [("x", ["N", 4])], [("y", ["N", 4])], [mask])
    assert len(load(proto).graph) == 1


def test_an_opset_below_7_is_refused():
    proto = make([helper.make_node("Relu", ["x"], ["y"])], [("x", [1, 4])], [("y", [1, 4])], opset=6, ir_version=3)
    with pytest.raises(ModelError, match="opset 6"):
        load(proto)


@pytest.mark.parametrize("opset", range(7, 13))
def test_old_opsets_are_raised_to_17_and_keep_their_values(opset):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=1),
        helper.make_node("Squeeze", ["m"], ["s"], axes=[2, 3]),
        helper.make_node("Softmax", ["s"], ["y"], axis=1),
    ]
    weight = array("w", (300, 3, 3, 3))
    proto = make(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 300])], [weight], opset=opset, ir_version=4)
    model = load(proto)
    assert model.graph.opset_imports[""] == 17
    assert model.ir_version == 8
    assert [decision.action for decision in load_decisions(model)] == ["raised"]
    x = feed((2, 3, 8, 8))
    np.testing.assert_allclose(run(model, {"x": x})[0], run(proto, {"x": x})[0], **SAME_VALUES)


def test_a_modern_opset_is_left_alone():
    model = load(conv_model(opset=13, ir_version=7))
    assert model.graph.opset_imports[""] == 13
    assert model.ir_version == 7


def test_initializers_that_are_graph_inputs_become_constants():
    proto = conv_model(opset=13, ir_version=7)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    model = load(proto)
    assert [spec.name for spec in input_specs(model)] == ["x"]
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert any(d.node == "w" for d in load_decisions(model))


def test_constant_nodes_and_identity_chains_become_initializers():
    nodes = [
        helper.make_node("Constant", [], ["w0"], value=array("", (4, 3, 3, 3))),
        helper.make_node("Identity", ["w0"], ["w1"]),
        helper.make_node("Identity", ["w1"], ["w2"]),
        helper.make_node("Constant", [], ["low"], value_float=0.0),
        helper.make_node("Conv", ["x", "w2"], ["c"]),
        helper.make_node("Clip", ["c", "low"], ["y"]),
    ]
    proto = make(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 4, 6, 6])])
    model = load(proto)
    assert [node.op_type for node in model.graph] == ["Conv", "Clip"]
    x = feed((1, 3, 8, 8))
    np.testing.assert_array_equal(run(model, {"x": x})[0], run(proto, {"x": x})[0])


def test_nodes_get_unique_and_stable_names():
    nodes = [helper.make_node("Relu", [a], [b], name=n) for a, b, n in
             [("x", "a", ""), ("a", "b", "same"), ("b", "c", "same"), ("c", "y", "")]]  # fmt: skip
    proto = make(nodes, [("x", [1, 4])], [("y", [1, 4])])
    first, second = load(proto), load(proto)
    names = [node.name for node in first.graph]
    assert names == ["Relu_0", "same", "same_2", "Relu_3"]
    assert names == [node.name for node in second.graph]
    assert load_decisions(first)[0].node == "same"


def test_wrong_annotations_are_dropped_and_inferred_anew():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    proto = make(nodes, [("x", ["N", 3, 8, 8])], [("y", ["N", 4, 6, 6])], [array("w", (4, 3, 3, 3))])
    proto.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [9, 9]))
    shapes = {node.op_type: node.outputs[0].shape for node in load(proto).graph}
    assert [str(d) for d in shapes["Conv"]] == ["N", "4", "6", "6"]


def test_an_output_without_a_shape_gets_the_inferred_one():
    proto = conv_model()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert output_specs(load(proto))[0].shape == ("N", 4, 6, 6)


def test_annotations_of_unknown_ops_are_kept_and_used():
    nodes = [helper.make_node("Mystery", ["x"], ["m"], domain="vendor"), helper.make_node("Relu", ["m"], ["y"])]
    proto = make(nodes, [("x", ["N", 3])], [("y", ["N", 5])], extra_opsets=[("vendor", 1)])
    proto.graph.value_info.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, ["N", 5]))
    model = load(proto)
    assert [str(d) for d in model.graph[0].outputs[0].shape] == ["N", "5"]


def test_user_functions_are_inlined_and_those_of_quantkit_stay():
    body = [helper.make_node("Relu", ["a"], ["b"])]
    user = helper.make_function("user", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    own = helper.make_function("quantkit", "QRelu", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Act", ["x"], ["m"], domain="user"),
        helper.make_node("QRelu", ["m"], ["y"], domain="quantkit"),
    ]
    opsets = [("user", 1), ("quantkit", 1)]
    model = load(make(nodes, [("x", [1, 4])], [("y", [1, 4])], functions=[user, own], extra_opsets=opsets))
    assert [node.op_type for node in model.graph] == ["Relu", "QRelu"]
    assert [key[0] for key in model.functions] == ["quantkit"]


def test_a_function_body_of_another_opset_is_inlined_too():
    body = [helper.make_node("Relu", ["a"], ["b"])]
    user = helper.make_function("user", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 15)])
    nodes = [helper.make_node("Act", ["x"], ["y"], domain="user")]
    model = load(make(nodes, [("x", [1, 4])], [("y", [1, 4])], functions=[user], extra_opsets=[("user", 1)]))
    assert [node.op_type for node in model.graph] == ["Relu"], load_decisions(model)


def test_loading_a_model_object_leaves_it_alone():
    source = ir.from_proto(conv_model())
    before = ir.to_proto(source).SerializeToString()
    load(source)
    assert ir.to_proto(source).SerializeToString() == before


def test_loading_twice_changes_nothing_more():
    once = load(conv_model())
    twice = load(once)
    assert ir.to_proto(twice).SerializeToString() == ir.to_proto(once).SerializeToString()


@pytest.mark.parametrize(
    ("op", "domain", "kind"),
    [
        ("Relu", "", "fp32"),
        ("QLinearSigmoid", "com.microsoft", "foreign-int8"),
        ("DynamicQuantizeLinear", "", "foreign-int8"),
        ("DynQConv", "quantkit", "converted"),
        ("QConvRelu", "quantkit", "calibrated"),
    ],
)
def test_the_kind_is_told_by_the_nodes(op, domain, kind):
    nodes = [helper.make_node(op, ["x"], ["y"], domain=domain)]
    model = ir.from_proto(make(nodes, [("x", [1, 4])], [("y", [1, 4])], extra_opsets=[(domain, 1)] if domain else ()))
    assert artifact_kind(model) == kind


def test_specs_name_symbols_and_unknown_dimensions():
    proto = make([helper.make_node("Relu", ["x"], ["y"])], [("x", ["N", None, 4])], [("y", None)])
    (spec,) = input_specs(load(proto))
    assert (spec.name, spec.shape, spec.dtype) == ("x", ("N", None, 4), np.dtype(np.float32))


def test_infer_shapes_keeps_graph_outputs_as_declared():
    model = load(conv_model())
    infer_shapes(model)
    assert output_specs(model)[0].shape == ("N", 4, 6, 6)


def test_what_nested_bodies_make_for_themselves_is_not_read_from_outside():
    from quantkit.load.parts import captured

    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool k, int64 n) => (float[2] y) {
      a = Neg(x)
      y = If (k) <then_branch = t () => (float[2] r) {
            go = Constant<value_int = 1>() on = Cast<to = 9>(go)
            r = Loop (n, on, a) <body = b (int64 i, bool c, float[2] h) => (bool d, float[2] o) {
              d = Identity(c) o = Add(h, x) }> },
          else_branch = e () => (float[2] q) { q = Neg(a) }> }"""
    (branching,) = (node for node in load(onnx.parser.parse_model(text)).graph if node.op_type == "If")
    assert {value.name for value in captured(branching)} == {"a", "n", "x"}
