from quantkit.report.decisions import SHOWN, summarize
from quantkit.types import Decision


def test_what_was_done_is_counted_and_what_was_not_has_its_reason():
    decisions = [
        Decision("fuse", "fused", "a", "Conv + Relu -> QConvRelu"),
        Decision("fuse", "fused", "b", "Conv + Relu -> QConvRelu"),
        Decision("fuse", "refused", "c", "weight is not constant"),
    ]
    shown = summarize(decisions)
    assert any(line.split()[:3] == ["2", "fuse", "fused"] for line in shown.splitlines())
    assert "Conv + Relu -> QConvRelu" in shown
    assert "refused: weight is not constant" in shown


def test_many_different_details_are_one_line_unless_everything_is_asked_for():
    letters = [chr(ord("a") + i) for i in range(SHOWN + 1)]
    decisions = [Decision("fold", "removed", letter, f"node {letter}") for letter in letters]
    assert f"{SHOWN + 1} kinds" in summarize(decisions)
    assert all(f"node {letter}" in summarize(decisions, everything=True) for letter in letters)


def test_many_details_that_differ_in_names_alone_are_one_line():
    decisions = [Decision("fold", "folded", f"bn{i}", f"into Conv /block.{i}/Conv") for i in range(SHOWN + 1)]
    row = summarize(decisions).splitlines()[-1]
    assert row.split() == [str(SHOWN + 1), "fold", "folded", "into", "Conv", "*"]


def test_a_long_list_of_refusals_is_grouped_by_reason_and_says_how_many():
    decisions = [Decision("fuse", "refused", f"n{i}", f"weight 'w_{i}' is not constant") for i in range(SHOWN + 5)]
    decisions.append(Decision("quantize", "kept", "last", "no INT8 neighbour"))
    shown = summarize(decisions)
    assert f"n0 and {SHOWN + 4} more" in shown
    assert "refused: weight * is not constant" in shown
    assert "kept: no INT8 neighbour" in shown


def test_numbers_of_a_long_list_become_their_span_and_names_a_star():
    details = [f"output SQNR {10 + i}.5 -> 30.0 dB of /layer.{i}" for i in range(SHOWN)]
    shown = summarize([Decision("quantize", "tuned", f"n{i}", detail) for i, detail in enumerate(details)])
    assert "output SQNR 10.5..21.5 -> 30.0 dB of *" in shown


def test_no_decision_is_said_so():
    assert summarize([]) == "nothing to do"
