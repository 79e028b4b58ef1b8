"""The embedded model, quantized once for all tests of the command line and the reports."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from quantkit.report.assets import asset


@dataclass(frozen=True)
class Digits:
    """Paths: the three artifacts in a folder of their own, the recipe, labelled calibration and test images."""

    fp32: Path
    converted: Path
    int8: Path
    recipe: Path
    calib: Path
    test: Path


def make_digits(folder: Path) -> Digits:
    """Copy the FP32 model to `folder`, convert and calibrate it there."""
    from quantkit import pipeline

    fp32 = Path(shutil.copy(asset("digits_cnn.onnx"), folder))
    digits = Digits(
        fp32,
        folder / "digits_cnn.converted.onnx",
        folder / "digits_cnn.int8.onnx",
        asset("digits.toml"),
        asset("digits_calib.npz"),
        asset("digits_test.npz"),
    )
    pipeline.convert(fp32).save(digits.converted)
    pipeline.calibrate(digits.converted, digits.calib, preprocess=digits.recipe, samples=64).save(digits.int8)
    return digits
