"""A candidate that this process wrote itself is opened as it is: that gives the same as loading it like a file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from quantkit import Session, pipeline
from quantkit.execute.trial import run_trial
from quantkit.load import load
from quantkit.load.parts import copied
from quantkit.load.prepared import is_prepared, mark_prepared, unmark_prepared
from quantkit.quantize.calibration import calibrate_fused
from quantkit.quantize.select import select
from quantkit.types import QuantConfig
from tests.execute.test_trial import sample, small_net
from tests.graphs import CONV, image, model

FAST = QuantConfig(method="minmax", effort="fast")


@pytest.fixture(scope="module")
def made() -> ir.Model:
    fused, _ = pipeline.fused_model(small_net())
    return calibrate_fused(fused, select(fused, lambda name: name == "conv3"), [sample()], FAST).model


def test_a_written_model_opens_without_loading_and_gives_the_same_steps_and_bits(made: ir.Model):
    assert is_prepared(made)
    opened, loaded = Session(made, 1), Session(load(made), 1)
    assert [(s.native, [n.name for n in s.nodes]) for s in opened.steps] == [
        (s.native, [n.name for n in s.nodes]) for s in loaded.steps
    ]
    assert len(opened.steps) == 3
    assert [vars(a) for a in opened.get_outputs()] == [vars(a) for a in loaded.get_outputs()]
    np.testing.assert_array_equal(opened.run(None, sample())[0], loaded.run(None, sample())[0])


def test_a_step_may_begin_at_any_value_of_what_was_spelled_out():
    block = f"a{{i}} = Conv<{CONV}>({{x}}, {{w}}, b) h{{i}} = HardSwish(a{{i}}) {{y}} = Mul(h{{i}}, half) "
    body = "".join(block.format(i=i, x=x, w=w, y=y) for i, (x, w, y) in enumerate(("xws", "svt", "tvu", "uvy")))
    net = model(body, {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "b": (8,), "half": ()}, inputs="float[1,3,16,16] x")
    fused, _ = pipeline.fused_model(net)
    kept = [node.name for node in fused.graph][1::2]
    x = {"x": image(1, 3, 16, 16)}
    candidate = calibrate_fused(fused, select(fused, lambda name: name in kept), [x], FAST).model
    assert is_prepared(candidate)
    session = Session(candidate, 1)
    np.testing.assert_array_equal(session.run(None, x)[0], Session(load(candidate), 1).run(None, x)[0])


def test_what_the_user_gets_is_loaded_and_checked_again():
    result = pipeline.quantize(small_net(), [sample()], config=QuantConfig(method="minmax", effort="fast",
                                                                           keep_int8=True))  # fmt: skip
    assert result.kind == "calibrated"
    assert not is_prepared(result.model)


def test_the_mark_goes_with_a_copy_and_can_be_taken_off(made: ir.Model):
    copy = copied(made)
    assert is_prepared(copy)
    unmark_prepared(copy)
    assert not is_prepared(copy)
    assert is_prepared(made)
    assert not is_prepared(made.clone())
    mark_prepared(copy)
    assert is_prepared(copy)


def test_a_copy_shares_tensors_and_functions_but_no_node(made: ir.Model):
    copy = copied(made)
    assert {id(f) for f in copy.functions.values()} == {id(f) for f in made.functions.values()}
    assert not set(copy.graph) & set(made.graph)
    for name, value in made.graph.initializers.items():
        assert copy.graph.initializers[name].const_value is value.const_value
    copy.functions.clear()
    assert made.functions


def test_the_trial_makes_each_candidate_once_however_many_steps_ask_for_it(monkeypatch: pytest.MonkeyPatch):
    from quantkit.execute import trial

    asked = []
    make = trial.apply
    monkeypatch.setattr(trial, "apply", lambda *args: asked.append(len(args[1].forms)) or make(*args))
    fused, _ = pipeline.fused_model(small_net())
    run_trial(fused, select(fused), [sample()], FAST)
    assert asked == [6]
