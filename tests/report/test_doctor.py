"""What doctor advises."""

from __future__ import annotations

import pytest

from quantkit.report.doctor import speed_hints

ALL = {"scalar": True, "avx2": True, "avxvnni": True, "avx512vnni": True}


def test_a_machine_that_is_used_well_gets_no_advice(tmp_path):
    assert speed_hints(ALL, "avx512vnni", 4, 4, tmp_path) == []


@pytest.mark.parametrize(
    ("isas", "chosen", "threads", "word"),
    [
        (ALL, "avx2", 4, "forced"),
        ({**ALL, "avxvnni": False, "avx512vnni": False}, "avx2", 4, "no VNNI"),
        (ALL, "avx512vnni", 2, "2 of 4 cores"),
        (ALL, "avx512vnni", 9, "--threads 4"),
    ],
)
def test_each_thing_that_costs_speed_has_its_advice(isas, chosen, threads, word, tmp_path):
    hints = speed_hints(isas, chosen, threads, 4, tmp_path)
    assert len(hints) == 1
    assert word in hints[0]


def test_the_governor_and_smt_are_read_from_the_system(tmp_path):
    (tmp_path / "cpu0" / "cpufreq").mkdir(parents=True)
    (tmp_path / "cpu0" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    (tmp_path / "smt").mkdir()
    (tmp_path / "smt" / "active").write_text("1\n")
    hints = speed_hints(ALL, "avx512vnni", 4, 4, tmp_path)
    assert ["powersave" in hints[0], "SMT" in hints[1]] == [True, True]
