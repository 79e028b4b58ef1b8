"""Charts as inline SVG: plain strings, colours from the page's CSS classes, a text alternative in each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 250
"""Units of the view box; about the pixels that a chart gets on a page, so that its text is as large as the page's."""
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
"""Margins for tick labels and axis titles."""
NAMES = 150
"""The left margin of charts whose rows have names."""


@dataclass(frozen=True)
class Axis:
    """Maps values to the pixels start..stop; log: both bounds are positive."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside are drawn at the edge."""
        low, high, v = (math.log10(x) for x in (self.low, self.high, max(value, self.low))) if self.log else (
            self.low, self.high, value)  # fmt: skip
        fraction = (v - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, fraction)) * (self.stop - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the bounds: 1, 2 or 5 times a power of ten."""
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [m * 10.0**e for e in exponents for m in (1, 2, 5) if self.low <= m * 10.0**e <= self.high]
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def svg(body: str, label: str, width: float = WIDTH, height: float = HEIGHT) -> str:
    """An image of its own with a text alternative."""
    size = f'viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<svg {size} role="img" aria-label="{escape(label, quote=True)}">{body}</svg>'


def frame(x: Axis, y: Axis, x_title: str, y_title: str, y_grid: bool = True) -> str:
    """Ticks, grid lines and titles of a chart that fills WIDTH x HEIGHT."""
    parts = []
    for tick in y.ticks(5) if y_grid else ():
        at = _n(y.at(tick))
        parts.append(f'<path class="grid" d="M{_n(x.start)} {at}H{_n(x.stop)}"/>')
        parts.append(f'<text x="{_n(x.start - 6)}" y="{at}" class="tick end middle">{_label(tick)}</text>')
    for tick in x.ticks():
        at = _n(x.at(tick))
        parts.append(f'<path class="axis" d="M{at} {_n(y.start)}v4"/>')
        parts.append(f'<text x="{at}" y="{_n(y.start + 17)}" class="tick centre">{_label(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_n(x.start)} {_n(y.start)}H{_n(x.stop)}"/>')
    middle = _n((x.start + x.stop) / 2)
    parts.append(f'<text x="{middle}" y="{_n(y.start + 34)}" class="title centre">{escape(x_title)}</text>')
    if y_title:
        at = _n((y.start + y.stop) / 2)
        turned = f'transform="rotate(-90 14 {at})"'
        parts.append(f'<text x="14" y="{at}" {turned} class="title centre">{escape(y_title)}</text>')
    return "".join(parts)


def axes(x_low: float, x_high: float, y_low: float, y_high: float, log_x: bool = False) -> tuple[Axis, Axis]:
    """The axes of a chart that fills WIDTH x HEIGHT."""
    return Axis(x_low, x_high, LEFT, WIDTH - RIGHT, log_x), Axis(y_low, y_high, HEIGHT - BOTTOM, TOP)


def distribution_chart(series: Sequence[tuple[str, Sequence[float]]], unit: str, label: str) -> str:
    """Share of values at or below x, one step line a series, on a logarithmic axis. Values are positive."""
    low = min(min(values) for _, values in series)
    high = max(sorted(values)[max(0, math.ceil(0.99 * len(values)) - 1)] for _, values in series)
    x, y = axes(low / 1.1, max(high, low * 1.2) * 1.1, 0, 100, log_x=True)
    parts = [frame(x, y, unit, "% of runs")]
    for i, (name, values) in enumerate(series):
        ordered = sorted(values)
        points = [
            f"{_n(x.at(value))} {_n(y.at(100 * (k + 1) / len(ordered)))}"
            for k, value in enumerate(ordered)
            if value <= x.high
        ]
        path = f"M{_n(x.at(ordered[0]))} {_n(y.at(0))}L" + "L".join(points)
        parts.append(f'<path class="line s{i}" d="{path}"><title>{escape(name)}</title></path>')
    return svg("".join(parts), label)


def scatter_chart(points: Sequence[tuple[float, float, str, str]], x_title: str, y_title: str, label: str) -> str:
    """Points (x, y, kind, name) in percent, 0..100; `kind` is their CSS class, those of kind "same" lie below."""
    x, y = axes(0, 100, 0, 100)
    parts = [
        frame(x, y, x_title, y_title),
        f'<path class="guide" d="M{LEFT} {HEIGHT - BOTTOM}L{WIDTH - RIGHT} {TOP}"/>',
    ]
    for across, up, kind, name in sorted(points, key=lambda point: point[2] != "same"):
        radius = 2 if kind == "same" else 4
        place = f'cx="{_n(x.at(across))}" cy="{_n(y.at(up))}" r="{radius}"'
        title = "" if kind == "same" else f"<title>{escape(name)}</title>"
        parts.append(f'<circle class="dot {kind}" {place}>{title}</circle>')
    return svg("".join(parts), label)


def layer_chart(layers: Sequence[tuple[str, float, float | None]], label: str) -> str:
    """SQNR in dB along the model: (name, accumulated, introduced or None). A line and a dot for each layer."""
    values = [value for _, a, b in layers for value in (a, b) if value is not None]
    low, high = min(*values, 20.0), max(values)
    x, y = axes(1, max(2, len(layers)), min(0.0, low) if low < 10 else low - 5, min(high, 80.0) + 3)
    line = "L".join(f"{_n(x.at(i + 1))} {_n(y.at(a))}" for i, (_, a, _) in enumerate(layers))
    parts = [frame(x, y, "layer, from input to output", "SQNR, dB"), f'<path class="line s1" d="M{line}"/>']
    for i, (name, accumulated, introduced) in enumerate(layers):
        at = _n(x.at(i + 1))
        shown = f"{i + 1}. {name}: accumulated {accumulated:.1f} dB"
        if introduced is not None:
            shown += f", introduced {introduced:.1f} dB"
            parts.append(f'<circle class="dot introduced" cx="{at}" cy="{_n(y.at(introduced))}" r="3"/>')
        circle = f'class="dot accumulated" data-layer="{i}" cx="{at}" cy="{_n(y.at(accumulated))}" r="3.5"'
        parts.append(f"<circle {circle}><title>{escape(shown)}</title></circle>")
    return svg("".join(parts), label)


def histogram_chart(
    low: float, high: float, counts: Sequence[int], chosen: tuple[float, float] | None, label: str
) -> str:
    """Bars on a logarithmic height, the chosen range as a band with its ends; bars outside it are marked."""
    edges = [low, high, *(chosen or ())]
    margin = 0.02 * (max(edges) - min(edges)) or 1.0
    x = Axis(min(edges) - margin, max(edges) + margin, LEFT, WIDTH - RIGHT)
    y = Axis(0, math.log1p(max(counts, default=1)), HEIGHT - BOTTOM, TOP)
    parts = []
    if chosen:
        left, right = x.at(chosen[0]), x.at(chosen[1])
        band = f'x="{_n(left)}" y="{TOP}" width="{_n(right - left)}" height="{HEIGHT - BOTTOM - TOP}"'
        parts.append(f'<rect class="band" {band}/>')
    parts.append(_decades(y, max(counts, default=1)))
    parts += _bars(x, y, low, high, counts, chosen)
    if chosen:
        ends = "".join(f"M{_n(x.at(end))} {TOP}V{HEIGHT - BOTTOM}" for end in chosen)
        parts.append(f'<path class="ends" d="{ends}"/>')
    parts.append(frame(x, y, "FP32 value", "how many (log)", y_grid=False))
    return svg("".join(parts), label)


def _bars(
    x: Axis, y: Axis, low: float, high: float, counts: Sequence[int], chosen: tuple[float, float] | None
) -> list[str]:
    """Two paths: the bars that touch the chosen range, and those outside it."""
    width = (high - low) / max(1, len(counts))
    inside: list[str] = []
    outside: list[str] = []
    for i, count in enumerate(counts):
        if not count:
            continue
        left, right = low + i * width, low + (i + 1) * width
        bar = f"M{_n(x.at(left))} {_n(y.start)}V{_n(y.at(math.log1p(count)))}H{_n(x.at(right))}V{_n(y.start)}z"
        clipped = chosen is not None and (left >= chosen[1] or right <= chosen[0])
        (outside if clipped else inside).append(bar)
    return [f'<path class="bar s1" d="{"".join(inside)}"/>', f'<path class="bar broken" d="{"".join(outside)}"/>']


def _decades(y: Axis, most: int) -> str:
    """Grid lines and labels at powers of ten, at most five, on an axis of log1p."""
    highest = int(math.log10(max(1, most)))
    parts = []
    for exponent in range(0, highest + 1, 1 + highest // 5):
        at = _n(y.at(math.log1p(10**exponent)))
        parts.append(f'<path class="grid" d="M{LEFT} {at}H{WIDTH - RIGHT}"/>')
        shown = f"{10**exponent:,}" if exponent < 4 else f'10<tspan dy="-5" class="power">{exponent}</tspan>'
        parts.append(f'<text x="{LEFT - 6}" y="{at}" class="tick end middle">{shown}</text>')
    return "".join(parts)


def interval_chart(rows: Sequence[tuple[str, float, float, float]], unit: str, label: str, zero: bool = False) -> str:
    """(name, value, low, high): a dot with its interval, one row each. zero: the value is signed, 0 is marked."""
    bounds = [bound for _, _, low, high in rows for bound in (low, high)] + ([0.0] if zero else [])
    margin = 0.08 * (max(bounds) - min(bounds)) or 0.5
    height = 48 + 34 * len(rows)
    x = Axis(min(bounds) - margin, max(bounds) + margin, NAMES, WIDTH - 70)
    y = Axis(0, 1, height - BOTTOM, TOP)
    parts = [frame(x, y, unit, "", y_grid=False)]
    if zero:
        parts.append(f'<path class="guide" d="M{_n(x.at(0))} 4V{height - BOTTOM}"/>')
    for i, (name, value, low, high) in enumerate(rows):
        at, color = 24 + 34 * i, "s1" if zero else f"s{i}"
        shown = f"{value:+.2f}" if zero else f"{value:.1f}"
        parts.append(f'<text x="{NAMES - 10}" y="{at}" class="end middle">{escape(name)}</text>')
        parts.append(f'<path class="interval {color}" d="M{_n(x.at(low))} {at}H{_n(x.at(high))}"/>')
        parts.append(f'<circle class="dot {color}" cx="{_n(x.at(value))}" cy="{at}" r="6"/>')
        parts.append(f'<text x="{_n(x.at(high) + 10)}" y="{at}" class="tick middle">{shown}</text>')
    return svg("".join(parts), label, height=height)


def bar_chart(rows: Sequence[tuple[str, float, float]], unit: str, label: str) -> str:
    """(name, value, reach): a bar from 0 to `value` and a line on to `reach`, each with its number, one row each."""
    height = 48 + 40 * len(rows)
    x = Axis(0, 1.02 * max(max(value, reach) for _, value, reach in rows), NAMES, WIDTH - 60)
    y = Axis(0, 1, height - BOTTOM, TOP)
    parts = [frame(x, y, unit, "", y_grid=False)]
    for i, (name, value, reach) in enumerate(rows):
        at = 30 + 40 * i
        parts.append(f'<text x="{NAMES - 10}" y="{at}" class="end middle">{escape(name)}</text>')
        bar = f'x="{NAMES}" y="{at - 9}" width="{_n(x.at(value) - NAMES)}" height="18"'
        parts.append(f'<rect class="bar s{i}" {bar}/>')
        parts.append(f'<path class="reach" d="M{_n(x.at(value))} {at}H{_n(x.at(reach))}m0 -5v10"/>')
        above, end = f'x="{_n(x.at(value) + 4)}" y="{at - 15}"', f'x="{_n(x.at(reach) + 8)}" y="{at}"'
        parts.append(f'<text {above} class="tick middle">{value:.2f}</text>')
        parts.append(f'<text {end} class="tick middle">{reach:.2f}</text>')
    return svg("".join(parts), label, height=height)


def _n(value: float) -> str:
    """A coordinate with one decimal, without a trailing zero: reports stay small."""
    return f"{value:.1f}".removesuffix(".0")


def _label(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
