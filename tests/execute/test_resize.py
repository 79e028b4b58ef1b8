"""Linear resize in models: native, exact, and as ONNX means it."""

import numpy as np
import pytest

from quantkit.execute import Session
from quantkit.fuse.graph import Reject
from quantkit.quantize.support import static_form
from tests.graphs import CONV, all_in_int8, fused, image, model, op_types, quantized, run_onnxruntime, sqnr_db
from tests.native_model import check_native

X = image(2, 3, 8, 8) * 2


def network(inputs, mode="half_pixel", batch="N", **constants):
    body = (
        f"c = Conv<{CONV}>(x, w) r = Relu(c) "
        f'e = Resize<mode="linear", coordinate_transformation_mode="{mode}">({inputs}) '
        f"y = Conv<{CONV}>(e, v)"
    )
    weights = {"w": (8, 3, 3, 3), "v": (4, 8, 3, 3), **constants}
    return model(body, weights, inputs=f"float[{batch},3,8,8] x", outputs=f"float[{batch},M,H,W] y")


@pytest.mark.parametrize("mode", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("factors", [(2.0, 2.0), (1.5, 3.0), (0.5, 0.75), (1.0, 2.0)])
def test_linear_resize_by_scales(mode, factors):
    scales = np.array([1, 1, *factors], np.float32)
    check_native(network("r, , s", mode, s=scales), ["QResizeScales"], X)


@pytest.mark.parametrize("mode", ["half_pixel", "align_corners"])
@pytest.mark.parametrize("sizes", [(13, 16), (1, 5), (8, 24)])
def test_linear_resize_to_sizes(mode, sizes):
    check_native(network("r, , , s", mode, batch=2, s=np.array([2, 8, *sizes], np.int64)), ["QResizeSizes"], X)


def test_cubic_resize_stays_in_float():
    proto = network("r, , s", s=np.array([1, 1, 2, 2], np.float32))
    next(n for n in proto.graph.node if n.op_type == "Resize").attribute[0].s = b"cubic"
    assert "Resize" in op_types(quantized(proto))


SPATIAL = {
    "two": np.array(2),
    "three": np.array(3),
    "axis": np.array([0]),
    "zeros": np.array([0]),
    "twos": np.array([2]),
}
LIKE = (
    "hs = Shape({like}) h = Gather(hs, two) ws = Shape({like}) w_ = Gather(ws, three) h1 = Unsqueeze(h, axis) "
    "w1 = Unsqueeze(w_, axis) hw = Concat<axis=0>(h1, w1) ns = Shape(p) nc = Slice(ns, zeros, twos, axis) "
    "s = Concat<axis=0>(nc, hw) "
)


def pyramid(like="r", mode="linear", kind="half_pixel", body=LIKE, after=""):
    """A smaller map brought to the size of a larger one and added to it; batch, height and width are dynamic."""
    text = (
        f"c = Conv<{CONV}>(x, w) r = Relu(c) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) {body.format(like=like)}"
        f'e = Resize<mode="{mode}", coordinate_transformation_mode="{kind}">(p, , , s) '
        f"a = Add(e, r) y = Conv<{CONV}>(a, v) {after}"
    )
    weights = {"w": (8, 3, 3, 3), "v": (4, 8, 3, 3), **SPATIAL}
    return model(text, weights, inputs="float[N,3,H,W] x", outputs="float[N,M,P,Q] y")


@pytest.mark.parametrize("like", ["r", "x"])
@pytest.mark.parametrize(
    ("mode", "kind"), [("linear", "half_pixel"), ("linear", "align_corners"), ("nearest", "asymmetric")]
)
def test_a_resize_to_the_size_of_another_tensor_stays_in_u8(like, mode, kind):
    found = check_native(pyramid(like, mode, kind), ["QResizeLike"], X)
    assert not {"Shape", "Gather", "Slice", "Resize"} & set(op_types(found))
    assert [step.native for step in Session(found).steps] == [True]


def test_one_session_resizes_to_the_size_of_every_input():
    session = Session(all_in_int8(pyramid(), [X]))
    for shape in ((1, 3, 6, 10), (2, 3, 13, 7), (1, 3, 6, 10)):
        x = image(*shape, seed=3)
        wanted = run_onnxruntime(pyramid(), {"x": x})[0]
        got = session.run(None, {"x": x})[0]
        assert got.shape == wanted.shape
        assert sqnr_db(wanted, got) > 20.0


OTHERWISE = {
    "height and width swapped": LIKE.replace("Concat<axis=0>(h1, w1)", "Concat<axis=0>(w1, h1)"),
    "of two tensors": LIKE.replace("ws = Shape({like})", "ws = Shape(p)"),
    "of twice the size": LIKE.replace("hw = Concat<axis=0>(h1, w1)", "hv = Concat<axis=0>(h1, w1) hw = Mul(hv, twos)"),
    "of the channels of another": LIKE.replace("ns = Shape(p)", "ns = Shape(x)"),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_other_sizes_of_run_time_stay_in_float(case):
    (resize,) = [
        node for node in fused(pyramid(body=OTHERWISE[case], mode="nearest")).graph if node.op_type == "Resize"
    ]
    with pytest.raises(Reject, match="computed at run time"):
        static_form(resize)
