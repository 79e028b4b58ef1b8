"""This machine: what the CPU has, what was chosen, and whether the kernels compute what they should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.execute.binding import available_isas
from quantkit.execute.oracle import run_oracle
from quantkit.execute.session import Session, default_threads
from quantkit.report.machine import core_count, cpu_name, package_versions

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
        return "\n".join(f"{name:<18}{value}" for name, value in rows)


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
    )


def _differing(session: Session, feeds: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[str]:
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, dict(feeds))
    return [name for name, result in zip(names, results, strict=True) if not np.array_equal(result, expected[name])]
