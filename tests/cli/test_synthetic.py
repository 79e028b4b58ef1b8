"""Random inputs for a model without sample data."""

from __future__ import annotations

import numpy as np
import pytest

from quantkit.cli import main
from quantkit.errors import DataError
from quantkit.load.specs import TensorSpec
from quantkit.observe.synthetic import synthetic_feeds


def spec(name: str, shape: tuple, dtype: type) -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype))


def test_open_dimensions_get_plausible_sizes_and_every_type_its_values():
    specs = [spec("x", ("n", 3, "h", None), np.float32), spec("ids", (None, "t"), np.int64), spec("on", (1,), np.bool_)]
    first, again = synthetic_feeds(specs, 2), synthetic_feeds(specs, 2)
    assert first[0]["x"].shape == (1, 3, 224, 224)
    assert first[0]["x"].dtype == np.float32
    assert first[0]["ids"].shape == (1, 32)
    assert set(np.unique(first[0]["ids"])) <= {0, 1}
    assert first[0]["on"].all()
    assert all(np.array_equal(a[key], b[key]) for a, b in zip(first, again, strict=True) for key in a)


def test_strings_cannot_be_made_up():
    with pytest.raises(DataError, match="--data"):
        synthetic_feeds([spec("s", (1,), object)])


def test_synthetic_data_are_warned_of_and_exclude_real_data(digits, tmp_path, capsys):
    arguments = ["quantize", str(digits.fp32), "--synthetic", "-o", str(tmp_path / "o.onnx"), "--effort", "fast"]
    assert main(arguments) == 0
    assert "accuracy of this INT8 model is not known" in capsys.readouterr().err
    assert main([*arguments, "--force", "--data", str(digits.calib)]) == 2
    assert main(["quantize", str(digits.fp32), "-o", str(tmp_path / "p.onnx")]) == 2
