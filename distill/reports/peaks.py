"""Draw where the peak of a video's maps lies over time, as an SVG picture of its own."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.files import write_text
from distill.reports.charts import linear_scale, round_ticks
from distill.reports.templating import render

WIDTH, LEFT, RIGHT, PANEL, GAP, TOP = 900, 70, 20, 150, 46, 60
"""Sizes in SVG units: the picture's width, its margins, the height of a panel, the space below it and above all."""

POINTS = 2000
"""Largest number of points drawn per curve; of longer videos every n-th frame is drawn."""

PANELS = (
    ("peak_x", "peak, x (px)"),
    ("peak_y", "peak, y (px)"),
    ("spread", "spread (px)"),
)
"""Columns of the table that are drawn, with their titles."""


def plot_peaks(
    path: str | Path,
    rows: Sequence[Mapping[str, float]],
    size: tuple[int, int],
    *,
    title: str,
    overwrite: bool = False,
) -> None:
    """Write an SVG file with the peak's position and the map's spread over time; scene cuts are vertical lines.

    Args:
        path: the file.
        rows: one row per frame: the columns of `saldistill predict --csv`.
        size: (height, width) of the frames.
        title: heading.
        overwrite: replace an existing file.
    """
    shown = rows[:: math.ceil(len(rows) / POINTS)]
    times = round_ticks(rows[0]["seconds"], max(row["seconds"] for row in rows))
    to_x = linear_scale(times[0], times[-1], LEFT, WIDTH - RIGHT)
    limits = {"peak_x": size[1], "peak_y": size[0], "spread": max(row["spread"] for row in rows)}
    panels = []
    for number, (column, name) in enumerate(PANELS):
        top = TOP + number * (PANEL + GAP)
        ticks = [tick for tick in round_ticks(0, limits[column]) if tick <= limits[column] * 1.2]
        ends = (top, top + PANEL) if column == "peak_y" else (top + PANEL, top)  # y grows downwards
        to_y = linear_scale(0, max(ticks[-1], limits[column]), *ends)
        panels.append(
            {
                "name": name,
                "top": top,
                "bottom": top + PANEL,
                "ticks": [(to_y(tick), f"{tick:g}") for tick in ticks],
                "points": [(to_x(row["seconds"]), to_y(row[column])) for row in shown],
            }
        )
    picture = render(
        "peaks",
        title=title,
        width=WIDTH,
        left=LEFT,
        right=WIDTH - RIGHT,
        height=TOP + len(PANELS) * (PANEL + GAP) + 6,
        panels=panels,
        times=[(to_x(tick), f"{tick:g}") for tick in times],
        cuts=[to_x(row["seconds"]) for row in rows if row["cut"]],
    )
    write_text(path, f"{picture}\n", overwrite=overwrite)
