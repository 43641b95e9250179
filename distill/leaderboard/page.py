"""The page of a leaderboard in Markdown and HTML: one table per test set, a picture, and how it was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distill.data.text import plural
from distill.evaluation.metrics import METRICS as DEFINITIONS
from distill.evaluation.scores import UNDEFINED, describe_intervals
from distill.leaderboard.entries import TestSet
from distill.leaderboard.pareto import Panel, Point, pareto_plot
from distill.leaderboard.quality import CENTRE_SHARE, METRICS
from distill.leaderboard.table import UNKNOWN, Row, leak_text, quality_of
from distill.reports.experiment_tables import aligned_table
from distill.reports.page import Cell, Estimate, best_cells, table
from distill.shipped import shipped_name

EXPLAINED = "IG explained, %"

TITLES = {"explained": EXPLAINED, **{name: DEFINITIONS[name].title for name in METRICS}}
"""Score -> its heading."""

COSTS = {
    "milliseconds": "ms",
    "p99": "p99 ms",
    "memory_mb": "memory MB",
    "file_mb": "file MB",
    "state_mb": "state MB",
}
"""Field of `Cost` -> its heading."""

COLUMNS = ("model", EXPLAINED, "IG", "sAUC", "NSS", "CC", *COSTS.values(), "leaks")

ORDER = ("explained", "info_gain", "auc_shuffled", "nss", "cc")
"""Scores in the order of the columns."""

BEST = {TITLES[name]: "high" for name in ORDER} | {
    heading: "low" for name, heading in COSTS.items() if name != "state_mb"
}
"""Column -> which end is best. A state of 0 is not an advantage: such a network reads whole clips again."""

OPTIMAL, LEAKED = "◆", "†"
"""Marks of a Pareto-optimal model and of one that was trained on videos of the test set."""

LEAD = "Quality and cost of everything that was scored on the same videos, with costs from one run on one machine."


@dataclass(frozen=True)
class Section:
    """A test set on the page: its name, what it is, its rows and remarks on them."""

    name: str
    text: str
    rows: list[Row]
    remarks: list[str]


def sections_of(rows: Sequence[Row], tests: Sequence[TestSet]) -> list[Section]:
    """Return the sections of the test sets."""
    found = []
    for test in tests:
        own = [row for row in rows if row.test == test.name]
        most = max(own, key=lambda row: row.frames)
        recordings = f" of {plural(most.recordings, 'scene')}" if most.recordings < most.videos else ""
        count = plural(most.videos, test.unit)
        text = f"Means over {count}{recordings} ({plural(most.frames, 'frame')}); data: {shipped_name(test.data)}."
        if quality_of(own) != "explained":
            text += " The observers' own information gain is not positive here: sorted by NSS."
        found.append(Section(test.name, text, own, _remarks(own)))
    return found


def _remarks(rows: Sequence[Row]) -> list[str]:
    """Return remarks on rows: what is not scored or unknown and why, and which videos leaked."""
    remarks = []
    for row in rows:
        if row.scored_on == "unseen":
            continue
        if row.not_scored:
            remarks.append(f"{row.name}: not scored: {row.not_scored}")
        if row.cost is not None and row.cost.unknown:
            remarks.append(f"{row.name}: cost {UNKNOWN}: {row.cost.unknown}")
        if row.leaks is not None and row.leaks.status == "found":
            remarks.append(f"{row.name}: trained on {', '.join(row.leaks.videos)}: {row.leaks.reason}")
    unknown: dict[str, list[str]] = {}
    for row in rows:
        if row.leaks is not None and row.leaks.status == UNKNOWN:
            unknown.setdefault(row.leaks.reason, []).append(row.name)
    return remarks + [f"{', '.join(names)}: leaks {UNKNOWN}: {reason}" for reason, names in unknown.items()]


def cells_of(row: Row) -> list[Cell]:
    """Return the cells of a row, one per column."""
    name = f"{OPTIMAL} {row.name}" if row.optimal else row.name
    if row.scored_on == "unseen":
        name = f"{row.name}, {row.videos} not trained on"
    elif row.scores and row.leaks is not None and row.leaks.status == "found":
        name = f"{name} {LEAKED}"
    scores: list[Cell] = [row.scores.get(each) for each in ORDER]
    if row.not_scored:
        scores[0] = "not scored"
    elif isinstance(share := scores[0], Estimate):
        scores[0] = Estimate(100 * share.value, (100 * share.ends[0], 100 * share.ends[1]))
    costs: list[Cell] = [None] * len(COSTS)
    if row.cost is not None:
        costs = [UNKNOWN if row.cost.unknown else getattr(row.cost, each) for each in COSTS]
    return [name, *scores, *costs, leak_text(row) or UNDEFINED]


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the rows of a test set as a Markdown table; the best numbers are bold."""
    cells = [cells_of(row) for row in rows]
    bold = best_cells(COLUMNS, cells, BEST, [row.comparable for row in rows])
    lines = [
        [f"**{text}**" if (i, j) in bold else text for j, text in enumerate(map(_text, line))]
        for i, line in enumerate(cells)
    ]
    return aligned_table(COLUMNS, lines)


def _text(cell: Cell) -> str:
    """Return a cell as text: a number with three digits, an estimate with its interval."""
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    if isinstance(cell, Estimate):
        known = all(map(math.isfinite, cell.ends))
        return _text(cell.value) + (f" [{_text(cell.ends[0])}, {_text(cell.ends[1])}]" if known else "")
    if cell is None or not math.isfinite(cell):
        return UNDEFINED
    return f"{cell:.3f}" if abs(cell) < 10 else f"{cell:.1f}"


def picture_of(sections: Sequence[Section]) -> Markup:
    """Return the picture of quality against time; empty if nothing has a cost."""
    panels = []
    for section in sections:
        quality = quality_of(section.rows)
        scale = 100 if quality == "explained" else 1
        rows = [row for row in section.rows if row.scored_on == "all" and math.isfinite(row.score(quality))]
        points = [
            Point(row.name, row.cost.milliseconds, scale * row.score(quality), row.optimal)
            for row in rows
            if row.comparable and row.cost is not None and row.cost.milliseconds is not None
        ]
        levels = {row.name: scale * row.score(quality) for row in rows if row.cost is None}
        panels.append(Panel(f"{section.name}: {TITLES[quality]}", points, levels))
    return pareto_plot(panels)


def method_notes(setting: Mapping[str, Any], how: Mapping[str, str], seed: int) -> list[str]:
    """Return how the numbers were made, in sentences.

    Args:
        setting: of the measurement of costs; empty if nothing was measured.
        how: `Scores.how` of any scores.
        seed: seed of the intervals.
    """
    notes = [
        "IG explained: the mean information gain over the centre prior, divided by that of the observers, one half "
        "of whom predicts the other, on the frames where both are defined; 0 is the centre prior, 100 the "
        f"observers, whose blurred points have a centre prior of share {CENTRE_SHARE:g} mixed in for this. A "
        "model can exceed 100, because half of the observers are few. Maps that are zero where somebody looks, "
        "such as 8-bit maps, lose up to 52 bits per fixation.",
        f"Scores: {how['frames']}; {how.get('auc_shuffled', '')} (sAUC). Brackets: {describe_intervals(seed)}.",
        f"{OPTIMAL}: Pareto-optimal; no other model is at least as good and as fast, and better in one. Bold: the "
        "best of what can be compared, without the observers and what was trained on videos of the test set.",
        f"Leaks: whether it was trained on videos of the test set. {LEAKED}: it was, and its scores cannot be "
        "compared with others; the row below has its scores on the other videos, if there are any.",
    ]
    if setting:
        threads = "1 thread" if setting["threads"] == 1 else f"{setting['threads']} threads"
        notes.append(
            f"Cost: per map, in ONNX Runtime {setting['onnxruntime']} on {setting['device']} with {threads}, "
            f"{setting['rounds']} interleaved rounds; ms is the median; memory: {setting['memory']}; file: the "
            ".onnx file; state: what a streaming network keeps between frames. Folders of maps and baselines have "
            "none."
        )
    return notes


def markdown_page(sections: Sequence[Section], notes: Sequence[str], command: str, *, picture: str) -> str:
    """Return the page as Markdown.

    Args:
        sections: the test sets.
        notes: how it was measured.
        command: the command that made it; empty if there is none.
        picture: name of the file of the picture; empty without one.
    """
    parts = ["# Leaderboard", LEAD]
    if command:
        parts.append(f"```console\n{command}\n```")
    if picture:
        parts.append(f"![Quality against milliseconds per map]({picture})")
    for section in sections:
        parts += [f"## {_escape(section.name)}", _escape(section.text), markdown_table(section.rows).rstrip()]
        parts += ["\n".join(f"- {_escape(remark)}" for remark in section.remarks)] if section.remarks else []
    parts += ["## How it was measured", "\n".join(f"- {_escape(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    """Return text in which names from data are not Markdown or HTML."""
    return "".join(f"\\{letter}" if letter in "\\`*_<>[]|" else letter for letter in text)


def html_values(sections: Sequence[Section], notes: Sequence[str], picture: Markup) -> dict[str, Any]:
    """Return the values of the template `leaderboard`."""
    return {
        "lead": LEAD,
        "pareto": picture,
        "method": list(notes),
        "sections": [
            (
                section.name,
                section.text,
                table(
                    COLUMNS,
                    [cells_of(row) for row in section.rows],
                    best=BEST,
                    ranked=[row.comparable for row in section.rows],
                ),
                section.remarks,
            )
            for section in sections
        ],
    }
