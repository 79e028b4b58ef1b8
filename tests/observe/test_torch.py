"""A real torch DataLoader as calibration data. Skipped where torch is not installed: no extra of quantkit needs it."""

import pytest

from quantkit import Session, pipeline
from quantkit.types import QuantConfig
from tests.graphs import CONV, image, model, run_onnxruntime, sqnr_db

torch = pytest.importorskip("torch", reason="torch is not installed")


@pytest.mark.parametrize("labelled", [True, False])
def test_a_data_loader_of_tensors_calibrates_a_model(labelled):
    from torch.utils.data import DataLoader, TensorDataset

    images = torch.from_numpy(image(10, 3, 8, 8))
    parts = [images, torch.arange(10) % 4] if labelled else [images]
    loader = DataLoader(TensorDataset(*parts), batch_size=4)
    body = f"c = Conv<{CONV}>(x, w) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm<transB = 1>(f, v)"
    proto = model(body, {"w": (16, 3, 3, 3), "v": (4, 16)}, outputs="float[N,4] y")
    config = QuantConfig(method="minmax", effort="fast", keep_int8=True)
    result = pipeline.quantize(proto, loader, config=config)
    assert result.model.metadata_props["quantkit.calibration.samples"] == "10"
    feeds = {"x": image(2, 3, 8, 8, seed=9)}
    assert sqnr_db(run_onnxruntime(proto, feeds)[0], Session(result.model, threads=1).run(None, feeds)[0]) > 20
