"""Numbers -> SVG: bars of shares and curves over steps, as wide as the page lets them be.

Positions are percentages and the text lies outside the stretched part, so a chart fills a phone and a desk screen with
letters of one size. Colours are classes of report.css.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Any

Point = tuple[float, float]

# The curves are drawn in a square of this side, which is then stretched over the chart.
SIDE = 1000
# More points than this cannot be told apart on any screen; a slice is drawn as its lowest and its highest point.
MOST_POINTS = 2000
# Values that differ by more than this factor do not fit a linear axis: the small ones would all lie on its foot.
LOG_FROM = 20


@dataclass(frozen=True)
class Scale:
    """A value axis from `low` to `high`, and the `ticks` it bears."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Return where `value` lies: 0 at `low`, 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def value_scale(values: Sequence[float]) -> Scale:
    """Return a scale with round ends that holds `values`: logarithmic where a linear one would hide the small ones."""
    low, high = min(values), max(values)
    return _log_scale(low, high) if 0 < low < high / LOG_FROM else _linear_scale(min(low, 0.0), max(high, 0.0))


def step_scale(steps: int) -> Scale:
    """Return the scale of the steps of a run, which may not have done them all yet."""
    stride = max(1, round(_round_up(steps / 5)))
    return Scale(0, steps, tuple(range(0, steps + 1, stride)))


def smooth(points: Sequence[Point], scale: Scale) -> list[Point]:
    """Return each point's mean with its neighbours, a twentieth of the run in all, in the shares of `scale`.

    The window is centred, so the line lags behind nothing; towards both ends it narrows to the point itself.
    """
    sums = list(accumulate((scale.share(y) for _, y in points), initial=0.0))
    reach = max(2, len(points) // 40)
    smoothed = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        smoothed.append((x, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return smoothed


def curve(
    points: Sequence[Point],
    title: str,
    *,
    steps: int,
    unit: str = "",
    smoothed: bool = True,
    marks: Mapping[str, float] | None = None,
    dots: Sequence[Point] = (),
) -> str:
    """Return the chart of (step, value) `points` over the `steps` of a run, with a dashed line for each of `marks`.

    With `smoothed` the points are drawn thin and their mean thick. `dots` are drawn one by one, joined by a line. All
    values are finite and there are two points at least.
    """
    marks = marks or {}
    across = step_scale(steps)
    up = value_scale([y for _, y in (*points, *dots)] + list(marks.values()))
    words = ", ".join(part for part in (unit, "log scale" if up.log else "") if part)
    raw = [(x, up.share(y)) for x, y in points]
    lines = [_path(raw, across, "raw" if smoothed else "line")]
    if smoothed:
        lines.append(_path(smooth(points, up), across, "line"))
    seen = [(x, up.share(y)) for x, y in dots]
    if seen:
        lines.append(_path(seen, across, "held-out"))
    return "".join(
        [
            f'<svg class="plot" role="img" aria-label="{escape(title)} over the steps">',
            f'<text class="unit" x="0" y="0" dx="-56" dy="-12">{escape(words)}</text>',
            *(_level(up.share(tick), short(tick)) for tick in up.ticks),
            *(_step(across.share(tick), short(tick)) for tick in across.ticks),
            '<text class="axis" x="100%" y="100%" dy="36">step</text>',
            f'<svg class="lines" viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none">',
            *lines,
            "</svg>",
            *(dot(across.share(x), y) for x, y in seen),
            *(_mark(up.share(value), name) for name, value in marks.items()),
            "</svg>",
        ]
    )


@dataclass(frozen=True)
class Axis:
    """Values along the foot of a plot: (share of the width, words) of each tick, and where any value lies."""

    ticks: tuple[tuple[float, str], ...]
    share: Callable[[Any], float]
    words: str


def number_axis(low: float, high: float, words: str, *, log: bool) -> Axis:
    """Return the axis of a number from `low` to `high`."""
    scale = _log_scale(low, high) if log else _linear_scale(low, high)
    return Axis(tuple((scale.share(tick), short(tick)) for tick in scale.ticks), scale.share, words)


def name_axis(names: Sequence[Any], words: str) -> Axis:
    """Return the axis of some values side by side."""
    places = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
    return Axis(tuple((place, str(name)) for name, place in places.items()), places.__getitem__, words)


def scatter(points: Sequence[tuple[Any, float, str, str]], title: str, axis: Axis, *, unit: str = "") -> str:
    """Return the chart of (value on the axis, height, class, words for whoever points at it), one dot each.

    Heights are told on a scale that ends where they do, for it is their differences that matter. They are finite, and
    there is one at least.
    """
    heights = [y for _, y, _, _ in points]
    up = _linear_scale(min(heights), max(heights))
    return "".join(
        [
            f'<svg class="plot" role="img" aria-label="{escape(title)}">',
            f'<text class="unit" x="0" y="0" dx="-56" dy="-12">{escape(unit)}</text>',
            *(_level(up.share(tick), short(tick)) for tick in up.ticks),
            *(_step(share, escape(words)) for share, words in axis.ticks),
            f'<text class="axis" x="100%" y="100%" dy="36">{escape(axis.words)}</text>',
            *(dot(axis.share(x), up.share(y), tone=tone, words=words) for x, y, tone, words in points),
            "</svg>",
        ]
    )


def dot(across: float, up: float, *, tone: str = "held-out", words: str = "") -> str:
    """Return a dot at these shares of a plot; `words` are told to whoever points at it."""
    told = f"<title>{escape(words)}</title>" if words else ""
    return f'<circle class="{escape(tone)}" cx="{_percent(across)}" cy="{_percent(1 - up)}" r="3.5">{told}</circle>'


def bar(share: float, *, tone: str, interval: Sequence[float] | None = None) -> str:
    """Return a bar that is `share` (0..1) of its track, with whiskers at the ends of `interval`."""
    parts = ['<rect class="track" width="100%" height="100%"/>']
    parts.append(f'<rect class="{escape(tone)}" width="{_percent(share)}" height="100%"/>')
    if interval is not None:
        low, high = (_percent(limit) for limit in interval)
        parts.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>')
        parts += [f'<line class="whisker" x1="{x}" x2="{x}" y1="25%" y2="75%"/>' for x in (low, high)]
    return f'<svg class="bar" aria-hidden="true">{"".join(parts)}</svg>'


def short(value: float, *, digits: int = 4) -> str:
    """Return `value` to so many significant digits in few characters: 0.05, 1e-5, 20000."""
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    number, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{number}e{int(exponent)}" if exponent else number


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return the points that can be seen: all of a short line, the extremes of each slice of a long one."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def _path(shares: Sequence[Point], across: Scale, tone: str) -> str:
    drawn = " ".join(f"{SIDE * across.share(x):.2f},{SIDE * (1 - y):.2f}" for x, y in thinned(shares))
    return f'<polyline class="{tone}" points="{drawn}"/>'


def _level(share: float, words: str) -> str:
    y = _percent(1 - share)
    line = f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
    return f'{line}<text class="y" x="0" y="{y}" dx="-8" dy="4">{words}</text>'


def _step(share: float, words: str) -> str:
    return f'<text class="x" x="{_percent(share)}" y="100%" dy="19">{words}</text>'


def _mark(share: float, words: str) -> str:
    y = _percent(1 - share)
    return (
        f'<line class="mark" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        f'<text class="marked" x="100%" y="{y}" dy="-6">{escape(words)}</text>'
    )


def _percent(share: float) -> str:
    return f"{round(100 * share, 3):g}%"


def _linear_scale(low: float, high: float) -> Scale:
    if low == high:
        high = low + 1
    stride = _round_up((high - low) / 4)
    first, last = math.floor(low / stride + 1e-9), math.ceil(high / stride - 1e-9)
    ticks = tuple(i * stride for i in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], ticks)


def _log_scale(low: float, high: float) -> Scale:
    """End at 1, 2 or 5 times a power of ten; bear the powers of ten, or all three where those are few."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    rounds = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    first, last = max(r for r in rounds if r <= low), min(r for r in rounds if r >= high)
    powers = [power for power in rounds[::3] if first <= power <= last]
    ticks = [r for r in rounds if first <= r <= last] if len(powers) < 3 else powers[:: math.ceil(len(powers) / 6)]
    return Scale(first, last, tuple(ticks), log=True)


def _round_up(value: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is not below `value`."""
    decade = math.floor(math.log10(value))
    return next(r for r in (float(f"{m}e{d}") for d in (decade, decade + 1) for m in (1, 2, 5)) if r >= value)
