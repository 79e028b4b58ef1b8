"""The models that are measured, with the samples that calibrate and judge them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION_SAMPLES, JUDGED_SAMPLES = 16, 16
IMAGES = 50
"""Photographs for calibration, and again as many to judge, where a trained model makes them worth it."""
TOPOLOGIES = (
    "resnet50", "resnet18", "vgg16", "inception_v3", "googlenet", "densenet121", "squeezenet1_1", "mobilenet_v2",
    "mobilenet_v3_large", "shufflenet_v2_x1_0", "regnet_y_400mf",
)  # fmt: skip
TRAINED = "efficientnet_lite0"
EMBEDDED = "digits_cnn"


@dataclass(frozen=True)
class BenchModel:
    """write(path) saves the FP32 ONNX file. samples() gives float32 (calibration, judged), each [n, C, H, W]."""

    name: str
    input: str
    write: Callable[[Path], None]
    samples: Callable[[], tuple[np.ndarray, np.ndarray]]


def shared_folder() -> Path:
    """QUANTKIT_SHARED, else `shared` beside the repository."""
    return Path(os.environ.get("QUANTKIT_SHARED", ROOT.parent / "shared"))


def available() -> tuple[list[BenchModel], list[str]]:
    """(models to measure, why others are left out). The embedded model stands in where no shared model is there."""
    folder, models, missing = shared_folder() / "models", [], []
    for name in (*TOPOLOGIES, TRAINED):
        source = folder / f"{name}.onnx" if name == TRAINED else folder / "topologies" / f"{name}.onnx"
        if source.is_file():
            models.append(_trained(source) if name == TRAINED else _topology(source))
        else:
            missing.append(f"{name}: {source.parent.name}/{source.name} is not in the shared folder")
    return models or [embedded()], missing


def _topology(source: Path) -> BenchModel:
    """A torchvision topology with seeded weights and normal input: speed and fidelity, not accuracy."""
    size = 299 if source.stem == "inception_v3" else 224

    def write(path: Path) -> None:
        onnx.save(_materializer(source.parent).materialize(source.stem), path)

    @cache
    def samples() -> tuple[np.ndarray, np.ndarray]:
        shape = (CALIBRATION_SAMPLES + JUDGED_SAMPLES, 3, size, size)
        x = np.random.default_rng(0).standard_normal(shape, np.float32)
        return x[:CALIBRATION_SAMPLES], x[CALIBRATION_SAMPLES:]

    return BenchModel(source.stem, "input", write, samples)


def _materializer(folder: Path):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("materialize", folder / "materialize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _trained(source: Path) -> BenchModel:
    data = shared_folder() / "data" / "imagenet"

    @cache
    def samples() -> tuple[np.ndarray, np.ndarray]:
        from quantkit.observe import load_preprocess

        recipe = load_preprocess("efficientnet-lite")
        return _images(sorted((data / "calib").iterdir()), recipe), _images(sorted((data / "val").iterdir()), recipe)

    return BenchModel(source.stem, "input", lambda path: _copy(source, path), samples)


def _images(files: list[Path], recipe) -> np.ndarray:  # type: ignore[no-untyped-def]
    from PIL import Image

    return np.stack([recipe.apply(np.asarray(Image.open(f).convert("RGB"))) for f in files[:IMAGES]])


def embedded() -> BenchModel:
    """The digits CNN of the repository."""

    @cache
    def samples() -> tuple[np.ndarray, np.ndarray]:
        from quantkit.observe import load_preprocess

        recipe = load_preprocess(ROOT / "calib" / "digits.toml")
        calib, test = (np.load(ROOT / "calib" / f"digits_{split}.npz")["images"] for split in ("calib", "test"))
        return tuple(np.stack([recipe.apply(i) for i in images]) for images in (calib, test))  # type: ignore[return-value]

    return BenchModel(EMBEDDED, "input", lambda path: _copy(ROOT / "models" / f"{EMBEDDED}.onnx", path), samples)


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
