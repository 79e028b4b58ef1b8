"""The choice of ranges and of equalization makes and measures each candidate once."""

from quantkit import pipeline
from quantkit.quantize import choose
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
