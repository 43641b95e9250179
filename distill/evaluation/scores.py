"""Scores of an evaluation: means, bootstrap intervals, text table, files, and the paired difference of two.

scores = evaluate(model_maps(model), videos)
print(scores.table())
scores.save("runs/demo/scores")
print(compare_scores(baseline, scores))
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_means
from distill.files import atomic_path, refuse_existing, write_json

Means = dict[str, float]
"""Metric -> mean; NaN if it is undefined everywhere."""

Intervals = dict[str, tuple[float, float]]
"""Metric -> (lower, upper); NaN with values from fewer than two recordings."""

AVERAGES = {"per_video": "mean over videos", "pooled": "pooled over frames"}
"""The two averages of the literature: of each video's mean (TinyHD, NTIRE), and of all frames (DHF1K)."""

ONE_RECORDING = "no intervals: they need at least two recordings"

VIDEO_ROWS = 40
"""With more videos than this the table omits them; videos.csv has them all."""


@dataclass(frozen=True)
class Row:
    """Scores of one frame (0-based); NaN where a metric is undefined, as NSS of a constant map."""

    video: str
    frame: int
    values: dict[str, float]


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
        return {"per_video": _intervals(self.by_video.items(), self), "pooled": _intervals(frames, self)}

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
        videos = self.by_video
        lines = list(videos.items()) if len(videos) <= VIDEO_ROWS else []
        for average, label in _labels(len(videos), len(self.rows), self.average).items():
            lines += _with_interval(label, getattr(self, average), self.intervals[average], self.count_recordings)
        return "\n".join([*_lines(self.name, lines, self.metrics), *self._notes()])

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
        for metric, count in self.undefined.items():
            if count:
                notes.append(
                    f"{METRICS[metric].title} is undefined on {count} of {len(self.rows)} frames (constant map or "
                    "no density), which its means leave out"
                )
        return notes

    def save(self, folder: str | Path) -> None:
        """Write scores.json (means, intervals, counts, methods), scores.csv (frames) and videos.csv (videos).

        Frames are counted from 1 in the files; an undefined value is null or empty.

        Raises:
            UserError: if one of the files exists.
        """
        folder = Path(folder)
        paths = folder / "scores.json", folder / "scores.csv", folder / "videos.csv"
        for path in paths:
            refuse_existing(path, "a file of scores")
        frames = ([row.video, row.frame + 1, *_cells(row.values, self.metrics)] for row in self.rows)
        _write_csv(paths[1], ["video", "frame", *self.metrics], frames)
        counts = Counter(row.video for row in self.rows)
        videos = (
            [video, self.recording(video), counts[video], *_cells(means, self.metrics)]
            for video, means in self.by_video.items()
        )
        _write_csv(paths[2], ["video", "recording", "frames", *self.metrics], videos)
        write_json(
            paths[0],
            {
                "name": self.name,
                **self.summary(),
                "average": self.average,
                "frames_without_fixations": self.frames_without_fixations,
                "videos_without_truth": self.videos_without_truth,
                "undefined": self.undefined,
            },
        )

    def summary(self) -> dict[str, Any]:
        """Return means, intervals, counts and methods as JSON data."""
        return {
            "per_video": without_nan(self.per_video),
            "pooled": without_nan(self.pooled),
            "intervals": {average: without_nan(ends) for average, ends in self.intervals.items()},
            "frames": len(self.rows),
            "recordings": self.count_recordings,
            "how": self.how,
            "videos": {video: without_nan(means) for video, means in self.by_video.items()},
        }


def read_scores(folder: str | Path) -> Scores:
    """Read the files of `Scores.save`; the intervals use the default seed.

    Raises:
        UserError: if the folder holds no scores.
    """
    folder = Path(folder)
    try:
        found = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        with (folder / "videos.csv").open(newline="", encoding="utf-8") as file:
            recordings = {line["video"]: line["recording"] for line in csv.DictReader(file)}
        metrics = tuple(found["per_video"])
        rows = [
            Row(line["video"], int(line["frame"]) - 1, {m: float(line[m] or "nan") for m in metrics})
            for line in lines
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: expected scores written by `saldistill evaluate -o` ({error})") from error
    return Scores(
        found["name"],
        metrics,
        rows,
        found["frames_without_fixations"],
        found["videos_without_truth"],
        found["how"],
        recordings,
        found["average"],
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
        found, metrics = self.difference, self.difference.metrics
        lines = []
        for average, label in _labels(len(found.by_video), len(found.rows), found.average).items():
            lines += _with_interval(
                label, getattr(found, average), found.intervals[average], found.count_recordings
            )
        significant = [
            f"{METRICS[metric].title} ({'better' if (low > 0) == METRICS[metric].higher_is_better else 'worse'})"
            for metric, (low, high) in found.intervals["per_video"].items()
            if low > 0 or high < 0
        ]
        note = "mean over videos: the interval excludes zero for " + (", ".join(significant) or "no metric")
        if found.count_recordings < 2:
            note = ONE_RECORDING
        return "\n".join([*_lines(f"{self.second} minus {self.first}", lines, metrics, "{:>+9.4f}"), note])

    def save(self, path: str | Path) -> None:
        """Write the differences and their intervals as JSON.

        Raises:
            UserError: if the file exists.
        """
        refuse_existing(path, "a comparison")
        write_json(path, {"first": self.first, "second": self.second, **self.difference.summary()})


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
    return Comparison(
        first.name,
        second.name,
        Scores(
            f"{second.name} minus {first.name}",
            metrics,
            rows,
            how=second.how | {"difference": f"from {first.name}, frame by frame"},
            recordings=first.recordings,
            average=first.average,
            seed=first.seed,
        ),
    )


def describe_intervals(seed: int) -> str:
    """Return how intervals are computed, for reports."""
    return (
        f"{LEVEL:.0%}, percentiles of {RESAMPLES} bootstrap means over whole recordings drawn with replacement "
        f"(seed {seed})"
    )


def _means(rows: Iterable[Mapping[str, float]], metrics: Sequence[str]) -> Means:
    """Return the mean of each metric over the rows where it is defined; NaN if there are none."""
    rows, means = list(rows), {}
    for metric in metrics:
        defined = [row[metric] for row in rows if not math.isnan(row[metric])]
        means[metric] = math.fsum(defined) / len(defined) if defined else math.nan
    return means


def _intervals(rows: Iterable[tuple[str, Mapping[str, float]]], scores: Scores) -> Intervals:
    """Return the intervals of the means of rows (video, values)."""
    rows = list(rows)
    values = np.array([[one[metric] for metric in scores.metrics] for _, one in rows])
    ends = bootstrap_means(values, [scores.recording(video) for video, _ in rows], seed=scores.seed)
    return {metric: (float(low), float(high)) for metric, low, high in zip(scores.metrics, *ends, strict=True)}


def _labels(videos: int, frames: int, published: str | None) -> dict[str, str]:
    """Return the averages' labels (by key of AVERAGES); a star marks the one that the protocol publishes."""
    labels = {
        "per_video": f"mean over {plural(videos, 'video')}",
        "pooled": f"pooled over {plural(frames, 'frame')}",
    }
    return {average: label + " *" * (average == published) for average, label in labels.items()}


def _with_interval(label: str, means: Means, ends: Intervals, recordings: int) -> list[tuple[str, Means]]:
    """Return the lines of one average, with its interval if there are at least two recordings."""
    if recordings < 2:
        return [(label, means)]
    lower, upper = ({metric: pair[end] for metric, pair in ends.items()} for end in (0, 1))
    return [(label, means), (f"  {LEVEL:.0%} over {recordings} recordings, lower", lower), ("  upper", upper)]


def _lines(
    head: str, lines: Sequence[tuple[str, Means]], metrics: Sequence[str], form: str = "{:>9.4f}"
) -> list[str]:
    """Lay out labelled means as lines of equal length under a heading."""
    width = max(len(label) for label, _ in [*lines, (head, {})])
    text = [f"{head:<{width}}" + "".join(f"{METRICS[metric].title:>9}" for metric in metrics)]
    for label, means in lines:
        text.append(f"{label:<{width}}" + "".join(form.format(means[metric]) for metric in metrics))
    return text


def _cells(values: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    """Format values so that they can be read back exactly; undefined ones are empty."""
    return ["" if math.isnan(values[metric]) else repr(values[metric]) for metric in metrics]


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace undefined means or intervals by None, since JSON has no NaN."""

    def known(value: Any) -> bool:
        return all(not math.isnan(part) for part in (value if isinstance(value, tuple) else (value,)))

    return {metric: value if known(value) else None for metric, value in values.items()}
