"""python -m benchmarks: quantkit against other runtimes on every model, as a table and as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import runtimes, zoo
from benchmarks.machine import header

WORK = zoo.ROOT / "build" / "bench"
"""Where prepared models are kept between runs."""
FULL, QUICK = ("1,8", "1,2", 8.0), ("1", "1", 2.0)
"""Batches, thread counts, seconds."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--models", metavar="NAMES", help="by comma; default: all")
    names = [name for name in runtimes.CANDIDATES if name != "quantkit"]
    parser.add_argument("--against", metavar="RUNTIMES", default=",".join(names), help=f"default: {','.join(names)}")
    parser.add_argument("--batch", metavar="N,N", help="default: 1,8")
    parser.add_argument("--threads", metavar="N,N", help="default: 1,2")
    parser.add_argument("--isa", help="of quantkit; default: the best")
    parser.add_argument("--rivals-avx2", action="store_true", help="keep rivals to AVX2 where they have a switch")
    parser.add_argument("--seconds", type=float, help="to measure one model at one batch and thread count; default: 8")
    parser.add_argument("--quick", action="store_true", help="batch 1, 1 thread and 2 seconds unless given")
    parser.add_argument("--resume", action="store_true", help="keep what the JSON file has of this machine and setting")
    parser.add_argument("--fresh", action="store_true", help="quantize with quantkit again, even if the file is there")
    parser.add_argument("--prepare", action="store_true", help="only make the files")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of prepared models")
    parser.add_argument("--json", type=Path, help="default: results.json in --work")
    args = parser.parse_args(arguments)
    batch, threads, seconds = QUICK if args.quick else FULL
    args.batch, args.threads = args.batch or batch, args.threads or threads
    args.seconds = args.seconds or seconds
    args.json = args.json or args.work / "results.json"
    return args


def numbers(text: str) -> list[int]:
    return [int(item) for item in text.split(",")]


def chosen_models(names: str | None) -> list[zoo.BenchModel]:
    """The models of this name, or all; says which are left out."""
    models, missing = zoo.available()
    for reason in missing if names is None else ():
        say(f"left out: {reason}")
    if names is None:
        return models
    by_name = {model.name: model for model in models}
    unknown = [name for name in names.split(",") if name not in by_name]
    if unknown:
        sys.exit(f"no such model: {', '.join(unknown)}; there is {', '.join(by_name)}")
    return [by_name[name] for name in names.split(",")]


def chosen_candidates(against: str) -> list[runtimes.Candidate]:
    """quantkit and the installed ones of `against`; says which are not installed."""
    chosen = [runtimes.QUANTKIT]
    for name in filter(None, against.split(",")):
        if name not in runtimes.CANDIDATES:
            sys.exit(f"no such runtime: {name}; choose from {', '.join(runtimes.CANDIDATES)}")
        candidate = runtimes.CANDIDATES[name]
        if candidate.missing:
            say(f"left out: {name}, as {candidate.missing} is not installed")
        else:
            chosen.append(candidate)
    return chosen


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main() -> None:
    args = parse()
    if args.rivals_avx2:
        runtimes.limit_to_avx2()
    from benchmarks import suite
    from quantkit.report.files import write_json

    args.work.mkdir(parents=True, exist_ok=True)
    models, candidates = chosen_models(args.models), chosen_candidates(args.against)
    for model in models:
        for candidate in candidates:
            say(f"prepare {model.name}: {candidate.name}")
            candidate.file(model, args.work, fresh=args.fresh and candidate is runtimes.QUANTKIT)
    if args.prepare:
        return
    about = header(args.isa, args.rivals_avx2) | {"runtimes": [c.name for c in candidates], "seconds": args.seconds}
    cells = suite.known_cells(args.json, about) if args.resume else []
    done = {(cell.model, cell.batch, cell.threads) for cell in cells}
    for threads in numbers(args.threads):
        for batch in numbers(args.batch):
            for model in models:
                if (model.name, batch, threads) in done:
                    continue
                say(f"measure {model.name}, batch {batch}, threads {threads}")
                setting = runtimes.Setting(batch, threads, args.isa)
                cells += suite.measure(model, candidates, setting, args.work, args.seconds, say)
                write_json(args.json, suite.to_json(about, cells))
    print(suite.to_text(about, cells))


if __name__ == "__main__":
    main()
