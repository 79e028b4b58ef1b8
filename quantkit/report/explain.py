"""One plain sentence on each of the layers that add most noise: what is wrong there, and what to try."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quantkit.fuse.opnames import WEIGHTED
from quantkit.report import text
from quantkit.report.layers import LayerError

LAYER_COLUMNS = ("op", "introduced", "accumulated", "range", "clipped", "dead")
"""Beside the layer's name in the tables of text and Markdown."""
WORST = 3
FINE_DB = 30.0
"""Noise of 3 % of the amplitude. Rounding one layer to 8 bits gives 36 to 40 dB in a model that loses nothing (the
embedded digits model), so from here up no user needs to act."""
CLIPPED_MUCH = 0.001
"""A share of clipped values that is named as the cause, and marked in tables."""
USED_LITTLE = 0.25
"""Where nearly all values lie in a quarter of the range, two of the eight bits are spent on the rest."""
SPREAD_MUCH = 16.0
"""Where the middle channel has a sixteenth of the tensor's span, it has 16 of the 256 levels."""


@dataclass(frozen=True)
class Advice:
    """A layer and the sentence on it."""

    name: str
    sentence: str


def worst_layers(layers: Sequence[LayerError], count: int = WORST) -> list[LayerError]:
    """Those that introduce most noise, the worst first; by accumulated noise where a layer cannot be run alone."""
    return sorted(layers, key=own_db)[:count]


def own_db(layer: LayerError) -> float:
    """introduced_db, or where there is none sqnr_db."""
    return layer.sqnr_db if layer.introduced_db is None else layer.introduced_db


def advice(layers: Sequence[LayerError], method: str | None = None) -> list[Advice]:
    """On each of the WORST worst layers that somebody should look at; on the worst alone where none is bad.

    method: how the ranges were found, which is then not what to try.
    """
    worst = worst_layers(layers)
    bad = [layer for layer in worst if own_db(layer) < FINE_DB]
    return [Advice(layer.name, _sentence(layer, method)) for layer in bad or worst[:1]]


def range_cells(layer: LayerError) -> list[str]:
    """[range, clipped share, dead channels of all] for a table."""
    span = text.MISSING if layer.low is None else _range(layer)
    clipped = text.MISSING if layer.clipped is None else f"{100 * layer.clipped:.3f} %"
    dead = text.MISSING if layer.channels is None else f"{layer.dead_channels} of {layer.channels}"
    return [span, clipped, dead]


def _sentence(layer: LayerError, method: str | None) -> str:
    cause, remedy = next((cause(layer), remedy(layer, method)) for applies, cause, remedy in _CAUSES if applies(layer))
    dead = f" ({layer.dead_channels} of its {layer.channels} channels are constant)" if layer.dead_channels else ""
    kind = "introduces noise" if layer.introduced_db is not None else "carries noise"
    return f"{layer.name} ({layer.op}) {kind} at {own_db(layer):.1f} dB{dead}: {cause}; {remedy}."


def _range(layer: LayerError) -> str:
    return f"{layer.low:.3g} to {layer.high:.3g}"


def _keep(layer: LayerError) -> str:
    return f"--keep-fp32 '^{re.escape(layer.name)}$'"


def _other(method: str | None, *wanted: str) -> str:
    """`--method a or b`, without the one that was used."""
    return "--method " + " or ".join(name for name in wanted if name != method)


def _is_weighted(layer: LayerError) -> bool:
    return any(base in layer.op for base in WEIGHTED)


_CAUSES: tuple[
    tuple[Callable[[LayerError], bool], Callable[[LayerError], str], Callable[[LayerError, str | None], str]], ...
] = (
    (
        lambda layer: own_db(layer) >= FINE_DB,
        lambda layer: "that is little, and no layer has more",
        lambda layer, method: "nothing needs to be done",
    ),
    (
        lambda layer: (layer.clipped or 0.0) > CLIPPED_MUCH,
        lambda layer: f"its range {_range(layer)} cuts off {100 * (layer.clipped or 0):.2f} % of the values",
        lambda layer, method: f"try {_other(method, 'minmax', 'auto')}, or samples that are more like these",
    ),
    (
        lambda layer: layer.used is not None and layer.used < USED_LITTLE,
        lambda layer: (
            f"99.9 % of its values lie in {100 * (layer.used or 0):.0f} % of its range {_range(layer)}, "
            "which a few outliers stretch"
        ),
        lambda layer, method: f"try {_other(method, 'mse', 'percentile', 'auto')}",
    ),
    (
        lambda layer: (layer.spread or 1.0) > SPREAD_MUCH,
        lambda layer: (
            f"its channels share the range {_range(layer)}, of which the middle one fills 1/{layer.spread:.0f}"
        ),
        lambda layer, method: f"try --effort best, or keep it in FP32 with {_keep(layer)}",
    ),
    (
        _is_weighted,
        lambda layer: "nothing is clipped: it is the rounding of its weights and of its u8 output",
        lambda layer, method: f"try --effort best with more samples, or keep it in FP32 with {_keep(layer)}",
    ),
    (
        lambda layer: True,
        lambda layer: "its values are too fine for 256 levels",
        lambda layer, method: f"keep it in FP32 with {_keep(layer)}",
    ),
)
"""(applies, what is wrong, what to try): the first that applies."""
