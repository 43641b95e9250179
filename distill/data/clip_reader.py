"""Read the frames and the ground truth of clips, with a cache of open videos and decoded frames per process."""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from distill import saliency
from distill.data import augment
from distill.data.augment import Box
from distill.data.clips import ClipSpec, Video, Window
from distill.data.fit import content_size, fit_box, place
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader, in_parts
from distill.fixations import fixation_map

CACHE_BYTES = 128 * 2**20
"""Maximum size of the decoded frames that a process keeps: two whole videos of DHF1K at 112 x 192."""

MAX_OPEN = 8
"""Maximum number of videos that a process keeps open."""


class FrameCache:
    """LRU cache of the open videos and the decoded frames of one process.

    Random clips of a few videos overlap, and teacher and student often need the same frames at one size. A forked
    worker starts with an empty cache, because a decoder's threads do not survive a fork.

    Attributes:
        whole_videos: decode and keep whole videos at their first access; avoids seeking.
    """

    def __init__(self, max_open: int = MAX_OPEN, max_bytes: int = CACHE_BYTES) -> None:
        self.max_open, self.max_bytes, self.whole_videos = max_open, max_bytes, False
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._readers: OrderedDict[str, VideoReader] = OrderedDict()
        self._frames: OrderedDict[tuple[str, tuple[int, int], int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._videos: dict[tuple[str, tuple[int, int]], np.ndarray] = {}

    def reader(self, video: Video) -> VideoReader:
        """Return the open reader of a video.

        Raises:
            UserError: if the video cannot be opened.
        """
        if self._process != os.getpid():
            self._reset()
        key = str(video.path)
        if key not in self._readers:
            while len(self._readers) >= self.max_open:
                self._readers.popitem(last=False)
            self._readers[key] = open_video(video.path)
        self._readers.move_to_end(key)
        return self._readers[key]

    def read(self, video: Video, frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """Return frames (n, H, W, 3) uint8 of a video at a size, in the requested order."""
        path = str(video.path)
        if self.whole_videos:
            if (path, size) not in self._videos:
                self._videos[path, size] = self.reader(video).read(range(video.num_frames), size)
            return self._videos[path, size][list(frames)]
        reader = self.reader(video)
        missing = sorted({frame for frame in frames if (path, size, frame) not in self._frames})
        decoded = reader.read(missing, size) if missing else np.empty((0, *size, 3), dtype=np.uint8)
        new = dict(zip(missing, decoded, strict=True))
        rows = []
        for frame in frames:
            key = (path, size, frame)
            if key in self._frames:
                self._frames.move_to_end(key)
            rows.append(self._frames[key] if key in self._frames else new[frame])
        out = decoded if missing == list(frames) else np.stack(rows)
        for frame, pixels in new.items():
            self._frames[path, size, frame] = pixels.copy()  # a view would keep its whole batch alive
            self._bytes += pixels.nbytes
        while self._bytes > self.max_bytes:
            self._bytes -= self._frames.popitem(last=False)[1].nbytes
        return out


FRAME_CACHE = FrameCache()
"""Cache of this process, shared by data sets, teachers and target stores."""


def read_clip(window: Window, spec: ClipSpec) -> Tensor:
    """Return the clip (3, T, H, W) uint8 of a window, augmented.

    Pixels are resampled once: whole frames are decoded at their size in the clip, crops and camera moves are scaled
    from the video's size. Padding is added last, so that it is not recoloured.
    """
    video, frames = window.video, spec.frames(window.end, window.video.fps)
    size = content_size(spec.fit, shown_size(window), spec.size)
    if window.move is not None:
        pixels = np.stack(
            [
                augment.show_part(FRAME_CACHE.read(video, [frame], video.size)[0], window.move.at(offset), size)
                for frame, offset in zip(frames, spec.places(video.fps), strict=True)
            ]
        )
    elif window.box is None:
        pixels = FRAME_CACHE.read(video, frames, size)  # (T, height, width, 3)
    else:
        parts = (FRAME_CACHE.read(video, part, video.size) for part in in_parts(frames, video.size))
        pixels = np.concatenate([augment.crop_frames(part, window.box, size) for part in parts])
    clip = pixels.transpose(3, 0, 1, 2)  # (3, T, height, width)
    clip = np.ascontiguousarray(augment.flip(clip) if window.flipped else clip)
    clip = augment.recolour(clip, window.colour) if window.colour else clip
    return place(torch.from_numpy(clip), spec.size)


def shown_size(window: Window) -> tuple[int, int]:
    """Return (height, width) of the frames or of their crops, in pixels of the video."""
    return window.video.size if window.box is None else (window.box.height, window.box.width)


def read_fit_box(window: Window, spec: ClipSpec) -> dict[str, Tensor]:
    """Return where the frames, or their crops, lie in the clip: "fit_box" (4,) float32; nothing for stretch."""
    if spec.fit == "stretch":
        return {}
    return {"fit_box": torch.tensor(fit_box(spec.fit, shown_size(window), spec.size))}


def read_truth(window: Window, spec: ClipSpec) -> dict[str, Tensor]:
    """Return the ground truth of a window's N target frames, cropped and mirrored as its clip is.

    Returns:
        "density" (N, h, w) float32, sum 1 each; "fixations" (N, h, w) float32 counts; "labelled" (N,) bool. A map
        is labelled if its frame is in use and has at least one fixation inside the crop; other maps are zero.
    """
    video, targets = window.video, spec.targets(window.end, window.video.fps)
    density = np.zeros((len(targets), *spec.map_size), dtype=np.float32)
    fixations = np.zeros_like(density)
    labelled = np.zeros(len(targets), dtype=bool)
    density_of = _densities(video, spec.map_size)
    for n, (frame, offset) in enumerate(zip(targets, spec.offsets(video.fps), strict=True)):
        if video.truth is None or frame not in video.frames or not video.truth.has(frame):
            continue
        box = window.box_at(offset)
        fixations[n] = _fixations(video, frame, box, spec.map_size)
        if fixations[n].any():
            density[n] = density_of(frame, box)
            labelled[n] = density[n].any()
    if window.flipped:
        density, fixations = augment.flip(density).copy(), augment.flip(fixations).copy()
    return {
        "density": torch.from_numpy(density),
        "fixations": torch.from_numpy(fixations),
        "labelled": torch.from_numpy(labelled),
    }


def _fixations(video: Video, frame: int, box: Box | None, map_size: tuple[int, int]) -> np.ndarray:
    """Return the number of fixations per pixel of a map (h, w) of a frame or of a crop of it."""
    assert video.truth is not None
    if box is None:
        return video.truth.fixation_map(frame, map_size)
    points = video.truth.points(frame) - (box.top, box.left)
    return fixation_map(points, (box.height, box.width), map_size)


def _densities(video: Video, map_size: tuple[int, int]) -> Callable[[int, Box | None], np.ndarray]:
    """Return a function that gives the density (h, w) of a frame or of a crop of it, and keeps its results.

    All targets of a still's clip are one frame, whose density is computed once. The density of a crop is that of
    the whole frame, cut out and renormalised to sum 1; zeros if there is none.
    """
    truth = video.truth

    @cache
    def whole(frame: int, size: tuple[int, int]) -> np.ndarray:
        assert truth is not None
        return truth.density(frame, size)

    @cache
    def density(frame: int, box: Box | None) -> np.ndarray:
        if box is None:
            return whole(frame, map_size)
        part = torch.from_numpy(box.of(whole(frame, video.size)).copy())[None, None]
        resized: np.ndarray = saliency.resize_density(saliency.normalise_density(part), map_size)[0, 0].numpy()
        return resized

    return density
