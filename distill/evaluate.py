"""Scoring maps against gaze: frames, means, a table, and how each number was made.

    saldistill evaluate MODEL [MODEL ...] DATA

Whoever is scored is a map source: a function from a video and frames to maps. A model, a baseline and a folder of
somebody's maps are the same thing here.

    scores = evaluate(model_maps(model), videos)
    print(scores.table())
    scores.save("runs/demo/scores")
"""

import csv
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from distill.data.clips import Video
from distill.errors import UserError
from distill.files import atomic_path, refuse_existing, write_json
from distill.metrics import METRICS, RANDOM, TITLES, TRUTHS, imresize
from distill.saliency import peak_map
from distill.sliding import slide

MapSource = Callable[[Video, Sequence[int]], Iterator[tuple[int, np.ndarray]]]
"""Yields (frame, map) for each asked frame of a video: a map (h, w) of any size, non-negative, peak about 1."""

PUBLISHED = ("auc_judd", "nss", "cc", "sim", "kldiv")
"""What is scored unless something else is asked for."""

CENTRE_SIGMA = 0.16
"""Standard deviation of the centre prior, as a part of the frame's width and of its height."""

VIDEO_ROWS = 40
"""More videos than this do not fit into a table; their rows stand in scores.csv."""


def model_maps(
    model: Any, *, batch_size: int = 8, stride: int = 1, device: str | torch.device | None = None
) -> MapSource:
    """Return the map source of a model: its maps, scaled to a peak of 1 (arguments as `distill.sliding.slide`)."""

    def maps(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        slices = slide(model, video, frames, stride=stride, batch_size=batch_size, device=device)
        for asked, log_maps in slices:
            for frame, log_map in zip(asked, log_maps.numpy(), strict=True):
                yield frame, peak_map(log_map)

    return maps


def centre_prior(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """A Gaussian at the centre of every frame (sigma .16 of the width and of the height), at the video's size."""
    down, across = (
        np.exp(-0.5 * (((np.arange(side) + 0.5) / side - 0.5) / CENTRE_SIGMA) ** 2) for side in video.size
    )
    prior = np.outer(down, across)
    for frame in frames:
        yield frame, prior


BASELINES: dict[str, MapSource] = {
    "centre-prior": centre_prior,
}


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
    """

    name: str
    metrics: tuple[str, ...]
    rows: list[Row]
    frames_without_fixations: int = 0
    videos_without_truth: list[str] = field(default_factory=list)
    how: dict[str, str] = field(default_factory=dict)

    @property
    def pooled(self) -> dict[str, float]:
        """Mean of each metric over all frames (DHF1K's average); NaN if it is defined on none."""
        return self._means(self.rows)

    @property
    def by_video(self) -> dict[str, dict[str, float]]:
        """Mean of each metric over the frames of each video."""
        videos: dict[str, list[Row]] = {}
        for row in self.rows:
            videos.setdefault(row.video, []).append(row)
        return {video: self._means(rows) for video, rows in videos.items()}

    @property
    def per_video(self) -> dict[str, float]:
        """Mean over videos of each video's mean (TinyHD's and NTIRE's average)."""
        means = self.by_video.values()
        return {metric: _mean([one[metric] for one in means]) for metric in self.metrics}

    @property
    def undefined(self) -> dict[str, int]:
        """In how many scored frames each metric has no value, and is left out of its mean."""
        return {metric: sum(math.isnan(row.values[metric]) for row in self.rows) for metric in self.metrics}

    def _means(self, rows: Sequence[Row]) -> dict[str, float]:
        return {metric: _mean([row.values[metric] for row in rows]) for metric in self.metrics}

    def table(self) -> str:
        """Return the scores as text: a line a video, both averages, and what was left out."""
        videos = self.by_video
        lines = [(f"pooled over {len(self.rows)} frames", self.pooled)]
        lines.insert(0, (f"mean over {len(videos)} video{'s' * (len(videos) != 1)}", self.per_video))
        if len(videos) <= VIDEO_ROWS:
            lines = [*videos.items(), *lines]
        width = max(len(label) for label, _ in [*lines, (self.name, {})])
        text = [f"{self.name:<{width}}" + "".join(f"{TITLES[metric]:>9}" for metric in self.metrics)]
        for label, means in lines:
            text.append(f"{label:<{width}}" + "".join(f"{means[metric]:>9.4f}" for metric in self.metrics))
        return "\n".join([*text, *self._left_out()])

    def _left_out(self) -> list[str]:
        notes = []
        if self.frames_without_fixations:
            notes.append(f"left out: {self.frames_without_fixations} frames without a fixation")
        if self.videos_without_truth:
            notes.append(f"left out, without ground truth: {', '.join(self.videos_without_truth)}")
        for metric, count in self.undefined.items():
            if count:
                notes.append(
                    f"{TITLES[metric]} is undefined on {count} of {len(self.rows)} frames (a constant map, or no "
                    "density) and left out of its means there"
                )
        return notes

    def save(self, folder: str | Path) -> None:
        """Write scores.json (means, counts, and how the numbers were made) and scores.csv (a line a frame).

        Frames are counted from 1 in the files; a value that is undefined is null or empty.

        Raises:
            UserError: if one of the files exists.
        """
        table, summary = Path(folder) / "scores.csv", Path(folder) / "scores.json"
        for path in (table, summary):
            refuse_existing(path, "a file of scores")
        with atomic_path(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["video", "frame", *self.metrics])
            for row in self.rows:
                values = (row.values[metric] for metric in self.metrics)
                writer.writerow([row.video, row.frame + 1, *("" if math.isnan(v) else repr(v) for v in values)])
        write_json(
            summary,
            {
                "name": self.name,
                "per_video": _without_nan(self.per_video),
                "pooled": _without_nan(self.pooled),
                "frames": len(self.rows),
                "frames_without_fixations": self.frames_without_fixations,
                "videos_without_truth": self.videos_without_truth,
                "undefined": self.undefined,
                "how": self.how,
                "videos": {video: _without_nan(means) for video, means in self.by_video.items()},
            },
        )


def evaluate(
    maps: MapSource,
    videos: Sequence[Video],
    *,
    every: int = 1,
    metrics: Sequence[str] = PUBLISHED,
    progress: bool = True,
    name: str = "maps",
    workers: int | None = None,
) -> Scores:
    """Score maps on the frames in use of videos, at each video's own size.

    Frames are scored in threads while the source computes the next maps; the result does not depend on how many.

    Args:
        maps: who is scored.
        videos: on what; those without ground truth are left out and named in the result.
        every: take every n-th of each video's frames in use, from the first.
        metrics: names from METRICS whose truth is a frame's own fixations or density.
        progress: show a bar with the rate and the time left.
        name: of who is scored, for the bar, the table and the files.
        workers: scoring threads; one a processor, at most 4, when None.

    Raises:
        UserError: an unknown metric, no ground truth or no fixation at all, or a source that leaves out an asked
            frame or gives a map with NaN or infinity.
    """
    _check_metrics(metrics)
    if every < 1:
        raise UserError(f"every: expected a number of frames from 1 up, got {every}")
    labels = _labels(videos)
    work = [(label, video, video.frames[::every]) for label, video in zip(labels, videos, strict=True)]
    blind = [label for label, video, _ in work if video.truth is None]
    work = [(label, video, frames) for label, video, frames in work if video.truth is not None]
    if not any(frames for _, _, frames in work):
        raise UserError(f"nothing to score against: no ground truth in {', '.join(labels) or 'an empty list'}")

    rows: list[Row] = []
    without_fixations = 0
    workers = workers or min(4, os.cpu_count() or 1)
    total = sum(len(frames) for _, _, frames in work)
    bar = tqdm(total=total, desc=name, unit="frame", disable=not progress)
    pool = ThreadPoolExecutor(workers)
    try:
        for label, video, frames in work:
            scored = []
            for frame, values in _in_order(pool, workers, maps, video, frames, tuple(metrics)):
                if values is None:
                    without_fixations += 1
                else:
                    scored.append(Row(label, frame, values))
                bar.update()
            rows += sorted(scored, key=lambda row: row.frame)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
    if not rows:
        raise UserError(f"nothing to score against: no fixation in {total} frames of {', '.join(labels)}")
    return Scores(name, tuple(metrics), rows, without_fixations, blind, _how(metrics, every))


def _in_order(
    pool: ThreadPoolExecutor,
    workers: int,
    maps: MapSource,
    video: Video,
    frames: Sequence[int],
    metrics: tuple[str, ...],
) -> Iterator[tuple[int, dict[str, float] | None]]:
    """Score one video: yield (frame, scores) as the source gives them, a few frames behind it."""
    pending: deque[tuple[int, Future[dict[str, float] | None]]] = deque()
    missing = set(frames)
    for frame, saliency in maps(video, frames):
        if frame not in missing:
            raise UserError(f"{video.name}: a map came for frame {frame + 1}, which was not asked for, or twice")
        missing.remove(frame)
        pending.append((frame, pool.submit(score_frame, saliency, video, frame, metrics)))
        if len(pending) > 4 * workers:
            done, future = pending.popleft()
            yield done, future.result()
    if missing:
        raise UserError(f"{video.name}: no map for frame {min(missing) + 1} ({len(missing)} frames without one)")
    for done, future in pending:
        yield done, future.result()


def score_frame(
    saliency: np.ndarray, video: Video, frame: int, metrics: Sequence[str] = PUBLISHED
) -> dict[str, float] | None:
    """Score one map (h, w) of any size against a frame's gaze; None where nobody looked.

    The map is resized once for all metrics. The frame's number seeds what is random.

    Raises:
        UserError: if the map holds NaN or infinity: leaving it out would flatter whoever made it.
    """
    assert video.truth is not None, "only videos with ground truth are scored"
    if not np.isfinite(saliency).all():
        raise UserError(f"{video.name}: the map of frame {frame + 1} holds NaN or infinity; nothing can be scored")
    fixations = video.truth.fixation_map(frame, video.size)
    if not fixations.any():
        return None
    truth = {"fixations": fixations}
    if any("density" in TRUTHS[metric] for metric in metrics):
        truth["density"] = video.truth.density(frame, video.size)
    resized = imresize(saliency, video.size)
    return {
        metric: METRICS[metric](
            resized,
            *(truth[kind] for kind in TRUTHS[metric]),
            **({"seed": frame} if metric in RANDOM else {}),
        )
        for metric in metrics
    }


def _check_metrics(metrics: Sequence[str]) -> None:
    usable = [metric for metric, truths in TRUTHS.items() if {*truths} <= {"fixations", "density"}]
    for metric in metrics:
        if metric not in usable:
            raise UserError(f"metrics: expected some of {', '.join(usable)}; got {metric!r}")
    if not metrics or len(set(metrics)) < len(metrics):
        raise UserError(f"metrics: expected different names, at least one, got {list(metrics)}")


def _labels(videos: Sequence[Video]) -> list[str]:
    """Name the videos; with the data set in front where two have one name."""
    names = Counter(video.name for video in videos)
    labels = [f"{video.dataset}/{video.name}" if names[video.name] > 1 else video.name for video in videos]
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise UserError(f"videos: {', '.join(twice)} stands there twice; each video is scored once")
    return labels


def _how(metrics: Sequence[str], every: int) -> dict[str, str]:
    """Say how the numbers were made: without it they cannot be compared with others'."""
    how = {
        "definitions": "the MATLAB code of the DHF1K and MIT saliency benchmarks",
        "frames": "every frame in use" if every == 1 else f"one of every {every} frames in use, from the first",
        "resize": "predictions to the video's own size, bicubic, antialiased when shrinking (MATLAB's imresize)",
        "blur": "none",
        "pooled": "mean over all frames",
        "per_video": "mean over a video's frames, then over videos",
        "frames without fixations": "left out and counted",
    }
    if "auc_judd" in metrics:
        how["auc_judd"] = "jitter of 1e-7 x uniform noise, seeded with the frame's number (from 0)"
    if "auc_borji" in metrics:
        how["auc_borji"] = "100 splits, seeded with the frame's number (from 0)"
    return how


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _without_nan(means: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {metric: None if math.isnan(value) else value for metric, value in means.items()}
