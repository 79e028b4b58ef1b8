"""Models on disk: written whole, in one file or in pieces."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from quantkit.load import load, to_proto
from quantkit.report.models import save_streamed
from tests.execute.test_trial import small_net


def test_a_model_written_weight_by_weight_is_the_same_model(tmp_path):
    model = load(small_net())
    model.graph.initializers["w0"].const_value = ir.Tensor(np.ones((40, 8, 3, 3), np.float32), name="w0")
    save_streamed(model, tmp_path / "streamed.onnx")
    read, wanted = onnx.load(tmp_path / "streamed.onnx"), to_proto(model)
    assert {t.name for t in read.graph.initializer} == {f"w{i}" for i in range(6)}
    for proto in (read, wanted):
        proto.graph.initializer.sort(key=lambda tensor: tensor.name)
        del proto.graph.value_info[:]
    assert read == wanted
    assert model.graph.initializers["w0"].const_value is not None
