"""The scores of a viewer: read from files, or computed by a thread for the video that is being viewed."""

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from distill.errors import UserError, reason_of
from distill.evaluation.frame_scorer import FrameScorer
from distill.evaluation.metrics import METRICS
from distill.evaluation.scores import Scores
from distill.viewer.follower import Follower
from distill.viewer.layers import Layer
from distill.viewer.shown import ShownVideo

log = logging.getLogger(__name__)

COMPUTED = ("nss", "cc", "sim", "kldiv", "auc_judd")
"""Metrics that are computed while a video is viewed."""

CHUNK = 4
"""Frames scored at a time."""

POLL_SECONDS = 0.3
"""Time between two looks for new maps."""

WORST = 12
"""Frames in the list of the worst ones."""

APART = 10
"""Distance of the worst frames of a video: next to a bad frame there are more of the same kind."""

Values = Mapping[str, float]
"""Metric -> score of one frame; empty for a frame that cannot be scored."""


class FileScores:
    """Scores of `saldistill evaluate -o`.

    Args:
        named: name of a series -> its scores.
    """

    def __init__(self, named: Mapping[str, Scores]) -> None:
        self.series = list(named)
        first, *others = named.values()
        shared = [metric for metric in first.metrics if all(metric in other.metrics for other in others)]
        self.metrics = tuple(shared or first.metrics)
        self._rows: dict[str, dict[str, dict[int, Values]]] = {}
        for name, scores in named.items():
            for row in scores.rows:
                self._rows.setdefault(row.video, {}).setdefault(name, {})[row.frame] = row.values

    def frames(self) -> dict[str, list[int]]:
        """Return the frames of each video that were scored, by any series."""
        return {video: sorted(set().union(*rows.values())) for video, rows in self._rows.items()}

    def of(self, shown: ShownVideo, series: str) -> dict[int, Values]:
        """Return the scores of a video by place."""
        rows = self._rows.get(shown.name, {}).get(series, {})
        return {place: rows[frame] for place, frame in enumerate(shown.frames) if frame in rows}

    def is_done(self, shown: ShownVideo) -> bool:
        """Return whether no more scores will come."""
        return True

    def want(self, shown: ShownVideo, place: int) -> None:
        """Nothing needs to be computed."""

    def stop(self) -> None:
        """There is no thread."""

    def join(self, seconds: float) -> bool:
        """There is no thread."""
        return True


class ComputedScores(Follower):
    """Scores of maps against ground truth, computed by a thread as the maps arrive.

    A score is that of `saldistill evaluate` with the protocol `official`.

    Args:
        layers: the maps; their titles are the names of the series.
        metrics: names from METRICS that need only a frame's own ground truth.
    """

    def __init__(self, layers: Sequence[Layer], metrics: Sequence[str] = COMPUTED) -> None:
        self.series, self.metrics = [layer.title for layer in layers], tuple(metrics)
        self._layers, self._scorer = list(layers), FrameScorer(self.metrics)
        self._found: dict[tuple[ShownVideo, str], dict[int, Values]] = {}
        super().__init__("score")

    def of(self, shown: ShownVideo, series: str) -> dict[int, Values]:
        """Return the scores so far by place."""
        with self._changed:
            return dict(self._found.get((shown, series), {}))

    def is_done(self, shown: ShownVideo) -> bool:
        """Return whether no more scores will come."""
        if not shown.has_truth:
            return True
        with self._changed:
            return all(len(self._found.get((shown, each), {})) >= len(shown.frames) for each in self.series)

    def _work(self) -> None:
        while True:
            with self._changed:
                viewed = self._viewed
                if self._stopped:
                    return
            worked = False
            if viewed is not None and viewed[0].has_truth and not self._is_behind(*viewed):
                for layer in self._layers:
                    worked |= self._score_some(layer, *viewed)
            if not worked:
                with self._changed:
                    if not self._stopped:
                        self._changed.wait(POLL_SECONDS)

    def _is_behind(self, shown: ShownVideo, place: int) -> bool:
        return any(layer.is_behind(shown, place) for layer in self._layers)

    def _score_some(self, layer: Layer, shown: ShownVideo, at: int) -> bool:
        """Score up to CHUNK maps of a layer, from the viewed frame on; return whether there were any."""
        scored = self._found.setdefault((shown, layer.title), {})
        maps: dict[int, np.ndarray] = {}
        found: dict[int, Values] = {}
        for place in (*range(at, len(shown.frames)), *range(at)):
            if place in scored:
                continue
            try:
                saliency = layer.get(shown, place)
            except UserError:  # no map, hence no score
                found[place] = {}
                continue
            if saliency is not None:
                maps[place] = saliency
            if len(maps) == CHUNK:
                break
        try:
            frames = [shown.frames[place] for place in maps]
            rows = self._scorer.score_maps(shown.name, shown.video, frames, list(maps.values()))
            found |= {place: row.values for place, row in zip(maps, rows, strict=True)}
        except Exception as error:
            log.warning("%s: %s cannot be scored: %s", layer.title, shown.name, reason_of(error))
            found |= {place: {} for place in maps}
        with self._changed:
            scored.update(found)
        return bool(found)


def columns(scores: FileScores | ComputedScores, shown: ShownVideo) -> list[dict[str, object]]:
    """Return the series of a video as JSON: per metric one number per frame, null where there is none."""
    result: list[dict[str, object]] = []
    for name in scores.series:
        rows = scores.of(shown, name)
        result.append(
            {
                "name": name,
                "scored": len(rows),
                "values": {
                    metric: [_rounded(rows.get(place, {}).get(metric)) for place in range(len(shown.frames))]
                    for metric in scores.metrics
                },
            }
        )
    return result


def worst(
    scores: FileScores | ComputedScores, videos: Sequence[ShownVideo], metric: str, series: str
) -> list[dict[str, object]]:
    """Return the WORST scored frames of all videos, the worst first, at least APART frames from each other."""
    sign = 1 if METRICS[metric].higher_is_better else -1
    found = [
        (sign * value, number, place, value)
        for number, shown in enumerate(videos)
        for place, row in scores.of(shown, series).items()
        if math.isfinite(value := row.get(metric, math.nan))
    ]
    chosen: list[dict[str, object]] = []
    near: set[tuple[int, int]] = set()
    for _, number, place, value in sorted(found):
        frame = videos[number].frames[place]
        if (number, frame) in near:
            continue
        near |= {(number, each) for each in range(frame - APART + 1, frame + APART)}
        chosen.append({"video": number, "place": place, "frame": frame + 1, "value": _rounded(value)})
        if len(chosen) == WORST:
            break
    return chosen


def _rounded(value: float | None) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
