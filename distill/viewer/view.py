"""What the viewer shows: videos, panels and scores, addressed by index.

view = open_view("runs/demo/student")     # sources.py
view.picture(0, 41, 1, draw="overlay", gaze=True)
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.inference.overlay import DrawSettings, colour_map, overlay, resize_map
from distill.reports.page import fit, jpeg, mark_points
from distill.viewer.layers import Layer
from distill.viewer.scoring import ComputedScores, FileScores, columns, worst
from distill.viewer.shown import SIDE, FrameReader, ShownVideo

DRAWINGS = {
    "overlay": DrawSettings(),
    "contours": DrawSettings(style="contour", opacity=1.0),
    "map": None,
}
"""Name -> how a map is drawn on its frame; None for the map alone."""

STOP_SECONDS = 2.0
"""Time that threads get to finish their batches when the viewer ends."""

COLOURS = "inferno"
"""Colour map of maps alone; the overlay's, too."""


@dataclass
class View:
    """Videos with their panels: the frame, then one panel per layer of maps.

    Attributes:
        title: what is viewed.
        kind: its kind, such as "run folder".
        videos: at least one.
        layers: the maps; none if there are only scores.
        scores: scores by frame; None without ground truth and files.
        pictures: whether there are panels at all.
        notes: sentences on what is missing, and why.
    """

    title: str
    kind: str
    videos: Sequence[ShownVideo]
    layers: Sequence[Layer]
    scores: FileScores | ComputedScores | None = None
    pictures: bool = True
    notes: list[str] = field(default_factory=list)
    _frames: FrameReader = field(default_factory=FrameReader)

    @property
    def panels(self) -> list[str]:
        """Titles of the panels."""
        return ["frame", *(layer.title for layer in self.layers)] if self.pictures else []

    def describe(self) -> dict[str, Any]:
        """Return the videos, panels and metrics as JSON."""
        metrics = self.scores.metrics if self.scores else ()
        return {
            "title": self.title,
            "kind": self.kind,
            "notes": self.notes,
            "videos": [
                {"name": shown.name, "group": shown.group, "frames": len(shown.frames)} for shown in self.videos
            ],
            "panels": self.panels,
            "series": self.scores.series if self.scores else [],
            "metrics": [
                {"name": name, "title": METRICS[name].title, "higher": METRICS[name].higher_is_better}
                for name in metrics
            ],
        }

    def describe_video(self, number: int) -> dict[str, Any]:
        """Return one video as JSON: the numbers of its frames (from 1), frame rate, and why it cannot be shown."""
        shown = self.videos[number]
        missing = shown.missing if self.pictures else ""
        size = None if shown.missing else fit(shown.video.size, SIDE)
        return {
            "numbers": [frame + 1 for frame in shown.frames],
            "fps": shown.fps,
            "size": size,
            "truth": shown.has_truth,
            "missing": missing,
        }

    def describe_scores(self, number: int) -> dict[str, Any]:
        """Return a video's scores so far, and the progress of its maps, as JSON."""
        shown, total = self.videos[number], len(self.videos[number].frames)
        ready = [layer.ready(shown) for layer in self.layers]
        scored = self.scores is None or self.scores.is_done(shown)
        return {
            "series": columns(self.scores, shown) if self.scores else [],
            "ready": ready,
            "total": total,
            "done": scored and all(each >= total for each in ready),
        }

    def worst(self, metric: int, series: int) -> list[dict[str, object]]:
        """Return the frames with the worst scores, of all videos that are scored so far."""
        if self.scores is None:
            return []
        return worst(self.scores, self.videos, self.scores.metrics[metric], self.scores.series[series])

    def want(self, number: int, place: int) -> None:
        """Tell the threads which frame is being viewed."""
        for part in (*self.layers, *([self.scores] if self.scores else [])):
            part.want(self.videos[number], place)

    def picture(self, number: int, place: int, panel: int, *, draw: str, gaze: bool) -> bytes | None:
        """Return a panel as JPEG; None while its map is being computed.

        Args:
            number: index of the video.
            place: index of the frame in `frames` of the video.
            panel: index in `panels`.
            draw: name in DRAWINGS.
            gaze: mark the fixations.

        Raises:
            UserError: the frame or the map does not exist or cannot be read.
        """
        shown, frame = self.videos[number], self.videos[number].frames[place]
        saliency = None
        if panel:
            saliency = self.layers[panel - 1].get(shown, place)
            if saliency is None:
                return None
        if shown.missing:
            if saliency is None:
                raise UserError(shown.missing)
            size = _enlarged(saliency.shape)
            return jpeg(_coloured(saliency, size), SIDE)
        size = fit(shown.video.size, SIDE)
        if saliency is None:
            picture = self._frames.read(shown, frame)
        elif settings := DRAWINGS[draw]:
            picture = overlay(self._frames.read(shown, frame), saliency, settings)
        else:
            picture = _coloured(saliency, size)
        truth = shown.video.truth
        if gaze and truth is not None:
            picture = mark_points(picture, truth.points(frame) * (np.array(size) / shown.video.size))
        return jpeg(picture, SIDE)

    def close(self, seconds: float = STOP_SECONDS) -> bool:
        """End all threads; return whether they have ended in time."""
        parts, end = (*self.layers, *([self.scores] if self.scores else [])), time.monotonic() + seconds
        for part in parts:
            part.stop()
        return all(part.join(max(0.0, end - time.monotonic())) for part in parts)


def _enlarged(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the size of the picture of a map without a frame."""
    scale = SIDE / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _coloured(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a map (h, w) in [0, 1] in colours: (*size, 3) uint8."""
    levels = np.rint(np.clip(resize_map(np.ascontiguousarray(saliency), size), 0, 1) * 255).astype(np.uint8)
    return np.rint(colour_map(COLOURS)).astype(np.uint8)[levels]
