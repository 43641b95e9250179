"""Cross-validate a calibration by recording: every video is scored by numbers that were fitted without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from distill.calibration.fit import fit
from distill.calibration.maps import calibrate_maps, clamped
from distill.calibration.numbers import Calibration
from distill.calibration.samples import Sample
from distill.data.progress import ProgressBar
from distill.evaluation.frame_scorer import FrameScorer
from distill.evaluation.metrics import METRICS
from distill.evaluation.statistics import bootstrap_means
from distill.saliency import peak_map

SCORED = ("nss", "cc", "info_gain")
"""Metrics of the report, from METRICS; information gain is over the centre prior, and decides."""

MAX_FOLDS = 10

BLOCK = 16
"""Frames that are scored at a time."""


@dataclass(frozen=True)
class Gains:
    """Scores of videos before and after a change.

    Attributes:
        before: (V, M) mean over each video's frames, in the order of SCORED.
        after: likewise.
        recordings: recording of each video.
        seed: seed of the intervals.
    """

    before: np.ndarray
    after: np.ndarray
    recordings: Sequence[str]
    seed: int = 0

    @property
    def better(self) -> bool:
        """Whether the mean information gain rises."""
        return bool(self.rows()["info_gain"]["change"] > 0)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return for each metric the means over videos `before` and `after`, the `change` and its `interval`."""
        change = self.after - self.before
        ends = bootstrap_means(change, self.recordings, seed=self.seed)
        before, after, change = (np.nanmean(each, axis=0) for each in (self.before, self.after, change))
        return {
            metric: {
                "before": float(before[place]),
                "after": float(after[place]),
                "change": float(change[place]),
                "interval": [float(ends[0, place]), float(ends[1, place])],
            }
            for place, metric in enumerate(SCORED)
        }

    def lines(self) -> list[str]:
        """Return a table of `rows`."""
        lines = [f"{'':<6}{'before':>9}{'after':>9}{'change':>9}   95% interval"]
        for metric, row in self.rows().items():
            low, high = row["interval"]
            numbers = "".join(f"{row[key]:>9.4f}" for key in ("before", "after"))
            lines.append(
                f"{METRICS[metric].title:<6}{numbers}{row['change']:>+9.4f}   [{low:+.4f}, {high:+.4f}]"
                + (" includes 0" if low <= 0 <= high else "")
            )
        return lines


def score(sample: Sample, log_saliency: Tensor) -> np.ndarray:
    """Return the means (M,) of SCORED over the frames of a sample, at the video's own size, as `evaluate` scores.

    A frame on which a metric is undefined is left out of its mean; NaN if it is undefined on all.

    Args:
        sample: the video.
        log_saliency: its raw maps (n, h, w), calibrated or not.
    """
    maps = [peak_map(each) for each in sample.whole(log_saliency).numpy()]
    scorer, rows = FrameScorer(SCORED), []
    for start in range(0, len(maps), BLOCK):  # metrics of large frames take memory
        block = slice(start, start + BLOCK)
        rows += scorer.score_maps(sample.video.name, sample.video, sample.video.frames[block], maps[block])
    values = np.array([[row.values[metric] for metric in SCORED] for row in rows if row.values])
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    return np.where(counts, np.where(known, values, 0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def score_unchanged(sample: Sample) -> np.ndarray:
    """Return the scores (M,) of a sample's maps as the network gives them."""
    return score(sample, clamped(sample.maps[1.0]))


def score_calibrated(sample: Sample, calibration: Calibration) -> np.ndarray:
    """Return the scores (M,) of a sample's calibrated maps."""
    return score(sample, calibrate_maps(sample.maps[calibration.motion], calibration))


def folds_of(recordings: Sequence[str], seed: int) -> list[set[str]]:
    """Split recordings into at most MAX_FOLDS sets of nearly equal size, at random."""
    names = np.array(sorted(set(recordings)))
    drawn = np.random.default_rng(seed).permutation(names)
    return [set(drawn[first::MAX_FOLDS].tolist()) for first in range(min(MAX_FOLDS, len(names)))]


def cross_validate(
    samples: Sequence[Sample], motions: Sequence[float], *, seed: int = 0, progress: bool = True
) -> Gains:
    """Return the scores of every video without calibration, and with one that was fitted on other recordings.

    Each fold has its own fit, including its weight of motion.

    Args:
        samples: videos of at least two recordings.
        motions: as for `fit`.
        seed: seed of the folds and of the intervals.
        progress: show a progress bar.
    """
    after: dict[int, np.ndarray] = {}
    recordings = [sample.recording for sample in samples]
    bar = ProgressBar("cross-validating", "fold", folds_of(recordings, seed), shown=progress)
    for held_out in bar:
        fitted = fit([sample for sample in samples if sample.recording not in held_out], motions)
        for place, sample in enumerate(samples):
            if sample.recording in held_out:
                after[place] = score_calibrated(sample, fitted)
    before = np.array([score_unchanged(sample) for sample in samples])
    return Gains(before, np.array([after[place] for place in range(len(samples))]), recordings, seed)
