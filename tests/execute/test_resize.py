"""Linear resize in models: native, exact, and as ONNX means it."""

import numpy as np
import pytest

from tests.graphs import CONV, image, model, op_types, quantized
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
