"""Plots as inline SVG: bars of intervals, box plots, and means against a camera angle.

Colours are not written into them: marks carry the classes `m0`, `m1`, ... of the page's style sheet, which
has a set for light and one for dark. Coordinates are pixels with one decimal, so equal values give equal
bytes.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from dp3d_cli.stages.evaluate.report_figures import Figure, number, shown
from dp3d_cli.stages.evaluate.results import MetricFacts

STYLES = 8
"""Colours and marks in the style sheet; more methods start again from the first."""

_WIDTH = 420
_LABELS = 124  # right end of the names in a box plot
_DIGIT = 7  # width of a digit of an axis, at most [px]
_MAX_DOTS = 400  # per plot; with more values only boxes, means and outliers are drawn
_MAX_OUTLIERS = 40  # per box


@dataclass(frozen=True)
class Series:
    """One method in a plot.

    Attributes:
        style: number of its colour and mark; None for the baseline's grey.
        name: of the method.
        values: finite values.
        angles: [deg] of the camera for each value; empty where a plot needs none.
    """

    style: int | None
    name: str
    values: tuple[float, ...]
    angles: tuple[float, ...] = ()

    @property
    def css(self) -> str:
        """Class of its marks."""
        return style_class(self.style)


@dataclass(frozen=True)
class _Axis:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def style_class(style: int | None) -> str:
    """CSS class of a method's marks."""
    return "mb" if style is None else f"m{style % STYLES}"


def mark(style: int | None) -> Markup:
    """A method's mark for a legend."""
    return _svg(14, 14, "", _symbol(style, 7, 7, 4.5), css=f"swatch {style_class(style)}", hidden=True)


def interval_bar(figure: Figure, figures: Sequence[Figure], style: int | None) -> Markup:
    """A method's mean and interval on the scale that all methods of a row share; empty without a mean."""
    ends = [
        end
        for other in figures
        for end in (other.low, other.value, other.high)
        if end is not None and math.isfinite(end)
    ]
    if figure.value is None or not math.isfinite(figure.value):
        return Markup("")
    axis = _Axis(*_padded(min(ends), max(ends)), 5, 155)
    parts = ['<line class="track" x1="0" x2="160" y1="6" y2="6"/>']
    if figure.has_interval and figure.low is not None and figure.high is not None:
        left, right = axis(figure.low), axis(figure.high)
        parts.append(f'<line class="interval" x1="{left:.1f}" x2="{right:.1f}" y1="6" y2="6"/>')
    parts.append(_symbol(style, axis(figure.value), 6, 3.6))
    return _svg(160, 12, "", "".join(parts), css=f"bar {style_class(style)}", hidden=True)


def box_plot(series: Sequence[Series], facts: MetricFacts) -> Markup:
    """Boxes from the lower to the upper quartile with the median; whiskers reach to 1.5 times that at most.

    Values beyond are drawn one by one, and so are all values if there are few. A diamond is the mean.
    """
    series = [own for own in series if own.values]
    if not series:
        return Markup("")
    pitch, top = 34, 8
    bottom = top + pitch * len(series)
    everything = [value for own in series for value in own.values]
    axis = _Axis(*_padded(min(everything), max(everything)), _LABELS + 8, _WIDTH - 14)
    parts = [_value_grid(axis, facts, top, bottom)]
    with_dots = len(everything) <= _MAX_DOTS
    summaries = []
    for position, own in enumerate(series):
        middle = top + pitch * (position + 0.5)
        quartiles = [float(quartile) for quartile in np.quantile(np.array(own.values), [0.25, 0.5, 0.75])]
        parts.append(_box(own, quartiles, axis, middle, with_dots))
        label = shown(own.name)
        parts.append(
            f'<text class="name" x="{_LABELS}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(_short(label, 17))}<title>{escape(label)}</title></text>"
        )
        summaries.append(
            f"{label}: median {number(facts, quartiles[1])}, quartiles {number(facts, quartiles[0])} and "
            f"{number(facts, quartiles[2])}, {len(own.values)} views"
        )
    description = f"Box plot of {facts.name}. " + "; ".join(summaries)
    return _svg(_WIDTH, bottom + 24, description, "".join(parts))


def angle_plot(series: Sequence[Series], facts: MetricFacts, angle: str) -> Markup:
    """Mean over bins of a camera angle, one line a method; single views as faint dots if there are few.

    Args:
        series: with angles [deg].
        facts: the metric.
        angle: "yaw" or "pitch".
    """
    series = [own for own in series if own.values]
    angles = [own_angle for own in series for own_angle in own.angles]
    if not angles:
        return Markup("")
    values = [value for own in series for value in own.values]
    with_dots = len(values) <= _MAX_DOTS
    width = _bin_width(max(angles) - min(angles))
    lines = [_binned(own, width) for own in series]
    seen = values if with_dots else [mean for line in lines for _, mean in line]
    up = _Axis(*_padded(min(seen), max(seen)), 160, 10)
    left = 14 + _DIGIT * max((len(_tick(tick)) for tick in _ticks(up.low, up.high, 6)), default=0)
    across = _Axis(*_padded(min(angles), max(angles)), left, _WIDTH - 10)
    parts = [_angle_axes(up, across, angle)]
    if with_dots:
        parts += [_angle_dots(own, across, up) for own in series]
    parts += [_angle_line(own, line, across, up) for own, line in zip(series, lines, strict=True)]
    names = ", ".join(shown(own.name) for own in series)
    description = (
        f"{facts.name} against the camera's {angle}, means over bins of {_tick(width)} degrees: {names}."
    )
    return _svg(_WIDTH, 196, description, "".join(parts))


def _angle_axes(up: _Axis, across: _Axis, angle: str) -> str:
    """Lines at round values, and the angles below them."""
    left, right, bottom = across.start, across.end, up.start
    parts = []
    for tick in _ticks(up.low, up.high, 6):
        y = up(tick)
        parts.append(f'<line class="gridline" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for tick in _ticks(across.low, across.high, 6):
        x = across(tick)
        parts.append(f'<line class="gridline" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(tick)}°</text>')
    hint = " (negative: from above)" if angle == "pitch" else ""
    parts.append(
        f'<text class="axis" x="{(left + right) / 2}" y="{bottom + 32}" text-anchor="middle">'
        f"{angle} of the camera{hint}</text>"
    )
    return "".join(parts)


def _angle_dots(own: Series, across: _Axis, up: _Axis) -> str:
    dots = "".join(
        f'<circle cx="{across(angle):.1f}" cy="{up(value):.1f}" r="1.8"/>'
        for angle, value in zip(own.angles, own.values, strict=True)
    )
    return f'<g class="dots {own.css}">{dots}</g>'


def _angle_line(own: Series, line: Sequence[tuple[float, float]], across: _Axis, up: _Axis) -> str:
    points = " ".join(f"{across(angle):.1f},{up(value):.1f}" for angle, value in line)
    marks = "".join(_symbol(own.style, across(angle), up(value), 3.4) for angle, value in line)
    return (
        f'<g class="{own.css}"><polyline class="line" points="{points}"/>{marks}'
        f"<title>{escape(shown(own.name))}</title></g>"
    )


def _box(own: Series, quartiles: Sequence[float], axis: _Axis, middle: float, with_dots: bool) -> str:
    """One box; `quartiles` are the 25th, 50th and 75th percentile."""
    values = sorted(own.values)
    low, median, high = quartiles
    reach = 1.5 * (high - low)
    inside = [value for value in values if low - reach <= value <= high + reach] or [median]
    first, last = axis(inside[0]), axis(inside[-1])
    left, right, centre = axis(low), axis(high), axis(median)
    parts = []
    if with_dots:
        # A fixed low-discrepancy offset keeps dots apart; the same values always get the same places.
        spots = [(value, ((n * 0.618034) % 1 - 0.5) * 15) for n, value in enumerate(own.values)]
    else:
        outliers = [value for value in values if value < inside[0] or value > inside[-1]]
        outliers.sort(key=lambda value: -abs(value - median))
        spots = [(value, 0.0) for value in sorted(outliers[:_MAX_OUTLIERS])]
    dots = "".join(
        f'<circle cx="{axis(value):.1f}" cy="{middle + shift:.1f}" r="1.8"/>' for value, shift in spots
    )
    parts.append(f'<g class="dots">{dots}</g>')
    parts.append(
        f'<line class="whisker" x1="{first:.1f}" x2="{left:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
        f'<line class="whisker" x1="{right:.1f}" x2="{last:.1f}" y1="{middle:.1f}" y2="{middle:.1f}"/>'
        f'<rect class="box" x="{left:.1f}" y="{middle - 8:.1f}" width="{max(right - left, 1):.1f}" '
        f'height="16" rx="2"/>'
        f'<line class="median" x1="{centre:.1f}" x2="{centre:.1f}" '
        f'y1="{middle - 8:.1f}" y2="{middle + 8:.1f}"/>'
    )
    mean = axis(math.fsum(values) / len(values))
    parts.append(
        f'<path class="mean" d="M{mean:.1f} {middle - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>'
        f"<title>{escape(shown(own.name))}</title>"
    )
    return f'<g class="{own.css}">{"".join(parts)}</g>'


def _value_grid(axis: _Axis, facts: MetricFacts, top: float, bottom: float) -> str:
    parts = []
    for tick in _ticks(axis.low, axis.high, 5):
        x = axis(tick)
        parts.append(f'<line class="gridline" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_tick(tick)}</text>')
    return "".join(parts)


def _symbol(style: int | None, x: float, y: float, r: float) -> str:
    """A mark of the method's shape, so that colour is not the only difference."""
    shape = -1 if style is None else style % STYLES
    if shape in (0, 6):
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    if shape in (-1, 7):
        path = f"M{-r:.1f} {-r:.1f}l{2 * r:.1f} {2 * r:.1f}m0 {-2 * r:.1f}l{-2 * r:.1f} {2 * r:.1f}"
        return f'<path class="mark cross" transform="translate({x:.1f} {y:.1f})" d="{path}"/>'
    corners = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.15), (1.05, 0.8), (-1.05, 0.8)),
        3: ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        4: ((0, 1.15), (1.05, -0.8), (-1.05, -0.8)),
        5: ((-0.55, -1.1), (0.55, -1.1), (1.1, 0), (0.55, 1.1), (-0.55, 1.1), (-1.1, 0)),
    }[shape]
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{points}"/>'


def _binned(own: Series, width: float) -> list[tuple[float, float]]:
    """(mean angle, mean value) of each bin that holds anything, by angle."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for angle, value in zip(own.angles, own.values, strict=True):
        bins.setdefault(math.floor(angle / width + 0.5), []).append((angle, value))
    return [
        (math.fsum(a for a, _ in bins[n]) / len(bins[n]), math.fsum(v for _, v in bins[n]) / len(bins[n]))
        for n in sorted(bins)
    ]


def _bin_width(span: float) -> float:
    return next((width for width in (1.0, 2.0, 5.0, 10.0, 15.0) if span / width <= 12), 30.0)


def _padded(low: float, high: float) -> tuple[float, float]:
    """A range a little wider than its values, of some width even for a single one."""
    room = (high - low) * 0.06 or max(abs(low) * 0.05, 0.05)
    return low - room, high + room


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside a range."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _tick(value: float) -> str:
    text = f"{value:.4g}"
    return "0" if text == "-0" else text


def _short(text: str, width: int) -> str:
    """A name cut in its middle to a width in letters."""
    if sum(map(_letters, text)) <= width:
        return text
    first, last = list(text), list[str]()
    half = (width - 1) // 2
    while first and sum(map(_letters, last)) + _letters(first[-1]) <= half:
        last.insert(0, first.pop())
    while first and sum(map(_letters, first)) > width - 1 - half:
        first.pop()
    return "".join(first) + "…" + "".join(last)


def _letters(character: str) -> int:
    """Width of a character in letters; capitals count as wide, too, since they overflow most."""
    return 2 if character in "MW@" or unicodedata.east_asian_width(character) in "WF" else 1


def _svg(
    width: float, height: float, description: str, body: str, css: str = "plot", hidden: bool = False
) -> Markup:
    """An SVG element; `body` is markup already."""
    role = 'aria-hidden="true"' if hidden else f'role="img" aria-label="{escape(description)}"'
    size = f' width="{width:g}" height="{height:g}"' if hidden else ""
    return Markup(
        f'<svg class="{css}" viewBox="0 0 {width:g} {height:g}"{size} {role} '
        f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
    )
