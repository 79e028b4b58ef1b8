"""Ranges with room for the extremes of samples that calibration did not see.

The largest value of a sample is itself drawn at random. With tails that fall exponentially the largest of n samples is
expected at mu + beta (ln n + gamma), and their mean at mu + beta gamma (Gumbel): beta = (largest - mean) / ln n, and
the largest of TIMES n samples lies beta ln TIMES further out. Where samples reach alike, there is next to none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from quantkit.fuse.activations import ACTIVATIONS
from quantkit.observe import TensorStatistics
from quantkit.quantize.select import Selection
from quantkit.quantize.support import StaticForm
from quantkit.types import Range

TIMES = 4.0
"""As many samples as were seen are taken to come, times this less one."""

Bounds = tuple[float, float]
"""What a tensor's values cannot leave, whatever the input."""
UNBOUNDED: Bounds = (-math.inf, math.inf)
AVERAGING = ("AveragePool", "GlobalAveragePool", "ReduceMean", "Concat")
"""What comes out lies between the least and the largest of what goes in."""
_REALS = np.concatenate([np.linspace(-12.0, 12.0, 2401), [-1e30, 1e30]])
"""Where activations are evaluated for their bounds: their minima lie within 12 of zero."""
_BEYOND = 1e6
"""An activation that exceeds this somewhere has no bound."""


def with_room(selection: Selection, ranges: Mapping[str, Range], statistics: Mapping[str, TensorStatistics]
              ) -> dict[str, Range]:  # fmt: skip
    """Each tensor's range, of whatever method, longer by as much as its extremes are expected to move outwards.

    ranges: by tensor. Inputs of the graph, whose bounds are those of their format, and what activations bound (the 6 of
    ReLU6, the -0.375 of HardSwish) stay within. Statistics of fewer than two samples give no room.
    """
    bounds = tensor_bounds(selection)
    return {
        name: _roomy(span, statistics[name], bounds[name]) if name in statistics and name in bounds else span
        for name, span in ranges.items()
    }


def _roomy(span: Range, seen: TensorStatistics, bounds: Bounds) -> Range:
    if seen.samples < 2:
        return span
    betas = math.log(TIMES) / math.log(seen.samples)
    low, high = span.low, span.high
    if seen.low < 0:
        low = max(low * (1.0 + betas * (seen.low - seen.mean_low) / seen.low), bounds[0])
    if seen.high > 0:
        high = min(high * (1.0 + betas * (seen.high - seen.mean_high) / seen.high), bounds[1])
    return Range(min(low, span.low), max(high, span.high))


def tensor_bounds(selection: Selection) -> dict[str, Bounds]:
    """tensor -> its bounds, of the outputs of a selection and what its tables read; graph inputs are not in it."""
    found: dict[str, Bounds] = {}
    for node, form in selection.forms.items():
        for value in form.data:
            if value.producer() is not None:
                found.setdefault(value.name or "", UNBOUNDED)
        given = [found.get(value.name or "") for value in form.data]
        if form.shares and given[0] is None:  # an input of the graph in another order
            continue
        for out in node.outputs:
            found[out.name or ""] = _bounds(form, [bounds or UNBOUNDED for bounds in given])
    pre = set(selection.tensors) - set(found) - {v.name for form in selection.forms.values() for v in form.data}
    return found | dict.fromkeys(pre, UNBOUNDED)


def _bounds(form: StaticForm, given: list[Bounds]) -> Bounds:
    name = form.name.activation or form.name.base
    if name in ACTIVATIONS:
        numbers = {key: float(v) for key, v in form.attributes.items() if isinstance(v, int | float)}
        return activation_bounds(name, tuple(sorted(numbers.items())))
    if form.shares or form.name.base in AVERAGING:
        return min(0.0, *(low for low, _ in given)), max(0.0, *(high for _, high in given))
    return (0.0, 1.0) if form.name.base == "Softmax" else UNBOUNDED


@lru_cache(maxsize=256)
def activation_bounds(name: str, attributes: tuple[tuple[str, float], ...] = ()) -> Bounds:
    """The least and the largest value of an activation, infinite where there is none.

    attributes: (name, value) pairs, defaults where absent. Values by channel have no common bound.
    """
    row = ACTIVATIONS[name]
    if row.by_channel:
        return UNBOUNDED
    filled = {**row.attributes, **dict(attributes)}
    values = [row.evaluate(float(x), filled) for x in _REALS]
    low, high = min(values), max(values)
    return (low if low > -_BEYOND else -math.inf, high if high < _BEYOND else math.inf)
