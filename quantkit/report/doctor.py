"""This machine: what the CPU has, what was chosen, and whether the kernels compute what they should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.cores import core_count
from quantkit.execute.binding import available_isas
from quantkit.execute.oracle import run_oracle
from quantkit.execute.session import Session, default_threads
from quantkit.report.machine import cpu_name, package_versions

if TYPE_CHECKING:
    import onnx

PASSED = "passed"


@dataclass(frozen=True)
class Diagnosis:
    """The result of `examine`; its JSON is the contract of `quantkit doctor`. self_test: "passed" or what failed."""

    cpu: str
    isas: dict[str, bool]
    chosen: str
    cores: int
    threads: int
    self_test: str
    versions: dict[str, str]
    hints: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dict(vars(self))

    def to_text(self) -> str:
        """One fact a line."""
        isas = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in self.isas.items())
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        rows = [
            ["CPU", self.cpu],
            ["instruction sets", isas],
            ["chosen", self.chosen],
            ["cores", str(self.cores)],
            ["threads", str(self.threads)],
            ["versions", versions],
            ["kernel self-test", self.self_test],
        ]
        hints = [f"for more speed: {hint}" for hint in self.hints]
        return "\n".join([*(f"{name:<18}{value}" for name, value in rows), *hints])


def examine(
    model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], isa: str | None = None, threads: int | None = None
) -> Diagnosis:
    """Run calibrated `model` on every instruction set of this CPU and compare it, byte for byte, with the oracle.

    Raises EngineError if `isa` is forced and missing.
    """
    threads = threads or default_threads()
    isas = available_isas()
    chosen = Session(model, threads=threads, isa=isa).isa
    expected = run_oracle(model, dict(feeds))
    failed = [
        f"failed on {name}: {output} differs from the oracle"
        for name, there in isas.items()
        if there
        for output in _differing(Session(model, threads=threads, isa=name), feeds, expected)
    ]
    return Diagnosis(
        cpu=cpu_name(),
        isas=isas,
        chosen=chosen,
        cores=core_count(),
        threads=threads,
        self_test="; ".join(failed) or PASSED,
        versions=package_versions(),
        hints=speed_hints(isas, chosen, threads, core_count(), Path("/sys/devices/system/cpu")),
    )


def speed_hints(isas: Mapping[str, bool], chosen: str, threads: int, cores: int, system: Path) -> list[str]:
    """What to change for more speed; empty where nothing would help. system: the kernel's folder about CPUs."""
    best = [name for name, there in isas.items() if there][-1]
    hints = []
    if chosen != best:
        hints.append(f"{best} is there but {chosen} was forced; leave out --isa and QUANTKIT_ISA")
    if not any(there for name, there in isas.items() if name.endswith("vnni")):
        hints.append("this CPU has no VNNI; one that has it (Intel since Ice Lake, AMD since Zen 4) does INT8 faster")
    if threads < cores:
        hints.append(f"{threads} of {cores} cores are used; raise --threads or QUANTKIT_NUM_THREADS for less latency")
    if threads > cores:
        hints.append(f"{threads} threads share {cores} cores and wait for each other; use --threads {cores}")
    governor = _read(system / "cpu0" / "cpufreq" / "scaling_governor")
    if governor not in ("", "performance"):
        hints.append(f"the CPU's governor is {governor}; `cpupower frequency-set -g performance` keeps the clock up")
    if _read(system / "smt" / "active") == "1":
        hints.append("two threads share a core (SMT is on); half as many --threads may be as fast for one stream")
    return hints


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _differing(session: Session, feeds: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[str]:
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, dict(feeds))
    return [name for name, result in zip(names, results, strict=True) if not np.array_equal(result, expected[name])]
