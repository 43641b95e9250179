"""Clips over videos: which frames a model sees, which of them have maps, and the samples of an epoch.

A window is one clip of one video, named by its last frame. A sample is a pure function of (seed, number), so any
number of workers, a resumed run and a second machine see the same clips.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.data import augment
from distill.data.truth import Truth
from distill.data.video import VideoReader, open_video
from distill.errors import UserError

CACHE_BYTES = 128 * 2**20
"""Decoded frames that a process keeps: two clips of DHF1K whole at 112 x 192, nothing of weight on a large set."""

MAX_OPEN = 8
"""Videos that a process keeps open."""


@dataclass(frozen=True)
class ClipSpec:
    """What a model wants of a clip.

    Attributes:
        num_frames: frames of a clip (T).
        size: (H, W) of the clip.
        target_frames: which of the T frames get a map (N of them).
        map_size: (h, w) of the maps.
        stride: frames of the video from one frame of the clip to the next.
    """

    num_frames: int
    size: tuple[int, int]
    target_frames: tuple[int, ...]
    map_size: tuple[int, int]
    stride: int = 1

    @classmethod
    def of(cls, model: Any, stride: int = 1) -> "ClipSpec":
        """Return what a model (or anything with its four attributes) wants."""
        return cls(
            num_frames=int(model.num_frames),
            size=(int(model.size[0]), int(model.size[1])),
            target_frames=tuple(int(t) for t in model.target_frames),
            map_size=(int(model.map_size[0]), int(model.map_size[1])),
            stride=stride,
        )

    def frames(self, end: int) -> list[int]:
        """Return the T frame indices of the clip whose last frame is `end`.

        Before the video's start, its first frame is repeated.
        """
        return [max(0, end - (self.num_frames - 1 - j) * self.stride) for j in range(self.num_frames)]

    def targets(self, end: int) -> list[int]:
        """Return the N frame indices that get a map; before the video's start, 0."""
        clip = self.frames(end)
        return [clip[t] for t in self.target_frames]

    @property
    def offsets(self) -> tuple[int, ...]:
        """The target frames as seen from the clip's last frame, in frames of the video: 0 is the last one."""
        return tuple((t - (self.num_frames - 1)) * self.stride for t in self.target_frames)


@dataclass(frozen=True)
class Video:
    """One video of a data set: what is known of it without opening it.

    Attributes:
        name: as the data set calls it.
        path: file, folder of frames, or `synthetic:...`: what `open_video` takes.
        num_frames: frames that decode.
        fps: frames a second.
        size: (height, width) in pixels.
        frames: the target frames in use, 0-based.
        truth: its ground truth; None when it has none.
        dataset: the data set's name.
        recording: what it was cut from: videos of one recording are never parted by a `share`.
    """

    name: str
    path: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    frames: Sequence[int]
    truth: Truth | None
    dataset: str
    recording: str = ""


@dataclass(frozen=True)
class Source:
    """Videos, and how many clips an epoch draws from each of them."""

    videos: Sequence[Video]
    clips_per_video: int = 1


@dataclass(frozen=True)
class Window:
    """One clip of one video: the clip whose last frame is `end`, mirrored or not."""

    video: Video
    end: int
    flipped: bool = False


class FrameStore:
    """The open videos and the last decoded frames of one process, both least recently used first out.

    Random windows over a few videos overlap, and teacher and student often want the same frames at one size; a set
    too large for the memory it may take passes through at the cost of a copy. Forked workers start with an empty
    store: a decoder's threads do not survive a fork.
    """

    def __init__(self, max_open: int = MAX_OPEN, max_bytes: int = CACHE_BYTES) -> None:
        self.max_open, self.max_bytes = max_open, max_bytes
        self._inherited: list[Any] = []
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._readers: OrderedDict[str, VideoReader] = OrderedDict()
        self._frames: OrderedDict[tuple[str, tuple[int, int], int], np.ndarray] = OrderedDict()
        self._bytes = 0

    def reader(self, video: Video) -> VideoReader:
        """Return the open reader of a video.

        Raises:
            UserError: if the video cannot be opened any more.
        """
        if self._process != os.getpid():
            self._inherited.append(self._readers)  # closing a parent's decoder here would wait for its threads
            self._start()
        key = str(video.path)
        if key not in self._readers:
            while len(self._readers) >= self.max_open:
                self._readers.popitem(last=False)
            self._readers[key] = open_video(video.path)
        self._readers.move_to_end(key)
        return self._readers[key]

    def read(self, video: Video, frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        """Return frames (n, H, W, 3) uint8 of a video at a size, in the order asked for."""
        reader, path = self.reader(video), str(video.path)
        missing = sorted({frame for frame in frames if (path, size, frame) not in self._frames})
        fresh = dict(zip(missing, reader.read(missing, size), strict=True)) if missing else {}
        out = np.empty((len(frames), *size, 3), dtype=np.uint8)
        for row, frame in enumerate(frames):
            key = (path, size, frame)
            if key in self._frames:
                self._frames.move_to_end(key)
                out[row] = self._frames[key]
            else:
                out[row] = fresh[frame]
        for frame, pixels in fresh.items():
            self._frames[path, size, frame] = pixels.copy()  # a view would keep its whole batch alive
            self._bytes += pixels.nbytes
        while self._bytes > self.max_bytes:
            self._bytes -= self._frames.popitem(last=False)[1].nbytes
        return out


FRAMES = FrameStore()
"""This process's videos and frames; data sets, teachers and caches that read clips share it."""


def read_clip(window: Window, spec: ClipSpec) -> Tensor:
    """Return the clip (3, T, H, W) uint8 of a window at a model's size, mirrored when the window says so."""
    pixels = FRAMES.read(window.video, spec.frames(window.end), spec.size)  # (T, H, W, 3)
    clip = pixels.transpose(3, 0, 1, 2)  # (3, T, H, W)
    return torch.from_numpy(np.ascontiguousarray(augment.flip(clip) if window.flipped else clip))


def read_truth(window: Window, spec: ClipSpec) -> dict[str, Tensor]:
    """Return the ground truth of a window's N target frames, mirrored when the window says so.

    Returns:
        "density" (N, h, w) float32, sum 1 each; "fixations" (N, h, w) float32 counts; "labelled" (N,) bool. A map
        is labelled when its frame is in use, has ground truth and at least one fixation; the others are zeros.
    """
    video, targets = window.video, spec.targets(window.end)
    density = np.zeros((len(targets), *spec.map_size), dtype=np.float32)
    fixations = np.zeros_like(density)
    labelled = np.zeros(len(targets), dtype=bool)
    for n, frame in enumerate(targets):
        if video.truth is None or frame not in video.frames or not video.truth.has(frame):
            continue
        fixations[n] = video.truth.fixation_map(frame, spec.map_size)
        if fixations[n].any():
            density[n] = video.truth.density(frame, spec.map_size)
            labelled[n] = density[n].any()
    if window.flipped:
        density, fixations = augment.flip(density).copy(), augment.flip(fixations).copy()
    return {
        "density": torch.from_numpy(density),
        "fixations": torch.from_numpy(fixations),
        "labelled": torch.from_numpy(labelled),
    }


class ClipDataset(Dataset[dict[str, Any]]):
    """Random clips of videos. `dataset[i]` is a pure function of (seed, i) for every i >= 0, epoch after epoch.

    An epoch is `len(dataset)` samples: of every video its source's `clips_per_video`, in an order shuffled anew for
    each epoch, each clip ending at a random frame of `video.frames`.

    Args:
        sources: videos with the number of clips to draw from each.
        spec: what the model wants.
        seed: at least 0.
        flip: mirror half of the clips.
        extras: functions from a window to more tensors of its sample, already mirrored as the window says.

    A sample: "clip" uint8 (3, T, H, W), "density" and "fixations" float32 (N, h, w), "labelled" bool (N,), "video"
    its name, "frames" int64 (N,) the target frames, "flipped" bool, and what the extras give.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        spec: ClipSpec,
        *,
        seed: int,
        flip: bool,
        extras: Sequence[Callable[[Window], dict[str, Tensor]]] = (),
    ) -> None:
        self.sources, self.spec, self.seed, self.flip, self.extras = sources, spec, seed, flip, tuple(extras)
        if not len(self):
            raise UserError("the training data hold no clip: there is no video, or clips_per_video is 0")
        self._order = (-1, np.zeros(0, dtype=np.int64))

    @cached_property
    def _slots(self) -> list[Video]:
        return [video for source in self.sources for video in source.videos for _ in range(source.clips_per_video)]

    def __len__(self) -> int:
        return len(self._slots)

    def window(self, index: int) -> Window:
        """Return the window of sample `index`, for any index >= 0."""
        epoch, position = divmod(index, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self.seed, 0, epoch]).permutation(len(self)))
        video = self._slots[int(self._order[1][position])]
        random = np.random.default_rng([self.seed, 1, index])
        end = video.frames[int(random.integers(len(video.frames)))]
        flipped = bool(random.integers(2))
        return Window(video, end, self.flip and flipped)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return sample `index`.

        Raises:
            UserError: if its video or ground truth cannot be read.
            RuntimeError: if anything else fails; it names the video and the frame.
        """
        window = self.window(index)
        try:
            sample: dict[str, Any] = {"clip": read_clip(window, self.spec), **read_truth(window, self.spec)}
            sample["video"] = window.video.name
            sample["frames"] = torch.tensor(self.spec.targets(window.end))
            sample["flipped"] = window.flipped
            for extra in self.extras:
                sample.update(extra(window))
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"video {window.video.name} ({window.video.path}), clip ending at frame {window.end + 1}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return sample
