"""Moves of the oracle (Reshape, Transpose, Pad, Resize, Split, Concat) against onnxruntime: the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.execute.oracle import run_oracle
from tests.execute.one_op import OneOp, pair, random_u8, run_onnxruntime, triple
from tests.execute.test_oracle import assert_within_one_step

BIG = np.iinfo(np.int64).max
MOVES: dict[str, tuple[str, dict[str, object], dict[str, list[int]], dict[str, str]]] = {
    "reshape": ("Reshape", {"allowzero": 0}, {"shape": [0, -1, 2]}, {"allowzero": "int"}),
    "flatten": ("Flatten", {"axis": 2}, {}, {"axis": "int"}),
    "flatten at a negative axis": ("Flatten", {"axis": -1}, {}, {"axis": "int"}),
    "transpose": ("Transpose", {"perm": [0, 2, 3, 1]}, {}, {"perm": "ints"}),
    "unsqueeze": ("Unsqueeze", {}, {"axes": [0, -1]}, {}),
    "slice": ("Slice", {}, {"starts": [1, -5], "ends": [BIG, -1], "axes": [1, 3], "steps": [2, 1]}, {}),
    "slice backwards": ("Slice", {}, {"starts": [-1], "ends": [-BIG], "axes": [2], "steps": [-2]}, {}),
    "pad": ("Pad", {}, {"pads": [0, 0, 1, 2, 0, 0, 3, 0]}, {}),
    "pad that crops": ("Pad", {}, {"pads": [0, 0, -1, 2, 0, 0, 3, -2]}, {}),
    "depth to space": ("DepthToSpace", {"blocksize": 2, "mode": "DCR"}, {}, {"blocksize": "int", "mode": "string"}),
    "depth to space, CRD": (
        "DepthToSpace",
        {"blocksize": 2, "mode": "CRD"},
        {},
        {"blocksize": "int", "mode": "string"},
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement_equals_onnxruntime(name: str) -> None:
    op, attributes, extra, kinds = MOVES[name]
    x = random_u8(np.random.default_rng(10), 2, 8, 6, 6)
    inputs = triple("x", x, 0.02, 55) | {k: np.array(v, np.int64) for k, v in extra.items()} | pair("y", 0.02, 55)
    assert_equal_bytes(OneOp(f"Q{op}", move_body(op, list(extra), kinds), inputs, attributes))


def test_squeeze_equals_onnxruntime() -> None:
    x = random_u8(np.random.default_rng(11), 3, 1, 5, 1)
    inputs = triple("x", x, 0.02, 55) | {"axes": np.array([1, -1], np.int64)} | pair("y", 0.02, 55)
    assert_equal_bytes(OneOp("QSqueeze", move_body("Squeeze", ["axes"], {}), inputs))


def move_body(op: str, extra: list[str], kinds: dict[str, str]) -> str:
    references = ", ".join(f"{name}: {kind} = @{name}" for name, kind in kinds.items())
    call = f"{op} <{references}>" if references else op
    return f"v = DequantizeLinear(x, xs, xz) a = {call} ({', '.join(['v', *extra])}) y = QuantizeLinear(a, ys, yz)"


def assert_equal_bytes(case: OneOp) -> None:
    expected = run_onnxruntime(case.model, case.feeds)
    result = run_oracle(case.model, case.feeds)
    assert list(result) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(result[name], value)


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("factors", [(2.0, 2.0), (1.5, 0.6), (3.0, 1.0), (1.0, 0.2)])
def test_nearest_resize_equals_onnxruntime(nearest: str, coordinates: str, factors: tuple[float, float]) -> None:
    x = random_u8(np.random.default_rng(12), 1, 2, 6, 5)
    attributes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    references = ", ".join(f"{name}: string = @{name}" for name in attributes)
    edges = "v = DequantizeLinear(x, xs, xz) a = Resize <{}> ({}) y = QuantizeLinear(a, ys, yz)"
    scales = {"scales": np.array([1, 1, *factors], np.float32)}
    sizes = {"sizes": np.array([1, 2, *(int(n * f) for n, f in zip((6, 5), factors, strict=True))], np.int64)}
    x_triple, y_pair = triple("x", x, 0.02, 55), pair("y", 0.02, 55)
    by_scales = OneOp("QResizeScales", edges.format(references, "v, , scales"), x_triple | scales | y_pair, attributes)
    by_sizes = OneOp("QResizeSizes", edges.format(references, "v, , , sizes"), x_triple | sizes | y_pair, attributes)
    sized = "o = Shape(v) n = Shape(u) b = Slice(o, zero, two) s = Slice(n, two, four) t = Concat<axis = 0>(b, s) "
    bounds = (
        "zero = Constant<value_ints = [0]>() two = Constant<value_ints = [2]>() four = Constant<value_ints = [4]>() "
    )
    other = "u = DequantizeLinear(like, ls, lz) " + bounds + edges.replace("a = ", sized + "a = ")
    like = {"like": np.zeros((3, 1, *sizes["sizes"][2:]), np.uint8), **pair("l", 0.5, 3)}
    by_like = OneOp("QResizeLike", other.format(references, "v, , , t"), x_triple | like | y_pair, attributes)
    for case in (by_scales, by_sizes, by_like):
        assert_equal_bytes(case)


def test_split_equals_onnxruntime() -> None:
    x = random_u8(np.random.default_rng(13), 2, 9, 4)
    inputs = triple("x", x, 0.02, 55) | {"split": np.array([2, 4, 3], np.int64)} | pair("y", 0.02, 55)
    body = "v = DequantizeLinear(x, xs, xz) a0, a1, a2 = Split <axis: int = @axis> (v, split) " + " ".join(
        f"y{i} = QuantizeLinear(a{i}, ys, yz)" for i in range(3)
    )
    assert_equal_bytes(OneOp("QSplit3", body, inputs, {"axis": 1}, outputs=("y0", "y1", "y2")))


def test_concat_of_different_scales_agrees_with_onnxruntime() -> None:
    rng = np.random.default_rng(14)
    inputs = (
        triple("p", random_u8(rng, 1, 3, 4, 4), 0.02, 55)
        | triple("q", random_u8(rng, 1, 5, 4, 4), 0.011, 140)
        | triple("r", random_u8(rng, 1, 2, 4, 4), 0.0531, 0)
        | pair("y", 0.02, 55)
    )
    body = (
        " ".join(f"{n}f = DequantizeLinear({n}, {n}s, {n}z)" for n in "pqr")
        + " a = Concat <axis: int = @axis> (pf, qf, rf) y = QuantizeLinear(a, ys, yz)"
    )
    case = OneOp("QConcat3", body, inputs, {"axis": 1}, fed=("p", "q", "r"))
    assert_within_one_step(case)
    np.testing.assert_array_equal(run_oracle(case.model, case.feeds)["y"][:, :3], inputs["p"])
