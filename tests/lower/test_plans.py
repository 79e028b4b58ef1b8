"""Plans of regions: what costs no copy, what shares memory, where regions end."""

import numpy as np

from quantkit.execute.session import Session
from quantkit.lower.regions import partition
from tests.graphs import CONV, image, model, quantized

W = {"w": (4, 3, 3, 3), "v": (4, 3, 3, 3), "u": (4, 8, 1, 1), "t": (8, 8, 1, 1)}
POINT = "kernel_shape = [1, 1], pads = [0, 0, 0, 0], strides = [1, 1], dilations = [1, 1], group = 1"


def plan_of(calibrated, x):
    session = Session(calibrated, threads=1)
    session.run(None, {"x": x})
    (region,) = [r for r in session._runners if hasattr(r, "plan_for")]
    return region.plan_for((x.shape,)).plan


def kinds(plan):
    return [op.kind for op in plan.ops]


def test_concat_of_convolutions_is_written_in_place():
    proto = model(f"c = Conv<{CONV}>(x, w) d = Conv<{CONV}>(x, v) k = Concat<axis=1>(c, d) y = Conv<{POINT}>(k, u)", W)
    plan = plan_of(quantized(proto), image(2, 3, 8, 8))
    assert "QK_LOOKUP" not in kinds(plan)
    assert kinds(plan)[:4] == ["QK_QUANTIZE", "QK_CONV", "QK_CONV", "QK_CONV"]


def test_a_constant_class_token_in_front_of_the_patches_is_part_of_the_region():
    weights = {"w": (6, 3, 4, 4), "flat": np.array([0, 6, -1], np.int64), "token": np.ones((1, 1, 6), np.float32),
               "v": (6, 8)}  # fmt: skip
    patches = "Conv<kernel_shape = [4, 4], strides = [4, 4]>(x, w)"
    body = (f"c = {patches} r = Reshape(c, flat) t = Transpose<perm=[0,2,1]>(r) k = Concat<axis=1>(token, t) "
            "y = MatMul(k, v)")  # fmt: skip
    calibrated = quantized(model(body, weights, outputs="float[1,5,8] y"), image(1, 3, 8, 8), method="minmax")
    (step,) = partition(calibrated.graph)
    assert "QConcat" in "".join(node.op_type for node in step.nodes)
    assert plan_of(calibrated, image(1, 3, 8, 8)).ops


def test_channel_shuffle_is_one_copy_and_split_is_none():
    weights = {"w": (8, 3, 3, 3), "t": (4, 4, 1, 1), "s5": [0, 2, 4, 8, 8], "s4": [0, 8, 8, 8]}
    weights |= {key: np.array(weights[key], np.int64) for key in ("s5", "s4")}
    body = (f"c = Conv<{CONV}>(x, w) a = Reshape(c, s5) b = Transpose<perm=[0,2,1,3,4]>(a) e = Reshape(b, s4) "
            f"f, g = Split<axis=1>(e) h = Conv<{POINT}>(f, t) y = Add(g, h)")  # fmt: skip
    proto = model(body, weights)
    plan = plan_of(quantized(proto), image(2, 3, 8, 8))
    assert kinds(plan).count("QK_COPY") == 1


def test_a_chain_reuses_memory():
    body = "".join(f"c{i} = Conv<{POINT}>({'s' if i == 0 else f'c{i - 1}'}, t) " for i in range(6))
    proto = model(f"s = Conv<{CONV}>(x, w8) {body} y = Relu(c5)", {**W, "w8": (8, 3, 3, 3)})
    plan = plan_of(quantized(proto), image(1, 3, 8, 8))
    one = 8 * 8 * 8
    assert plan.arena_bytes <= 2 * one + 64
    assert plan.arena_bytes <= 1.3 * plan.live_bytes


def test_a_float_op_in_the_middle_makes_two_regions_around_one_step():
    body = f"c = Conv<{CONV}>(x, w8) s = LogSoftmax<axis=1>(c) y = Conv<{POINT}>(s, t)"
    proto = model(body, {**W, "w8": (8, 3, 3, 3)})
    steps = partition(quantized(proto).graph)
    assert [step.native for step in steps] == [True, False, True]


def test_a_whole_network_is_one_region():
    proto = model(
        f"c = Conv<{CONV}>(x, w) r = Relu(c) p = GlobalAveragePool(r) y = Flatten(p)", W, outputs="float[N,4] y"
    )
    assert [step.native for step in partition(quantized(proto).graph)] == [True]
