"""The embedded model and data: what the manifests say of them is true, and the two splits are disjoint."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from quantkit.errors import DataError
from quantkit.observe.preprocess import load_preprocess
from quantkit.report.assets import asset

ROOT = Path(__file__).resolve().parent.parent
MANIFESTS = {folder: json.loads((ROOT / folder / "manifest.json").read_text()) for folder in ("models", "calib")}
FILES = [(folder, name) for folder, entries in MANIFESTS.items() for name in entries]
LARGEST_MODEL = 500_000
LEAST_ACCURACY = 0.97
ONE_IMAGE = 1 / 500
"""onnxruntime's sums differ between CPUs: one image of the test split may fall on the other side."""


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_every_embedded_file_is_the_one_in_the_manifest(folder: str, name: str) -> None:
    content, entry = (ROOT / folder / name).read_bytes(), MANIFESTS[folder][name]
    assert len(content) == entry["bytes"]
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert entry["licence"]
    assert entry["source"]


def test_every_data_file_is_in_a_manifest() -> None:
    found = {(f, path.name) for f in MANIFESTS for path in (ROOT / f).iterdir()}
    data = {(f, name) for f, name in found if name.endswith((".onnx", ".npz", ".toml"))}
    assert data == set(FILES)


def images(name: str) -> np.ndarray:
    return np.load(asset(name))["images"]


def test_no_image_is_in_both_splits() -> None:
    calib, test = ({image.tobytes() for image in images(f"digits_{name}.npz")} for name in ("calib", "test"))
    assert len(calib) == 200
    assert len(test) == 500
    assert not calib & test


@pytest.mark.parametrize("name", ["digits_calib.npz", "digits_test.npz"])
def test_each_split_holds_labelled_uint8_images_of_every_class(name: str) -> None:
    data = np.load(asset(name))
    assert data["images"].dtype == np.uint8
    assert data["images"].shape[1:] == (8, 8, 1)
    counts = Counter(data["labels"].tolist())
    assert sorted(counts) == list(range(10))
    assert max(counts.values()) - min(counts.values()) <= 4


def test_the_model_has_the_stated_accuracy() -> None:
    recipe, data = load_preprocess(asset("digits.toml")), np.load(asset("digits_test.npz"))
    session = onnxruntime.InferenceSession(asset("digits_cnn.onnx"), providers=["CPUExecutionProvider"])
    x = np.stack([recipe.apply(image) for image in data["images"]])
    (logits,) = session.run(["logits"], {"input": x})
    accuracy = float(np.mean(logits.argmax(axis=1) == data["labels"]))
    stated = MANIFESTS["models"]["digits_cnn.onnx"]["test_accuracy"]
    assert stated >= LEAST_ACCURACY
    assert abs(accuracy - stated) <= ONE_IMAGE + 1e-9


def test_the_model_still_has_what_quantkit_is_to_fuse() -> None:
    path = asset("digits_cnn.onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["BatchNormalization"] == operators["Conv"] == 11
    assert operators["Add"] == 3
    weights = {t.name: t.dims for t in model.graph.initializer}
    depthwise = [n for n in model.graph.node if n.op_type == "Conv" and weights[n.input[1]][1] == 1]
    assert len(depthwise) == 4  # the stem has one input channel too
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert path.stat().st_size <= LARGEST_MODEL


def test_a_built_package_carries_the_assets(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("digits_cnn.onnx", "digits.toml", "digits_calib.npz", "digits_test.npz"):
        assert (tmp_path / "quantkit" / "_assets" / name).read_bytes() == asset(name).read_bytes()


def test_an_unknown_asset_is_named() -> None:
    with pytest.raises(DataError, match=r"nothing\.onnx"):
        asset("nothing.onnx")
