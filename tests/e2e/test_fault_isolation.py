"""Whatever a step raises, `quantize` gives a working model and names the step: an error is put into each, in turn."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

import quantkit
import quantkit.fuse
from quantkit import pipeline
from quantkit.errors import ModelError
from quantkit.execute import trial
from quantkit.execute.verify import sqnr_db
from quantkit.fold import passes
from quantkit.fuse import rules
from quantkit.lower.regions import LOWERINGS
from quantkit.observe import ranges
from quantkit.quantize import calibration, select, support
from quantkit.types import METHODS, QuantConfig
from tests.execute.test_repair import detector, noise
from tests.robustness.sources import SOURCES

X = noise((1, 3, 16, 16))
FAST = QuantConfig(effort="fast", method="minmax")


def broken(*_args, **_options):
    raise ZeroDivisionError("a fault put in by a test")


def renamed(name):
    def step(*args, **options):
        return broken(*args, **options)

    step.__name__ = name
    return step


def quantized(config=FAST):
    """The result of quantizing the detector, which must run and stay near FP32 whatever was broken."""
    result = pipeline.quantize(detector(), [{"x": X}, {"x": 0.5 * X}], config=config)
    wanted = quantkit.Session(detector()).run(None, {"x": X})[0]
    got = quantkit.Session(result.model).run(None, {"x": X})[0]
    assert sqnr_db(wanted, got) > 20
    return result


def details(result, words="ZeroDivisionError"):
    return {d.node: d.detail for d in result.decisions if words in d.detail}


@pytest.mark.parametrize("name", [p.__name__ for p in (*passes.PASSES, *passes.LAST_PASSES)])
def test_a_pass_that_breaks_is_left_out_and_named(monkeypatch, name):
    for table in ("PASSES", "LAST_PASSES"):
        changed = tuple(renamed(name) if p.__name__ == name else p for p in getattr(passes, table))
        monkeypatch.setattr(passes, table, changed)
    result = quantized()
    assert "was left out" in details(result)[name]
    assert result.kind == "calibrated"


@pytest.mark.parametrize("name", [step.__name__ for step in quantkit.fuse.COMPOSITIONS])
def test_a_composition_that_breaks_is_left_out_and_named(monkeypatch, name):
    changed = tuple(renamed(name) if s.__name__ == name else s for s in quantkit.fuse.COMPOSITIONS)
    monkeypatch.setattr(quantkit.fuse, "COMPOSITIONS", changed)
    result = quantized()
    assert "was left out" in details(result)[name]
    assert result.kind == "calibrated"


@pytest.mark.parametrize(("op", "node"), [("Conv", "conv0"), ("Mul", "pixels")])
def test_a_rule_that_breaks_refuses_its_node_and_names_it(monkeypatch, op, node):
    monkeypatch.setitem(rules.RULES, op, broken)
    assert node in details(quantized())


def test_a_node_whose_u8_form_raises_stays_fp32(monkeypatch):
    real = select.static_form
    monkeypatch.setattr(select, "static_form", lambda node: broken() if node.name == "conv1" else real(node))
    assert "stays FP32: ZeroDivisionError" in details(quantized())["conv1"]


@pytest.mark.parametrize("base", ["Conv", "Split", "Mul", "Concat", "Reshape", "Sigmoid"])
def test_an_op_that_cannot_be_lowered_stays_fp32_and_the_others_do_not(monkeypatch, base):
    monkeypatch.setitem(LOWERINGS, base, broken)
    monkeypatch.setattr(trial, "repair", lambda selection, make, names, measure: broken())
    result = quantized()
    if base == "Conv":
        assert result.kind == "fp32"
    else:
        assert {"conv0", "conv1"} <= {node.name for node in result.model.graph if node.domain == "quantkit"}
    assert any("ZeroDivisionError" in d.detail for d in result.decisions)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_breaks_makes_way_for_plain_extremes(monkeypatch, method):
    monkeypatch.setitem(ranges._METHODS, method, broken)
    result = quantized(QuantConfig(effort="fast", method=method))
    assert details(result)["model"]
    assert result.kind == ("fp32" if method == "minmax" else "calibrated")


@pytest.mark.parametrize("effort", ["balanced", "best"])
def test_tuning_that_breaks_leaves_the_untuned_model(monkeypatch, effort):
    monkeypatch.setattr(calibration, "tune_layers", broken)
    monkeypatch.setattr(calibration.Maker, "tuned", broken)
    result = quantized(QuantConfig(effort=effort))
    assert result.kind == "calibrated"
    assert f"effort {effort} gave a model that fails" in details(result)["model"]


@pytest.mark.parametrize(
    ("function", "step"), [("repair", "search for what spoils outputs"), ("fastest_part", "timing")]
)
def test_a_search_for_a_better_part_that_breaks_keeps_what_runs_and_is_named(monkeypatch, function, step):
    monkeypatch.setattr(trial, function, broken)
    if function == "fastest_part":
        monkeypatch.delenv("QUANTKIT_KEEP_INT8")
    result = quantized()
    assert result.kind == "calibrated"
    undone = {d.node: d.detail for d in result.decisions if d.action == "undone"}
    assert list(undone) == [step]
    assert "ZeroDivisionError" in undone[step]


def test_tuned_weights_that_no_accumulator_holds_leave_the_untuned_model(monkeypatch):
    def overflowing(*_args, **_options):
        raise ModelError("conv0: channel 3 could reach 3e+18 in a 32-bit accumulator")

    monkeypatch.setattr(calibration.Maker, "tuned", overflowing)
    result = quantized(QuantConfig(effort="balanced"))
    assert result.kind == "calibrated"
    assert "channel 3 could reach" in details(result, "accumulator")["model"]


def test_calibration_that_always_breaks_gives_the_fp32_model(monkeypatch):
    monkeypatch.setattr(calibration, "apply", broken)
    result = quantized()
    assert result.kind == "fp32"
    assert np.array_equal(*(quantkit.Session(m).run(None, {"x": X})[0] for m in (detector(), result.model)))


def test_a_model_without_layers_comes_out_as_it_went_in_not_folded():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) {
      k = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() t = Identity(x) s = Add(t, k) u = Sub(s, k)
      y = Softmax(u) }"""
    result = pipeline.quantize(onnx.parser.parse_model(text), [{"x": np.ones((2, 4), np.float32)}])
    assert result.kind == "fp32"
    assert [node.op_type for node in result.model.graph] == ["Identity", "Add", "Sub", "Softmax"]


TABLES = {"rule": rules.RULES, "u8 form": support.FORMS}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tokens", "plain"])
@pytest.mark.parametrize(("what", "op"), [(what, op) for what, table in TABLES.items() for op in table])
def test_whatever_rule_or_form_breaks_the_model_still_runs(monkeypatch, what, op, kind):
    proto, feeds = SOURCES[kind]()
    wanted = quantkit.Session(proto).run(None, feeds)
    monkeypatch.setitem(TABLES[what], op, broken)
    result = pipeline.quantize(proto, [feeds], config=FAST)
    monkeypatch.undo()
    for reference, got in zip(wanted, quantkit.Session(result.model).run(None, feeds), strict=True):
        assert sqnr_db(reference, got) > 15
