"""Writes calib/digits_calib.npz and calib/digits_test.npz: scikit-learn's load_digits, split once and for all.

    python models/digits_data.py

1797 images of 8 x 8 pixels with values 0..16, all different, become uint8 0..255. One seeded, stratified split:
1097 for training (not stored), 200 for calibration, 500 for the test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SEED = 20
CALIB, TEST = 200, 500
FOLDER = Path(__file__).resolve().parent.parent / "calib"


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ "train", "calib", "test" -> (images uint8 [N, 8, 8, 1], labels int64 [N])."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    rest, test = train_test_split(np.arange(len(images)), test_size=TEST, random_state=SEED, stratify=digits.target)
    train, calib = train_test_split(rest, test_size=CALIB, random_state=SEED, stratify=digits.target[rest])
    return {name: (images[i], digits.target[i]) for name, i in (("train", train), ("calib", calib), ("test", test))}


def main() -> None:
    for name in ("calib", "test"):
        images, labels = splits()[name]
        np.savez_compressed(FOLDER / f"digits_{name}.npz", images=images, labels=labels)


if __name__ == "__main__":
    main()
