"""What an evaluation found: scores by frame, their means and intervals, a table, files, and the difference of two.

scores = evaluate(model_maps(model), videos)
print(scores.table())
scores.save("runs/demo/scores")
print(compare(others, scores))
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.statistics import LEVEL, RESAMPLES, bootstrap_means
from distill.files import atomic_path, refuse_existing, write_json

Means = dict[str, float]
"""Metric -> mean; NaN where it is defined nowhere."""

Intervals = dict[str, tuple[float, float]]
"""Metric -> both ends; NaN where there are values of fewer than two recordings."""

AVERAGES = {"per_video": "mean over videos", "pooled": "pooled over frames"}
"""The two averages of the field: of each video's mean (TinyHD, NTIRE), and of all frames (DHF1K)."""

ONE_RECORDING = "no intervals: they are made over recordings, and there is one"

VIDEO_ROWS = 40
"""More videos than this do not fit into a table; their rows stand in videos.csv."""


@dataclass(frozen=True)
class Row:
    """The scores of one frame (0-based); NaN where a metric is undefined, as NSS is for a constant map."""

    video: str
    frame: int
    values: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        name: who was scored.
        metrics: names of the metrics, in the order of the table.
        rows: one a scored frame, by video and frame.
        frames_without_fixations: frames left out because nobody looked at them.
        videos_without_truth: videos left out because they have no ground truth.
        how: how the numbers were made, by subject.
        recordings: video -> what it was cut from, for the intervals; a video that is missing is one of its own.
        average: one of AVERAGES, the one that the protocol publishes; None if it says nothing.
        seed: of the intervals' draws.
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
        """Mean of each metric over the frames of each video."""
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
        """Mean over videos of each video's mean (TinyHD's and NTIRE's average)."""
        return _means(self.by_video.values(), self.metrics)

    @cached_property
    def intervals(self) -> dict[str, Intervals]:
        """95% intervals of both averages (keys of AVERAGES), over redrawn recordings."""
        frames = [(row.video, row.values) for row in self.rows]
        return {
            "per_video": _intervals(self.by_video.items(), self),
            "pooled": _intervals(frames, self),
        }

    @property
    def undefined(self) -> dict[str, int]:
        """In how many scored frames each metric has no value, and is left out of its mean."""
        return {metric: sum(math.isnan(row.values[metric]) for row in self.rows) for metric in self.metrics}

    @property
    def count_recordings(self) -> int:
        """How many recordings the scored videos were cut from."""
        return len({self.recording(video) for video in self.by_video})

    def recording(self, video: str) -> str:
        """Return what a video was cut from; its own name where nothing is known."""
        return self.recordings.get(video, video)

    def table(self) -> str:
        """Return the scores as text: a line a video, both averages with intervals, and what was left out."""
        videos = self.by_video
        lines = list(videos.items()) if len(videos) <= VIDEO_ROWS else []
        for average, label in _labels(len(videos), len(self.rows), self.average).items():
            lines += _with_interval(label, getattr(self, average), self.intervals[average], self.count_recordings)
        return "\n".join([*_lines(self.name, lines, self.metrics), *self._notes()])

    def _notes(self) -> list[str]:
        notes = []
        if self.average is not None:
            notes.append(f"* the average that the protocol publishes: {AVERAGES[self.average]}")
        if self.count_recordings < 2:
            notes.append(ONE_RECORDING)
        if self.frames_without_fixations:
            notes.append(f"left out: {self.frames_without_fixations} frames without a fixation")
        if self.videos_without_truth:
            notes.append(f"left out, without ground truth: {', '.join(self.videos_without_truth)}")
        for metric, count in self.undefined.items():
            if count:
                notes.append(
                    f"{METRICS[metric].title} is undefined on {count} of {len(self.rows)} frames (constant map or "
                    "no density) and left out of its means there"
                )
        return notes

    def save(self, folder: str | Path) -> None:
        """Write what was found.

        scores.json has means, intervals, counts, and how the numbers were made; scores.csv a line a frame;
        videos.csv a line a video. Frames are counted from 1 in the files; an undefined value is null or empty.

        Raises:
            UserError: if one of the files exists.
        """
        folder = Path(folder)
        paths = folder / "scores.json", folder / "scores.csv", folder / "videos.csv"
        for path in paths:
            refuse_existing(path, "a file of scores")
        _write_csv(
            paths[1],
            ["video", "frame", *self.metrics],
            ([row.video, row.frame + 1, *_cells(row.values, self.metrics)] for row in self.rows),
        )
        frames: dict[str, int] = {}
        for row in self.rows:
            frames[row.video] = frames.get(row.video, 0) + 1
        _write_csv(
            paths[2],
            ["video", "recording", "frames", *self.metrics],
            (
                [video, self.recording(video), frames[video], *_cells(means, self.metrics)]
                for video, means in self.by_video.items()
            ),
        )
        write_json(
            paths[0],
            {
                "name": self.name,
                "per_video": without_nan(self.per_video),
                "pooled": without_nan(self.pooled),
                "intervals": {average: without_nan(found) for average, found in self.intervals.items()},
                "average": self.average,
                "frames": len(self.rows),
                "recordings": self.count_recordings,
                "frames_without_fixations": self.frames_without_fixations,
                "videos_without_truth": self.videos_without_truth,
                "undefined": self.undefined,
                "how": self.how,
                "videos": {video: without_nan(means) for video, means in self.by_video.items()},
            },
        )


def read_scores(folder: str | Path) -> Scores:
    """Read what `Scores.save` wrote; the intervals' seed is the default one.

    Raises:
        UserError: if there are no scores.
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
        raise UserError(f"{folder}: holds no scores that `saldistill evaluate -o` wrote ({error})") from error
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
    """The difference of two evaluations on the frames that both have scored.

    Attributes:
        first: who is the yardstick.
        second: who is compared with it.
        difference: the second's scores minus the first's, frame by frame; NaN where either is undefined.
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
        sure = [
            f"{METRICS[metric].title} ({'better' if (low > 0) == METRICS[metric].higher_is_better else 'worse'})"
            for metric, (low, high) in found.intervals["per_video"].items()
            if low > 0 or high < 0
        ]
        told = "the mean over videos differs from zero, by its interval, in: " + (", ".join(sure) or "no metric")
        if found.count_recordings < 2:
            told = ONE_RECORDING
        return "\n".join([*_lines(f"{self.second} minus {self.first}", lines, metrics, "{:>+9.4f}"), told])

    def save(self, path: str | Path) -> None:
        """Write the differences and their intervals as JSON.

        Raises:
            UserError: if the file exists.
        """
        refuse_existing(path, "a comparison")
        found = self.difference
        write_json(
            path,
            {
                "first": self.first,
                "second": self.second,
                "per_video": without_nan(found.per_video),
                "pooled": without_nan(found.pooled),
                "intervals": {average: without_nan(ends) for average, ends in found.intervals.items()},
                "frames": len(found.rows),
                "recordings": found.count_recordings,
                "how": found.how,
                "videos": {video: without_nan(means) for video, means in found.by_video.items()},
            },
        )


def compare(first: Scores, second: Scores) -> Comparison:
    """Return how much the second scores above the first, frame by frame, with paired intervals.

    Raises:
        UserError: if they have no metric, or no frame, in common.
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
            f"{first.name} and {second.name} cannot be compared: they share no "
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
    """Say how intervals are made."""
    return (
        f"{LEVEL:.0%}, percentiles of {RESAMPLES} bootstrap means over whole recordings drawn with replacement "
        f"(seed {seed})"
    )


def _means(rows: Iterable[Mapping[str, float]], metrics: Sequence[str]) -> Means:
    """Mean of each metric over the rows where it is defined; NaN if there is none."""
    rows, means = list(rows), {}
    for metric in metrics:
        defined = [row[metric] for row in rows if not math.isnan(row[metric])]
        means[metric] = math.fsum(defined) / len(defined) if defined else math.nan
    return means


def _intervals(rows: Iterable[tuple[str, Mapping[str, float]]], scores: Scores) -> Intervals:
    """Intervals of the means of rows (video, values)."""
    rows = list(rows)
    values = np.array([[one[metric] for metric in scores.metrics] for _, one in rows])
    ends = bootstrap_means(values, [scores.recording(video) for video, _ in rows], seed=scores.seed)
    return {metric: (float(low), float(high)) for metric, low, high in zip(scores.metrics, *ends, strict=True)}


def _labels(videos: int, frames: int, published: str | None) -> dict[str, str]:
    """Name the averages (keys of AVERAGES) in a table; a star marks the one that a protocol publishes."""
    labels = {
        "per_video": f"mean over {videos} video{'s' * (videos != 1)}",
        "pooled": f"pooled over {frames} frames",
    }
    return {average: label + " *" * (average == published) for average, label in labels.items()}


def _with_interval(label: str, means: Means, ends: Intervals, recordings: int) -> list[tuple[str, Means]]:
    """Return the lines of one average; without its interval where one recording says nothing of others."""
    if recordings < 2:
        return [(label, means)]
    lower, upper = ({metric: pair[end] for metric, pair in ends.items()} for end in (0, 1))
    return [(label, means), (f"  {LEVEL:.0%} over {recordings} recordings, from", lower), ("  to", upper)]


def _lines(
    head: str, lines: Sequence[tuple[str, Means]], metrics: Sequence[str], form: str = "{:>9.4f}"
) -> list[str]:
    """Lay out labelled means as lines of equal length under a head."""
    width = max(len(label) for label, _ in [*lines, (head, {})])
    text = [f"{head:<{width}}" + "".join(f"{METRICS[metric].title:>9}" for metric in metrics)]
    for label, means in lines:
        text.append(f"{label:<{width}}" + "".join(form.format(means[metric]) for metric in metrics))
    return text


def _cells(values: Mapping[str, float], metrics: Sequence[str]) -> list[str]:
    """Write values so that they can be read back exactly; an undefined one is empty."""
    return ["" if math.isnan(values[metric]) else repr(values[metric]) for metric in metrics]


def _write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: an undefined mean, or interval, is null."""

    def known(value: Any) -> bool:
        return all(not math.isnan(part) for part in (value if isinstance(value, tuple) else (value,)))

    return {metric: value if known(value) else None for metric, value in values.items()}
