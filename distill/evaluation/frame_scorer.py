"""Scoring of some frames of one video: the unit of work that `evaluate` hands to its processes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from distill.data.clips import Video
from distill.evaluation.baselines import INFO_GAIN_BASELINES
from distill.evaluation.map_sources import MapSource, checked_maps
from distill.evaluation.metrics import METRICS, score_frames
from distill.evaluation.other_frames import OtherFrames
from distill.evaluation.protocols import PROTOCOLS
from distill.evaluation.scores import Row

CHUNK_PIXELS = 2**22
"""Pixels that are scored together: 18 frames of 640 x 360."""


@dataclass(frozen=True)
class FrameScorer:
    """Scores frames of one video; holds all that another process needs to do so.

    Attributes:
        metrics: names from METRICS.
        protocol: name from PROTOCOLS.
        over: name from INFO_GAIN_BASELINES.
        others: fixations of other frames, if a metric needs them.
        seed: added to a frame's number (0-based) to seed its random metrics.
    """

    metrics: tuple[str, ...]
    protocol: str = "official"
    over: str = "centre-prior"
    others: OtherFrames | None = None
    seed: int = 0

    def score_source(self, label: str, video: Video, frames: Sequence[int], maps: MapSource) -> list[Row]:
        """Score the maps that a source yields for frames of a video; errors as `checked_maps`."""
        chunks = map_chunks(maps, video, frames)
        return [row for chunk in chunks for row in self.score_maps(label, video, *chunk)]

    def score_maps(self, label: str, video: Video, frames: Sequence[int], maps: Sequence[np.ndarray]) -> list[Row]:
        """Score one map (h, w) of any size per frame.

        Args:
            label: name of the video in the rows.
            video: video with ground truth.
            frames: frames to score.
            maps: their maps, without NaN or infinity.

        Returns:
            One row per frame, without values for a frame without fixations.
        """
        assert video.truth is not None, "only videos with ground truth are scored"
        counts = [video.truth.fixation_map(frame, video.size) for frame in frames]
        fixated = [index for index, values in enumerate(counts) if values.any()]
        scored = [frames[index] for index in fixated]
        protocol = PROTOCOLS[self.protocol]
        values = score_frames(
            self.metrics,
            [protocol.resize(maps[index], video.size) for index in fixated],
            self._truth(video, scored) | {"fixations": [counts[index] for index in fixated]},
            seeds=[self.seed + frame for frame in scored],
            definitions=protocol.definitions,
        )
        found = {
            frame: {metric: _defined(float(values[metric][place])) for metric in self.metrics}
            for place, frame in enumerate(scored)
        }
        return [Row(label, frame, found.get(frame, {})) for frame in frames]

    def _truth(self, video: Video, frames: Sequence[int]) -> dict[str, list[np.ndarray]]:
        """Return the ground truth that the metrics need besides fixations, one map per frame."""
        assert video.truth is not None
        kinds = {kind for metric in self.metrics for kind in METRICS[metric].truth}
        truth = {}
        if "density" in kinds:
            truth["density"] = [video.truth.density(frame, video.size) for frame in frames]
        if "other_fixations" in kinds:
            assert self.others is not None
            truth["other_fixations"] = [self.others.fixations(video, frame) for frame in frames]
        if "baseline" in kinds:
            truth["baseline"] = [INFO_GAIN_BASELINES[self.over].make_map(video, self.others)] * len(frames)
        return truth


def _defined(value: float) -> float:
    """Return a score; NaN, which is counted, for one that is infinite."""
    return value if math.isfinite(value) else math.nan


def map_chunks(
    maps: MapSource, video: Video, frames: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[np.ndarray, ...]]]:
    """Yield the frames and maps of one video in chunks of about CHUNK_PIXELS; errors as `checked_maps`."""
    most = max(1, CHUNK_PIXELS // (video.size[0] * video.size[1]))
    pairs = checked_maps(maps, video, frames)
    while chunk := list(islice(pairs, most)):
        numbers, values = zip(*chunk, strict=True)
        yield numbers, values
