"""Models that this process has just written out of a loaded one: they need no loading, which checks a file that comes
from elsewhere and brings it into the modern form. Candidates are opened by the dozen on the way to an INT8 model."""

from __future__ import annotations

import onnx_ir as ir

_KEY = "quantkit.prepared"


def mark_prepared(model: ir.Model) -> None:
    """`model` is in the form that `load` gives, and nobody changes its graph while the mark stands."""
    model.meta[_KEY] = True


def unmark_prepared(model: ir.Model) -> None:
    """`model` goes to somebody who may change it: from now on it is loaded like any other."""
    model.meta.pop(_KEY, None)


def is_prepared(model: object) -> bool:
    """Whether `model` is marked. A copy by quantkit.load.parts.copied keeps the mark, one by onnx_ir does not."""
    return isinstance(model, ir.Model) and bool(model.meta.get(_KEY))
