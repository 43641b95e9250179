"""Charts as inline SVG, which follow the page's light or dark setting: lines over steps or time, and distributions.

    chart("NSS of video 002", [Curve("teacher", seconds, values, smooth=True)], x="time (s)", y="NSS")
    strips("NSS", {"teacher": {"002": 3.4, "068": 2.9}}, x="NSS, mean over a video's frames")

A model is told by more than its colour: by dashes in line charts, by a row of its own in distributions. The six
colours stay apart for colour-blind readers too (a test holds that), and stand out from both page backgrounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLOURS = {
    "light": ("#1d46d2", "#cc7a00", "#2f9a6a", "#7a0f5c", "#a07bc8", "#453c08"),
    "dark": ("#6ba3d8", "#dd6a2e", "#63f2d2", "#c653f5", "#f5c518", "#8f877b"),
}
"""One colour a model, in both settings; a seventh model starts over."""

DASHES = ("", "9 4", "2.5 3.5", "10 4 2.5 4", "5 3", "14 5")
"""One pattern a model, beside its colour."""

POINTS = 400
"""A longer curve is drawn as the means of so many parts: more do not fit into a chart's width."""

WIDTH, RIGHT, LINES_HEIGHT = 460, 14, 250
"""Of a drawing, in its own units, a little less than a pixel where the page is wide."""

NAMED_DOTS = 200
"""Up to so many videos, a dot of a distribution says which video it is when it is pointed at."""

BOX_FROM = 5
"""From so many videos on, a distribution has a box: quartiles of fewer say nothing that the dots do not."""


@dataclass(frozen=True)
class Curve:
    """One line of a chart: values by step.

    Attributes:
        label: its name in the legend.
        steps: where, increasing.
        values: NaN where there is none: the line has a gap there.
        smooth: draw a running mean, and the values faintly behind it.
        figure: the number beside the name; the last value when None.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    smooth: bool = False
    figure: float | None = None


def chart_grid(charts: Sequence[str]) -> str:
    """Set charts side by side where there is room, below each other where there is not."""
    return f'<div class="charts">{"".join(charts)}</div>'


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    levels: Mapping[str, float] | None = None,
    x: str = "step",
    y: str = "",
    start: float | None = 0.0,
) -> str:
    """Draw curves with a legend, and dashed horizontal `levels` to compare with.

    Args:
        title: what is shown.
        curves: lines; none, or none with a value, gives "".
        levels: name -> value.
        x: what the steps are, with the unit.
        y: what the values are, with the unit.
        start: where the axis of the steps begins; with the first step when None.
    """
    drawn = [_shorten(curve) for curve in curves]
    levels = levels or {}
    lines = [_running_mean(curve.values) if curve.smooth else list(curve.values) for curve in drawn]
    seen = [value for values in lines for value in values if math.isfinite(value)]
    if not seen:
        return ""
    seen += levels.values()
    left, top, bottom = 50, 26, 38
    steps = [step for curve in drawn for step in curve.steps]
    first = min(steps) if start is None else start
    ys, xs = _ticks(min(seen), max(seen)), _ticks(first, max(steps))
    low, high = ys[0], ys[-1]
    across = _scale(xs[0], xs[-1], left, WIDTH - RIGHT)
    up = _scale(low, high, LINES_HEIGHT - bottom, top)

    def line(steps: Sequence[float], values: Sequence[float], style: str) -> str:
        parts = []
        for run in _runs(values):
            points = [(across(steps[i]), up(min(max(values[i], low), high))) for i in run]  # raw ones may leave it
            if len(points) == 1:
                parts.append(f'<circle class="{style}" cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="2.5"/>')
            else:
                parts.append(
                    f'<polyline class="{style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'
                )
        return "".join(parts)

    parts = [
        f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>'
        f'<text x="{left - 7}" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in ys
    ]
    parts += _bottom_axis(xs, across, LINES_HEIGHT - bottom, x)
    if y:
        parts.append(f'<text class="axis" x="2" y="12">{escape(y)}</text>')
    parts += [line([xs[0], xs[-1]], [value, value], "level") for value in levels.values()]
    parts += [
        line(curve.steps, curve.values, f"raw c{index % 6}") for index, curve in enumerate(drawn) if curve.smooth
    ]
    keys = []
    for index, (curve, values) in enumerate(zip(drawn, lines, strict=True)):
        parts.append(line(curve.steps, values, f"curve c{index % 6}"))
        known = [value for value in values if math.isfinite(value)]
        figure = curve.figure if curve.figure is not None else known[-1] if known else math.nan
        keys.append(_key(curve.label, figure, f"curve c{index % 6}"))
    keys += [_key(name, value, "level") for name, value in levels.items()]
    return _figure(title, LINES_HEIGHT, parts, keys)


def strips(
    title: str,
    groups: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Draw distributions, one below the other on one axis: a dot a video, a box, and the mean.

    Dots that would cover each other are stacked, so that the strip bulges where there are many. From 5 videos on, a
    box holds the middle half with a line at the median; a diamond is the mean, its line the interval.

    Args:
        title: what is shown.
        groups: model -> video -> value; NaN is left out. No value at all gives "".
        x: what the values are, with the unit.
        intervals: model -> both ends; NaN where there is none.
    """
    known = {
        label: {name: value for name, value in values.items() if math.isfinite(value)}
        for label, values in groups.items()
    }
    if not any(known.values()):
        return ""
    left, top, bottom = 22, 4, 38
    row = 70 if max(map(len, known.values())) > 1 else 50  # a single dot has neither box nor mean below it
    height = top + row * len(known) + bottom
    ends = [end for pair in (intervals or {}).values() for end in pair if math.isfinite(end)]
    seen = [value for values in known.values() for value in values.values()] + ends
    ticks = _ticks(min(seen), max(seen))
    across = _scale(ticks[0], ticks[-1], left, WIDTH - RIGHT - 6)
    parts = [
        f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{top}" y2="{height - bottom}"/>'
        for tick in ticks
    ]
    for index, (label, values) in enumerate(known.items()):
        interval = (intervals or {}).get(label, (math.nan, math.nan))
        parts.append(f'<g class="c{index % 6}">{_strip(label, values, interval, across, top + row * index)}</g>')
    parts += _bottom_axis(ticks, across, height - bottom, x)
    return _figure(title, height, parts, [])


def _strip(
    label: str,
    values: Mapping[str, float],
    interval: tuple[float, float],
    across: Callable[[float], float],
    top: float,
) -> str:
    """Draw one model's strip: its name and mean, the dots, then box and mean below them."""
    parts = [f'<text class="name" x="0" y="{top + 14}">{escape(label)}</text>']
    if not values:
        return parts[0] + f'<text x="{WIDTH}" y="{top + 14}" text-anchor="end">no value</text>'
    numbers = np.array(list(values.values()))
    mean, told = float(numbers.mean()), f"{numbers.mean():.3f}"
    if all(map(math.isfinite, interval)):
        told += f" ({interval[0]:.3f} to {interval[1]:.3f})"
    parts.append(f'<text class="value" x="{WIDTH}" y="{top + 14}" text-anchor="end">{told}</text>')
    parts.append(_dots(values, across, top + 37))
    middle = top + 58
    if len(values) >= BOX_FROM:
        low, median, high = (across(float(value)) for value in np.percentile(numbers, [25, 50, 75]))
        parts.append(
            f'<rect class="box" x="{low:.1f}" y="{middle - 5}" width="{max(high - low, 1):.1f}" height="10"/>'
            f'<line class="median" x1="{median:.1f}" x2="{median:.1f}" y1="{middle - 5}" y2="{middle + 5}"/>'
        )
    if len(values) > 1:
        if all(map(math.isfinite, interval)):
            low, high = (across(end) for end in interval)
            parts.append(
                f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
                f'<path class="whisker" d="M{low:.1f} {middle - 3}v6M{high:.1f} {middle - 3}v6"/>'
            )
        parts.append(f'<path class="mean" d="M{across(mean):.1f} {middle - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>')
    return "".join(parts)


def _dots(values: Mapping[str, float], across: Callable[[float], float], middle: float) -> str:
    """Draw a dot a video around the line `middle`, stacked within 12 units of it where they would overlap."""
    radius = 4.5 if len(values) <= 20 else 3.2 if len(values) <= 60 else 2.2 if len(values) <= 400 else 1.5
    places = {name: across(value) for name, value in sorted(values.items(), key=lambda item: item[1])}
    stacks: dict[int, list[str]] = {}
    for name, place in places.items():
        stacks.setdefault(int(place // (2 * radius)), []).append(name)
    step = min(2 * radius, 24 / max(1, max(map(len, stacks.values())) - 1))
    dots = [
        (places[name], middle + (number - (len(stack) - 1) / 2) * step, name)
        for stack in stacks.values()
        for number, name in enumerate(stack)
    ]
    if len(dots) > NAMED_DOTS:  # one path, which a browser draws at once
        marks = "".join(f"M{a:.1f} {b:.1f}h0" for a, b, _ in dots)
        return f'<path class="dots" stroke-width="{2 * radius}" d="{marks}"/>'
    return "".join(
        f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="{radius}">'
        f"<title>{escape(name)}: {values[name]:.3f}</title></circle>"
        for a, b, name in dots
    )


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the function that maps [low, high] to [start, end]."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1)


def _bottom_axis(ticks: Sequence[float], across: Callable[[float], float], bottom: float, name: str) -> list[str]:
    """Draw the numbers below a drawing whose last line is `bottom`, and what they are."""
    parts = [
        f'<text x="{across(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>' for tick in ticks
    ]
    centre = (across(ticks[0]) + across(ticks[-1])) / 2
    return [
        *parts,
        f'<text class="axis" x="{centre:.1f}" y="{bottom + 33}" text-anchor="middle">{escape(name)}</text>',
    ]


def _key(label: str, figure: float, style: str) -> str:
    """Return one entry of a legend, its line drawn as in the chart."""
    number = f" <b>{figure:#.3g}</b>" if math.isfinite(figure) else ""
    line = f'<svg class="key" viewBox="0 0 30 6"><line class="{style}" x1="1" x2="29" y1="3" y2="3"/></svg>'
    return f"<span>{line}{escape(label)}{number}</span>"


def _figure(title: str, height: float, parts: Sequence[str], keys: Sequence[str]) -> str:
    legend = f"<figcaption>{''.join(keys)}</figcaption>" if keys else ""
    return (
        f'<figure class="chart"><h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>{legend}</figure>'
    )


def _runs(values: Sequence[float]) -> list[list[int]]:
    """Return the places of neighbouring values that are numbers, run by run."""
    runs: list[list[int]] = []
    open_run = False
    for place, value in enumerate(values):
        if math.isfinite(value):
            if not open_run:
                runs.append([])
            runs[-1].append(place)
        open_run = math.isfinite(value)
    return runs


def _shorten(curve: Curve) -> Curve:
    """Return a curve of at most POINTS points: means of neighbouring ones. A part without a value is NaN."""
    if len(curve.steps) <= POINTS:
        return curve
    values = np.array_split(np.asarray(curve.values, dtype=np.float64), POINTS)
    steps = np.array_split(np.asarray(curve.steps, dtype=np.float64), POINTS)
    return Curve(
        curve.label,
        [float(part.mean()) for part in steps],
        [_mean_of_known(part) for part in values],
        curve.smooth,
        curve.figure,
    )


def _running_mean(values: Sequence[float]) -> list[float]:
    """Smooth with a centred mean over a twentieth of the values, shrinking at the ends; NaN stays NaN."""
    half = max(1, len(values) // 40)
    array = np.asarray(values, dtype=np.float64)
    return [
        _mean_of_known(array[max(0, place - half) : place + half + 1]) if math.isfinite(value) else math.nan
        for place, value in enumerate(values)
    ]


def _mean_of_known(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers that cover [low, high]."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _colours(setting: str) -> str:
    return ";".join(f"--c{index}:{colour}" for index, colour in enumerate(COLOURS[setting]))


STYLE = (
    f":root{{{_colours('light')}}}@media(prefers-color-scheme:dark){{:root{{{_colours('dark')}}}}}"
    + "".join(f".c{index}{{color:var(--c{index})}}" for index in range(6))
    + "".join(f".curve.c{index}{{stroke-dasharray:{dash}}}" for index, dash in enumerate(DASHES) if dash)
    + """
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr));gap:30px 36px;
margin:16px 0}
.chart svg{display:block;width:100%;height:auto;margin:6px 0 2px}
.chart text{fill:var(--quiet);font-size:12px;font-variant-numeric:tabular-nums}
.chart text.name{fill:currentColor;font-weight:600}.chart text.value{fill:var(--text);font-weight:600}
.chart text.axis{font-size:11.5px}
.chart figcaption span{display:inline-block;margin-right:16px;white-space:nowrap}
.chart figcaption b{color:var(--text);font-weight:600;font-variant-numeric:tabular-nums}
.chart svg.key{display:inline-block;width:30px;height:6px;margin:0 6px 0 0;vertical-align:.2em}
.grid{stroke:var(--line)}.curve,.raw{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}
.raw{stroke-width:1;opacity:.28}circle.curve,circle.raw{fill:currentColor}
.level{stroke:var(--quiet);stroke-width:1.5;stroke-dasharray:3 3;fill:none}
.dot{fill:currentColor;fill-opacity:.75;stroke:var(--page);stroke-width:.6}
.dots{stroke:currentColor;stroke-linecap:round;opacity:.5;fill:none}
.box{fill:currentColor;opacity:.3}.median{stroke:currentColor;stroke-width:2.5}
.mean{fill:var(--text);stroke:var(--page);stroke-width:1}.whisker{stroke:var(--text);stroke-width:1.5;fill:none}
"""
)
"""What the drawings need of a page's style; the page has the colours --page, --text, --quiet and --line."""
