"""Scoring some frames of one video: what `evaluate` hands to each of its processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.baselines import centre_gaussian
from distill.evaluation.batched_metrics import score_frames
from distill.evaluation.map_sources import MapSource
from distill.evaluation.metrics import TRUTHS
from distill.evaluation.other_frames import OtherFrames
from distill.evaluation.protocols import PROTOCOLS

FrameScores = list[tuple[int, dict[str, float] | None]]
"""(frame, its score by metric); None for a frame without a fixation."""

INFO_GAIN_BASELINES = ("centre-prior", "other-frames")
"""What information gain is measured over: a Gaussian at the centre, or the mean map of other recordings."""

CHUNK_PIXELS = 2**22
"""Pixels that are scored in one go: 18 frames of 640 x 360."""


@dataclass(frozen=True)
class FrameScorer:
    """Scores frames of one video. It holds all that another process needs for that.

    Attributes:
        metrics: names from METRICS.
        protocol: one of PROTOCOLS.
        over: one of INFO_GAIN_BASELINES.
        others: the gaze of other frames, where a metric wants it.
        seed: added to a frame's number (0-based), it seeds what is random in that frame's scores.
    """

    metrics: tuple[str, ...]
    protocol: str = "official"
    over: str = INFO_GAIN_BASELINES[0]
    others: OtherFrames | None = None
    seed: int = 0

    def score_source(self, maps: MapSource, video: Video, frames: Sequence[int]) -> FrameScores:
        """Score what a map source gives of a video's frames.

        Raises:
            UserError: as `chunks` and `score_maps`.
        """
        return [scored for chunk in chunks(maps, video, frames) for scored in self.score_maps(video, *chunk)]

    def score_maps(self, video: Video, frames: Sequence[int], maps: Sequence[np.ndarray]) -> FrameScores:
        """Score maps (h, w) of any size against the gaze of as many frames.

        Raises:
            UserError: if a map holds NaN or infinity: leaving it out would flatter whoever made it.
        """
        for frame, saliency in zip(frames, maps, strict=True):
            if not np.isfinite(saliency).all():
                raise UserError(
                    f"{video.name}: the map of frame {frame + 1} holds NaN or infinity; nothing can be scored"
                )
        assert video.truth is not None, "only videos with ground truth are scored"
        fixations = [video.truth.fixation_map(frame, video.size) for frame in frames]
        seen = [place for place, found in enumerate(fixations) if found.any()]
        asked = [frames[place] for place in seen]
        truth = self._truth(video, asked, [fixations[place] for place in seen])
        protocol = PROTOCOLS[self.protocol]
        resized = [protocol.resize(maps[place], video.size) for place in seen]
        values: dict[str, Any] = {
            metric: [variant(*pair) for pair in zip(resized, truth[TRUTHS[metric][0]], strict=True)]
            for metric, variant in protocol.variants.items()
            if metric in self.metrics
        }
        rest = [metric for metric in self.metrics if metric not in values]
        if rest:
            values |= score_frames(rest, resized, truth, seeds=[self.seed + frame for frame in asked])
        scores: dict[int, dict[str, float]] = {
            frame: {metric: float(values[metric][row]) for metric in self.metrics}
            for row, frame in enumerate(asked)
        }
        return [(frame, scores.get(frame)) for frame in frames]

    def _truth(
        self, video: Video, frames: Sequence[int], fixations: list[np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """Return what the metrics compare with, a map a frame under the names of TRUTHS."""
        assert video.truth is not None
        needed = {kind for metric in self.metrics for kind in TRUTHS[metric]}
        truth = {"fixations": fixations}
        if "density" in needed:
            truth["density"] = [video.truth.density(frame, video.size) for frame in frames]
        if "other_fixations" in needed:
            assert self.others is not None
            truth["other_fixations"] = [self.others.fixations(video, frame) for frame in frames]
        if "baseline" in needed:
            if self.over == "other-frames":
                assert self.others is not None
                baseline = self.others.mean_map(video)
            else:
                baseline = centre_gaussian(video.size)
            truth["baseline"] = [baseline] * len(frames)
        return truth


def chunks(maps: MapSource, video: Video, frames: Sequence[int]) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    """Yield what a source gives of one video, a few frames and their maps at a time; every asked frame once.

    Raises:
        UserError: if the source leaves out a frame or gives one that was not asked for.
    """
    most = max(1, CHUNK_PIXELS // (video.size[0] * video.size[1]))
    missing = set(frames)
    asked: list[int] = []
    given: list[np.ndarray] = []
    for frame, saliency in maps(video, frames):
        if frame not in missing:
            raise UserError(f"{video.name}: a map came for frame {frame + 1}, which was not asked for, or twice")
        missing.remove(frame)
        asked.append(frame)
        given.append(saliency)
        if len(asked) == most:
            yield asked, given
            asked, given = [], []
    if missing:
        raise UserError(f"{video.name}: no map for frame {min(missing) + 1} ({len(missing)} frames without one)")
    if asked:
        yield asked, given
