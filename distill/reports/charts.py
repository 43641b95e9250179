"""Charts as inline SVG that follow the page's light or dark setting: line charts and strip plots.

    line_chart("NSS of video 002", [Curve("teacher", seconds, values, smooth=True)], x="time (s)", y="NSS")
    strip_plot("NSS", {"teacher": {"002": 3.4, "068": 2.9}}, x="NSS, mean over a video's frames")

Models differ by more than colour: by dashes in line charts, by row in strip plots. The six colours are
distinguishable for colour-blind readers and have enough contrast on both page backgrounds (tested).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from distill.reports.templating import render

COLOURS = {
    "light": ("#1d46d2", "#cc7a00", "#2f9a6a", "#7a0f5c", "#a07bc8", "#453c08"),
    "dark": ("#6ba3d8", "#dd6a2e", "#63f2d2", "#c653f5", "#f5c518", "#8f877b"),
}
"""One colour per model, for each page setting; a seventh model reuses the first."""

DASHES = ("", "9 4", "2.5 3.5", "10 4 2.5 4", "5 3", "14 5")
"""One dash pattern per model, in the order of the colours."""

POINTS = 400
"""Largest number of points drawn per curve; longer curves are averaged over this many parts."""

WIDTH, RIGHT, HEIGHT = 460, 14, 250
"""Width of a chart, its right margin, and the height of a line chart, in SVG units (just under a CSS pixel)."""

NAMED_DOTS = 200
"""Largest number of videos whose dots show the video's name on hover."""

MIN_BOX = 5
"""Smallest number of videos for which a quartile box is drawn."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: name in the legend.
        steps: x coordinates, increasing.
        values: y coordinates; NaN leaves a gap.
        smooth: draw a running mean, with the values faintly behind it.
        legend_value: number next to the name; defaults to the last value.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    smooth: bool = False
    legend_value: float | None = None


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    levels: Mapping[str, float] | None = None,
    x: str = "step",
    y: str = "",
    start: float | None = 0.0,
) -> Markup:
    """Return a chart of curves, with a legend.

    Args:
        title: heading.
        curves: lines to draw.
        levels: name -> value of dashed horizontal reference lines.
        x: name and unit of the x axis.
        y: name and unit of the y axis.
        start: start of the x axis; None starts at the first step.

    Returns:
        The chart; empty if no curve has a finite value.
    """
    curves = [_shorten(curve) for curve in curves]
    lines = [_running_mean(curve.values) if curve.smooth else curve.values for curve in curves]
    shown = [value for values in lines for value in values if math.isfinite(value)]
    if not shown:
        return Markup("")
    levels = levels or {}
    shown += levels.values()
    steps = [step for curve in curves for step in curve.steps]
    x_ticks, y_ticks = (
        round_ticks(min(steps) if start is None else start, max(steps)),
        round_ticks(min(shown), max(shown)),
    )
    low, high = y_ticks[0], y_ticks[-1]
    left, right, bottom = 50, WIDTH - RIGHT, HEIGHT - 38
    to_x, to_y = linear_scale(x_ticks[0], x_ticks[-1], left, right), linear_scale(low, high, bottom, 26)

    def segments(steps: Sequence[float], values: Sequence[float]) -> list[list[tuple[float, float]]]:
        # raw values of a smoothed curve can exceed the axis: clip them
        return [
            [(to_x(steps[i]), to_y(min(max(values[i], low), high))) for i in run] for run in _finite_runs(values)
        ]

    return render(
        "line_chart",
        title=title,
        x_name=x,
        y_name=y,
        x_ticks=[(to_x(tick), f"{tick:g}") for tick in x_ticks],
        y_ticks=[(to_y(tick), f"{tick:g}") for tick in y_ticks],
        curves=[
            {
                "label": curve.label,
                "style": f"c{index % len(DASHES)}",
                "figure": _three_digits(_last(values) if curve.legend_value is None else curve.legend_value),
                "segments": segments(curve.steps, values),
                "raw": segments(curve.steps, curve.values) if curve.smooth else [],
            }
            for index, (curve, values) in enumerate(zip(curves, lines, strict=True))
        ],
        levels=[
            {
                "name": name,
                "figure": _three_digits(value),
                "segments": segments([x_ticks[0], x_ticks[-1]], [value] * 2),
            }
            for name, value in levels.items()
        ],
        left=left,
        right=right,
        bottom=bottom,
        width=WIDTH,
        height=HEIGHT,
    )


def strip_plot(
    title: str,
    groups: Mapping[str, Mapping[str, float]],
    *,
    x: str,
    intervals: Mapping[str, Interval] | None = None,
) -> Markup:
    """Return a chart of each model's distribution over videos: a row with one dot per video, a box, and the mean.

    Dots that would overlap are stacked. A diamond marks the mean and a line its interval. With at least `MIN_BOX`
    videos, a box spans the quartiles with a line at the median.

    Args:
        title: heading.
        groups: model -> video -> value; NaN is skipped.
        x: name and unit of the x axis.
        intervals: model -> ends of the interval of the mean; NaN if there is none.

    Returns:
        The chart; empty if there is no finite value.
    """
    finite = {
        label: {name: value for name, value in values.items() if math.isfinite(value)}
        for label, values in groups.items()
    }
    intervals = intervals or {}
    shown = [value for values in finite.values() for value in values.values()]
    if not shown:
        return Markup("")
    shown += [end for pair in intervals.values() for end in pair if math.isfinite(end)]
    ticks = round_ticks(min(shown), max(shown))
    to_x = linear_scale(ticks[0], ticks[-1], 22, WIDTH - RIGHT - 6)
    row_height = 70 if max(map(len, finite.values())) > 1 else 50  # a single dot has neither box nor mean below it
    return render(
        "strip_plot",
        title=title,
        x_name=x,
        ticks=[(to_x(tick), f"{tick:g}") for tick in ticks],
        rows=[
            _strip(label, values, intervals.get(label, (math.nan, math.nan)), to_x, 4 + row_height * index)
            | {"style": f"c{index % len(DASHES)}"}
            for index, (label, values) in enumerate(finite.items())
        ],
        bottom=4 + row_height * len(finite),
        width=WIDTH,
    )


def _strip(
    label: str, values: Mapping[str, float], interval: Interval, to_x: Callable[[float], float], top: float
) -> dict[str, Any]:
    """Return the template's values for the row of one model."""
    strip: dict[str, Any] = {"label": label, "top": top, "named": len(values) <= NAMED_DOTS, "box": None}
    strip |= {"dots": [], "radius": 0, "interval": None, "mean": None, "figure": "no value"}
    if not values:
        return strip
    numbers = np.array(list(values.values()))
    mean = float(numbers.mean())
    bounded = all(map(math.isfinite, interval))
    strip["figure"] = f"{mean:.3f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if bounded else "")
    strip["radius"] = next(
        (radius for most, radius in ((20, 4.5), (60, 3.2), (400, 2.2)) if len(values) <= most), 1.5
    )
    strip["dots"] = _dots(values, to_x, top + 37, strip["radius"])
    if len(values) >= MIN_BOX:
        strip["box"] = [to_x(float(value)) for value in np.percentile(numbers, [25, 50, 75])]
    if len(values) > 1:
        strip["mean"] = to_x(mean)
        strip["interval"] = [to_x(end) for end in interval] if bounded else None
    return strip


def _dots(
    values: Mapping[str, float], to_x: Callable[[float], float], middle: float, radius: float
) -> list[tuple[float, float, str, str]]:
    """Return (x, y, name, value) of one dot per video, stacked within 12 units of `middle` where they overlap."""
    stacks: dict[int, list[tuple[float, str]]] = {}
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        stacks.setdefault(int(to_x(value) // (2 * radius)), []).append((to_x(value), name))
    spacing = min(2 * radius, 24 / max(1, max(map(len, stacks.values())) - 1))
    return [
        (x, middle + (place - (len(stack) - 1) / 2) * spacing, name, f"{values[name]:.3f}")
        for stack in stacks.values()
        for place, (x, name) in enumerate(stack)
    ]


def linear_scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the linear function that maps [low, high] to [start, end]."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1)


def _three_digits(value: float) -> str:
    """Return a number with three significant digits; an empty string for NaN."""
    return f"{value:#.3g}" if math.isfinite(value) else ""


def _last(values: Sequence[float]) -> float:
    """Return the last finite value; NaN if there is none."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _finite_runs(values: Sequence[float]) -> list[np.ndarray]:
    """Return the indices of each run of consecutive finite values."""
    places = np.flatnonzero(np.isfinite(values))
    return [run for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(run)]


def _shorten(curve: Curve) -> Curve:
    """Return a curve of at most `POINTS` points, each the mean of neighbouring ones; NaN if none is finite."""
    if len(curve.steps) <= POINTS:
        return curve
    steps, values = (np.array_split(np.asarray(each, np.float64), POINTS) for each in (curve.steps, curve.values))
    return replace(
        curve, steps=[float(part.mean()) for part in steps], values=[_finite_mean(part) for part in values]
    )


def _running_mean(values: Sequence[float]) -> list[float]:
    """Return a centred mean over a twentieth of the values (fewer at the ends); NaN stays NaN."""
    half = max(1, len(values) // 40)
    array = np.asarray(values, dtype=np.float64)
    return [
        _finite_mean(array[max(0, place - half) : place + half + 1]) if math.isfinite(value) else math.nan
        for place, value in enumerate(values)
    ]


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def round_ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers that cover [low, high]."""
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
