"""What spoils the outputs stays in FP32: found by the error it brings, in models that look like real ones."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import quantkit
from quantkit import pipeline
from quantkit.execute import repair as repair_module
from quantkit.execute.repair import last_arithmetic, last_moves
from quantkit.execute.verify import pooled_db, worst_db
from quantkit.quantize.select import select
from quantkit.types import QuantConfig
from tests.execute.test_trial import FAST, small_net


def built(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: list[int]) -> onnx.ModelProto:
    """input x, output y."""
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def near(db: float) -> SimpleNamespace:
    """What a judge says of a model whose worst output is at `db`, and whose slices are all good."""
    return SimpleNamespace(db=db, by_slice=30.0)


def detector() -> onnx.ModelProto:
    """Convolutions, then boxes times 320 and sigmoid scores beside them in one output [1, 8, 256]."""
    rng = np.random.default_rng(3)
    weights = {
        "w0": (rng.normal(size=(16, 3, 3, 3)) * 0.3).astype(np.float32),
        "w1": (rng.normal(size=(8, 16, 1, 1)) * 0.3).astype(np.float32),
        "sizes": np.array([4, 4], np.int64), "stride": np.float32(320.0), "flat": np.array([1, 8, 256], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="conv1"),
        helper.make_node("Split", ["c1", "sizes"], ["boxes", "logits"], name="split", axis=1),
        helper.make_node("Mul", ["boxes", "stride"], ["pixels"], name="pixels"),
        helper.make_node("Sigmoid", ["logits"], ["scores"], name="scores"),
        helper.make_node("Concat", ["pixels", "scores"], ["both"], name="both", axis=1),
        helper.make_node("Reshape", ["both", "flat"], ["y"], name="flat"),
    ]
    return built(nodes, weights, [1, 3, 16, 16])


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_scores_beside_boxes_in_pixels_survive():
    x = noise((1, 3, 16, 16))
    wanted = quantkit.Session(detector()).run(None, {"x": x})[0]
    result = pipeline.quantize(detector(), [{"x": x}], config=FAST)
    got = quantkit.Session(result.model).run(None, {"x": x})[0]
    assert np.abs(got[:, 4:] - wanted[:, 4:]).max() < 0.05  # one step of the boxes' scale is larger than 1
    assert {node.name for node in result.model.graph if node.domain == "quantkit"} >= {"conv0", "conv1"}
    reasons = {d.node: d.detail for d in result.decisions}
    assert "the last arithmetic before the outputs" in reasons["both"]


def test_a_spectrum_whose_logarithm_is_taken_stays_in_fp32_and_the_network_behind_it_does_not():
    rng = np.random.default_rng(4)
    scales = np.logspace(0, -5, 8).astype(np.float32).reshape(8, 1, 1, 1)  # bands of very different loudness
    weights = {
        "bands": (rng.normal(size=(8, 1, 1, 9)) * scales).astype(np.float32), "tiny": np.float32(1e-9),
        "w1": (rng.normal(size=(8, 8, 1, 3)) * 0.3).astype(np.float32),
        "w2": (rng.normal(size=(4, 8, 1, 3)) * 0.3).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "bands"], ["spectrum"], name="spectrum"),
        helper.make_node("Abs", ["spectrum"], ["loud"], name="loud"),
        helper.make_node("Add", ["loud", "tiny"], ["positive"], name="positive"),
        helper.make_node("Log", ["positive"], ["log"], name="log"),
        helper.make_node("Conv", ["log", "w1"], ["c1"], name="conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["y"], name="conv2"),
    ]
    result = pipeline.quantize(built(nodes, weights, [1, 1, 1, 200]), [{"x": noise((1, 1, 1, 200))}], config=FAST)
    quantized = {node.name for node in result.model.graph if node.domain == "quantkit"}
    assert "spectrum" not in quantized
    assert {"conv1", "conv2"} <= quantized
    assert any("dB from FP32" in d.detail for d in result.decisions if d.node == "spectrum")


def test_the_last_arithmetic_is_what_no_weights_come_after():
    fused, _ = pipeline.fused_model(detector())
    selection = select(fused)
    names = {node.name for node in selection.forms}
    assert last_arithmetic(selection, names) == names - {"conv0", "conv1"}
    chain, _ = pipeline.fused_model(small_net(2))
    assert last_arithmetic(select(chain), {"conv0", "conv1"}) == set()


@pytest.mark.parametrize(("by_slice", "low", "high"), [(False, 60.0, 90.0), (True, -1.0, 1.0)])
def test_slices_of_another_magnitude_count_for_themselves(by_slice, low, high):
    y = np.concatenate([300 * noise((1, 4, 64)), 0.1 * noise((1, 2, 64), 1)], axis=1)
    got = y.copy()
    got[:, 4:] = 0
    assert low < worst_db({"y": y}, {"y": got}, by_slice=by_slice) < high


def test_tensors_without_values_keep_their_nodes_in_fp32():
    model = detector()
    nodes, output = list(model.graph.node), onnx.numpy_helper.from_array(np.array([0], np.int64), "none")
    model.graph.initializer.append(output)
    empty = helper.make_node("Slice", ["c1", "none", "none"], ["empty"], name="empty")
    joined = helper.make_node("Concat", ["c1", "empty"], ["c2"], name="joined", axis=0)
    nodes[3].input[0] = "c2"
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:3], empty, joined, *nodes[3:]])
    x = noise((1, 3, 16, 16))
    result = pipeline.quantize(model, [{"x": x}, {"x": 2 * x}])
    assert result.kind == "calibrated"
    wanted = quantkit.Session(model).run(None, {"x": x})[0]
    assert worst_db({"y": wanted}, {"y": quantkit.Session(result.model).run(None, {"x": x})[0]}) > 20


def test_equal_outputs_and_integers_have_no_error():
    y = {"y": noise((2, 40)), "classes": np.arange(3)}
    assert worst_db(y, y, by_slice=True) == float("inf")


def test_a_cheap_node_that_spoils_the_outputs_is_given_up_alone_before_a_whole_region(monkeypatch):
    names = [f"n{i}" for i in range(32)]
    macs = {name: 1 if i < 8 else 100 for i, name in enumerate(names)}
    nodes = [SimpleNamespace(name=name) for name in names]
    session = SimpleNamespace(
        plan=[SimpleNamespace(name=name, macs=macs[name]) for name in names],
        steps=[SimpleNamespace(native=True, nodes=nodes)],
    )
    monkeypatch.setattr(repair_module, "Session", lambda model, threads: session)
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    monkeypatch.setattr(repair_module, "kinds", lambda selection, names: [])
    measured = []

    def measure(model):
        measured.append(model)
        db = 16.0 if "n3" not in model else 12.5 if "n20" not in model else 8.0
        return near(db)

    found = repair_module.repair(None, lambda kept: frozenset(kept), list(names), measure)
    assert set(found.reasons) == {"n3"}  # of its run of 8 nodes the others went back
    assert found.names == [name for name in names if name != "n3"]
    assert all("8.0 dB" in reason and "16.0" in reason for reason in found.reasons.values())
    assert not any(set(names[16:24]).isdisjoint(model) for model in measured)  # too dear to be tried


@pytest.mark.parametrize(("bounded", "given_up"), [(True, {"n3"}), (False, set())])
def test_masks_that_a_cheap_node_makes_coarse_are_refined_and_other_outputs_are_not(monkeypatch, bounded, given_up):
    names = [f"n{i}" for i in range(64)]
    session = SimpleNamespace(
        plan=[SimpleNamespace(name=name, macs=1 if i < 8 else 100) for i, name in enumerate(names)],
        steps=[SimpleNamespace(native=True, nodes=[SimpleNamespace(name=name) for name in names])],
    )
    monkeypatch.setattr(repair_module, "Session", lambda model, threads: session)
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    monkeypatch.setattr(repair_module, "kinds", lambda selection, names: [])
    found = repair_module.repair(
        None, frozenset, list(names), lambda model: near(15.0 if "n3" in model else 19.0), bounded
    )
    assert set(found.reasons) == given_up


def test_a_kind_of_node_that_spoils_the_outputs_is_given_up_without_any_layer(monkeypatch):
    names = [f"{kind}{i}" for i in range(12) for kind in ("layer", "sum")]
    session = SimpleNamespace(
        plan=[SimpleNamespace(name=name, macs=100 if "layer" in name else 0) for name in names],
        steps=[SimpleNamespace(native=True, nodes=[SimpleNamespace(name=name) for name in names])],
    )
    monkeypatch.setattr(repair_module, "Session", lambda model, threads: session)
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    sums = [name for name in names if "sum" in name]
    monkeypatch.setattr(repair_module, "kinds", lambda selection, names: [sums])
    found = repair_module.repair(
        None, frozenset, list(names), lambda model: near(20.0 - sum("sum" in name for name in model))
    )
    assert set(found.reasons) <= set(sums)
    assert len(found.reasons) == 10  # 8 dB with all 12 in u8, 18 with 2 of them


def test_kinds_are_nodes_without_weights_that_do_the_same():
    selection = select(pipeline.fused_model(detector())[0])
    names = {node.name for node in selection.forms}
    assert sorted(map(sorted, repair_module.kinds(selection, names))) == [["both"], ["pixels"], ["scores"]]
    assert repair_module.kinds(selection, {"conv0", "both"}) == [["both"]]


def test_a_model_that_is_near_enough_is_not_searched(monkeypatch):
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    found = repair_module.repair(None, frozenset, ["a", "b"], lambda model: near(repair_module.POOR_DB + 1))
    assert found.names == ["a", "b"]
    assert not found.reasons


@pytest.mark.parametrize(("bounded", "searched"), [(False, False), (True, True)])
def test_outputs_that_are_all_probabilities_have_a_higher_bar(monkeypatch, bounded, searched):
    asked = []
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    monkeypatch.setattr(repair_module, "kinds", lambda selection, names: [])
    monkeypatch.setattr(repair_module, "Session", lambda model, threads: SimpleNamespace(plan=[], steps=[]))
    monkeypatch.setattr(repair_module._Search, "worst_part", lambda self, *args: asked.append(args[-1]))
    repair_module.repair(None, frozenset, ["a", "b"], lambda model: near(13.0), bounded)
    assert asked == ([repair_module.POOR_BOUNDED.enough] if searched else [])


def session_of(macs: dict[str, int]) -> SimpleNamespace:
    """One native region of these nodes."""
    return SimpleNamespace(
        plan=[SimpleNamespace(name=name, macs=count) for name, count in macs.items()],
        steps=[SimpleNamespace(native=True, nodes=[SimpleNamespace(name=name) for name in macs])],
    )


def test_a_cheap_node_is_found_among_neighbours_that_together_are_too_dear(monkeypatch):
    names = [f"n{i}" for i in range(16)]
    monkeypatch.setattr(repair_module, "Session", lambda model, threads: session_of(dict.fromkeys(names, 100)))
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    monkeypatch.setattr(repair_module, "kinds", lambda selection, names: [])
    found = repair_module.repair(None, frozenset, list(names), lambda model: near(6.0 if "n5" in model else 21.0))
    assert set(found.reasons) == {"n5"}  # a sixteenth of the multiply-adds; eight neighbours hold a half


def test_what_was_not_needed_of_a_dear_part_goes_back(monkeypatch):
    names = [f"n{i}" for i in range(16)]
    monkeypatch.setattr(repair_module, "Session", lambda model, threads: session_of(dict.fromkeys(names, 100)))
    monkeypatch.setattr(repair_module, "last_arithmetic", lambda selection, names: set())
    monkeypatch.setattr(repair_module, "kinds", lambda selection, names: [])
    spoiling = {"n1", "n6"}  # each alone ruins the outputs as much as both
    found = repair_module.repair(
        None, frozenset, list(names), lambda model: near(6.0 if spoiling & set(model) else 21.0)
    )
    assert set(found.reasons) == spoiling


def reader() -> onnx.ModelProto:
    """A convolution, 64 classes at each of 16 places, flattened to rows for an old Softmax."""
    rng = np.random.default_rng(5)
    weights = {
        "w0": (rng.normal(size=(16, 3, 3, 3)) * 0.3).astype(np.float32),
        "w1": (rng.normal(size=(64, 16, 1, 1)) * 0.5).astype(np.float32), "rows": np.array([-1, 64], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="conv0", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="conv1"),
        helper.make_node("Transpose", ["c1"], ["t"], name="turned", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t", "rows"], ["y"], name="flat"),
    ]
    return built(nodes, weights, [1, 3, 4, 4])


def test_what_only_moves_the_outputs_of_the_last_layer_is_told_apart():
    selection = select(pipeline.fused_model(reader())[0])
    names = {node.name or "" for node in selection.forms}
    assert last_moves(selection, names) == {"turned", "flat"}
    assert last_moves(selection, {"conv0", "conv1"}) == set()


@pytest.mark.parametrize(
    ("db_without", "given_up"), [(14.2, {"flat", "turned"}), (13.8, {"flat", "turned"}), (13.0, set())]
)
def test_moves_behind_the_last_layer_go_to_fp32_unless_that_loses_more_than_chance(monkeypatch, db_without, given_up):
    selection = select(pipeline.fused_model(reader())[0])
    names = [node.name or "" for node in selection.forms]
    found = repair_module.repair(
        selection, frozenset, names, lambda model: near(14.0 if "flat" in model else db_without)
    )
    assert set(found.reasons) == given_up


def scores_of(first: np.ndarray, second: np.ndarray) -> tuple[list[dict], list[dict]]:
    return [{"y": row} for row in first], [{"y": row} for row in second]


def test_a_single_number_is_judged_by_what_samples_differ_by():
    y = np.array([[1.0], [3.0], [5.0]], np.float32)
    assert pooled_db(*scores_of(y, y + np.float32(0.1))) == pytest.approx(10 * np.log10(8 / 0.03), abs=0.01)
    assert pooled_db(*scores_of(y, y[::-1])) < 0.0
    assert pooled_db(*scores_of(y, y)) == float("inf")


def test_a_number_that_hardly_varies_is_judged_by_its_size():
    y = np.full((3, 1), 5.0, np.float32)
    assert pooled_db(*scores_of(y, y + np.float32(0.05))) == pytest.approx(20.0, abs=0.01)


def test_long_outputs_and_bounded_ones_are_judged_sample_by_sample():
    y = np.ones((2, 40), np.float32)
    assert pooled_db(*scores_of(y, 0 * y)) == float("inf")
    assert pooled_db(*scores_of(y[:, :2], 0 * y[:, :2]), {"y": "values"}) == float("inf")


def test_the_judge_sees_an_output_of_one_number_go_wrong():
    proto = built(
        [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
         helper.make_node("GlobalAveragePool", ["c"], ["g"], name="pool"),
         helper.make_node("Flatten", ["g"], ["y"], name="flat")],
        {"w": noise((1, 3, 3, 3), 1)}, [1, 3, 8, 8],
    )  # fmt: skip
    samples = [{"x": noise((1, 3, 8, 8), seed) + np.float32(seed)} for seed in range(4)]
    reference = [{"y": quantkit.Session(proto).run(None, feeds)[0]} for feeds in samples]
    result = pipeline.quantize(proto, samples, config=QuantConfig(method="minmax", effort="fast", keep_int8=True))
    measure = repair_module.judge(samples, reference, 1)
    assert 10.0 < measure(result.model).db < 200.0
    swapped = repair_module.judge(samples, reference[::-1], 1)
    assert swapped(result.model).db < 0.0


def test_the_model_judged_last_is_not_run_again_and_others_are(monkeypatch):
    y, runs = noise((1, 3, 64), 5), []

    def outputs_of(model, *others):
        runs.append(model)
        return [{"y": y * np.float32(1.1)}]

    monkeypatch.setattr(repair_module, "outputs_of", outputs_of)
    measure = repair_module.judge([{}], [{"y": y}], 1)
    graphs = [ir.Graph([], [], nodes=[], opset_imports={"": 17}) for _ in range(2)]
    first, second = (ir.Model(graph, ir_version=8) for graph in graphs)
    assert measure(first).db == measure(first).db == pytest.approx(20.0, abs=0.1)
    measure(second)
    measure(first)
    assert runs == [first, second, first]


def test_what_is_given_up_is_noted_in_the_order_of_the_graph():
    names = [f"n{i}" for i in range(40)]
    found = repair_module.Repair(list(names))
    found.give_up(frozenset(names[5:30]), "far")
    assert list(found.reasons) == names[5:30]
    assert found.names == [*names[:5], *names[30:]]
