"""Every image of a folder through a model: a CSV of file, class, confidence.

    python examples/batch_folder/classify.py model.int8.onnx images/ answers.csv

The preprocessing is the one in the model's metadata; memory holds one batch at a time.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import quantkit
from quantkit.report.changes import softmax
from quantkit.report.samples import open_samples, session_inputs


def classify(model: Any, data: Any, target: Path, batch_size: int = 16, threads: int | None = None) -> int:
    """Write the answers of `model` for `data` to `target`; returns how many. The first output is [N, classes]."""
    session = quantkit.Session(model, threads=threads)
    samples = open_samples(data, session_inputs(session), session.metadata, batch_size=batch_size)
    count = 0
    with target.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class_index", "confidence"])
        for batch in samples:
            scores = session.run(None, batch.feeds)[0]
            for name, row in zip(batch.names, scores, strict=False):
                writer.writerow([name, int(row.argmax()), f"{softmax(row).max():.4f}"])
            count += batch.valid
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify a folder of images.")
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    print(f"{classify(options.model, options.folder, options.output, options.batch_size, options.threads)} images")


if __name__ == "__main__":
    try:
        main()
    except (quantkit.QuantkitError, OSError) as error:
        sys.exit(f"classify.py: {error}")
