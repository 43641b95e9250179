"""A report as one HTML file that needs nothing else: pictures, curves, video and style are inside.

    curves = chart_grid(learning_curves({"teacher": "runs/demo/teacher"}))
    sections = [section("Scores", table(...)), section("Learning curves", curves)]
    write_report("report.html", title="...", verdict=judge(scores), sections=sections)

Every function takes plain data and returns a piece of HTML; `write_report` puts the pieces on a page that follows
the reader's light or dark setting and fits a phone. Charts are drawn in `charts.py`.
"""

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw

from distill.files import write_text
from distill.reports import charts
from distill.reports.charts import Curve, chart
from distill.training.step_log import read_log

VIDEO_LIMIT = 16 * 2**20
"""Bytes up to which a video is put into the page; a larger one is linked."""


@dataclass(frozen=True)
class Verdict:
    """The first sentence of a report, and whether it is good news."""

    sentence: str
    good: bool


def judge(
    scores: Mapping[str, Mapping[str, float]],
    *,
    baseline: str = "centre prior",
    names: Sequence[str] = ("NSS", "CC"),
) -> Verdict:
    """Say whether every model beats the baseline on every named score (higher is better).

    A score that is NaN or missing counts as not beaten.

    Args:
        scores: row name -> score name -> value; one row is the baseline's.
        baseline: the baseline's row name.
        names: the scores that count.
    """
    base = scores[baseline]
    others = [row for row in scores if row != baseline]
    short = []
    for row in others:
        for name in names:
            value = scores[row].get(name, math.nan)
            if not value > base.get(name, math.nan):
                short.append(f"{row} has {name} {value:.3f} against {base.get(name, math.nan):.3f}")
    if short:
        return Verdict(f"Below the {baseline}: {'; '.join(short)}.", good=False)
    who = f"{' and '.join(others)} {'beats' if len(others) == 1 else 'beat'}"
    figures = "; ".join(
        f"{name} {', '.join(f'{scores[row][name]:.3f} ({row})' for row in others)} against {base[name]:.3f}"
        for name in names
    )
    return Verdict(f"{who[:1].upper()}{who[1:]} the {baseline}: {figures}.", good=True)


def section(heading: str, *pieces: str, lead: str = "") -> str:
    """Return a section with a heading, an introducing sentence and its pieces."""
    opening = f"<p>{escape(lead)}</p>" if lead else ""
    return f"<section><h2>{escape(heading)}</h2>{opening}{''.join(pieces)}</section>"


def part(heading: str, *pieces: str) -> str:
    """Return a part of a section, with a smaller heading."""
    return f'<div class="part"><h3>{escape(heading)}</h3>{"".join(pieces)}</div>'


def figures(values: Sequence[tuple[str, str]]) -> str:
    """Return a row of key figures, each a value and what it is."""
    tiles = (f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>" for value, label in values)
    return f'<div class="figures">{"".join(tiles)}</div>'


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its interval, for a table; NaN ends are left out."""

    value: float
    ends: tuple[float, float]


Cell = str | float | int | Estimate | None


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str = "",
    best: Mapping[str, str] | None = None,
) -> str:
    """Return a table; numbers are right-aligned, floats have three significant decimals, None and NaN a dash.

    Args:
        columns: headings.
        rows: one list of cells a row.
        caption: what the numbers are.
        best: column -> "high" or "low": the best number of that column is set in bold.
    """
    winners = {}
    for index, column in enumerate(columns):
        known = [x for row in rows if (x := _value(row[index])) is not None and math.isfinite(x)]
        if known and best and column in best:
            winners[index] = max(known) if best[column] == "high" else min(known)

    def cell(index: int, content: Cell) -> str:
        if isinstance(content, str):
            return f"<th scope='row'>{escape(content)}</th>" if index == 0 else f"<td>{escape(content)}</td>"
        value = _value(content)
        text = _number(value)
        bold = value is not None and winners.get(index) == float(value)
        ends = content.ends if isinstance(content, Estimate) else ()
        interval = (
            f"<small>{' to '.join(map(_number, ends))}</small>" if ends and all(map(math.isfinite, ends)) else ""
        )
        return f'<td class="number">{f"<b>{text}</b>" if bold else text}{interval}</td>'

    texts = [all(isinstance(row[index], str) for row in rows) for index in range(len(columns))]
    head = "".join(
        f"<th scope='col'{'' if text else ' class=number'}>{_heading(column, best)}</th>"
        for column, text in zip(columns, texts, strict=True)
    )
    body = "".join(f"<tr>{''.join(cell(i, value) for i, value in enumerate(row))}</tr>" for row in rows)
    foot = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{foot}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _value(cell: Cell) -> float | int | None:
    return cell.value if isinstance(cell, Estimate) else None if isinstance(cell, str) else cell


def _heading(column: str, best: Mapping[str, str] | None) -> str:
    arrow = {"high": " ↑", "low": " ↓"}.get((best or {}).get(column, ""), "")
    return escape(column) + (f"<span class='quiet'>{arrow}</span>" if arrow else "")


def _number(value: float | int | None) -> str:
    if value is None or not math.isfinite(value):
        return "&ndash;"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def series(lines: Sequence[Mapping[str, Any]], kind: str, *keys: str) -> tuple[list[float], list[float]]:
    """Pick (steps, values) out of a run's log, for example of kind "validation" with the keys "scores", "nss".

    Lines without the value, or with one that is no finite number, are passed over.
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
) -> list[str]:
    """Draw the learning curves of some runs from their log.jsonl files.

    One chart a validation score with all runs in it, then one a run with its training terms.

    Args:
        runs: label -> run folder.
        levels: score (as the log names it) -> label -> value, drawn as dashed lines to compare with.

    Returns:
        Charts; none for what no log holds.
    """
    logs = {label: read_log(Path(folder) / "log.jsonl") for label, folder in runs.items()}
    names = dict.fromkeys(
        name
        for lines in logs.values()
        for line in lines
        if line.get("kind") == "validation"
        for name in line.get("scores", {})
    )
    drawn = []
    for name in names:
        curves = [Curve(label, *series(lines, "validation", "scores", name)) for label, lines in logs.items()]
        score = name.upper().replace("_", "-")
        shown = [curve for curve in curves if curve.steps]
        drawn.append(chart(f"validation {score}", shown, levels=(levels or {}).get(name), y=score))
    for label, lines in logs.items():
        terms = dict.fromkeys(term for line in lines for term in line.get("terms", {}))
        curves = [
            Curve(term.replace("/", ", "), *series(lines, "train", "terms", term), smooth=True) for term in terms
        ]
        drawn.append(chart(f"{label}: training terms, unweighted", [c for c in curves if c.steps], y="loss term"))
    return [one for one in drawn if one]


Picture = tuple[np.ndarray, str]
"""An image (H, W, 3) uint8 and its caption."""


def examples(rows: Sequence[tuple[str, Sequence[Picture]]], *, side: int = 400) -> str:
    """Return pictures side by side, a labelled row each, every row as long as the first.

    Args:
        rows: label and pictures; an empty label leaves its line out.
        side: pixels to which a picture's longer side is shrunk; they are embedded as JPEG.
    """
    parts = [f'<div class="examples" style="--columns:{len(rows[0][1]) if rows else 1}">']
    for label, pictures in rows:
        parts.append(f"<h3>{escape(label)}</h3>" if label else "")
        for picture, caption in pictures:
            text = escape(caption)
            parts.append(
                f'<figure><img src="{picture_uri(picture, side)}" alt="{text}, {escape(label)}" loading="lazy">'
                f"<figcaption>{text}</figcaption></figure>"
            )
    return "".join([*parts, "</div>"])


def picture_uri(picture: np.ndarray, side: int) -> str:
    """Encode a picture (H, W, 3) uint8 as a JPEG data URI, shrunk to `side` when its longer side is longer."""
    image = Image.fromarray(picture)
    if max(image.size) > side:
        height, width = fit((image.height, image.width), side)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (height, width) shrunk, not grown, so that the longer of them is at most `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def mark_points(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Draw (K, 2) points (row, column) on a frame (H, W, 3) uint8 as ringed dots; returns a copy."""
    image = Image.fromarray(frame)
    draw = ImageDraw.Draw(image)
    radius = max(2.0, image.width / 110)
    for row, column in np.asarray(points).reshape(-1, 2):
        box = (column - radius, row - radius, column + radius, row + radius)
        draw.ellipse(box, fill=(255, 214, 10), outline=(20, 20, 20), width=max(1, round(radius / 3)))
    return np.asarray(image)


def video(path: str | Path, caption: str, *, page: str | Path) -> str:
    """Embed a video of at most 16 MiB; link a larger one by its path relative to the page's folder."""
    path = Path(path)
    if path.stat().st_size > VIDEO_LIMIT:
        link = quote(Path(os.path.relpath(path, Path(page).parent)).as_posix())
        return f'<p>{escape(caption)} <a href="{link}">{escape(path.name)}</a></p>'
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        '<figure class="video"><video controls muted loop playsinline preload="metadata" '
        f'src="data:video/mp4;base64,{data}"></video><figcaption>{escape(caption)}</figcaption></figure>'
    )


def notes(sentences: Sequence[str]) -> str:
    """Return a list of sentences: how the numbers were made."""
    return f'<ul class="notes">{"".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)}</ul>'


def write_report(
    path: str | Path,
    *,
    title: str,
    verdict: Verdict | None,
    sections: Sequence[str],
    lead: str = "",
    foot: str = "",
) -> None:
    """Write the page: the verdict first, then `lead`, then the sections in order. Replaces an earlier report."""
    opening = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    if verdict is not None:
        kind, mark = ("good", "") if verdict.good else ("bad", "<b>Warning.</b> ")
        opening = f'<p class="verdict {kind}">{mark}{escape(verdict.sentence)}</p>{opening}'
    write_text(
        path,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>'
        f"<style>{STYLE}{charts.STYLE}</style></head>\n<body><main><header><h1>{escape(title)}</h1>{opening}"
        "</header>\n" + "\n".join(sections) + f"\n<footer>{escape(foot)}</footer></main></body></html>\n",
    )


STYLE = """
:root{color-scheme:light dark;--page:#fff;--text:#1c2128;--quiet:#636b76;--line:#e2e5e9;--card:#f6f7f8;
--good:#e3f4e8;--good-edge:#2f9e55;--bad:#fdeceb;--bad-edge:#d1382c}
@media(prefers-color-scheme:dark){:root{--page:#14171b;--text:#e4e7eb;--quiet:#98a1ac;--line:#2d333b;--card:#1c2026;
--good:#16301f;--good-edge:#3fb968;--bad:#3a1b19;--bad-edge:#f2675c}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1120px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:1.9rem;line-height:1.2;letter-spacing:-.02em;margin:0 0 18px}h2{font-size:1.2rem;margin:48px 0 6px}
h3{font-size:.9rem;font-weight:600;margin:0}p{margin:.4em 0 1em;max-width:76ch}
.lead,.notes,footer,caption,figcaption{color:var(--quiet)}
.quiet{color:var(--quiet);font-weight:400}
.verdict{margin:0 0 14px;padding:13px 18px;border-left:4px solid var(--good-edge);border-radius:0 8px 8px 0;
background:var(--good);font-size:1.05rem;max-width:none}
.verdict.bad{border-color:var(--bad-edge);background:var(--bad)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:22px 0 0}
.figures div{background:var(--card);border-radius:10px;padding:14px 16px}
.figures b{display:block;font-size:1.5rem;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.figures span{display:block;font-size:.85rem;line-height:1.4;margin-top:3px;color:var(--quiet)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:10px 0;font-variant-numeric:tabular-nums}
caption{caption-side:bottom;text-align:left;font-size:.85rem;padding-top:10px}
th,td{padding:9px 14px;border-bottom:1px solid var(--line);text-align:left}th,.number{white-space:nowrap}
.number{text-align:right}.number small{display:block;color:var(--quiet);font-weight:400}
thead th{font-size:.85rem;font-weight:600;color:var(--quiet);border-bottom-width:2px}
th:first-child{padding-left:2px}
tbody th{font-weight:600;position:sticky;left:0;background:var(--page)}
.examples figcaption,.video figcaption,.chart figcaption{font-size:.84rem}
.examples{display:grid;grid-template-columns:repeat(var(--columns),1fr);gap:4px 10px;margin:14px 0}
.examples h3{grid-column:1/-1;margin-top:14px;color:var(--quiet);font-weight:500}
figure{margin:0}.part{margin-top:28px}.part>h3{font-size:1rem}
.examples img,video{display:block;width:100%;height:auto;border-radius:6px;background:var(--card)}
.video{max-width:760px}
.notes{padding-left:1.2em;max-width:86ch;font-size:.92rem}
.notes li{margin:.35em 0}
footer{margin-top:48px;padding-top:16px;border-top:1px solid var(--line);font-size:.85rem}a{color:inherit}
@media(max-width:640px){main{padding:24px 16px 40px}h1{font-size:1.5rem}.examples{grid-template-columns:1fr 1fr}
th,td{padding:8px 9px}}
""".strip()
