"""The clock that searches end by."""

from quantkit import budgets


class Clock:
    """A clock that stands where it is put."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_search_ends_by_wall_time_where_others_hold_the_cpus(monkeypatch):
    clock, wall = Clock(), Clock()
    monkeypatch.setattr(budgets.time, "perf_counter", wall)
    deadline = budgets.Deadline(10.0, clock)
    wall.now = 10.0 * budgets.WALL_FACTOR - 1
    assert not deadline.is_over
    wall.now += 2
    assert deadline.is_over
    wall.now, clock.now = 0.0, 10.5
    assert deadline.is_over


def test_a_search_without_a_limit_never_ends():
    assert not budgets.Deadline(float("inf"), lambda: 1e9).is_over
