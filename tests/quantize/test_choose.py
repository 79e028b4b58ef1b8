"""The choice of ranges and of equalization makes and measures each candidate once."""

from types import SimpleNamespace

import pytest

from quantkit import pipeline
from quantkit.quantize import calibration, choose
from quantkit.quantize.calibration import DEFAULT_METHOD
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model

BODY = f"c = Conv<{CONV}>(x, w) r = Relu(c) d = Conv<{CONV}>(r, v) s = Relu(d) y = Conv<{CONV}>(s, u)"
WEIGHTS = {"w": (8, 3, 3, 3), "v": (8, 8, 3, 3), "u": (4, 8, 3, 3)}


def test_each_law_is_built_once_and_each_candidate_measured_once(monkeypatch):
    built, made_by = [], choose.variant

    def variant(maker, law, samples, *others):
        built.append(law)
        return made_by(maker, law, samples, *others)

    monkeypatch.setattr(choose, "variant", variant)
    monkeypatch.setattr(choose, "EQUALIZE_DB", -100.0)  # a law is taken whatever it gains
    config = QuantConfig(effort="balanced", keep_int8=True)
    result = pipeline.quantize(model(BODY, WEIGHTS), image(16, 3, 8, 8, seed=3), config=config)
    listed = next(d.detail for d in result.decisions if "equalized by" in d.detail)
    tried = [text.rpartition(" ")[0] for text in listed.partition(": ")[2].removesuffix(" dB").split(" dB, ")]
    assert sorted(built[:-1], key=str) == sorted([None, *choose.LAWS], key=str)
    assert f"equalized by {built[-1]}: " in listed
    assert len(set(tried)) == len(tried) >= len(choose.LAWS)


def decisions_of():
    config = QuantConfig(effort="balanced", keep_int8=True)
    result = pipeline.quantize(model(BODY, WEIGHTS), image(16, 3, 8, 8, seed=3), config=config)
    assert result.kind == "calibrated"
    return result.decisions


def test_after_the_time_for_it_nothing_more_is_measured_and_a_decision_says_so(monkeypatch):
    monkeypatch.setattr(choose, "CHOOSE_SECONDS", -1.0)
    chosen = [d.detail for d in decisions_of() if "equalized by" in d.detail]
    assert len(chosen) == 1
    tried, _, ended = chosen[0].partition(": ")[2].partition("; ")
    assert tried.startswith(f"{DEFAULT_METHOD} ")
    assert tried.count(" dB") == 1
    assert ended == "no others were measured after -1 s"


def test_layers_that_are_left_after_the_time_for_tuning_keep_their_first_weights(monkeypatch):
    monkeypatch.setattr(calibration, "TUNE_SECONDS", -1.0)
    found = decisions_of()
    assert not [d for d in found if d.action == "tuned"]
    assert [d.detail for d in found if "first weights" in d.detail] == [
        "the last 3 of 3 layers keep their first weights: the others took -1 s"
    ]


@pytest.mark.parametrize(("macs", "judged"), [(10**9, 64), (10 * 10**9, 10), (10**12, 4)])
def test_large_networks_are_judged_by_fewer_samples_and_by_the_same_number_on_every_machine(macs, judged):
    maker = SimpleNamespace(
        macs={"a": macs // 2, "b": macs // 2}, replay=SimpleNamespace(first=lambda samples: samples)
    )
    assert calibration.Maker.judged(maker, 64) == judged
