"""Writes docs/api.md from the signatures and docstrings of the public names. Run by `make docs`; a test compares."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import quantkit

PAGE = Path(__file__).resolve().parent / "api.md"

INTRODUCTION = """\
# Python

Generated from the docstrings by `make docs`; edit those, not this page.

```python
import quantkit

result = quantkit.quantize("model.onnx", data)
result.save("model.int8.onnx")
```

A model is a path, an `onnx.ModelProto`, an `onnx_ir.Model` or what an earlier stage returned. Data is a path or any
iterable of dicts, arrays or pairs: a PyTorch `DataLoader`, a Hugging Face data set, a `CalibrationDataReader`.
Everything that a user can cause is a `quantkit.QuantkitError`.
"""


def page() -> str:
    """The whole page."""
    names = [name for name in quantkit.__all__ if not name.startswith("_")]
    return "\n".join([INTRODUCTION, *(section(name, getattr(quantkit, name)) for name in names)])


def section(name: str, value: Any) -> str:
    """A function or class with its public methods."""
    parts = [f"## {name}\n", signature(name, value), document(value)]
    if inspect.isclass(value) and not issubclass(value, Exception):
        for method, function in sorted(vars(value).items()):
            if method.startswith("_") or not (inspect.isfunction(function) or isinstance(function, property)):
                continue
            if isinstance(function, property):
                parts += [f"### {name}.{method}\n", document(function)]
            elif inspect.getdoc(function):
                parts += [f"### {name}.{method}\n", signature(method, function), document(function)]
    return "\n".join(parts)


def signature(name: str, value: Any) -> str:
    """One code block; annotations as they are written."""
    try:
        shown = str(inspect.signature(value)).replace("'", "")
    except (TypeError, ValueError):
        shown = ""
    return f"```py\n{name}{shown}\n```\n"


def document(value: Any) -> str:
    return (inspect.getdoc(value) or "").strip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
