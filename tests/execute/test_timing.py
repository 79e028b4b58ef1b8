import time
from types import SimpleNamespace

import numpy as np
import pytest

from quantkit.execute import timing
from quantkit.execute.timing import cpu_clock, interleave, median_ratio, preemptions


class Clock:
    """A clock that candidates move: deterministic, whatever else the machine does."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def candidate(self, seconds, log=None, name=None):
        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


def test_each_candidate_is_timed_once_a_round():
    clock = Clock()
    times = interleave([clock.candidate(0.01), clock.candidate(0.03)], seconds=0.0, min_rounds=4, clock=clock)
    assert times.shape == (4, 2)
    assert times == pytest.approx(np.tile([0.01, 0.03], (4, 1)))


def test_rounds_start_with_another_candidate_each_time():
    clock, log = Clock(), []
    interleave([clock.candidate(0.01, log, name) for name in "abc"], seconds=0.0, min_rounds=3, clock=clock)
    measured = log[6:]  # two unmeasured runs of each come first
    assert measured == list("abc" + "bca" + "cab")


def test_measuring_goes_on_until_the_time_is_used():
    clock = Clock()
    times = interleave([clock.candidate(0.1)], seconds=2.0, min_rounds=2, clock=clock)
    assert 19 <= len(times) <= 21


def test_a_short_candidate_is_repeated_and_its_time_is_for_one_run():
    clock = Clock()
    times = interleave([clock.candidate(0.0001)], seconds=0.0, min_rounds=2, clock=clock)
    assert times == pytest.approx(np.full((2, 1), 0.0001))
    assert clock.now >= 2 * 0.0049


def test_cold_runs_do_not_set_how_often_a_short_candidate_is_repeated():
    clock, runs = Clock(), []

    def cold_at_first():
        runs.append(1)
        clock.now += 0.004 if len(runs) <= 3 else 0.0001

    times = interleave([cold_at_first], seconds=0.0, min_rounds=1, clock=clock)
    assert len(runs) >= 50  # repeats of 0.1 ms in 5 ms; by the second run it were one
    assert times == pytest.approx(np.full((1, 1), 0.0001))


def test_a_turn_is_the_median_of_its_parts_so_that_a_disturbed_run_does_not_count():
    clock, runs = Clock(), []

    def sometimes_slow():
        runs.append(1)
        clock.now += 0.01 if len(runs) % 10 == 0 else 0.001

    means = interleave([sometimes_slow], seconds=0.0, min_rounds=4, shortest=0.01, clock=clock)
    medians = interleave([sometimes_slow], seconds=0.0, min_rounds=4, shortest=0.01, clock=clock, parts=5)
    assert means == pytest.approx(np.full((4, 1), 0.0019))
    assert medians == pytest.approx(np.full((4, 1), 0.001))


def test_the_ratio_is_paired_by_round_so_a_slow_phase_cancels():
    slow_phase = np.array([1.0, 1.0, 10.0, 10.0])
    assert median_ratio(3.0 * slow_phase, slow_phase) == pytest.approx(3.0)


def test_a_rest_comes_before_each_measurement_and_an_unmeasured_run_after_it(monkeypatch):
    clock, log = Clock(), []
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: log.append(seconds))
    times = interleave([clock.candidate(0.01, log, name) for name in "ab"], seconds=0.0, min_rounds=2, rest=0.5,
                       clock=clock)  # fmt: skip
    assert log[4:] == [0.5, "a", "a", 0.5, "b", "b", 0.5, "b", "b", 0.5, "a", "a"]
    assert times == pytest.approx(np.full((2, 2), 0.01))


@pytest.mark.parametrize(("resolution", "clock"), [(1e-9, time.thread_time), (0.0156, time.perf_counter)])
def test_cpu_time_is_used_where_it_ticks_finely(resolution, clock, monkeypatch):
    monkeypatch.setattr(timing.time, "get_clock_info", lambda name: SimpleNamespace(resolution=resolution))
    assert cpu_clock() is clock


def test_sleep_costs_no_cpu_time_and_preemptions_only_grow():
    clock, before = cpu_clock(), preemptions()
    if clock is time.thread_time:
        start = clock()
        time.sleep(0.2)
        assert clock() - start < 0.1
    assert preemptions() >= before


def test_candidates_that_run_for_seconds_get_few_rounds_and_one_run_to_be_warm():
    clock, log = Clock(), []
    runs = [clock.candidate(2.0, log, name) for name in "ab"]
    times = interleave(runs, seconds=0.1, min_rounds=9, clock=clock, most=5.0)
    assert times.shape == (timing.ROUNDS_LEAST, 2)
    assert log[:2] == ["a", "b"]
    assert len(log) == 2 + times.size


def test_candidates_within_the_time_get_all_rounds():
    clock = Clock()
    assert len(interleave([clock.candidate(0.1)], seconds=0.1, min_rounds=9, clock=clock, most=5.0)) == 9
