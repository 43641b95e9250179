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

from distill import saliency
from distill.data import augment
from distill.data.augment import Box, Colour, Crop, Jitter
from distill.data.truth import Truth
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader
from distill.errors import UserError
from distill.fixations import fixation_map
from distill.stride import Stride, offsets, step_of

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
        stride: how far apart the clip's frames lie in the video, in frames (2) or as a rate ("30fps").
    """

    num_frames: int
    size: tuple[int, int]
    target_frames: tuple[int, ...]
    map_size: tuple[int, int]
    stride: Stride = 1

    @classmethod
    def of(cls, model: Any, stride: Stride = 1) -> "ClipSpec":
        """Return what a model (or anything with its four attributes) wants."""
        return cls(
            num_frames=int(model.num_frames),
            size=(int(model.size[0]), int(model.size[1])),
            target_frames=tuple(int(t) for t in model.target_frames),
            map_size=(int(model.map_size[0]), int(model.map_size[1])),
            stride=stride,
        )

    def frames(self, end: int, fps: float) -> list[int]:
        """Return the T frame indices of the clip whose last frame is `end`, in a video of `fps`.

        Before the video's start, its first frame is repeated.
        """
        return [max(0, end + offset) for offset in offsets(self.num_frames, step_of(self.stride, fps))]

    def targets(self, end: int, fps: float) -> list[int]:
        """Return the N frame indices that get a map; before the video's start, 0."""
        return [max(0, end + offset) for offset in self.offsets(fps)]

    def offsets(self, fps: float) -> tuple[int, ...]:
        """Return the target frames as seen from the clip's last frame, in frames of a video: 0 is the last one."""
        places = offsets(self.num_frames, step_of(self.stride, fps))
        return tuple(places[t] for t in self.target_frames)

    def span(self, fps: float) -> int:
        """Return how many frames of a video lie from the clip's first frame to its last, both counted."""
        return 1 - offsets(self.num_frames, step_of(self.stride, fps))[0]


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
    """Videos, and how many clips an epoch draws from them.

    Attributes:
        videos: of any number.
        clips_per_video: clips of each video; nothing to a source with a ratio.
        ratio: clips of this source for each clip of the sources without a ratio, whatever the number of its videos.
            An epoch goes on through them, in an order of their own, where the last one ended.
    """

    videos: Sequence[Video]
    clips_per_video: int = 1
    ratio: float | None = None


@dataclass(frozen=True)
class Window:
    """One clip of one video: the clip whose last frame is `end`, and what augmentation makes of it.

    Attributes:
        video: the video.
        end: its last frame, 0-based.
        flipped: mirrored left to right, after the crop.
        box: the part of the frames that is kept; all of it when None.
        colour: how the colours change; not at all when None.
    """

    video: Video
    end: int
    flipped: bool = False
    box: Box | None = None
    colour: Colour | None = None

    def of_teacher(self) -> "Window":
        """Return the same clip as a teacher is shown it: whole frames in their own colours, mirrored or not."""
        return Window(self.video, self.end, self.flipped)


class FrameStore:
    """The open videos and the last decoded frames of one process, both least recently used first out.

    Random windows over a few videos overlap, and teacher and student often want the same frames at one size; a set
    too large for the memory it may take passes through at the cost of a copy. Forked workers start with an empty
    store: a decoder's threads do not survive a fork.

    Attributes:
        whole: decode videos whole when they are first read, and keep them: seeking costs more than decoding on.
    """

    def __init__(self, max_open: int = MAX_OPEN, max_bytes: int = CACHE_BYTES) -> None:
        self.max_open, self.max_bytes, self.whole = max_open, max_bytes, False
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._readers: OrderedDict[str, VideoReader] = OrderedDict()
        self._frames: OrderedDict[tuple[str, tuple[int, int], int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._videos: dict[tuple[str, tuple[int, int]], np.ndarray] = {}

    def reader(self, video: Video) -> VideoReader:
        """Return the open reader of a video.

        Raises:
            UserError: if the video cannot be opened any more.
        """
        if self._process != os.getpid():
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
        path = str(video.path)
        if self.whole:
            if (path, size) not in self._videos:
                self._videos[path, size] = self.reader(video).read(range(video.num_frames), size)
            return self._videos[path, size][list(frames)]
        reader = self.reader(video)
        missing = sorted({frame for frame in frames if (path, size, frame) not in self._frames})
        decoded = reader.read(missing, size) if missing else np.empty((0, *size, 3), dtype=np.uint8)
        fresh = dict(zip(missing, decoded, strict=True))
        rows = []
        for frame in frames:
            key = (path, size, frame)
            if key in self._frames:
                self._frames.move_to_end(key)
            rows.append(self._frames[key] if key in self._frames else fresh[frame])
        out = decoded if missing == list(frames) else np.stack(rows)
        for frame, pixels in fresh.items():
            self._frames[path, size, frame] = pixels.copy()  # a view would keep its whole batch alive
            self._bytes += pixels.nbytes
        while self._bytes > self.max_bytes:
            self._bytes -= self._frames.popitem(last=False)[1].nbytes
        return out


FRAMES = FrameStore()
"""This process's videos and frames; data sets, teachers and caches that read clips share it."""


def read_clip(window: Window, spec: ClipSpec) -> Tensor:
    """Return the clip (3, T, H, W) uint8 of a window at a model's size, augmented as the window says.

    Whole frames are decoded straight to the model's size. A part of them is decoded at the video's size and scaled
    from there, so that either way pixels are resampled once.
    """
    video, frames = window.video, spec.frames(window.end, window.video.fps)
    if window.box is None:
        pixels = FRAMES.read(video, frames, spec.size)  # (T, H, W, 3)
    else:
        pixels = augment.crop_frames(FRAMES.read(video, frames, video.size), window.box, spec.size)
    clip = pixels.transpose(3, 0, 1, 2)  # (3, T, H, W)
    clip = np.ascontiguousarray(augment.flip(clip) if window.flipped else clip)
    return torch.from_numpy(augment.recolour(clip, window.colour) if window.colour else clip)


def read_truth(window: Window, spec: ClipSpec) -> dict[str, Tensor]:
    """Return the ground truth of a window's N target frames, cropped and mirrored when the window says so.

    Returns:
        "density" (N, h, w) float32, sum 1 each; "fixations" (N, h, w) float32 counts; "labelled" (N,) bool. A map
        is labelled when its frame is in use, has ground truth and at least one fixation, in the crop where there is
        one; the others are zeros.
    """
    video, targets = window.video, spec.targets(window.end, window.video.fps)
    density = np.zeros((len(targets), *spec.map_size), dtype=np.float32)
    fixations = np.zeros_like(density)
    labelled = np.zeros(len(targets), dtype=bool)
    for n, frame in enumerate(targets):
        if video.truth is None or frame not in video.frames or not video.truth.has(frame):
            continue
        fixations[n] = _fixations(video, frame, window.box, spec.map_size)
        if fixations[n].any():
            density[n] = _density(video, frame, window.box, spec.map_size)
            labelled[n] = density[n].any()
    if window.flipped:
        density, fixations = augment.flip(density).copy(), augment.flip(fixations).copy()
    return {
        "density": torch.from_numpy(density),
        "fixations": torch.from_numpy(fixations),
        "labelled": torch.from_numpy(labelled),
    }


def _fixations(video: Video, frame: int, box: Box | None, map_size: tuple[int, int]) -> np.ndarray:
    """Return how many fixations fall into each pixel of a map (h, w) of a frame, or of a part of it."""
    assert video.truth is not None
    if box is None:
        return video.truth.fixation_map(frame, map_size)
    points = video.truth.points(frame) - (box.top, box.left)  # those outside the box are left out
    return fixation_map(points, (box.height, box.width), map_size)


def _density(video: Video, frame: int, box: Box | None, map_size: tuple[int, int]) -> np.ndarray:
    """Return the density (h, w) of a frame, sum 1, or of a part of it, renormalised; zeros where there is none."""
    assert video.truth is not None
    if box is None:
        return video.truth.density(frame, map_size)
    part = torch.from_numpy(box.of(video.truth.density(frame, video.size)).copy())[None, None]
    resized: np.ndarray = saliency.resize_density(saliency.normalise_density(part), map_size)[0, 0].numpy()
    return resized


class ClipDataset(Dataset[dict[str, Any]]):
    """Random clips of videos. `dataset[i]` is a pure function of (seed, i) for every i >= 0, epoch after epoch.

    An epoch is `len(dataset)` samples, in an order shuffled anew for each: of every video its source's
    `clips_per_video`, and beside them the clips of the sources that have a `ratio`. Each clip ends at a random
    frame of `video.frames`.

    Args:
        sources: videos with the number of clips to draw from them.
        spec: what the model wants.
        seed: at least 0.
        flip: mirror half of the clips.
        crop: cut every clip to a random part of its frames.
        colour: change every clip's colours at random.
        extras: functions from a window to more tensors of its sample, already mirrored as the window says.
        in_memory: let the process that reads keep whole videos (`FrameStore.whole`).

    A sample: "clip" uint8 (3, T, H, W), "density" and "fixations" float32 (N, h, w), "labelled" bool (N,), "video"
    its name, "frames" int64 (N,) the target frames, "flipped" bool, with a crop "box" float32 (4,) (top, left,
    height and width as shares of the frame, mirrored as the clip is), and what the extras give.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        spec: ClipSpec,
        *,
        seed: int,
        flip: bool,
        crop: Crop | None = None,
        colour: Jitter | None = None,
        extras: Sequence[Callable[[Window], dict[str, Tensor]]] = (),
        in_memory: bool = False,
    ) -> None:
        self.sources, self.spec, self.seed, self.extras = sources, spec, seed, tuple(extras)
        self.flip, self.crop, self.colour, self.in_memory = flip, crop, colour, in_memory
        if not self._slots:
            raise UserError(
                "the training data hold no clip: there is no video, clips_per_video is 0, or every source has a "
                "ratio, so that there is nothing that it is a ratio to"
            )
        self._order: tuple[int, list[Video]] = (-1, [])

    @cached_property
    def _slots(self) -> list[Video]:
        """The videos of the sources without a ratio, each as often as an epoch takes a clip from it."""
        return [
            video
            for source in self.sources
            if source.ratio is None
            for video in source.videos
            for _ in range(source.clips_per_video)
        ]

    @cached_property
    def _counts(self) -> list[int]:
        """How many clips of an epoch come from each source by its ratio."""
        return [
            0 if source.ratio is None or not source.videos else round(source.ratio * len(self._slots))
            for source in self.sources
        ]

    def __len__(self) -> int:
        return len(self._slots) + sum(self._counts)

    def _videos(self, epoch: int) -> list[Video]:
        """Return the video of each sample of an epoch."""
        videos = list(self._slots)
        for number, count in enumerate(self._counts):
            videos += self._in_turn(number, epoch * count, count)
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(videos))
        return [videos[index] for index in order]

    def _in_turn(self, number: int, first: int, count: int) -> list[Video]:
        """Return `count` videos of a source, from the first on: rounds without end, each in an order of its own."""
        videos = self.sources[number].videos
        chosen: list[Video] = []
        while len(chosen) < count:
            round_, turn = divmod(first + len(chosen), len(videos))
            order = np.random.default_rng([self.seed, 2, number, round_]).permutation(len(videos))
            chosen += [videos[index] for index in order[turn : turn + count - len(chosen)]]
        return chosen

    def window(self, index: int) -> Window:
        """Return the window of sample `index`, for any index >= 0."""
        epoch, position = divmod(index, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, self._videos(epoch))
        video = self._order[1][position]
        random = np.random.default_rng([self.seed, 1, index])
        end = video.frames[int(random.integers(len(video.frames)))]
        flipped = bool(random.integers(2))
        box = self.crop.draw(random, video.size) if self.crop else None
        colour = self.colour.draw(random) if self.colour else None
        return Window(video, end, self.flip and flipped, box, colour)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return sample `index`.

        Raises:
            UserError: if its video or ground truth cannot be read.
            RuntimeError: if anything else fails; it names the video and the frame.
        """
        window = self.window(index)
        video = window.video
        FRAMES.whole = self.in_memory
        try:
            sample: dict[str, Any] = {"clip": read_clip(window, self.spec), **read_truth(window, self.spec)}
            sample["video"] = video.name
            sample["frames"] = torch.tensor(self.spec.targets(window.end, video.fps))
            sample["flipped"] = window.flipped
            if window.box is not None:
                sample["box"] = torch.tensor(window.box.shares(video.size, flipped=window.flipped))
            for extra in self.extras:
                sample.update(extra(window))
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(
                f"video {video.name} ({video.path}), clip ending at frame {window.end + 1}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return sample
