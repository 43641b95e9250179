"""Scoring of some frames of one video: the unit of work that `evaluate` hands to its processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.baselines import INFO_GAIN_BASELINES
from distill.evaluation.batched_metrics import score_frames
from distill.evaluation.map_sources import MapSource
from distill.evaluation.metrics import METRICS
from distill.evaluation.other_frames import OtherFrames
from distill.evaluation.protocols import PROTOCOLS

FrameScores = list[tuple[int, dict[str, float] | None]]
"""(frame, score by metric); None for a frame without fixations."""

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

    @property
    def kinds(self) -> set[str]:
        """Kinds of ground truth that the metrics need."""
        return {kind for metric in self.metrics for kind in METRICS[metric].truth}

    def score_source(self, maps: MapSource, video: Video, frames: Sequence[int]) -> FrameScores:
        """Score the maps that a source yields for frames of a video.

        Raises:
            UserError: as `map_chunks` and `score_maps`.
        """
        return [scored for chunk in map_chunks(maps, video, frames) for scored in self.score_maps(video, *chunk)]

    def score_maps(self, video: Video, frames: Sequence[int], maps: Sequence[np.ndarray]) -> FrameScores:
        """Score one map (h, w) of any size per frame.

        Raises:
            UserError: if a map holds NaN or infinity; skipping it would flatter its source.
        """
        for frame, saliency in zip(frames, maps, strict=True):
            if not np.isfinite(saliency).all():
                raise UserError(f"{video.name}: the map of frame {frame + 1} holds NaN or infinity")
        assert video.truth is not None, "only videos with ground truth are scored"
        fixations = [video.truth.fixation_map(frame, video.size) for frame in frames]
        fixated = [index for index, counts in enumerate(fixations) if counts.any()]
        scored = [frames[index] for index in fixated]
        truth = self._truth(video, scored, [fixations[index] for index in fixated])
        protocol = PROTOCOLS[self.protocol]
        resized = [protocol.resize(maps[index], video.size) for index in fixated]
        values: dict[str, Any] = {
            metric: [variant.function(*pair) for pair in zip(resized, truth[METRICS[metric].truth[0]], strict=True)]
            for metric, variant in protocol.variants.items()
            if metric in self.metrics
        }
        rest = [metric for metric in self.metrics if metric not in values]
        values |= score_frames(rest, resized, truth, seeds=[self.seed + frame for frame in scored])
        scores: dict[int, dict[str, float]] = {
            frame: {metric: float(values[metric][row]) for metric in self.metrics}
            for row, frame in enumerate(scored)
        }
        return [(frame, scores.get(frame)) for frame in frames]

    def _truth(
        self, video: Video, frames: Sequence[int], fixations: list[np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """Return the kinds of ground truth that the metrics need, one map per frame."""
        assert video.truth is not None
        truth, kinds = {"fixations": fixations}, self.kinds
        if "density" in kinds:
            truth["density"] = [video.truth.density(frame, video.size) for frame in frames]
        if "other_fixations" in kinds:
            assert self.others is not None
            truth["other_fixations"] = [self.others.fixations(video, frame) for frame in frames]
        if "baseline" in kinds:
            truth["baseline"] = [INFO_GAIN_BASELINES[self.over].make_map(video, self.others)] * len(frames)
        return truth


def map_chunks(
    maps: MapSource, video: Video, frames: Sequence[int]
) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield the frames and maps of one video in chunks of about CHUNK_PIXELS; every requested frame once.

    Raises:
        UserError: if the source skips a frame, or yields one twice or one that was not requested.
    """
    most = max(1, CHUNK_PIXELS // (video.size[0] * video.size[1]))
    missing = set(frames)
    chunk: tuple[list[int], list[np.ndarray]] = [], []
    for frame, saliency in maps(video, frames):
        if frame not in missing:
            raise UserError(f"{video.name}: got a map for frame {frame + 1}, which was not requested or came twice")
        missing.remove(frame)
        chunk[0].append(frame)
        chunk[1].append(saliency)
        if len(chunk[0]) == most:
            yield chunk
            chunk = [], []
    if missing:
        raise UserError(f"{video.name}: no map for frame {min(missing) + 1}; {len(missing)} frames have none")
    if chunk[0]:
        yield chunk
