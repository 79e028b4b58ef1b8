"""The files that pages name: small real models and images under the names of a reader's own."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, utils
from PIL import Image

from quantkit import pipeline
from quantkit.report.assets import asset
from quantkit.types import QuantConfig
from tests.graphs import model

SIDE = 224
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1)
FAST = QuantConfig(method="minmax", effort="fast")


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that a page may find there; see GIVEN in test_pages.py."""
    folder = tmp_path_factory.mktemp("kit")
    onnx.save(photo_model(), folder / "model.onnx")
    onnx.save(detector(), folder / "yolo.onnx")
    onnx.save(encoder(), folder / "encoder.onnx")
    save_images("digits_calib.npz", folder / "images", 12)
    save_images("digits_test.npz", folder / "validation", 12)
    rows = (folder / "images" / "labels.csv").read_text(encoding="utf-8")
    (folder / "labels.csv").write_text(rows.replace("\n", "\nimages/", 12), encoding="utf-8")
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "images").glob("*.png"))])
    np.savez(folder / "calib.npz", input=pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    np.save(folder / "batch.npy", np.zeros((8, 3, SIDE, SIDE), np.float32))
    (folder / "my_reader.py").write_text(READER, encoding="utf-8")
    converted = pipeline.convert(folder / "model.onnx")
    converted.save(folder / "model.converted.onnx")
    pipeline.calibrate(converted, folder / "images", preprocess="imagenet", config=FAST).save(
        folder / "model.int8.onnx"
    )
    return folder


READER = """\
import numpy as np


def batches():
    return [{"input": np.zeros((1, 3, 224, 224), np.float32)}, {"input": np.ones((1, 3, 224, 224), np.float32)}]
"""


def save_images(archive: str, folder: Path, count: int) -> None:
    """Embedded digits as RGB files of 224 x 224, and their labels.csv."""
    folder.mkdir()
    stored = np.load(asset(archive))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "class_index"])
        for i, (pixels, label) in enumerate(zip(stored["images"][:count], stored["labels"], strict=False)):
            image = Image.fromarray(pixels.squeeze()).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image.save(folder / f"{i:02}.png")
            writer.writerow([f"{i:02}.png", int(label)])


def photo_model() -> onnx.ModelProto:
    """Reads digits from RGB 224 x 224: seeded random features of 8 x 8 pixels, and a head fitted to embedded digits.

    Two weighted layers besides the head, so that quantizing it takes a second.
    """
    proto = model(
        "small = AveragePool<kernel_shape=[28,28], strides=[28,28]>(input) a = Conv<kernel_shape=[3,3],"
        "pads=[1,1,1,1]>(small, w1) b = Relu(a) c = Conv<kernel_shape=[3,3], strides=[2,2]>(b, w2) d = Relu(c)"
        "features = Flatten(d) logits = Gemm(features, head_weight, head_bias)",
        {"w1": (16, 3, 3, 3), "w2": (32, 16, 3, 3), "head_weight": (288, 10), "head_bias": (10,)},
        inputs="float[N,3,224,224] input",
        outputs="float[N,10] logits",
    )
    for node in proto.graph.node:
        node.name = f"/head/{node.op_type}" if node.op_type == "Gemm" else f"/body/{node.output[0]}"
    head = fitted_head(proto)
    for tensor in proto.graph.initializer:
        if tensor.name in head:
            tensor.CopyFrom(numpy_helper.from_array(head[tensor.name], tensor.name))
    return proto


def fitted_head(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Least squares on the features of 200 embedded digits, as large as `save_images` makes them."""
    stored = np.load(asset("digits_calib.npz"))
    small = stored["images"][:200].reshape(-1, 1, 8, 8).astype(np.float32) / 255
    x = (small - IMAGENET_MEAN) / IMAGENET_DEVIATION
    body = utils.Extractor(onnx.shape_inference.infer_shapes(proto)).extract_model(["small"], ["features"])
    features = onnxruntime.InferenceSession(body.SerializeToString()).run(None, {"small": x.astype(np.float32)})[0]
    wide = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    gram = wide.T @ wide + 0.1 * np.eye(wide.shape[1])
    weight = np.linalg.solve(gram, wide.T @ np.eye(10)[stored["labels"][:200]]).astype(np.float32)
    return {"head_weight": weight[:-1], "head_bias": weight[-1]}


def detector() -> onnx.ModelProto:
    """Boxes in pixels and class scores in one output, decoded by nodes called model.22."""
    proto = model(
        "a = Conv<kernel_shape=[8,8], strides=[8,8]>(images, w1) b = Relu(a) c = Conv<kernel_shape=[4,4],"
        "strides=[4,4]>(b, w2) d = Relu(c) e = Conv<kernel_shape=[1,1]>(d, w3) f = Reshape(e, cells)"
        "boxes, logits = Split<axis=1>(f, parts) pixels = Mul(boxes, stride) scores = Sigmoid(logits)"
        "output0 = Concat<axis=1>(pixels, scores)",
        {
            "w1": (8, 3, 8, 8), "w2": (16, 8, 4, 4), "w3": (8, 16, 1, 1), "cells": np.array([0, 8, -1], np.int64),
            "parts": np.array([4, 4], np.int64), "stride": np.array([32], np.float32),
        },
        inputs="float[N,3,640,640] images",
        outputs="float[N,8,400] output0",
    )  # fmt: skip
    for i, node in enumerate(proto.graph.node):
        node.name = f"/model.{0 if i < 5 else 22}/{node.op_type}_{i}"
    return proto


def encoder() -> onnx.ModelProto:
    """Token embedding, one head of attention, a feed-forward layer: int64 [N, T] in."""
    return model(
        "e = Gather(table, input_ids) q = MatMul(e, wq) k = MatMul(e, wk) v = MatMul(e, wv)"
        "kt = Transpose<perm=[0,2,1]>(k) a = MatMul(q, kt) s = Softmax<axis=-1>(a) z = MatMul(s, v)"
        "r = Add(e, z) h = MatMul(r, w1) g = Relu(h) last_hidden_state = MatMul(g, w2)",
        {"table": (64, 16), "wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "w1": (16, 32), "w2": (32, 16)},
        inputs="int64[N,T] input_ids",
        outputs="float[N,T,16] last_hidden_state",
    )
