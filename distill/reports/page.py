"""Self-contained HTML reports: pictures, charts, video and style are embedded in one file.

    curves = learning_curves({"teacher": "runs/demo/teacher"})
    write_report("report.html", "demo", verdict=judge(scores), scores=table(...), curves=curves)

Pages and their pieces are rendered from `templates/`. A page follows the reader's light or dark setting and fits a
phone.
"""

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Template
from markupsafe import Markup
from PIL import Image, ImageDraw

from distill.files import write_text
from distill.reports.charts import COLOURS, DASHES, Curve, line_chart
from distill.reports.templating import render
from distill.training.step_log import read_log

VIDEO_LIMIT = 16 * 2**20
"""Size in bytes up to which a video is embedded; a larger one is linked."""

Picture = tuple[np.ndarray, str]
"""An image (H, W, 3) uint8 and its caption."""


@dataclass(frozen=True)
class Verdict:
    """First sentence of a report, and whether the result is good; otherwise it is shown as a warning."""

    sentence: str
    good: bool


@dataclass(frozen=True)
class Estimate:
    """Number in a table with the ends of its interval; an interval with a NaN end is not shown."""

    value: float
    ends: tuple[float, float]


Cell = str | float | int | Estimate | None


def judge(
    scores: Mapping[str, Mapping[str, float]],
    *,
    baseline: str = "centre prior",
    names: Sequence[str] = ("NSS", "CC"),
) -> Verdict:
    """Return a verdict on whether every model beats the baseline on every named score (higher is better).

    A NaN or missing score does not beat the baseline.

    Args:
        scores: row name -> score name -> value, with a row for the baseline.
        baseline: row name of the baseline.
        names: scores to compare.
    """
    base = scores[baseline]
    others = [row for row in scores if row != baseline]
    below = [
        f"{row} has {name} {value:.3f} against {base.get(name, math.nan):.3f}"
        for row in others
        for name in names
        if not (value := scores[row].get(name, math.nan)) > base.get(name, math.nan)
    ]
    if below:
        return Verdict(f"Below the {baseline}: {'; '.join(below)}.", good=False)
    who = f"{' and '.join(others)} {'beats' if len(others) == 1 else 'beat'}"
    values = "; ".join(
        f"{name} {', '.join(f'{scores[row][name]:.3f} ({row})' for row in others)} against {base[name]:.3f}"
        for name in names
    )
    return Verdict(f"{who[:1].upper()}{who[1:]} the {baseline}: {values}.", good=True)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str = "",
    best: Mapping[str, str] | None = None,
    ranked: Sequence[bool] | None = None,
) -> Markup:
    """Return a table with right-aligned numbers; None and NaN are shown as a dash.

    Args:
        columns: headings.
        rows: the cells of each row.
        caption: what the numbers are.
        best: column -> "high" or "low"; the best number of that column is bold.
        ranked: for each row, whether its numbers can be the best; defaults to all rows.
    """
    best = best or {}
    winners = best_cells(columns, rows, best, ranked)

    def cell(row: int, index: int, content: Cell) -> dict[str, Any]:
        if isinstance(content, str):
            return {"text": content, "number": False}
        value = _value(content)
        ends = content.ends if isinstance(content, Estimate) else ()
        return {
            "text": _number(value),
            "number": True,
            "best": (row, index) in winners,
            "interval": " to ".join(map(_number, ends)) if all(map(math.isfinite, ends)) else "",
        }

    return render(
        "table",
        caption=caption,
        columns=[
            {
                "name": column,
                "text": all(isinstance(row[index], str) for row in rows),
                "arrow": {"high": "↑", "low": "↓"}.get(best.get(column, ""), ""),
            }
            for index, column in enumerate(columns)
        ],
        rows=[
            [cell(number, index, content) for index, content in enumerate(row)] for number, row in enumerate(rows)
        ],
    )


def best_cells(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    best: Mapping[str, str],
    ranked: Sequence[bool] | None = None,
) -> set[tuple[int, int]]:
    """Return (row, column) of the best number of each column, several if they are equal; arguments of `table`."""
    found = set()
    for index, column in enumerate(columns):
        numbers = {
            row: float(value)
            for row, cells in enumerate(rows)
            if (ranked is None or ranked[row])
            and (value := _value(cells[index])) is not None
            and math.isfinite(value)
        }
        if numbers and column in best:
            winner = max(numbers.values()) if best[column] == "high" else min(numbers.values())
            found |= {(row, index) for row, value in numbers.items() if value == winner}
    return found


def _value(cell: Cell) -> float | int | None:
    return cell.value if isinstance(cell, Estimate) else None if isinstance(cell, str) else cell


def _number(value: float | int | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"  # noqa: RUF001 (a dash in the report)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def series(lines: Sequence[Mapping[str, Any]], kind: str, *keys: str) -> tuple[list[float], list[float]]:
    """Return (steps, values) from a run's log, e.g. of kind "validation" with the keys "scores", "nss".

    Lines without the value, or with a value that is not a finite number, are skipped.
    """
    steps, values = [], []
    for line in lines:
        value: Any = line if line.get("kind") == kind else None
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and math.isfinite(value):
            steps.append(float(line["step"]))
            values.append(float(value))
    return steps, values


def learning_curves(
    runs: Mapping[str, str | Path], levels: Mapping[str, Mapping[str, float]] | None = None
) -> list[Markup]:
    """Return the learning curves of runs, read from their log.jsonl files.

    Args:
        runs: label -> run folder.
        levels: score, as named in the log -> label -> value of a dashed reference line.

    Returns:
        One chart per validation score with all runs, then one chart per run with its training terms, without empty
        charts.
    """
    logs = {label: read_log(Path(folder) / "log.jsonl") for label, folder in runs.items()}
    validations = [line for lines in logs.values() for line in lines if line.get("kind") == "validation"]
    charts = []
    for name in dict.fromkeys(name for line in validations for name in line.get("scores", {})):
        curves = [Curve(label, *series(lines, "validation", "scores", name)) for label, lines in logs.items()]
        score = name.upper().replace("_", "-")
        shown = [curve for curve in curves if curve.steps]
        charts.append(line_chart(f"validation {score}", shown, levels=(levels or {}).get(name), y=score))
    for label, lines in logs.items():
        terms = dict.fromkeys(term for line in lines for term in line.get("terms", {}))
        curves = [
            Curve(term.replace("/", ", "), *series(lines, "train", "terms", term), smooth=True) for term in terms
        ]
        shown = [curve for curve in curves if curve.steps]
        charts.append(line_chart(f"{label}: training terms, unweighted", shown, y="loss term"))
    return [chart for chart in charts if chart]


def examples(rows: Sequence[tuple[str, Sequence[Picture]]], *, side: int = 400) -> Markup:
    """Return labelled rows of pictures, with as many columns as the first row has pictures.

    Args:
        rows: label and pictures; an empty label is not shown.
        side: largest length in pixels of a picture's longer side; pictures are embedded as JPEG.
    """
    return render(
        "examples",
        columns=len(rows[0][1]) if rows else 1,
        rows=[
            (label, [(picture_uri(image, side), caption) for image, caption in pictures])
            for label, pictures in rows
        ],
    )


def picture_uri(picture: np.ndarray, side: int) -> str:
    """Return an image (H, W, 3) uint8 as a JPEG data URI, shrunk if its longer side exceeds `side` pixels."""
    return _data_uri("image/jpeg", jpeg(picture, side))


def jpeg(picture: np.ndarray, side: int) -> bytes:
    """Return an image (H, W, 3) uint8 as JPEG, shrunk if its longer side exceeds `side` pixels."""
    image = Image.fromarray(picture)
    if max(image.size) > side:
        height, width = fit((image.height, image.width), side)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=86)
    return stream.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (height, width), shrunk if necessary so that the longer side is at most `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def mark_points(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return a copy of a frame (H, W, 3) uint8 with (K, 2) points (row, column) drawn as ringed dots."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    radius = max(2.0, image.width / 110)
    for row, column in np.asarray(points).reshape(-1, 2):
        box = (column - radius, row - radius, column + radius, row + radius)
        draw.ellipse(box, fill=(255, 214, 10), outline=(20, 20, 20), width=max(1, round(radius / 3)))
    return np.asarray(image)


def video(path: str | Path, caption: str, *, page: str | Path) -> Markup:
    """Return an MP4 file as an embedded video, or as a relative link if it has more than `VIDEO_LIMIT` bytes."""
    path = Path(path)
    embed = path.stat().st_size <= VIDEO_LIMIT
    return render(
        "video",
        caption=caption,
        name=path.name,
        link=quote(Path(os.path.relpath(path, Path(page).parent)).as_posix()),
        uri=_data_uri("video/mp4", path.read_bytes()) if embed else "",
    )


def write_report(
    path: str | Path, template: str | Template, *, verdict: Verdict | None, overwrite: bool = True, **values: Any
) -> None:
    """Write a page from a template that extends `page.html.j2`.

    Args:
        path: HTML file to write.
        template: name, or the template itself.
        verdict: shown first, unless it is None.
        overwrite: replace an existing file.
        values: other values of the template.
    """
    page = render(template, verdict=verdict, colours=COLOURS, dashes=DASHES, **values)
    write_text(path, f"{page}\n", overwrite=overwrite)
