"""The rows of a leaderboard: quality, cost and leaks of every entry on every test set, in order, and as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distill.data.text import plural
from distill.evaluation.scores import Scores
from distill.leaderboard.cost import Cost
from distill.leaderboard.entries import Entry, TestSet
from distill.leaderboard.leaks import Leaks
from distill.leaderboard.quality import METRICS, NotScored, Result, estimates, without_videos
from distill.reports.page import Estimate

UNKNOWN = "unknown"

QUALITIES = ("explained", "nss")
"""What rows are sorted by: the first that is defined for any row of a test set."""

COSTS = ("milliseconds", "p99", "memory_mb", "file_mb", "state_mb", "weights", "gmacs")
"""Fields of `Cost` in the CSV file."""


@dataclass(frozen=True)
class Row:
    """One line: an entry on a test set.

    Attributes:
        test: name of the test set.
        name: name of the entry.
        reference: what was scored.
        kind: "model", "maps", "baseline" or "observers".
        scored_on: "all", or "unseen" for the part of the test set that the entry was not trained on.
        scores: "explained" and the metrics; empty if it is not scored.
        videos: number of videos that it is scored on.
        frames: number of frames that it is scored on.
        recordings: number of recordings, which the intervals resample.
        not_scored: why it has no scores; empty if it has.
        cost: what it costs; None for what is not a model.
        leaks: whether it was trained on videos of the test set; None for the observers.
        optimal: whether no comparable row is at least as good and as fast, and better in one.
    """

    test: str
    name: str
    reference: str
    kind: str
    scored_on: str = "all"
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    videos: int = 0
    frames: int = 0
    recordings: int = 0
    not_scored: str = ""
    cost: Cost | None = None
    leaks: Leaks | None = None
    optimal: bool = False

    @property
    def comparable(self) -> bool:
        """Whether its scores can be compared with those of others: scored on all videos, none of them leaked."""
        leaked = self.leaks is not None and self.leaks.status == "found"
        return bool(self.scores) and not leaked and self.kind != "observers"

    def score(self, name: str) -> float:
        """Return a score; NaN if it is undefined."""
        return self.scores[name].value if name in self.scores else math.nan


def make_rows(
    entries: Sequence[Entry],
    tests: Sequence[TestSet],
    results: Mapping[tuple[str, str], Result],
    costs: Mapping[str, Cost],
    leaks: Mapping[tuple[str, str], Leaks],
) -> list[Row]:
    """Return the rows of all test sets, each set in the order of its quality with the observers first."""
    found = []
    for test in tests:
        observers = next(results[test.name, entry.name] for entry in entries if entry.kind == "observers")
        ceiling = observers if isinstance(observers, Scores) else None
        rows = []
        for entry in entries:
            row = Row(
                test.name,
                entry.name,
                entry.reference,
                entry.kind,
                cost=costs.get(entry.name),
                leaks=leaks.get((test.name, entry.name)),
            )
            rows.append(_row(row, results[test.name, entry.name], ceiling))
        quality = quality_of(rows)
        rows = mark_optimal(sorted(rows, key=lambda row: _place(row, quality)), quality)
        for row in rows:
            unseen = _unseen(row, results[test.name, row.name], ceiling)
            found += [row] if unseen is None else [row, unseen]
    return found


def _row(row: Row, result: Result, ceiling: Scores | None) -> Row:
    """Return a row with the scores of a result."""
    if isinstance(result, NotScored):
        return replace(row, not_scored=result.reason)
    return replace(
        row,
        scores=estimates(result, ceiling),
        videos=len(result.by_video),
        frames=len(result.rows),
        recordings=result.count_recordings,
    )


def _unseen(row: Row, result: Result, ceiling: Scores | None) -> Row | None:
    """Return a row for the videos that a leaking entry was not trained on; None without a leak or such videos."""
    if row.leaks is None or row.leaks.status != "found" or isinstance(result, NotScored):
        return None
    unseen = without_videos(result, row.leaks.videos)
    if unseen is None:
        return None
    return _row(replace(row, scored_on="unseen", optimal=False), unseen, ceiling)


def _place(row: Row, quality: str) -> tuple[bool, bool, float, str]:
    """Return the key by which rows are sorted: observers, then the best first, then those without a score."""
    value = row.score(quality)
    return row.kind != "observers", not math.isfinite(value), -value if math.isfinite(value) else 0, row.name


def quality_of(rows: Sequence[Row]) -> str:
    """Return the score that rows of one test set are sorted by."""
    return next((each for each in QUALITIES if any(math.isfinite(row.score(each)) for row in rows)), QUALITIES[-1])


def mark_optimal(rows: Sequence[Row], quality: str) -> list[Row]:
    """Return the rows of one test set, with the Pareto-optimal ones marked; only comparable models take part."""
    candidates = [
        (row.score(quality), row.cost.milliseconds)
        if row.comparable and row.cost is not None and row.cost.milliseconds is not None
        else None
        for row in rows
    ]
    points = [point for point in candidates if point is not None and math.isfinite(point[0])]
    return [
        replace(
            row, optimal=point in points and point is not None and not any(_beats(other, point) for other in points)
        )
        for row, point in zip(rows, candidates, strict=True)
    ]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether one (quality, milliseconds) is at least as good in both as the other, and better in one."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def leak_text(row: Row) -> str:
    """Return the cell of the leak check."""
    if row.leaks is None:
        return ""
    return f"found: {plural(len(row.leaks.videos), 'video')}" if row.leaks.status == "found" else row.leaks.status


def as_plain(row: Row) -> dict[str, Any]:
    """Return a row as plain values, one per column of the CSV file; undefined scores are None."""
    values: dict[str, Any] = {
        "test": row.test,
        "name": row.name,
        "reference": row.reference,
        "kind": row.kind,
        "scored_on": row.scored_on if row.scores else None,
        "videos": row.videos,
        "frames": row.frames,
        "recordings": row.recordings,
    }
    for name in ("explained", *METRICS):
        estimate = row.scores.get(name, Estimate(math.nan, (math.nan, math.nan)))
        numbers = dict(zip((name, f"{name}_lower", f"{name}_upper"), (estimate.value, *estimate.ends), strict=True))
        values |= {key: value if math.isfinite(value) else None for key, value in numbers.items()}
    cost = {} if row.cost is None else asdict(row.cost)
    unknown = UNKNOWN if row.cost is not None and row.cost.unknown else None
    values |= {name: unknown if cost.get(name) is None else cost[name] for name in COSTS}
    return values | {
        "pareto": row.optimal,
        "leaks": None if row.leaks is None else row.leaks.status,
        "leaked_videos": [] if row.leaks is None else list(row.leaks.videos),
        "note": " ".join(each for each in (row.not_scored, "" if row.cost is None else row.cost.unknown) if each),
    }


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV: numbers as they are, undefined ones empty, leaked videos separated by spaces."""
    lines = [as_plain(row) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow(
            line | {"pareto": "yes" if line["pareto"] else "no", "leaked_videos": " ".join(line["leaked_videos"])}
        )
    return stream.getvalue()
