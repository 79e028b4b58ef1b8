"""A model that takes strings and flags, its weights in another file: every command takes it as it is."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantkit.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ "the model.onnx" and "its data", and the INT8 model made of them."""
    folder = tmp_path_factory.mktemp("a folder")
    rng = np.random.default_rng(0)
    shapes = {"table": (4, 64), "w": (64, 96), "v": (96, 32)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("LabelEncoder", ["word"], ["id"], domain="ai.onnx.ml", keys_strings=list("abcd"),
                         values_int64s=[0, 1, 2, 3]),
        helper.make_node("Gather", ["table", "id"], ["e"]),
        helper.make_node("Where", ["known", "e", "zero"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]  # fmt: skip
    inputs = [helper.make_tensor_value_info("word", TensorProto.STRING, ["N"]),
              helper.make_tensor_value_info("known", TensorProto.BOOL, ["N", 1])]  # fmt: skip
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 32])]
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    graph = helper.make_graph(nodes, "words", inputs, outputs, [*weights, zero])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(model, folder / "the model.onnx", save_as_external_data=True, location="its weights", size_threshold=0)
    (folder / "its data").mkdir()
    for i in range(6):
        np.savez(folder / "its data" / f"{i}.npz", word=rng.choice(list("abcd"), 8), known=rng.random((8, 1)) < 0.8)
    return folder


def test_every_command_takes_strings(folder, capsys):
    fp32, int8, data = (str(folder / name) for name in ("the model.onnx", "its int8.onnx", "its data"))
    made = ["quantize", fp32, "--data", data, "-o", int8, "--effort", "fast", "--keep-int8", "--threads", "1"]
    assert main(made) == 0
    # 37,892 bytes of weights, in the other file
    assert re.search(r"38\.\d kB before, 2 of 6 nodes quantized", capsys.readouterr().out)
    assert main(["compare", fp32, int8, "--data", data, "--seconds", "0", "--threads", "1"]) == 0
    out = str(folder / "out.npz")
    assert main(["run", int8, "--input", f"{data}/1.npz", "-o", out, "--threads", "1"]) == 0
    assert np.load(out)["y"].shape == (8, 32)
    assert main(["bench", fp32, int8, "--seconds", "0", "--threads", "1"]) == 0
