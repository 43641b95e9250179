"""Draw quality against time per map with its Pareto front, one panel per test set, as a separate SVG picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distill.reports.charts import linear_scale, round_ticks
from distill.reports.templating import render

WIDTH, LEFT, RIGHT, PANEL, TOP, GAP = 720, 56, 20, 260, 40, 84
"""Sizes in SVG units: width, margins, height of a panel, space above all panels and below each."""

LETTER, LINE = 6.4, 13
"""Width of a letter and height of a line of a label, about."""

AROUND = ((8, 4, "start"), (-8, 4, "end"), (8, -7, "start"), (8, 15, "start"), (-8, -7, "end"), (-8, 15, "end"))
"""Where a label can be next to its point: its offset, and its anchor."""

FAR = tuple(
    (across, 4 + side * LINE * steps, "start") for across in (40, 150) for steps in range(10) for side in (1, -1)
)
"""Where it can be otherwise, with a line to its point."""


@dataclass(frozen=True)
class Point:
    """A model in the picture: its name, milliseconds per map, quality, and whether it is on the front."""

    name: str
    milliseconds: float
    quality: float
    optimal: bool


@dataclass(frozen=True)
class Panel:
    """A test set in the picture.

    Attributes:
        title: heading: the test set and the quality.
        points: its models.
        levels: name -> quality of what has no cost, drawn as dashed lines.
    """

    title: str
    points: Sequence[Point]
    levels: Mapping[str, float]


def pareto_plot(panels: Sequence[Panel]) -> Markup:
    """Return the SVG picture; panels without points are left out, and it is empty if none has any."""
    shown = [panel for panel in panels if panel.points]
    if not shown:
        return Markup("")
    return render(
        "pareto",
        width=WIDTH,
        height=TOP + len(shown) * (PANEL + GAP) - GAP + 44,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=[_drawn(panel, TOP + place * (PANEL + GAP)) for place, panel in enumerate(shown)],
    )


def _drawn(panel: Panel, top: float) -> dict[str, Any]:
    """Return the template's values of one panel."""
    times = log_ticks([point.milliseconds for point in panel.points])
    lowest = min(0.0, *(point.quality for point in panel.points))
    levels = {name: value for name, value in panel.levels.items() if value >= lowest}
    values = [lowest, *(point.quality for point in panel.points), *levels.values()]
    qualities = round_ticks(min(values), max(values))
    to_log = linear_scale(math.log10(times[0]), math.log10(times[-1]), LEFT, WIDTH - RIGHT)
    to_y = linear_scale(qualities[0], qualities[-1], top + PANEL, top)
    places = [(to_log(math.log10(point.milliseconds)), to_y(point.quality)) for point in panel.points]
    labels = place_labels([point.name for point in panel.points], places, (top, top + PANEL))
    return {
        "title": panel.title,
        "top": top,
        "bottom": top + PANEL,
        "x_ticks": [(to_log(math.log10(tick)), f"{tick:g}") for tick in times],
        "y_ticks": [(to_y(tick), f"{tick:g}") for tick in qualities],
        "levels": [(to_y(value), name) for name, value in levels.items()],
        "front": sorted(place for point, place in zip(panel.points, places, strict=True) if point.optimal),
        "points": [
            {
                "name": point.name,
                "x": x,
                "y": y,
                "on": point.optimal,
                "label_x": lx,
                "label_y": ly,
                "anchor": anchor,
                "far": abs(lx - x) > 8,
            }
            for point, (x, y), (lx, ly, anchor) in zip(panel.points, places, labels, strict=True)
        ],
    }


def log_ticks(values: Sequence[float]) -> list[float]:
    """Return the numbers 1, 2 and 5 times powers of ten that cover some positive values; at least two."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = [factor * 10.0**power for power in range(low - 1, high + 1) for factor in (1, 2, 5)]
    first = max(place for place, step in enumerate(steps) if step <= min(values))
    last = min((place for place, step in enumerate(steps) if step >= max(values)), default=len(steps) - 1)
    return steps[first : max(last, first + 1) + 1]


def place_labels(
    names: Sequence[str], places: Sequence[tuple[float, float]], ends: tuple[float, float]
) -> list[tuple[float, float, str]]:
    """Return (x, y, anchor) of the label of each point: the first place where it covers nothing else.

    Args:
        names: the labels.
        places: the points.
        ends: top and bottom between which labels lie.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    found = []
    for name, (x, y) in zip(names, places, strict=True):
        candidates = [(x + across, y + down, anchor) for across, down, anchor in (*AROUND, *FAR)]
        boxes = [_box(name, *candidate) for candidate in candidates]
        free = [
            place
            for place, box in enumerate(boxes)
            if box[0] >= LEFT
            and box[2] <= WIDTH
            and ends[0] <= box[1]
            and box[3] <= ends[1] + LINE
            and not any(_overlap(box, other) for other in taken)
        ]
        best = free[0] if free else 0
        found.append(candidates[best])
        taken.append(boxes[best])
    return found


def _box(name: str, x: float, y: float, anchor: str) -> tuple[float, float, float, float]:
    """Return the left, top, right and bottom of a label."""
    left = x if anchor == "start" else x - LETTER * len(name)
    return left, y - LINE + 3, left + LETTER * len(name), y + 3


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
