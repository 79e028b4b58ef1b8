"""Writes the measured tables of docs/comparison.md from the JSON that benchmarks leave.

    python -m benchmarks.publish [RESULTS.json ...]

The files given, of `python -m benchmarks --json` or `python -m benchmarks.accuracy --json`, take the place of those of
the same kind in benchmarks/results/; without any, the page is written from what is there. A test compares both.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runtimes import QUANTKIT
from benchmarks.zoo import ROOT

PAGE = ROOT / "docs" / "comparison.md"
RESULTS = Path(__file__).resolve().parent / "results"
DIGITS = 6
"""Significant digits that are kept: what is shown is rounded from these once more."""
MARKED = re.compile(r"(<!-- measured: (\w+); `python -m benchmarks\.publish` -->\n).*?(<!-- end -->)", re.S)


def store(path: Path, folder: Path = RESULTS) -> Path:
    """Puts a result file into `folder` under the name of its kind, rounded; returns where. SystemExit if it is none."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if "summary" in found and "machine" in found:
        name = f"speed-{found['machine']['isa']}"
    elif "rows" in found and "machine" in found:
        name = f"accuracy-{Path(found['model']).stem}"
    else:
        raise SystemExit(
            f"{path}: neither of `python -m benchmarks --json` nor of `python -m benchmarks.accuracy --json`"
        )
    target = folder / f"{name}.json"
    target.write_text(json.dumps(rounded(found), indent=1) + "\n", encoding="utf-8")
    return target


def rounded(value: Any) -> Any:
    """The same JSON with floats of DIGITS significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value


def load_results(kind: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Every stored result of `kind` ("speed", "accuracy"), by name, the best instruction set first."""
    paths = sorted(folder.glob(f"{kind}-*.json"), key=lambda path: path.stem, reverse=kind == "speed")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def written(page: str, folder: Path = RESULTS) -> str:
    """The page with what stands between its marks made anew."""
    tables = {"speed": speed_section, "accuracy": accuracy_section}
    return MARKED.sub(lambda m: f"{m[1]}\n{tables[m[2]](load_results(m[2], folder))}\n\n{m[3]}", page)


def speed_section(results: Sequence[Mapping[str, Any]]) -> str:
    """Summaries of all results, then a table by model of each at its first batch and number of threads."""
    models = max(entry["models"] for result in results for entry in result["summary"])
    rivals = rivals_of(results)
    parts = [
        f"How many times faster quantkit is than each, geometric mean over {models} models, in brackets the least; "
        "below 1 it is slower.",
        markdown(["quantkit on", *rivals], [row for result in results for row in means(result, rivals)]),
    ]
    machines = (result["machine"] for result in results)
    allowed = "; ".join(f"beside {machine['isa']}, {machine['rivals_isa']}" for machine in machines)
    parts.append(f"Instructions that the others may use: {allowed}.")
    for result in results:
        batch, threads = min((cell["batch"], cell["threads"]) for cell in result["results"])
        title = f"By model, {setting(batch, threads)}; measured {origin(result['machine'])}:"
        parts += [title, markdown(["model", "quantkit ms", *rivals], by_model(result, rivals, batch, threads))]
    return "\n\n".join(parts)


def setting(batch: int, threads: int) -> str:
    return f"batch {batch}, {threads} thread{'s' * (threads > 1)}"


def rivals_of(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The runtimes that quantkit was compared with, those of INT8 first."""
    names = {cell["runtime"]: cell["int8"] for result in results for cell in result["results"]}
    return sorted(names.keys() - {QUANTKIT.name}, key=lambda name: (not names[name], name.lower()))


def means(result: Mapping[str, Any], rivals: Sequence[str]) -> list[list[str]]:
    """A row for each batch and number of threads."""
    machine = result["machine"]
    found: dict[tuple[int, int], dict[str, str]] = {}
    for entry in result["summary"]:
        cell = f"{entry['geometric_mean']:.2f} ({entry['least']:.2f})"
        found.setdefault((entry["batch"], entry["threads"]), {})[entry["against"]] = cell
    return [
        [f"{machine['isa']}, {setting(batch, threads)}", *(cells.get(name, "") for name in rivals)]
        for (batch, threads), cells in sorted(found.items())
    ]


def by_model(result: Mapping[str, Any], rivals: Sequence[str], batch: int, threads: int) -> list[list[str]]:
    """Median milliseconds of quantkit, and how many times faster it is than each rival."""
    cells = [cell for cell in result["results"] if (cell["batch"], cell["threads"]) == (batch, threads)]
    own = {cell["model"]: f"{cell['median_ms']:.2f}" for cell in cells if cell["runtime"] == QUANTKIT.name}
    speedup = {(cell["model"], cell["runtime"]): f"{cell['speedup']:.2f}" for cell in cells}
    return [[model, own[model], *(speedup.get((model, name), "") for name in rivals)] for model in own]


def accuracy_section(results: Sequence[Mapping[str, Any]]) -> str:
    """A table for each model."""
    parts = []
    for result in results:
        parts += [
            f"{result['model']}, calibrated on {result['calibration_samples']} samples, judged on {result['samples']} "
            f"others; measured {origin(result['machine'])}:",
            markdown(["", "top-1 %", "agreement %", "SQNR dB", "seconds"], [cells(row) for row in result["rows"]]),
        ]
    return "\n\n".join(parts) if parts else "Not measured yet."


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of accuracy: its name and what was measured, or that it failed and how."""
    if "failed" in row:
        return [row["name"], f"failed: {row['failed']}", "", "", ""]
    columns = (("top1", 100, ".2f"), ("agreement", 100, ".2f"), ("sqnr_db", 1, ".1f"), ("seconds", 1, ".0f"))
    shown = ("" if row[key] is None else format(factor * row[key], form) for key, factor, form in columns)
    return [row["name"], *shown]


def origin(machine: Mapping[str, Any]) -> str:
    """Date, commit, processor, instruction set and versions of a measurement."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    commit = f", commit {machine['commit']}" if machine.get("commit") else ""
    return f"{machine['date']}{commit} on {machine['cpu']}, {machine['cores']} cores, {machine['isa']}; {versions}"


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [headers, ["---"] * len(headers), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path)
    for path in parser.parse_args().results:
        print(f"stored {store(path).relative_to(ROOT)}")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
