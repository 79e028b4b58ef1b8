"""python -m benchmarks.guard: did a model or a layer become slower? Ratios against one version of onnxruntime.

A ratio is onnxruntime's time over quantkit's on the same machine in the same rounds, so that clock and load cancel; it
still depends on the kind of CPU, so the baseline holds one table for each CPU and instruction set.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo
from benchmarks.runtimes import QUANTKIT, REFERENCE, Setting
from quantkit.execute.timing import interleave, median_ratio

BASELINE = Path(__file__).with_name("baseline.json")
WORK = zoo.ROOT / "build" / "bench"
MODELS = ("resnet50", "mobilenet_v2", "efficientnet_lite0", "shufflenet_v2_x1_0", zoo.EMBEDDED)
SLOWER = 1.10
"""A time that grew by more than this is reported."""
LAYER_LEAST = 0.02
"""Layers below this share of the model's time are not judged: their times are noise."""
PROFILES = 41
REPEATS = 2
"""Further measurements of what looks slower; the best counts."""


@dataclass(frozen=True)
class Speed:
    """ratio: quantkit's speed over onnxruntime FP32's, batch 1, 1 thread. layers: time of each op as a fraction of
    onnxruntime's time for the whole model."""

    ratio: float
    layers: dict[str, float]

    def best_of(self, other: Speed) -> Speed:
        """The faster figure of two measurements, for the model and for each layer."""
        layers = {name: min(time, other.layers.get(name, time)) for name, time in self.layers.items()}
        return Speed(max(self.ratio, other.ratio), layers)


def slower_parts(name: str, was: Speed, now: Speed) -> list[str]:
    """One line for the model and each layer that takes over SLOWER times what it took; new layers are not judged."""
    found = []
    if was.ratio / now.ratio > SLOWER:
        found.append(f"{name}: {was.ratio:.2f} -> {now.ratio:.2f} times onnxruntime, {_percent(was.ratio / now.ratio)}")
    total = sum(was.layers.values())
    for layer, time in now.layers.items():
        before = was.layers.get(layer)
        if before is not None and before >= LAYER_LEAST * total and time / before > SLOWER:
            found.append(f"{name}, {layer}: {_percent(time / before)}")
    return found


def _percent(factor: float) -> str:
    return f"{100 * (factor - 1):.0f} % slower"


def measure(model: zoo.BenchModel, isa: str, folder: Path, seconds: float) -> Speed:
    """Interleaved rounds against onnxruntime FP32, then profiled runs for the layers."""
    import quantkit

    setting = Setting(batch=1, threads=1, isa=isa)
    x = np.ascontiguousarray(model.samples()[1][:1])
    reference = REFERENCE.open(REFERENCE.file(model, folder), model, setting)
    session = quantkit.Session(QUANTKIT.file(model, folder), threads=1, isa=isa)
    runs: list[Callable[[], object]] = [partial(reference, x), partial(session.run, None, {model.input: x})]
    times = interleave(runs, seconds=seconds, min_rounds=15)
    ratio = median_ratio(times[:, 0], times[:, 1])
    profiles = [session.profile({model.input: x}) for _ in range(PROFILES)]
    layers: dict[str, float] = {}
    for rows in zip(*profiles, strict=True):
        layers[rows[0][0]] = layers.get(rows[0][0], 0.0) + float(np.median([row[3] for row in rows]))
    total = sum(layers.values())
    return Speed(ratio, {name: time / total / ratio for name, time in layers.items()})


def check(models: Sequence[str], known: dict[str, Speed], measured: Callable[[str], Speed]) -> list[str]:
    """What became slower; everything suspicious is measured REPEATS times more, and its best figures count."""
    found = []
    for name in models:
        now = measured(name)
        for _ in range(REPEATS):
            if not slower_parts(name, known[name], now):
                break
            now = now.best_of(measured(name))
        found += slower_parts(name, known[name], now)
    return found


def key(isa: str) -> str:
    """The table of the baseline that belongs to this machine."""
    from quantkit.report.machine import cpu_name

    return f"{cpu_name()}, {isa}"


def read(path: Path) -> dict[str, Any]:
    """The baseline; an empty one where the file is not there."""
    return json.loads(path.read_text()) if path.is_file() else {"onnxruntime": None, "machines": {}}


def write(path: Path, isa: str, speeds: dict[str, Speed]) -> None:
    """Replace this machine's table; the version of onnxruntime must be the one of the other tables."""
    baseline = read(path)
    version = metadata.version("onnxruntime")
    if baseline["onnxruntime"] not in (None, version):
        baseline["machines"] = {}
    baseline["onnxruntime"] = version
    rounded = {n: {"ratio": round(s.ratio, 3), "layers": {k: round(v, 6) for k, v in s.layers.items()}}
               for n, s in speeds.items()}  # fmt: skip
    baseline["machines"][key(isa)] = rounded
    path.write_text(json.dumps(baseline, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description=__doc__)
    parser.add_argument("--write", action="store_true", help="make what is measured now the baseline of this machine")
    parser.add_argument("--isa", help="default: the best")
    parser.add_argument("--seconds", type=float, default=4.0, help="a model and measurement")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of prepared models")
    args = parser.parse_args()
    from quantkit.execute.binding import choose_isa

    isa = choose_isa(args.isa)
    args.work.mkdir(parents=True, exist_ok=True)
    models = {m.name: m for m in [*zoo.available()[0], zoo.embedded()] if m.name in MODELS}

    def measured(name: str) -> Speed:
        print(f"measure {name} ({isa})", file=sys.stderr, flush=True)
        return measure(models[name], isa, args.work, args.seconds)

    if args.write:
        write(BASELINE, isa, {name: measured(name).best_of(measured(name)) for name in models})
        return
    baseline, version = read(BASELINE), metadata.version("onnxruntime")
    known = {n: Speed(s["ratio"], s["layers"]) for n, s in baseline["machines"].get(key(isa), {}).items()}
    if not known:
        sys.exit(f"baseline.json has no figures for {key(isa)}; make them on a good commit with `make bench-baseline`")
    if version != baseline["onnxruntime"]:
        sys.exit(f"baseline.json was measured against onnxruntime {baseline['onnxruntime']}, this is {version}; "
                 f"pip install onnxruntime=={baseline['onnxruntime']}")  # fmt: skip
    found = check([name for name in models if name in known], known, measured)
    print("\n".join(found) or "nothing became slower by more than 10 %")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
