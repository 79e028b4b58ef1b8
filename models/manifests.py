"""Writes models/manifest.json and calib/manifest.json: size and sha256 of every embedded file, source and licence.

python models/manifests.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGITS = {
    "source": "scikit-learn's load_digits, that is the test set of the UCI data set Optical Recognition of Handwritten "
    "Digits, https://doi.org/10.24432/C50P49",
    "attribution": "E. Alpaydin and C. Kaynak, 1998",
    "licence": "data CC BY 4.0 (UCI), packaging BSD-3-Clause (scikit-learn)",
}
ENTRIES: dict[str, dict[str, dict[str, str | float]]] = {
    "models": {
        "digits_cnn.onnx": {
            "made_by": "models/train_digits.py (torch 2.13.0), from 1097 images that are in neither split of calib/",
            "source": "trained from scratch on scikit-learn's load_digits, see calib/manifest.json",
            "licence": "Apache-2.0, as quantkit",
            "input": "input: float32 [N, 1, 32, 32], preprocessed by calib/digits.toml",
            "output": "logits: float32 [N, 10]",
            "test_accuracy": 0.996,
        },
    },
    "calib": {
        "digits_calib.npz": DIGITS | {"made_by": "models/digits_data.py", "content": "200 images, for calibration"},
        "digits_test.npz": DIGITS | {"made_by": "models/digits_data.py", "content": "500 images, for the test"},
        "digits.toml": {"source": "written for quantkit", "licence": "Apache-2.0", "content": "preprocessing recipe"},
    },
}


def main() -> None:
    for folder, files in ENTRIES.items():
        manifest = {}
        for name, entry in files.items():
            content = (ROOT / folder / name).read_bytes()
            manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **entry}
        (ROOT / folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
