"""What is said about layers: spans and shares against plain computations, each cause with its own sentence."""

from __future__ import annotations

from html import unescape

import numpy as np
import pytest
from click.testing import CliRunner

from quantkit import pipeline
from quantkit.cli import cli
from quantkit.execute.binding import NativeStatistics
from quantkit.observe import TensorStatistics
from quantkit.report.explain import advice
from quantkit.report.layers import LayerError, layer_errors
from quantkit.report.spans import ChannelSpans, used_share
from tests.graphs import CONV, image, model, run_onnxruntime

RNG = np.random.default_rng(0)


def spans_of(*batches, **how) -> ChannelSpans:
    spans = ChannelSpans(**how)
    for batch in batches:
        spans.add(batch.astype(np.float32))
    return spans


def test_dead_channels_are_those_constant_over_all_batches():
    x = RNG.normal(size=(6, 5, 4, 4))
    x[:, 1], x[:3, 3], x[3:, 3] = 2.5, 1.0, 2.0  # channel 3 differs from batch to batch only
    assert (spans_of(x[:3]).count, spans_of(x[:3]).dead) == (5, 2)
    assert spans_of(x[:3], x[3:]).dead == 1


@pytest.mark.parametrize(
    ("shape", "first", "channels"), [((20, 7), False, 7), ((2, 9, 5), False, 5), ((2, 5, 9), True, 5)]
)
def test_channels_are_found_on_their_axis(shape, first, channels):
    assert spans_of(RNG.normal(size=shape), first=first).count == channels


def test_a_channel_of_few_values_is_not_called_dead():
    x = RNG.normal(size=(1, 10))
    assert (spans_of(x).count, spans_of(x).dead, spans_of(x).spread) == (None, None, None)


def test_spread_is_the_span_of_the_tensor_over_that_of_the_middle_live_channel():
    x = RNG.uniform(size=(50, 5, 4, 4))
    x[:, :, 0, 0], x[:, :, 0, 1] = 0.0, 1.0
    x *= np.array([0.0, 1.0, 2.0, 4.0, 100.0])[:, None, None]
    assert spans_of(x).spread == pytest.approx(100.0 / 3.0)


def test_used_share_leaves_out_the_rarest_thousandth():
    x = np.concatenate([np.linspace(0, 2, 100_000), [50.0]]).astype(np.float32)
    statistics = TensorStatistics()
    statistics.update(x, NativeStatistics())
    assert used_share(statistics, 0.0, 50.0) == pytest.approx(0.04, abs=0.002)
    assert used_share(statistics, 0.0, 2.0) == pytest.approx(1.0, abs=0.02)


def layer(name="conv", op="QConv", db=20.0, **values) -> LayerError:
    return LayerError(name, op, f"{name}/out", db - 3, introduced_db=db, **{"low": 0.0, "high": 6.0, **values})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (layer(db=36.5, clipped=0.5), ["that is little", "nothing needs to be done"]),
        (layer(clipped=0.004, used=0.01), ["0 to 6 cuts off 0.40 %", "--method minmax or auto"]),
        (layer(clipped=0.0, used=0.1), ["99.9 % of its values lie in 10 %", "--method percentile or auto"]),
        (layer(used=0.9, spread=40.0), ["the middle one fills 1/40", "--effort best"]),
        (layer("a.b", used=0.9, spread=2.0), ["rounding of its weights", "more samples", r"--keep-fp32 '^a\.b$'"]),
        (layer(op="QAdd"), ["too fine for 256 levels", "--keep-fp32"]),
        (layer(channels=8, dead_channels=2), ["2 of its 8 channels are constant"]),
    ],
)
def test_each_cause_has_its_sentence_with_what_to_try(given, words):
    (entry,) = advice([given], "mse")
    assert entry.name == given.name
    assert f"{given.op}) introduces noise at {given.introduced_db:.1f} dB" in entry.sentence
    assert [word for word in words if word not in entry.sentence] == []


def test_the_method_that_was_used_is_not_what_to_try():
    stretched, cut = layer(used=0.1), layer(clipped=0.01)
    assert "--method mse or percentile" in advice([stretched], "minmax")[0].sentence
    assert "--method auto" in advice([cut], "minmax")[0].sentence


def test_the_three_that_introduce_most_noise_are_explained_the_worst_first():
    layers = [layer(name, db=db) for name, db in zip("abcde", (29, 20, 25, 10, 35), strict=True)]
    assert [entry.name for entry in advice(layers)] == ["d", "b", "c"]
    alone = LayerError("f", "QConv", "f/out", 5.0)
    assert advice([*layers, alone])[0].sentence.startswith("f (QConv) carries noise at 5.0 dB")


def test_layers_that_need_nothing_get_no_sentence_but_the_worst_where_all_are_so():
    names = [entry.name for entry in advice([layer("a", db=31.0), layer("b", db=20.0), layer("c", db=40.0)])]
    assert names == ["b"]
    (only,) = advice([layer("a", db=31.0), layer("b", db=40.0)])
    assert only.name == "a"
    assert only.sentence.endswith("that is little, and no layer has more; nothing needs to be done.")
    assert advice([]) == []


def clipped_network():
    """A convolution with a dead channel, calibrated on data a fifth as large as what it is compared on."""
    weights = RNG.normal(size=(6, 3, 3, 3)).astype(np.float32)
    weights[2] = 0.0
    proto = model(f"c = Conv<{CONV}>(x, w, b) y = Relu(c)", {"w": weights, "b": np.zeros(6, np.float32)})
    return proto, pipeline.quantize(proto, image(8, 3, 8, 8, seed=1) / 5).model


def test_clipping_and_dead_channels_of_a_real_layer_are_measured_and_explained():
    proto, int8 = clipped_network()
    x = image(8, 3, 8, 8, seed=2)
    (found,) = layer_errors(pipeline.fused_float(proto), int8, [{"x": x}])
    exact = run_onnxruntime(proto, {"x": x})[0]
    assert (found.channels, found.dead_channels) == (6, 1)
    assert found.clipped > 0.05
    assert found.clipped == pytest.approx(np.mean(exact > found.high + (found.high - found.low) / 510), rel=1e-3)
    assert "cuts off" in advice([found])[0].sentence


def test_every_form_of_the_report_has_ranges_shares_dead_channels_and_the_sentences(digits, tmp_path):
    comparison = pipeline.compare(digits.fp32, digits.int8, np.load(digits.test)["images"][:20], seconds=0,
                                  preprocess=digits.recipe)  # fmt: skip
    sentences = [entry.sentence for entry in comparison.advice]
    assert len(sentences) == 1  # this model loses nothing
    document = comparison.to_json()
    assert [entry["sentence"] for entry in document["advice"]] == sentences
    for key in ("introduced_db", "sqnr_db", "low", "high", "clipped", "used", "channels", "dead_channels", "spread"):
        assert all(key in entry for entry in document["layers"])
    texts = comparison.to_text(), comparison.to_markdown(), unescape(comparison.to_html())
    worst = comparison.layers[[entry.name for entry in comparison.layers].index(comparison.advice[0].name)]
    for shown in texts:
        assert [sentence for sentence in sentences if sentence not in shown] == []
        assert f"{worst.dead_channels} of {worst.channels}" in shown
        assert f"{worst.low:.3g} to {worst.high:.3g}" in shown
        assert f"{100 * worst.clipped:.3f} %" in shown


def test_the_command_prints_the_sentence(digits):
    result = CliRunner().invoke(cli, ["compare", str(digits.fp32), str(digits.int8), "--data", str(digits.test),
                                      "--seconds", "0", "--samples", "20"])  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.output.count("introduces noise at") == 1
