"""Scores of an evaluation: means, bootstrap intervals, text table, files, and the paired difference of two."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat

from distill.data.text import plural
from distill.errors import UserError, reading, shorten
from distill.evaluation.metrics import METRICS
from distill.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_means
from distill.files import atomic_path, refuse_existing, write_json
from distill.limits import MAX_JSON_BYTES, check_limit
from distill.validation import read_json

Means = dict[str, float]
"""Metric -> mean; NaN if it is undefined everywhere."""

Intervals = dict[str, tuple[float, float]]
"""Metric -> (lower, upper); NaN with values from fewer than two recordings."""

AVERAGES = {"per_video": "mean over videos", "pooled": "pooled over frames"}
"""The two averages of the literature: of each video's mean (TinyHD, NTIRE), and of all frames (DHF1K)."""

WRITTEN = "scores of `saldistill evaluate -o`"

FILES = ("scores.json", "scores.csv", "videos.csv")
"""Files of the scores of one model."""

UNDEFINED = "-"
"""An undefined mean in a table; a note below counts the frames."""

ONE_RECORDING = "no intervals: they need at least two recordings"

VIDEO_ROWS = 40
"""With more videos than this the table omits them; videos.csv has them all."""


@dataclass(frozen=True)
class Row:
    """Scores of one frame (0-based); NaN where a metric is undefined, as NSS of a constant map."""

    video: str
    frame: int
    values: Means


@dataclass(frozen=True)
class Scores:
    """Scores of one map source, by frame.

    Attributes:
        name: name of the map source.
        metrics: names of the metrics, in the table's order.
        rows: one per scored frame, ordered by video and frame.
        frames_without_fixations: number of frames skipped because they have no fixation.
        videos_without_truth: videos skipped because they have no ground truth.
        how: how the numbers were computed, by subject.
        recordings: video -> recording that it was cut from, for the intervals; defaults to the video itself.
        average: key of AVERAGES that the protocol publishes, if any.
        seed: seed of the intervals.
    """

    name: str
    metrics: tuple[str, ...]
    rows: list[Row]
    frames_without_fixations: int = 0
    videos_without_truth: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)
    recordings: dict[str, str] = field(default_factory=dict)
    average: str | None = None
    seed: int = 0

    @cached_property
    def by_video(self) -> dict[str, Means]:
        """Mean of each metric over each video's frames."""
        videos: dict[str, list[Row]] = {}
        for row in self.rows:
            videos.setdefault(row.video, []).append(row)
        return {video: _means([row.values for row in rows], self.metrics) for video, rows in videos.items()}

    @property
    def pooled(self) -> Means:
        """Mean of each metric over all frames (DHF1K's average)."""
        return _means([row.values for row in self.rows], self.metrics)

    @property
    def per_video(self) -> Means:
        """Mean of the videos' means (TinyHD's and NTIRE's average)."""
        return _means(self.by_video.values(), self.metrics)

    @cached_property
    def intervals(self) -> dict[str, Intervals]:
        """95% bootstrap intervals of both averages (keys of AVERAGES), over recordings."""
        frames = [(row.video, row.values) for row in self.rows]
        return {"per_video": self._intervals(list(self.by_video.items())), "pooled": self._intervals(frames)}

    def _intervals(self, rows: Sequence[tuple[str, Means]]) -> Intervals:
        """Return the intervals of the means of rows (video, values)."""
        values = np.array([[means[metric] for metric in self.metrics] for _, means in rows])
        ends = bootstrap_means(values, [self.recording(video) for video, _ in rows], seed=self.seed)
        return {metric: (float(low), float(high)) for metric, low, high in zip(self.metrics, *ends, strict=True)}

    @property
    def undefined(self) -> dict[str, int]:
        """Number of scored frames on which each metric is undefined, which its mean leaves out."""
        return {metric: sum(math.isnan(row.values[metric]) for row in self.rows) for metric in self.metrics}

    @property
    def count_recordings(self) -> int:
        """Number of recordings that the scored videos were cut from."""
        return len({self.recording(video) for video in self.by_video})

    def recording(self, video: str) -> str:
        """Return the recording that a video was cut from; its own name if unknown."""
        return self.recordings.get(video, video)

    def table(self) -> str:
        """Return the scores as text: one line per video, both averages with intervals, and footnotes."""
        videos = self.by_video if len(self.by_video) <= VIDEO_ROWS else {}
        return "\n".join([*self.lines(videos), *self._notes()])

    def lines(self, videos: Mapping[str, Means], form: str = "{:>9.4f}") -> list[str]:
        """Lay out a heading, some videos' means, and both averages with intervals, in lines of equal length."""
        lines = list(videos.items())
        labels = {
            "per_video": f"mean over {plural(len(self.by_video), 'video')}",
            "pooled": f"pooled over {plural(len(self.rows), 'frame')}",
        }
        for average, label in labels.items():
            lines.append((label + " *" * (average == self.average), getattr(self, average)))
            if self.count_recordings > 1:
                ends = self.intervals[average]
                lower, upper = ({metric: pair[end] for metric, pair in ends.items()} for end in (0, 1))
                lines.append((f"  {LEVEL:.0%} over {self.count_recordings} recordings, lower", lower))
                lines.append(("  upper", upper))
        width = max(len(self.name), *(len(label) for label, _ in lines))
        text = [f"{self.name:<{width}}" + "".join(f"{METRICS[metric].title:>9}" for metric in self.metrics)]
        for label, means in lines:
            cells = [
                form.format(means[metric]) if math.isfinite(means[metric]) else f"{UNDEFINED:>9}"
                for metric in self.metrics
            ]
            text.append(f"{label:<{width}}" + "".join(cells))
        return text

    def _notes(self) -> list[str]:
        """Return footnotes: the published average, missing intervals, and what was left out."""
        notes = []
        if self.average is not None:
            notes.append(f"* the protocol publishes this average: {AVERAGES[self.average]}")
        if self.count_recordings < 2:
            notes.append(ONE_RECORDING)
        if self.frames_without_fixations:
            notes.append(f"skipped: {plural(self.frames_without_fixations, 'frame')} without fixations")
        if self.videos_without_truth:
            notes.append(f"skipped: no ground truth for {', '.join(self.videos_without_truth)}")
        return notes + self.undefined_notes()

    def undefined_notes(self) -> list[str]:
        """Return a sentence for each metric that is undefined on some frames."""
        return [
            f"{METRICS[metric].title} is undefined on {count} of {len(self.rows)} frames (constant map or "
            "no density), which its means leave out"
            for metric, count in self.undefined.items()
            if count
        ]

    def save(self, folder: str | Path) -> None:
        """Write scores.json (means, intervals, counts, methods), scores.csv (frames) and videos.csv (videos).

        Frames are counted from 1 in the files; an undefined value is null or empty.

        Raises:
            UserError: if one of the files exists.
        """
        folder = Path(folder)
        for name in FILES:
            refuse_existing(folder / name, "a file of scores")
        counts = Counter(row.video for row in self.rows)
        frames = ({"video": row.video, "frame": row.frame + 1, **without_nan(row.values)} for row in self.rows)
        videos = (
            {"video": video, "recording": self.recording(video), "frames": counts[video], **without_nan(means)}
            for video, means in self.by_video.items()
        )
        _write_csv(folder / "scores.csv", ["video", "frame", *self.metrics], frames)
        _write_csv(folder / "videos.csv", ["video", "recording", "frames", *self.metrics], videos)
        write_json(folder / "scores.json", self.as_dict(), overwrite=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the content of scores.json."""
        return {
            "name": self.name,
            **self.summary(),
            "average": self.average,
            "frames_without_fixations": self.frames_without_fixations,
            "videos_without_truth": self.videos_without_truth,
        }

    def summary(self) -> dict[str, Any]:
        """Return means, intervals, counts and methods as JSON data."""
        return {
            "per_video": without_nan(self.per_video),
            "pooled": without_nan(self.pooled),
            "intervals": {average: without_nan(ends) for average, ends in self.intervals.items()},
            "frames": len(self.rows),
            "recordings": self.count_recordings,
            "undefined": self.undefined,
            "how": self.how,
            "videos": {video: without_nan(means) for video, means in self.by_video.items()},
        }


class ScoresFile(BaseModel):
    """The part of scores.json that is read."""

    name: str
    per_video: dict[str, FiniteFloat | None] = Field(min_length=1)
    frames: int
    frames_without_fixations: int = Field(ge=0)
    videos_without_truth: list[str]
    how: dict[str, str]
    average: Literal["per_video", "pooled"] | None


def read_scores(folder: str | Path) -> Scores:
    """Read the files of `Scores.save`; the intervals use the default seed.

    Raises:
        UserError: if the folder holds no scores, or damaged ones.
    """
    folder = Path(folder)
    found = read_json(folder / "scores.json", ScoresFile, WRITTEN, "evaluate again")
    metrics = tuple(found.per_video)
    if unknown := [name for name in metrics if name not in METRICS]:
        raise UserError(f"{folder / 'scores.json'}: unknown metric {shorten(unknown[0])!r}; evaluate again")
    lines = _read_csv(folder / "scores.csv", ("video", "frame", *metrics))
    with reading(folder / "scores.csv", WRITTEN, "evaluate again"):
        rows = [
            Row(line["video"], _frame(line["frame"]), {metric: _number(line[metric]) for metric in metrics})
            for line in lines
        ]
    if len(rows) != found.frames:
        raise UserError(
            f"{folder / 'scores.csv'}: has {len(rows)} frames, and scores.json has {found.frames}; evaluate again"
        )
    recordings = {
        line["video"]: line["recording"] for line in _read_csv(folder / "videos.csv", ("video", "recording"))
    }
    return Scores(
        found.name,
        metrics,
        rows,
        found.frames_without_fixations,
        found.videos_without_truth,
        found.how,
        recordings,
        found.average,
    )


@dataclass(frozen=True)
class Comparison:
    """Difference of two evaluations on the frames that both scored.

    Attributes:
        first: name of the reference.
        second: name of what is compared with it.
        difference: the second's scores minus the first's, by frame; NaN where either is undefined.
    """

    first: str
    second: str
    difference: Scores

    def __str__(self) -> str:
        significant = [
            f"{METRICS[metric].title} ({'better' if (low > 0) == METRICS[metric].higher_is_better else 'worse'})"
            for metric, (low, high) in self.difference.intervals["per_video"].items()
            if low > 0 or high < 0
        ]
        note = "mean over videos: the interval excludes zero for " + (", ".join(significant) or "no metric")
        if self.difference.count_recordings < 2:
            note = ONE_RECORDING
        lines = self.difference.lines({}, "{:>+9.4f}")
        return "\n".join([*lines, note, *self.difference.undefined_notes()])

    def save(self, path: str | Path) -> None:
        """Write the differences and their intervals as JSON.

        Raises:
            UserError: if the file exists.
        """
        refuse_existing(path, "a comparison")
        write_json(path, self.as_dict(), overwrite=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the content of difference.json."""
        return {"first": self.first, "second": self.second, **self.difference.summary()}


def compare_scores(first: Scores, second: Scores) -> Comparison:
    """Return the second's scores minus the first's, paired by frame, with intervals.

    Raises:
        UserError: if they share no metric or no frame.
    """
    metrics = tuple(metric for metric in first.metrics if metric in second.metrics)
    theirs = {(row.video, row.frame): row.values for row in second.rows}
    rows = [
        Row(row.video, row.frame, {metric: values[metric] - row.values[metric] for metric in metrics})
        for row in first.rows
        if (values := theirs.get((row.video, row.frame))) is not None
    ]
    if not metrics or not rows:
        raise UserError(
            f"{first.name} and {second.name}: cannot be compared, as they share no "
            f"{'frame' if metrics else 'metric'}; score both on the same data"
        )
    difference = Scores(
        f"{second.name} minus {first.name}",
        metrics,
        rows,
        how=second.how | {"difference": f"from {first.name}, frame by frame"},
        recordings=first.recordings,
        average=first.average,
        seed=first.seed,
    )
    return Comparison(first.name, second.name, difference)


def mean_scores(name: str, several: Sequence[Scores]) -> Scores:
    """Return the mean of several scores of the same frames, frame by frame."""
    rows = []
    for same in zip(*(each.rows for each in several), strict=True):
        values = {metric: fmean([row.values[metric] for row in same]) for metric in same[0].values}
        rows.append(Row(same[0].video, same[0].frame, values))
    return replace(several[0], name=name, rows=rows)


def describe_intervals(seed: int) -> str:
    """Return how intervals are computed, for reports."""
    return (
        f"{LEVEL:.0%}, percentiles of {RESAMPLES} bootstrap means over whole recordings drawn with replacement "
        f"(seed {seed})"
    )


def _means(rows: Iterable[Means], metrics: Sequence[str]) -> Means:
    """Return the mean of each metric over the rows where it is defined; NaN if there are none."""
    rows, means = list(rows), {}
    for metric in metrics:
        defined = [row[metric] for row in rows if not math.isnan(row[metric])]
        means[metric] = math.fsum(defined) / len(defined) if defined else math.nan
    return means


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace undefined means or intervals by None, since JSON has no NaN."""
    return {metric: None if np.isnan(value).any() else value for metric, value in values.items()}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows; numbers can be read back exactly, None is empty."""
    with (
        atomic_path(path, overwrite=False) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _frame(text: str) -> int:
    """Return the 0-based number of a frame."""
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise ValueError(f"expected the number of a frame, got {shorten(repr(text))}")
    return int(text) - 1


def _number(text: str) -> float:
    """Return a score; NaN for an empty cell."""
    if text and not math.isfinite(float(text)):
        raise ValueError(f"expected a number, got {text}")
    return float(text or "nan")


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the lines of a CSV file that has at least some columns, with a cell in each.

    Raises:
        UserError: it cannot be read, or a column or cell is missing.
    """
    with reading(path, WRITTEN, "evaluate again"):
        check_limit(path.stat().st_size, MAX_JSON_BYTES, f"{path}: bytes")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            lines = list(reader)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"no column {min(missing)}")
        for number, line in enumerate(lines, 2):
            if None in line or None in line.values():
                raise ValueError(f"line {number} has too many or too few cells")
    return lines
