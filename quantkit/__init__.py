"""quantkit: FP32 ONNX in, exact INT8 ONNX out.

import quantkit
quantkit.quantize("model.onnx", "images/", preprocess="imagenet").save("model.int8.onnx")
outputs = quantkit.Session("model.int8.onnx").run(None, {"input": array})
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # what typing has, without its import: the sooner Ctrl-C is caught
if TYPE_CHECKING:
    from typing import Any

    from quantkit.errors import QuantkitError
    from quantkit.execute import Session
    from quantkit.pipeline import ModelResult, calibrate, compare, convert, quantize
    from quantkit.types import QuantConfig

__version__ = "0.1.0"
__all__ = ["ModelResult", "QuantConfig", "QuantkitError", "Session", "__version__", "calibrate", "compare", "convert",
           "quantize"]  # fmt: skip

_HOMES = {
    "QuantkitError": "quantkit.errors",
    "QuantConfig": "quantkit.types",
    "Session": "quantkit.execute",
    "ModelResult": "quantkit.pipeline",
    "calibrate": "quantkit.pipeline",
    "compare": "quantkit.pipeline",
    "convert": "quantkit.pipeline",
    "quantize": "quantkit.pipeline",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `quantkit --help` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """Keeps the function `quantize` in view: importing the sub-package of that name would hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
