"""Data set of random clips in which each sample is a pure function of (seed, index).

The clips therefore do not depend on the number of workers, the machine, or whether a run was resumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.data import clip_reader
from distill.data.augment import Camera, Crop, Jitter
from distill.data.clip_reader import read_clip, read_fit_box, read_truth
from distill.data.clips import ClipSpec, Video, Window
from distill.errors import UserError
from distill.limits import MAX_EPOCH_CLIPS, check_limit


@dataclass(frozen=True)
class ClipSource:
    """Videos, and the number of clips that an epoch draws from them.

    Attributes:
        videos: the videos.
        clips_per_video: clips per video and epoch; unused if `ratio` is set.
        ratio: clips of this source per clip of the sources without a ratio. Its videos take turns in a random
            order that continues across epochs.
    """

    videos: Sequence[Video]
    clips_per_video: int = 1
    ratio: float | None = None


class ClipDataset(Dataset[dict[str, Any]]):
    """Random clips of videos; `dataset[i]` is a pure function of (seed, i) for every i >= 0.

    An epoch is `len(dataset)` samples, shuffled differently in each epoch: `clips_per_video` clips of each video,
    plus the clips of the sources with a `ratio`. Each clip ends at a random frame of `video.frames`.

    Args:
        sources: videos with the number of clips to draw from them.
        spec: shape of the model's clips and maps.
        seed: non-negative.
        flip: mirror half of the clips.
        crop: random crops; None uses whole frames.
        colour: random colours; None leaves them unchanged.
        camera: random camera moves over stills, in place of their crops; None keeps them still.
        extras: functions that map a window to further tensors of its sample, mirrored like the clip.
        in_memory: keep whole decoded videos in the reading process (`FrameCache.whole_videos`).

    A sample has "clip" (3, T, H, W) uint8, "density" and "fixations" (N, h, w) float32, "labelled" (N,) bool,
    "video" its name, "frames" (N,) int64 target frames, "flipped" bool, and the results of the extras. With a crop
    it has "box" (4,) float32 (top, left, height and width relative to the frame, mirrored like the clip), with a
    camera (N, 4), one for each target. With a fit other than stretch it has "fit_box" (4,) float32, where the frame
    or its crop lies in the clip (`fit.fit_box`).

    Raises:
        UserError: if an epoch has no clip, or over MAX_EPOCH_CLIPS.
    """

    def __init__(
        self,
        sources: Sequence[ClipSource],
        spec: ClipSpec,
        *,
        seed: int,
        flip: bool,
        crop: Crop | None = None,
        colour: Jitter | None = None,
        camera: Camera | None = None,
        extras: Sequence[Callable[[Window], dict[str, Tensor]]] = (),
        in_memory: bool = False,
    ) -> None:
        self.sources, self.spec, self.seed, self.extras = sources, spec, seed, tuple(extras)
        self.flip, self.crop, self.colour, self.camera, self.in_memory = flip, crop, colour, camera, in_memory
        slots = sum(source.clips_per_video * len(source.videos) for source in self.sources if source.ratio is None)
        clips = slots * (1 + sum(source.ratio or 0 for source in self.sources))
        check_limit(clips, MAX_EPOCH_CLIPS, "clips_per_video and ratio: clips of an epoch")
        if not self._slots:
            raise UserError(
                "the training data contain no clip; expected a source with at least one video and without a ratio"
            )
        self._order: tuple[int, list[Video]] = (-1, [])

    @cached_property
    def _slots(self) -> list[Video]:
        """The videos of the sources without a ratio, repeated once per clip."""
        return [
            video
            for source in self.sources
            if source.ratio is None
            for video in source.videos
            for _ in range(source.clips_per_video)
        ]

    @cached_property
    def _counts(self) -> list[int]:
        """Clips per epoch of each source with a ratio; 0 for the others."""
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
        """Return `count` videos of a source from position `first` of endless rounds, each in a random order."""
        videos = self.sources[number].videos
        chosen: list[Video] = []
        while len(chosen) < count:
            round_, turn = divmod(first + len(chosen), len(videos))
            order = np.random.default_rng([self.seed, 2, number, round_]).permutation(len(videos))
            chosen += [videos[index] for index in order[turn : turn + count - len(chosen)]]
        return chosen

    def window(self, index: int) -> Window:
        """Return the window of sample `index` >= 0.

        Crop, colour and camera move are drawn last, in this order, so that enabling one changes neither the frames
        and the mirroring nor those drawn before it.
        """
        epoch, position = divmod(index, len(self))
        if self._order[0] != epoch:
            self._order = (epoch, self._videos(epoch))
        video = self._order[1][position]
        random = np.random.default_rng([self.seed, 1, index])
        end = video.frames[int(random.integers(len(video.frames)))]
        flipped = bool(random.integers(2))
        box = self.crop.draw(random, video.size) if self.crop else None
        colour = self.colour.draw(random) if self.colour else None
        move = None
        if self.camera and (video.num_frames == 1 or self.camera.videos):
            move = self.camera.draw(random, max(1, self.spec.span(video.fps) - 1), video.fps)
        return Window(video, end, self.flip and flipped, None if move else box, colour, move)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return sample `index`.

        Raises:
            UserError: if the video or its ground truth cannot be read.
            RuntimeError: if anything else fails; names the video and the frame.
        """
        window = self.window(index)
        video = window.video
        clip_reader.FRAME_CACHE.whole_videos = self.in_memory
        try:
            sample: dict[str, Any] = {"clip": read_clip(window, self.spec), **read_truth(window, self.spec)}
            sample.update(read_fit_box(window, self.spec))
            sample["video"] = video.name
            sample["frames"] = torch.tensor(self.spec.targets(window.end, video.fps))
            sample["flipped"] = window.flipped
            if self.camera is not None:
                sample["box"] = torch.tensor([window.shares_at(each) for each in self.spec.offsets(video.fps)])
            elif window.box is not None:
                sample["box"] = torch.tensor(window.shares_at(0))
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
