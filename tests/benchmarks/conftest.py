"""The embedded model, quantized once for all tests of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import zoo
from benchmarks.runtimes import QUANTKIT
from quantkit import QuantConfig, pipeline


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> Path:
    """A folder with the files of the embedded model; quantkit's is made with the least effort."""
    folder, model = tmp_path_factory.mktemp("prepared"), zoo.embedded()
    model.write(folder / f"{model.name}.onnx")
    feeds = [{model.input: model.samples()[0][:50]}]
    result = pipeline.quantize(folder / f"{model.name}.onnx", feeds, config=QuantConfig(method="minmax", effort="fast"))
    result.save(folder / f"{model.name}{QUANTKIT.suffix}")
    return folder
