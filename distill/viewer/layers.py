"""The maps of a viewer: ground truth, maps of a target store, and maps that a thread predicts in advance."""

import logging
import threading
from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np

from distill.errors import UserError, reason_of
from distill.evaluation.map_sources import MapSource
from distill.reports.page import fit
from distill.saliency import peak_map, to_peak
from distill.targets.store import TargetStore
from distill.viewer.follower import Follower
from distill.viewer.shown import SIDE, ShownVideo

log = logging.getLogger(__name__)

MAX_MAP_BYTES = 2**30
"""Bytes of the predicted maps kept per model: 70,000 of stream-small. For a longer video, those from the viewed
frame on are computed."""

NEAR = 24
"""Frames from the predicting thread's to the viewer's beyond which the thread jumps to the viewer's."""

LEAD = 48
"""Maps ahead of the viewed frame before the processor is spent on scores: two seconds of video."""


class Layer(Protocol):
    """Maps of the shown videos.

    Attributes:
        title: heading of the panel.
        scored: whether the maps are predictions, which can be scored.
    """

    title: str
    scored: bool

    def get(self, shown: ShownVideo, place: int) -> np.ndarray | None:
        """Return the map (h, w) in [0, 1] of a frame; None while it is being computed.

        Args:
            shown: the video.
            place: index in `shown.frames`.

        Raises:
            UserError: there is no map.
        """
        ...

    def ready(self, shown: ShownVideo) -> int:
        """Return the number of a video's frames that need not be waited for."""
        ...

    def is_behind(self, shown: ShownVideo, place: int) -> bool:
        """Return whether maps of the next LEAD frames are still being computed."""
        ...

    def want(self, shown: ShownVideo, place: int) -> None:
        """Tell which frame is being viewed."""
        ...

    def stop(self) -> None:
        """Tell the layer's thread to end."""
        ...

    def join(self, seconds: float) -> bool:
        """Return whether the layer's thread has ended, after waiting up to some seconds."""
        ...


class _ReadLayer:
    """A layer whose maps are read when they are needed."""

    def ready(self, shown: ShownVideo) -> int:
        """See `Layer.ready`."""
        return len(shown.frames)

    def is_behind(self, shown: ShownVideo, place: int) -> bool:
        """See `Layer.is_behind`."""
        return False

    def want(self, shown: ShownVideo, place: int) -> None:
        """See `Layer.want`."""

    def stop(self) -> None:
        """See `Layer.stop`."""

    def join(self, seconds: float) -> bool:
        """See `Layer.join`."""
        return True


class TruthLayer(_ReadLayer):
    """The fixation density of the ground truth, scaled to a maximum of 1."""

    title, scored = "ground truth", False

    def get(self, shown: ShownVideo, place: int) -> np.ndarray:
        """See `Layer.get`."""
        video, frame = shown.video, shown.frames[place]
        if video.truth is None:
            raise UserError(f"{shown.name}: no ground truth")
        density = video.truth.density(frame, fit(video.size, SIDE))
        if not density.any():
            raise UserError(f"{shown.name}: frame {frame + 1} has no fixation")
        return to_peak(density)


class StoredLayer(_ReadLayer):
    """The maps of a target store; if it has only the mirrored view, they are mirrored back.

    Args:
        store: the store.
        title: heading of the panel.
    """

    scored = True

    def __init__(self, store: TargetStore, title: str = "teacher") -> None:
        self._store, self.title = store, title
        self._view = "plain" if "plain" in store.plan.views else "flipped"
        self._lock = threading.Lock()

    def get(self, shown: ShownVideo, place: int) -> np.ndarray:
        """See `Layer.get`."""
        with self._lock:
            saliency = peak_map(self._store.read(shown.name, shown.frames[place], self._view))
        return saliency if self._view == "plain" else saliency[:, ::-1]


class PredictedLayer(Follower):
    """Maps of a model, computed by a thread: from the viewed frame to the end of its video, then the frames before.

    Args:
        maps: source of the maps; called by the thread only.
        title: heading of the panel.
        most_bytes: bytes of the maps to keep.
    """

    scored = True

    def __init__(self, maps: MapSource, title: str, *, most_bytes: int = MAX_MAP_BYTES) -> None:
        self.title = title
        self._maps, self._most_bytes, self._map_bytes = maps, most_bytes, 0
        self._kept: dict[ShownVideo, dict[int, np.ndarray]] = {}
        self._failed: dict[ShownVideo, str] = {}
        super().__init__(f"predict {title}")

    def get(self, shown: ShownVideo, place: int) -> np.ndarray | None:
        """See `Layer.get`."""
        with self._changed:
            found = self._kept.get(shown, {}).get(place)
            if found is None and shown in self._failed:
                raise UserError(self._failed[shown])
            return found

    def ready(self, shown: ShownVideo) -> int:
        """See `Layer.ready`."""
        with self._changed:
            return len(shown.frames) if shown in self._failed else len(self._kept.get(shown, {}))

    def is_behind(self, shown: ShownVideo, place: int) -> bool:
        """See `Layer.is_behind`."""
        coming = range(place, min(len(shown.frames), place + LEAD))
        with self._changed:
            kept = self._kept.get(shown, {})
            return shown not in self._failed and any(each not in kept for each in coming)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (job := self._next_job()) and not self._stopped:
                    self._changed.wait()
                if self._stopped or not job:
                    return
            shown, places = job
            try:
                self._predict(shown, places)
            except Exception as error:
                if not isinstance(error, UserError):
                    log.exception("%s: cannot predict %s", self.title, shown.name)
                with self._changed:
                    self._failed[shown] = reason_of(error)

    def _next_job(self) -> tuple[ShownVideo, list[int]] | None:
        """Return the viewed video and the next ascending places without a map; None if there is nothing to do."""
        if self._viewed is None or self._viewed[0] in self._failed:
            return None
        shown, place = self._viewed
        kept = self._kept.setdefault(shown, {})
        for part in self._wanted(shown, place):
            if missing := [each for each in part if each not in kept]:
                return shown, missing
        return None

    def _wanted(self, shown: ShownVideo, place: int) -> tuple[range, range]:
        """Return the places to keep: from the viewed one on, then those before it, as far as memory allows."""
        total = len(shown.frames)
        most = max(NEAR, self._most_bytes // self._map_bytes) if self._map_bytes else total
        end = min(total, place + most)
        return range(place, end), range(min(place, most - (end - place)))

    def _predict(self, shown: ShownVideo, places: Sequence[int]) -> None:
        """Compute maps until all are there or the viewer has moved elsewhere."""
        place_of = {shown.frames[place]: place for place in places}
        maps = self._maps(shown.video, [shown.frames[place] for place in places])
        try:
            for frame, saliency in maps:
                with self._changed:
                    self._keep(shown, place_of[frame], to_peak(saliency))
                    if self._stopped or self._is_elsewhere(shown, place_of[frame]):
                        return
        finally:
            if isinstance(maps, Generator):
                maps.close()

    def _keep(self, shown: ShownVideo, place: int, saliency: np.ndarray) -> None:
        """Keep a map; drop those of other videos, then those least likely to be viewed, if there are too many."""
        self._map_bytes = saliency.nbytes
        self._kept.setdefault(shown, {})[place] = saliency
        others = [each for each in self._kept if each is not shown]
        while sum(map(len, self._kept.values())) * self._map_bytes > self._most_bytes and others:
            del self._kept[others.pop(0)]
        kept = self._kept[shown]
        if len(kept) * self._map_bytes > self._most_bytes and self._viewed is not None and self._viewed[0] is shown:
            wanted = self._wanted(*self._viewed)
            for each in [each for each in kept if not any(each in part for part in wanted)]:
                del kept[each]

    def _is_elsewhere(self, shown: ShownVideo, place: int) -> bool:
        """Return whether the viewer waits for a map that this pass reaches late or never."""
        assert self._viewed is not None
        viewed, at = self._viewed
        if viewed is not shown:
            return True
        return at not in self._kept[shown] and not place <= at <= place + NEAR
