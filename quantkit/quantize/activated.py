"""Ranges on both sides of an activation by table, which rounds twice: what goes in, and what comes out.

HardSigmoid is 0 below -3 and 1 above 3, HardSwish is 0 below -3, SiLU and GELU nearly so: a u8 tensor in front of them
need not spend its 256 levels on what comes out the same. And the two steps must suit each other: HardSwish has the
slope 1/2 at zero, so with equal steps all odd small values lie near a tie and are rounded up, an error of one sign that
sums over channels and positions add up; with steps as 4 to 3 they cancel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from quantkit.fuse.activations import ACTIVATIONS
from quantkit.fuse.expand import pre_activation_name
from quantkit.observe import TensorStatistics
from quantkit.quantize.qparams import params_from_range, quantize_array
from quantkit.quantize.select import Selection
from quantkit.quantize.support import StaticForm
from quantkit.types import QuantParams, Range

POINTS = 1025
"""At which the activation is evaluated, from end to end of the range."""
STEPS_LOST = 0.25
"""What may be cut off changes the activation's output by at most this many of its u8 steps."""
WIDER_MOST, WIDTHS = 1.6, 61
"""A range is widened by this at most for the sake of the other step, on a grid of so many widths."""
PARTS = 4
"""Points of a histogram bin at which the two roundings are tried."""
LOCAL_STEPS = 4
"""Input steps over which the error's mean is taken: what nearby values lose together."""
MEAN_WEIGHT = 16.0
"""Price of the square of that mean beside the mean square: sums over channels and positions add it up."""


def around_activations(selection: Selection, ranges: Mapping[str, Range],
                       statistics: Mapping[str, TensorStatistics]) -> dict[str, Range]:  # fmt: skip
    """The ranges by group, those of tensors that only an activation by table reads cut to what matters to it, and the
    steps on both sides matched.

    ranges: group name -> range, as `Selection.group_ranges` gives them. statistics: by tensor. Tensors that share
    their group keep its range.
    """
    members = Counter(selection.group_of.values())
    found = dict(ranges)
    for tensor, name, attributes, output in _activated(selection):
        before, after = selection.group_of[tensor], selection.group_of[output]
        fixed = [members[group] > 1 or bool(selection.given) for group in (before, after)]
        if not fixed[0]:
            step = params_from_range(found[after]).scale
            found[before] = needed_range(name, attributes, found[before], STEPS_LOST * step)
        seen = statistics.get(tensor)
        if seen is not None and seen.counted:
            found[before], found[after] = matched(name, attributes, seen, (found[before], found[after]), fixed)
    return found


def matched(name: str, attributes: Mapping[str, float], seen: TensorStatistics, ranges: tuple[Range, Range],
            fixed: Sequence[bool] = (False, False)) -> tuple[Range, Range]:  # fmt: skip
    """(input range, output range) of the activation `name`: as given, or one of them wider, so that the steps suit.

    seen: statistics of the input. fixed: which of the two must stay. Of ranges up to WIDER_MOST times as wide, the one
    with the least expected squared error of the output, its local mean weighing MEAN_WEIGHT times as much.
    """
    candidates = [ranges]
    for width in np.linspace(1.0, WIDER_MOST, WIDTHS)[1:].tolist():
        wider = [Range(span.low * width, span.high * width) for span in ranges]
        candidates += [] if fixed[0] else [(wider[0], ranges[1])]
        candidates += [] if fixed[1] else [(ranges[0], wider[1])]
    if min(span.high - span.low for span in ranges) <= 0:
        return ranges
    trial = _TwoRoundings(name, attributes, seen)
    return min(candidates, key=trial.cost)


class _TwoRoundings:
    """The values of a tensor, and what the activation makes of them with and without its two roundings."""

    def __init__(self, name: str, attributes: Mapping[str, float], seen: TensorStatistics) -> None:
        self.name, self.row = name, ACTIVATIONS[name]
        self.attributes = {**self.row.attributes, **attributes}
        filled = np.flatnonzero(seen.counts)
        counts = seen.counts[filled[0] : filled[-1] + 1]
        bins = seen.first + np.arange(filled[0], filled[-1] + 1)
        self.spacing = seen.width / PARTS
        self.points = ((bins[:, None] + (np.arange(PARTS) + 0.5) / PARTS) * seen.width).reshape(-1)
        self.share = np.repeat(counts / (PARTS * seen.counted), PARTS)
        self.wanted = self._values(self.points)
        self._input: tuple[QuantParams, np.ndarray, np.ndarray] | None = None

    def _values(self, x: np.ndarray) -> np.ndarray:
        return np.array([self.row.evaluate(float(v), self.attributes) for v in x])

    def cost(self, ranges: tuple[Range, Range]) -> float:
        """Mean square of the output's error, and of its local mean with a weight, for (input, output) ranges."""
        x, y = (params_from_range(span) for span in ranges)
        levels, places = self._rounded_input(x)
        table = (np.clip(np.rint(levels / y.scale) + y.zero_point, 0, 255) - y.zero_point) * y.scale
        error = table[places] - self.wanted
        width = max(1, min(round(LOCAL_STEPS * x.scale / self.spacing), len(error)))
        local = np.convolve(error, np.full(width, 1.0 / width), mode="same")
        return float((np.square(error) + MEAN_WEIGHT * np.square(local)) @ self.share)

    def _rounded_input(self, x: QuantParams) -> tuple[np.ndarray, np.ndarray]:
        """(the activation of the 256 inputs, which of them each point is rounded to); half of the candidates share
        the first one's."""
        if self._input is not None and self._input[0] == x:
            return self._input[1:]
        found = x, self._values((np.arange(256) - x.zero_point) * x.scale), quantize_array(self.points, x)
        self._input = self._input or found
        return found[1:]


def needed_range(name: str, attributes: Mapping[str, float], seen: Range, tolerance: float) -> Range:
    """The narrowest range outside which the activation `name` stays within `tolerance` of its value at the bound.

    attributes: those of the activation, ONNX's defaults where absent. It holds zero and lies within `seen`.
    """
    row = ACTIVATIONS[name]
    filled = {**row.attributes, **attributes}
    x = np.linspace(seen.low, seen.high, POINTS)
    y = np.array([row.evaluate(float(v), filled) for v in x])
    low = x[_flat_points(y, tolerance) - 1]
    high = x[POINTS - _flat_points(y[::-1], tolerance)]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def _flat_points(y: np.ndarray, tolerance: float) -> int:
    """How many points from the left, one at least, stay within `tolerance` of the last of them."""
    least, most = np.minimum.accumulate(y), np.maximum.accumulate(y)
    flat = np.maximum(y - least, most - y) <= tolerance
    return int(np.flatnonzero(flat)[-1]) + 1 if flat.all() else max(int(np.argmin(flat)), 1)


def _activated(selection: Selection) -> Iterator[tuple[str, str, Mapping[str, float], str]]:
    """(tensor, activation, its attributes, output) of each activation by table that is its tensor's only reader."""
    for node, form in selection.forms.items():
        out = node.outputs[0].name or ""
        if form.name.is_lookup:
            yield pre_activation_name(out), form.name.activation, _numbers(form), out
        elif form.name.base in ACTIVATIONS and ACTIVATIONS[form.name.base].lookup and _is_only_reader(node):
            yield form.data[0].name or "", form.name.base, _numbers(form), out


def _numbers(form: StaticForm) -> dict[str, float]:
    return {key: float(value) for key, value in form.attributes.items() if isinstance(value, int | float)}


def _is_only_reader(node: ir.Node) -> bool:
    value = node.inputs[0]
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()
