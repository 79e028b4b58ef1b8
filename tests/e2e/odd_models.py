"""Graphs as exporters and people write them: each builder gives (model, feeds). Weights are seeded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

Case = tuple[onnx.ModelProto, dict[str, np.ndarray]]
RNG_SEED = 11


def weights(**shapes: tuple[int, ...]) -> list[TensorProto]:
    rng = np.random.default_rng(RNG_SEED)
    return [numpy_helper.from_array((rng.normal(size=s) * 0.3).astype(np.float32), n) for n, s in shapes.items()]


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(RNG_SEED + 1).normal(size=shape).astype(np.float32)


def text(signature: str, body: str, header: str = '"" : 17', ir: int = 8, **shapes: tuple[int, ...]) -> onnx.ModelProto:
    model = parser.parse_model(f"<ir_version: {ir}, opset_import: [{header}]> g {signature} {{ {body} }}")
    model.graph.initializer.extend(weights(**shapes))
    return model


CONV = "Conv<pads=[1,1,1,1]>"
W = {"w": (8, 3, 3, 3)}
X = "(float[1,3,16,16] x)"


def several_inputs_and_outputs() -> Case:
    model = text(
        "(float[1,3,16,16] x, int64[4] i, bool[1] b) => (float[1,8,16,16] y, int64[1,16,16] k, float[4,8] e)",
        f"c = {CONV}(x, w) n = Neg(c) y = Where(b, c, n) k = ArgMax<axis=1, keepdims=0>(c) e = Gather(table, i)",
        **W, table=(30, 8),
    )  # fmt: skip
    return model, {"x": image(1, 3, 16, 16), "i": np.array([1, 5, 29, 0]), "b": np.array([True])}


def string_input() -> Case:
    model = text(
        f"{X[:-1]}, string[1] s) => (float[1,8,16,16] y, string[1] t)", f"y = {CONV}(x, w) t = Identity(s)", **W
    )
    return model, {"x": image(1, 3, 16, 16), "s": np.array(["a"], object)}


def sequence_output() -> Case:
    model = text(f"{X} => (seq(float[1,4,16,16]) y)", f"c = {CONV}(x, w) y = SplitToSequence<axis=1>(c, four)", **W)
    model.graph.initializer.append(numpy_helper.from_array(np.array(4, np.int64), "four"))
    return model, {"x": image(1, 3, 16, 16)}


def channels_last() -> Case:
    step = (
        "t{0} = Transpose<perm=[0,3,1,2]>({1}) c{0} = Conv<pads=[1,1,1,1]>(t{0}, {2}) "
        "u{0} = Transpose<perm=[0,2,3,1]>(c{0}) "
    )
    body = step.format(0, "x", "w") + "r = Relu(u0) " + step.format(1, "r", "v") + "y = Relu(u1)"
    model = text("(float[1,16,16,3] x) => (float[1,16,16,8] y)", body, **W, v=(8, 8, 3, 3))
    return model, {"x": image(1, 16, 16, 3)}


def wrong_annotations() -> Case:
    model = text(f"{X} => (float[1,8,16,16] y)", f"c = {CONV}(x, w) y = Relu(c)", **W)
    model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, [7, 7]))
    return model, {"x": image(1, 3, 16, 16)}


def no_shapes_at_all() -> Case:
    model = text(f"{X} => (float[1,8,16,16] y)", f"c = {CONV}(x, w) y = Relu(c)", **W)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    return model, {"x": image(1, 3, 16, 16)}


def shared_weights() -> Case:
    body = f"a = {CONV}(x, w) b = {CONV}(a, v) c = {CONV}(b, v) s = Mul(c, v3) y = Relu(s)"
    model = text(f"{X} => (float[1,8,16,16] y)", body, **W, v=(8, 8, 3, 3), v3=(8, 1, 1))
    return model, {"x": image(1, 3, 16, 16)}


def masked_attention() -> Case:
    body = """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm=[0,2,1]>(k)
      s = MatMul(q, kt) m = Add(s, mask) p = Softmax<axis=-1>(m) o = MatMul(p, v) y = MatMul(o, wo)"""
    model = text("(float[1,12,32] x) => (float[1,12,32] y)", body, **dict.fromkeys(("wq", "wk", "wv", "wo"), (32, 32)))
    mask = np.triu(np.full((12, 12), -np.inf, np.float32), 1)
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    return model, {"x": image(1, 12, 32)}


def local_function() -> Case:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
      g (float[1,3,16,16] x) => (float[1,8,16,16] y) { y = mine.Block(x, w) }
      <domain: "mine", opset_import: ["" : 17]> Block (a, k) => (r) { c = Conv<pads=[1,1,1,1]>(a, k) r = Relu(c) }""")
    model.graph.initializer.extend(weights(**W))
    return model, {"x": image(1, 3, 16, 16)}


def branches() -> Case:
    body = f"""c = {CONV}(x, w) s = ReduceSum<keepdims=0>(c) zero = Constant<value_float=0.0>() up = Greater(s, zero)
      y = If (up) <then_branch = a () => (float[1,8,16,16] p) {{ p = {CONV}(c, v) }},
                   else_branch = b () => (float[1,8,16,16] n) {{ n = Neg(c) }}>"""
    model = text(f"{X} => (float[1,8,16,16] y)", body, **W, v=(8, 8, 3, 3))
    return model, {"x": image(1, 3, 16, 16)}


def loop() -> Case:
    body = f"""c = {CONV}(x, w) three = Constant<value_int=3>() on = Constant<value = bool {{1}}>()
      y = Loop (three, on, c) <body = b (int64 i, bool go, float[1,8,16,16] h) => (bool again, float[1,8,16,16] o)
        {{ again = Identity(go) d = {CONV}(h, v) o = Relu(d) }}>"""
    model = text(f"{X} => (float[1,8,16,16] y)", body, **W, v=(8, 8, 3, 3))
    return model, {"x": image(1, 3, 16, 16)}


def custom_domain() -> Case:
    body = f"c = {CONV}(x, w) g = com.microsoft.Trilu(c) y = {CONV}(g, v)"
    model = text(f"{X} => (float[1,8,16,16] y)", body, '"" : 17, "com.microsoft" : 1', **W, v=(8, 8, 3, 3))
    return model, {"x": image(1, 3, 16, 16)}


def nodes_without_names() -> Case:
    model = text(f"{X} => (float[1,8,16,16] y)", f"a = {CONV}(x, w) b = {CONV}(a, v) y = Relu(b)", **W, v=(8, 8, 3, 3))
    for node, name in zip(model.graph.node, ("", "", ""), strict=True):
        node.name = name
    return model, {"x": image(1, 3, 16, 16)}


def weights_from_constants_and_through_identities() -> Case:
    model = text(
        f"{X} => (float[1,8,16,16] y)", f"i = Identity(w) j = Identity(i) a = {CONV}(x, j) y = {CONV}(a, k)", **W
    )
    constant = helper.make_node("Constant", [], ["k"], "k", value=weights(k=(8, 8, 3, 3))[0])
    model.graph.node.insert(0, constant)
    return model, {"x": image(1, 3, 16, 16)}


def opset_7_with_weights_as_inputs() -> Case:
    body = "c = Conv<pads=[1,1,1,1], kernel_shape=[3,3]>(x, w) r = Relu(c) d = Dropout<ratio=0.5>(r) y = Neg(d)"
    model = text(f"{X} => (float[1,8,16,16] y)", body, '"" : 7', 3, **W)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, W["w"]))
    return model, {"x": image(1, 3, 16, 16)}


def _in_type(kind: int, dtype: type) -> Case:
    model = text(f"{X} => (float[1,8,16,16] y)", "c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c)", **W)
    array = numpy_helper.to_array(model.graph.initializer[0]).astype(dtype)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return model, {"x": image(1, 3, 16, 16).astype(dtype)}


def half_precision() -> Case:
    return _in_type(TensorProto.FLOAT16, np.float16)


def double_precision() -> Case:
    model = text("(double[1,32] x) => (double[1,24] y)", "m = MatMul(x, w) y = Relu(m)", w=(32, 24))
    array = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    return model, {"x": image(1, 32).astype(np.float64)}


def one_dimensional() -> Case:
    body = "c = Conv<pads=[2,2], strides=[2], group=1>(x, w) r = Relu(c) y = Conv<pads=[1,1], group=8>(r, v)"
    model = text("(float[1,4,64] x) => (float[1,8,n] y)", body, w=(8, 4, 5), v=(8, 1, 3))
    return model, {"x": image(1, 4, 64)}


def three_dimensional() -> Case:
    model = text(
        "(float[1,2,8,8,8] x) => (float[1,4,8,8,8] y)", "y = Conv<pads=[1,1,1,1,1,1]>(x, w)", w=(4, 2, 3, 3, 3)
    )
    return model, {"x": image(1, 2, 8, 8, 8)}


def recurrent() -> Case:
    body = 'h, hn, cn = LSTM<hidden_size=16, direction="bidirectional">(x, w, r) s = Transpose<perm=[2,0,1,3]>(h) ' \
           "f = Reshape(s, k) y = MatMul(f, o)"  # fmt: skip
    model = text("(float[20,1,12] x) => (float[1,20,24] y)", body, w=(2, 64, 12), r=(2, 64, 16), o=(32, 24))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 20, 32], np.int64), "k"))
    return model, {"x": image(20, 1, 12)}


def einsum() -> Case:
    model = text("(float[1,12,32] x) => (float[1,12,24] y)", 'y = Einsum<equation="bik,kj->bij">(x, w)', w=(32, 24))
    return model, {"x": image(1, 12, 32)}


def embedding_and_dynamic_axes() -> Case:
    body = """e = Gather(table, ids) h = MatMul(e, w) r = Relu(h) m = ReduceMean<axes=[1], keepdims=0>(r)
      y = Gemm<transB=1>(m, v)"""
    model = text("(int64[batch,length] ids) => (float[batch,5] y)", body, table=(50, 32), w=(32, 64), v=(5, 64))
    return model, {"ids": np.arange(14, dtype=np.int64).reshape(1, 14)}


def static_batch_of_four() -> Case:
    model = text("(float[4,3,16,16] x) => (float[4,8,16,16] y)", f"c = {CONV}(x, w) y = Relu(c)", **W)
    return model, {"x": image(4, 3, 16, 16)}


def input_is_an_output_and_one_value_comes_out_twice() -> Case:
    body = f"c = {CONV}(x, w) y = Relu(c) z = Identity(x) u = Identity(y)"
    sizes = "float[1,8,16,16]"
    model = text(f"{X} => ({sizes} y, float[1,3,16,16] z, {sizes} u, {sizes} c)", body, **W)
    return model, {"x": image(1, 3, 16, 16)}


def classifier_with_map_output() -> Case:
    body = """h = Gemm<transB=1>(x, w) r = Relu(h) o = Gemm<transB=1>(r, v) p = Softmax<axis=-1>(o)
      y = ai.onnx.ml.ZipMap<classlabels_int64s=[0,1,2]>(p)"""
    model = text(
        "(float[1,16] x) => (seq(map(int64, float)) y)", body, '"" : 17, "ai.onnx.ml" : 3', w=(24, 16), v=(3, 24)
    )
    return model, {"x": image(1, 16)}


def pyramid() -> Case:
    body = f"""a = {CONV}(x, w) r = Relu(a) d = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) e = {CONV}(d, v)
      u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(e, , scales)
      k = Concat<axis=1>(u, r) y = Conv(k, p)"""
    model = text(f"{X} => (float[1,4,16,16] y)", body, **W, v=(8, 8, 3, 3), p=(4, 16, 1, 1))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    return model, {"x": image(1, 3, 16, 16)}


def shape_computed_at_run_time() -> Case:
    body = f"""c = {CONV}(x, w) s = Shape(c) b = Gather(s, zero) h = Gather(s, two) m = Constant<value_ints=[-1]>()
      z = Constant<value_ints=[0]>() b1 = Unsqueeze(b, z) h1 = Unsqueeze(h, z) t = Concat<axis=0>(b1, h1, m)
      y = Reshape(c, t)"""
    model = text("(float[b,3,h,w2] x) => (float[p,q,r] y)", body, **W)
    for name, number in (("zero", 0), ("two", 2)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.int64), name))
    return model, {"x": image(1, 3, 16, 16)}


ODD_MODELS: tuple[Callable[[], Case], ...] = (
    several_inputs_and_outputs, string_input, sequence_output, channels_last, wrong_annotations, no_shapes_at_all,
    shared_weights, masked_attention, local_function, branches, loop, custom_domain, nodes_without_names,
    weights_from_constants_and_through_identities,
    opset_7_with_weights_as_inputs, half_precision, double_precision, one_dimensional, three_dimensional, recurrent,
    einsum, embedding_and_dynamic_axes, static_batch_of_four, input_is_an_output_and_one_value_comes_out_twice,
    classifier_with_map_output, pyramid, shape_computed_at_run_time,
)  # fmt: skip
