"""The teacher in training: from a network or from a store, behind one call.

    teacher = OnlineTeacher(model, stride=1, device="cuda:0")      or  CachedTeacher(store, spec)
    clips = ClipDataset(sources, spec, extras=[teacher.reader])    # the workers read what the teacher needs
    maps = teacher(batch)                                          # (B, N, h, w) log-saliency, no gradient
    finish = teacher.begin(batch)                                  # or: the same beside the student's own pass,
    maps, features = finish()                                      # and the teacher's features

Either way the teacher was shown whole frames in their own colours, at its own size and stride, plain or mirrored as
the student's clip is. Where that clip was cropped, the teacher's map is cropped alike, here and by one function.

A teacher is no module of anything: no optimiser sees its weights, and no checkpoint holds them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.data.augment import crop_maps, crop_values
from distill.data.clip_reader import read_clip
from distill.data.clips import ClipSpec, Video, Window
from distill.errors import UserError
from distill.models.device import PRECISIONS, check_precision, device_of
from distill.models.loaded import LoadedModel
from distill.stride import Stride
from distill.targets.store import TargetStore
from distill.training.heads import last_part


class Lesson(NamedTuple):
    """What a teacher says of a batch: nothing of it carries a gradient."""

    maps: Tensor
    """Log-saliency (B, N, h, w), float32."""
    features: dict[str, Tensor]
    """Features (B, C, t, h, w) or (B, C, h, w) by name, float32, of what the student's clips show."""


class Teacher(Protocol):
    """What the loop knows of a teacher."""

    reader: Callable[[Window], dict[str, Tensor]]
    """What a sample holds for it; for `ClipDataset`'s extras, and picklable."""
    views: tuple[str, ...]
    """The views it can judge, "plain" and perhaps "flipped"; without the second, clips must not be mirrored."""

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """Return log-saliency (B, N, h, w) of a batch, float32, without gradient, on the device of its clips.

        The maps are of what the student's clips show: mirrored and cropped as these are.
        """
        ...

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], Lesson]:
        """Start on a batch's maps, and return what waits for them: meanwhile the student can do its own pass."""
        ...

    def offsets(self, fps: float) -> tuple[int, ...]:
        """Return the frames it judges in a video of `fps`, in frames from the clip's last one."""
        ...

    def describe(self) -> str:
        """Say in one line who teaches."""
        ...


@dataclass(frozen=True)
class ClipReader:
    """Reads the teacher's own clip of a window: its size, frames and stride, whole, mirrored when the window is."""

    spec: ClipSpec

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return "teacher_clip", uint8 (3, T, H, W)."""
        return {"teacher_clip": read_clip(window.for_teacher(), self.spec)}


@dataclass(frozen=True)
class MapReader:
    """Reads the stored maps of a window's target frames, of the mirrored view when the window is mirrored."""

    store: TargetStore
    spec: ClipSpec
    mirror: bool = False
    """Mirror the plain view's maps in place of reading a mirrored view."""

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return "teacher_map", float32 (N, h, w).

        Raises:
            UserError: a map that is not in the store, or damaged.
        """
        view = "flipped" if window.flipped and not self.mirror else "plain"
        frames = self.spec.targets(window.end, window.video.fps)
        maps = torch.from_numpy(np.stack([self.store.read(window.video.name, frame, view) for frame in frames]))
        return {"teacher_map": maps.flip(-1) if window.flipped and self.mirror else maps}


class OnlineTeacher:
    """A network that teaches while the student trains. It freezes itself, and stays so whatever it is told.

    Args:
        model: the teacher; its network is moved to the device, put into evaluation mode, and its weights take no
            gradient.
        stride: how far apart its clip's frames lie in the video, in frames or as a rate ("30fps").
        device: where it computes; where it lies when None.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        features: names of its features that its lessons hold beside the maps.
        share: of its clip, from the end, what the student's clip shows too; its features are cut to that.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        stride: Stride = 1,
        device: str | torch.device | None = None,
        precision: str = "fp32",
        features: Sequence[str] = (),
        share: float = 1.0,
    ) -> None:
        check_precision(precision)
        self.model, self.network = model, model.network
        self.network.requires_grad_(False).eval()
        if device is not None:
            self.network.to(device)
        self.device = torch.device(device) if device is not None else device_of(self.network)
        self.precision = precision
        self.features, self.share = tuple(features), share
        # a queue of its own, so that the GPU can fill the student's gaps with the teacher's work
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.spec = ClipSpec.of(self.network, stride)
        self.offsets = self.spec.offsets
        self.reader: Callable[[Window], dict[str, Tensor]] = ClipReader(self.spec)
        self.views: tuple[str, ...] = ("plain", "flipped")

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """See `Teacher`."""
        return self.begin(batch)().maps

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], Lesson]:
        """See `Teacher`."""
        clip = batch["teacher_clip"]
        if self.stream is not None:  # the batch is still on its way to the device in the queue of everything else
            self.stream.wait_stream(torch.cuda.current_stream(clip.device if clip.is_cuda else self.device))
        with torch.cuda.stream(self.stream):  # no queue: nothing happens
            lesson = self._teach(batch)

        def finish() -> Lesson:
            maps, features = lesson
            if self.stream is not None:
                here = torch.cuda.current_stream(self.device)
                here.wait_stream(self.stream)
                for tensor in (maps, *features.values()):
                    tensor.record_stream(here)  # its memory is in use until this queue, too, is done with it
            return Lesson(maps.to(clip.device), {name: value.to(clip.device) for name, value in features.items()})

        return finish

    def _teach(self, batch: Mapping[str, Any]) -> Lesson:
        """Compute a lesson where the teacher is."""
        self.network.requires_grad_(False).eval()  # somebody may have told the model itself to train
        dtype = PRECISIONS[self.precision]
        # inside the student's autocast, a teacher in fp32 must say so
        cast = torch.autocast(self.device.type, dtype) if dtype else torch.autocast(self.device.type, enabled=False)
        with torch.no_grad(), cast:
            clip = batch["teacher_clip"].to(self.device, non_blocking=True)
            found = self.network.forward_features(clip) if self.features else {}
            maps = self.network.forward_head(found) if self.features else self.network(clip)
            features = {name: last_part(found[name], self.share).float() for name in self.features}
            return Lesson(
                cropped(maps.float(), batch),
                {name: cropped_features(value, batch) for name, value in features.items()},
            )

    def train(self, mode: bool = True) -> "OnlineTeacher":
        """Stay as it is: a teacher does not train."""
        return self

    def describe(self) -> str:
        """See `Teacher`."""
        return f"teacher: {self.model.reference}, computed online in {self.precision} on {self.device}"


class CachedTeacher:
    """A store that teaches. Any model can learn from it: whatever frames it predicts, their maps are read.

    Args:
        store: the store, or its folder.
        spec: what the student wants; its target frames are read. When None, those of the store's teacher.
        mirror: a mirrored clip learns from the plain map, mirrored, where the store has no mirrored view.
    """

    def __init__(self, store: TargetStore | str, spec: ClipSpec | None = None, *, mirror: bool = False) -> None:
        self.store = store if isinstance(store, TargetStore) else TargetStore.open(store)
        self.spec = spec or _spec_of(self.store)
        self.offsets = self.spec.offsets
        mirror = mirror and "flipped" not in self.store.plan.views
        self.reader: Callable[[Window], dict[str, Tensor]] = MapReader(self.store, self.spec, mirror)
        self.views: tuple[str, ...] = ("plain", "flipped") if mirror else self.store.plan.views

    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """See `Teacher`."""
        return cropped(batch["teacher_map"], batch)

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], Lesson]:
        """See `Teacher`."""
        return lambda: Lesson(self(batch), {})

    def require(self, videos: Sequence[Video], *, flip: bool = False) -> None:
        """Refuse, before a run starts, a store that lacks a map that the run could ask for.

        Args:
            videos: what is trained on.
            flip: clips are to be mirrored, and will be if the store has the mirrored view.

        Raises:
            UserError: naming the first map that is missing, and how many are.
        """
        complete = self.store.complete
        views = self.store.plan.views if flip else ("plain",)
        missing: list[str] = []
        for video in videos:
            frames = sorted({frame for end in video.frames for frame in self.spec.targets(end, video.fps)})
            for view, frame in product(views, frames):
                planned = self.store.plan.locate(video.name, frame, view) is not None
                if not planned or not (complete or self.store.has(video.name, frame, view)):
                    missing.append(f"{video.name}, frame {frame + 1}{'' if view == 'plain' else f' ({view})'}")
        if missing:
            raise UserError(
                f"{self.store.path}: {len(missing)} maps that this run needs are not in the store, {missing[0]} "
                "for one; run `saldistill cache build` with this run's config"
            )

    def describe(self) -> str:
        """See `Teacher`."""
        made = self.store.fingerprint.get("teacher", {})
        name = self.store.notes.get("teacher") or made.get("name", "unknown")
        return f"teacher: {name}, from {self.store.path} ({self.store.codec}; views: {', '.join(self.views)})"


def cropped(maps: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Cut a teacher's maps (B, N, h, w) of whole frames as the batch's clips were cut, if they were."""
    return crop_maps(maps, batch["box"].to(maps.device)) if "box" in batch else maps


def cropped_features(features: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Cut a teacher's features (B, C, [t,] h, w) of whole frames as the batch's clips were cut, if they were."""
    if "box" not in batch:
        return features
    planes = features.flatten(1, -3)  # (B, C * t, h, w)
    return crop_values(planes, batch["box"].to(features.device)).reshape(features.shape)


def check_alignment(teacher_offsets: Sequence[int], student_offsets: Sequence[int]) -> None:
    """Refuse a teacher and a student that predict different frames of the same window.

    Args:
        teacher_offsets: the teacher's target frames, in frames from the clip's last one (0 is the last itself).
        student_offsets: the student's.

    Raises:
        UserError: naming both.
    """
    if tuple(teacher_offsets) != tuple(student_offsets):
        raise UserError(
            f"teacher and student predict different frames: the teacher {list(teacher_offsets)}, the student "
            f"{list(student_offsets)} (counted from the clip's last frame, which is 0); choose a student with the "
            "teacher's target frames, or cache the teacher's maps, which serve any frames"
        )


def _spec_of(store: TargetStore) -> ClipSpec:
    """Return what a store's teacher was shown; for imported maps, one map for the clip's last frame."""
    seen = store.fingerprint.get("input")
    if seen is None:
        return ClipSpec(1, store.map_size, (0,), store.map_size)
    return ClipSpec(
        num_frames=seen["num_frames"],
        size=tuple(seen["size"]),
        target_frames=tuple(seen["target_frames"]),
        map_size=tuple(seen["map_size"]),
        stride=seen["stride"],
    )
