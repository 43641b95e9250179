"""Tables of the GPU report in Markdown: one report, or two compared."""

from collections.abc import Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
"""The content of a report.json."""

IDENTITY = ("what", "model", "mode", "precision", "batch")
"""Keys that identify a row within its part."""

VALUES = {
    "milliseconds": ("ms", "{:.4g}"),
    "per_second": ("per second", "{:.4g}"),
    "share": ("of matrix rate", "{:.1%}"),
    "matrix_tflops": ("matrix TFLOP/s", "{:.4g}"),
    "memory_mb": ("memory MB", "{:,.0f}"),
    "busy": ("busy", "{:.1%}"),
    "note": ("note", "{}"),
    "error": ("error", "{}"),
}
"""Key of a value -> heading and format."""


def markdown(report: Report) -> str:
    """Return a report as Markdown: its setting, and a table for each part."""
    setting = ", ".join(f"{key} {value}" for key, value in report["setting"].items() if value is not None)
    lines = ["# GPU report", "", setting, ""]
    if report["setting"].get("quick"):
        lines += ["**A quick report proves the program; its figures mean nothing.**", ""]
    for name, part in report["parts"].items():
        rows = [row for row in report["rows"] if row["part"] == name]
        lines += [f"## {part['title']}", "", f"`{name}`: {part['status']}, {part['seconds']} s", ""]
        used = [key for key in (*IDENTITY, *VALUES) if any(row.get(key) is not None for row in rows)]
        headings = [VALUES[key][0] if key in VALUES else key for key in used]
        lines += [*table(headings, [[cell(key, row.get(key)) for key in used] for row in rows]), ""]
    return "\n".join(lines)


def comparison(one: Report, other: Report) -> str:
    """Return a Markdown table of the rows that two reports have in common: times, their ratio, shares and memory.

    Rows that only one report has, or that failed in one, say so.
    """
    names = [str(report["setting"]["device"]) for report in (one, other)]
    ours, theirs = ({_identity(row): row for row in report["rows"]} for report in (one, other))
    lines = []
    for key in dict.fromkeys([*ours, *theirs]):
        pair = [rows.get(key) for rows in (ours, theirs)]
        times = [None if row is None else row.get("milliseconds") for row in pair]
        if times == [None, None] and not any(row and "error" in row for row in pair):
            continue
        shown = [_time(row) for row in pair]
        ratio = f"{times[0] / times[1]:.3g}" if times[0] and times[1] else "-"
        more = [cell(name, row.get(name) if row else None) for name in ("share", "memory_mb") for row in pair]
        lines.append([" ".join(str(each) for each in key if each is not None), *shown, ratio, *more])
    headings = ["row", *(f"{name} ms" for name in "AB"), "A / B"]
    headings += [f"{name} {heading}" for heading in ("of matrix rate", "memory MB") for name in "AB"]
    return "\n".join([f"A: {names[0]}", f"B: {names[1]}", "", *table(headings, lines)])


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("part", *IDENTITY))


def _time(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "missing"
    return str(row["error"]) if "error" in row else cell("milliseconds", row.get("milliseconds"))


def cell(key: str, value: object) -> str:
    """Return a value as the text of a cell."""
    return "-" if value is None else VALUES[key][1].format(value) if key in VALUES else str(value)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; none without rows."""
    if not rows:
        return []
    lines = [headings, ["---"] * len(headings), *rows]
    return [
        "| " + " | ".join(each.replace("|", "\\|").replace("\n", " ") for each in line) + " |" for line in lines
    ]
