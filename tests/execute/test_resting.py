"""What is timed in turns must not hold the cores of what comes next: onnxruntime's idle threads rest."""

from __future__ import annotations

from contextlib import suppress

import pytest

from quantkit import Session
from quantkit.execute.float_steps import FloatStep, resting_between_runs
from quantkit.observe import FloatRunner
from tests.execute.test_trial import small_net

REST, SPIN = "session.force_spinning_stop", "session.intra_op.allow_spinning"


def settings(session: object) -> dict[str, str]:
    """The two settings, as far as they are made: onnxruntime raises for one that is not."""
    options, found = session._session.get_session_options(), {}
    for key in (REST, SPIN):
        with suppress(Exception):
            found[key] = options.get_session_config_entry(key)
    return found


def float_step(session: Session) -> FloatStep:
    return next(runner for runner in session._runners if isinstance(runner, FloatStep))


def test_an_fp32_session_of_its_own_keeps_its_threads_awake_and_one_that_is_timed_does_not():
    assert settings(float_step(Session(small_net(), 2))) == {}
    with resting_between_runs():
        timed = Session(small_net(), 2)
    assert settings(float_step(timed)) == {REST: "1"}
    assert settings(float_step(Session(small_net(), 2))) == {}


@pytest.mark.parametrize(("spin", "expected"), [(True, {REST: "1"}), (False, {SPIN: "0"}), (None, {})])
def test_the_fp32_side_of_a_comparison_rests_between_runs(spin, expected):
    assert settings(FloatRunner(small_net(), 2, spin=spin)) == expected
