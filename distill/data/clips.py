"""Clips of videos: which frames a model receives, which of them have maps, and how they are augmented."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from distill.data.augment import WHOLE, Box, Colour, Move, Shares, rounded
from distill.data.fit import fit_of
from distill.data.truth import Truth
from distill.limits import MAX_BATCH_BYTES, MAX_CLIP_BYTES, check_limit
from distill.stride import Stride, offsets, step_of


class HasClipShape(Protocol):
    """The attributes of a network that define its clips and maps; see `ClipSpec`."""

    @property
    def num_frames(self) -> int: ...  # noqa: D102
    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def target_frames(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def map_size(self) -> tuple[int, int]: ...  # noqa: D102


@dataclass(frozen=True)
class ClipSpec:
    """Shape and temporal layout of a model's clips and maps.

    Attributes:
        num_frames: frames per clip (T).
        size: (H, W) of the clip.
        target_frames: indices of the N frames of the clip that have a map.
        map_size: (h, w) of the maps.
        stride: distance between the clip's frames in the video, in frames (2) or as a rate ("30fps").
        fit: how frames of another aspect ratio fill the clip, a name in `fit.FITS`.
    """

    num_frames: int
    size: tuple[int, int]
    target_frames: tuple[int, ...]
    map_size: tuple[int, int]
    stride: Stride = 1
    fit: str = "stretch"

    @classmethod
    def of(cls, model: HasClipShape, stride: Stride = 1) -> "ClipSpec":
        """Return the ClipSpec of a network."""
        return cls(
            num_frames=int(model.num_frames),
            size=(int(model.size[0]), int(model.size[1])),
            target_frames=tuple(int(t) for t in model.target_frames),
            map_size=(int(model.map_size[0]), int(model.map_size[1])),
            stride=stride,
            fit=fit_of(model),
        )

    def check_batch(self, batch_size: int, key: str) -> None:
        """Check that a clip takes at most MAX_CLIP_BYTES, and a batch of them at most MAX_BATCH_BYTES.

        Args:
            batch_size: number of clips.
            key: where it is set.

        Raises:
            UserError: they take more.
        """
        clip = self.num_frames * 3 * self.size[0] * self.size[1]
        check_limit(clip, MAX_CLIP_BYTES, f"model: bytes of a clip of {self.num_frames} frames at the model's size")
        check_limit(batch_size * clip, MAX_BATCH_BYTES, f"{key}: bytes of {batch_size} clips at the model's size")

    def frames(self, end: int, fps: float) -> list[int]:
        """Return the T frame indices of the clip that ends at frame `end`; the first frame is repeated before 0."""
        return [max(0, end + offset) for offset in self.places(fps)]

    def places(self, fps: float) -> tuple[int, ...]:
        """Return the T frames of a clip relative to its last one, in frames of the video."""
        return offsets(self.num_frames, step_of(self.stride, fps))

    def targets(self, end: int, fps: float) -> list[int]:
        """Return the indices of the N frames that have a map; 0 before the video's start."""
        return [max(0, end + offset) for offset in self.offsets(fps)]

    def offsets(self, fps: float) -> tuple[int, ...]:
        """Return the N target frames relative to the clip's last frame, in frames of the video."""
        positions = self.places(fps)
        return tuple(positions[t] for t in self.target_frames)

    def span(self, fps: float) -> int:
        """Return the number of video frames from the clip's first frame to its last, both included."""
        return 1 - self.places(fps)[0]


@dataclass(frozen=True)
class Video:
    """A video of a data set, described without opening it.

    Attributes:
        name: name in the data set.
        path: file, folder of frames, or `synthetic:...`, as `open_video` takes it.
        num_frames: number of decodable frames.
        fps: frame rate.
        size: (height, width) in pixels.
        frames: target frames in use, 0-based.
        truth: ground truth; None if unlabelled.
        dataset: name of the data set.
        recording: the recording that the video was cut from; a `share` never splits a recording.
        source: number of the training source that it was taken from.
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
    source: int = 0


@dataclass(frozen=True)
class Window:
    """One clip of a video, identified by its last frame, with its augmentation.

    Attributes:
        video: the video.
        end: last frame of the clip, 0-based.
        flipped: mirror left to right, after cropping.
        box: crop; None keeps the whole frame.
        colour: colour factors; None leaves the colours unchanged.
        move: camera move, in place of a crop; None for a camera that does not move.
    """

    video: Video
    end: int
    flipped: bool = False
    box: Box | None = None
    colour: Colour | None = None
    move: Move | None = None

    def box_at(self, offset: int) -> Box | None:
        """Return the part of the frame shown `offset` <= 0 frames after the clip's last one; None for all of it."""
        return self.box if self.move is None else rounded(self.move.at(offset), self.video.size)

    def shares_at(self, offset: int) -> Shares:
        """Return the same part relative to the frame, mirrored like the clip."""
        if self.move is not None:
            return self.move.at(offset, flipped=self.flipped)
        return WHOLE if self.box is None else self.box.shares(self.video.size, flipped=self.flipped)

    def for_teacher(self) -> "Window":
        """Return the clip as a teacher sees it: whole frames in their own colours, mirrored or not."""
        return Window(self.video, self.end, self.flipped)
