"""Teachers for distillation, online (a network) or cached (a target store), behind one protocol.

    teacher = OnlineTeacher(model, settings)                       # or CachedTeacher(store, spec)
    clips = ClipDataset(sources, spec, extras=[teacher.reader])    # workers read the teacher's input
    finish = teacher.begin(batch)                                  # start the teacher, run the student,
    maps, features = finish()                                      # and wait for the teacher's output

Both kinds see full frames in their original colours, at the teacher's own size and stride, mirrored if the
student's clip is. If that clip is cropped, the teacher's output is cropped accordingly.

A teacher is not a submodule of any module: no optimiser sees its weights, and no checkpoint contains them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.data.augment import crop_maps, crop_values
from distill.data.clip_reader import read_clip, read_fit_box
from distill.data.clips import ClipSpec, Video, Window
from distill.data.fit import unfit, unfit_features
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.models.device import PRECISIONS, device_of
from distill.models.loaded import LoadedModel
from distill.targets.store import TargetStore
from distill.training.heads import last_part


class TeacherOutput(NamedTuple):
    """A teacher's output for a batch, without gradient."""

    maps: Tensor
    """Log-saliency (B, N, h, w), float32."""
    features: dict[str, Tensor]
    """Features (B, C, t, h, w) or (B, C, h, w) by name, float32, cropped to what the student's clips show."""


class Teacher(Protocol):
    """Interface of a teacher to the training loop."""

    reader: Callable[[Window], dict[str, Tensor]]
    """Reads the teacher's input for a sample, as an extra of `ClipDataset`; picklable."""
    views: tuple[str, ...]
    """Views that it provides: "plain", and "flipped" if clips may be mirrored."""

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], TeacherOutput]:
        """Start to process a batch and return a function that waits for the output.

        The output is on the device of the batch's clips, mirrored and cropped like the student's.
        """
        ...

    def offsets(self, fps: float) -> tuple[int, ...]:
        """Return its target frames in a video of `fps`, in frames relative to the clip's last one."""
        ...

    def describe(self) -> str:
        """Return one line that names the teacher."""
        ...


@dataclass(frozen=True)
class ClipReader:
    """Reads the teacher's own clip of a window: full frames at its size and stride, mirrored like the window."""

    spec: ClipSpec

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return "teacher_clip" uint8 (3, T, H, W), and unless frames fill it "teacher_fit_box" (`fit.fit_box`)."""
        whole = window.for_teacher()
        boxes = {f"teacher_{name}": box for name, box in read_fit_box(whole, self.spec).items()}
        return {"teacher_clip": read_clip(whole, self.spec), **boxes}


@dataclass(frozen=True)
class MapReader:
    """Reads the stored maps of a window's target frames, from the flipped view if the window is mirrored."""

    store: TargetStore
    spec: ClipSpec
    mirror: bool = False
    """Mirror the maps of the plain view in place of reading the flipped view."""

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return "teacher_map", float32 (N, h, w).

        Raises:
            UserError: a map is missing or damaged.
        """
        view = "flipped" if window.flipped and not self.mirror else "plain"
        frames = self.spec.targets(window.end, window.video.fps)
        maps = torch.from_numpy(np.stack([self.store.read(window.video.name, frame, view) for frame in frames]))
        return {"teacher_map": maps.flip(-1) if window.flipped and self.mirror else maps}


class OnlineTeacher:
    """A teacher network that runs during training, frozen and in evaluation mode.

    Args:
        model: the teacher; its network is moved to the device and frozen.
        settings: its stride, device and precision; the stride and the device default to the model's.
        features: names of the features to return.
        fraction: fraction of its clip, from the end, that the student's clip also shows; features are cropped.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: InferenceSettings = InferenceSettings(),
        *,
        features: Sequence[str] = (),
        fraction: float = 1.0,
    ) -> None:
        self.model, self.network = model, model.network
        self.network.requires_grad_(False).eval()
        if settings.device is not None:
            self.network.to(settings.device)
        self.device = device_of(self.network)
        self.precision = settings.precision
        self.features, self.fraction = tuple(features), fraction
        # a separate stream, so that the GPU can overlap the work of teacher and student
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.spec = ClipSpec.of(self.network, model.stride if settings.stride is None else settings.stride)
        self.offsets = self.spec.offsets
        self.reader: Callable[[Window], dict[str, Tensor]] = ClipReader(self.spec)
        self.views: tuple[str, ...] = ("plain", "flipped")

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], TeacherOutput]:
        """See `Teacher`."""
        clip = batch["teacher_clip"]
        if self.stream is not None:  # the current stream may still be copying the batch to the device
            self.stream.wait_stream(torch.cuda.current_stream(clip.device if clip.is_cuda else self.device))
        with torch.cuda.stream(self.stream):  # does nothing if the stream is None
            maps, features = self._forward(batch)

        def finish() -> TeacherOutput:
            if self.stream is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(self.stream)
                for tensor in (maps, *features.values()):
                    tensor.record_stream(current)  # its memory must not be reused before the current stream is done
            return TeacherOutput(
                maps.to(clip.device), {name: value.to(clip.device) for name, value in features.items()}
            )

        return finish

    def _forward(self, batch: Mapping[str, Any]) -> TeacherOutput:
        """Run the network on the teacher's device."""
        self.network.requires_grad_(False).eval()  # a caller may have switched the network to training mode
        dtype = PRECISIONS[self.precision]
        # fp32 has to leave the student's autocast explicitly
        cast = torch.autocast(self.device.type, dtype) if dtype else torch.autocast(self.device.type, enabled=False)
        with torch.no_grad(), cast:
            clip = batch["teacher_clip"].to(self.device, non_blocking=True)
            all_features = self.network.forward_features(clip) if self.features else {}
            maps = self.network.forward_head(all_features) if self.features else self.network(clip)
            features = {name: last_part(all_features[name], self.fraction).float() for name in self.features}
            if "teacher_fit_box" in batch:
                boxes = batch["teacher_fit_box"].to(self.device)
                maps = unfit(maps, boxes)
                features = {name: unfit_features(value, boxes) for name, value in features.items()}
            return TeacherOutput(
                crop_like_clips(maps.float(), batch),
                {name: crop_features_like_clips(value, batch) for name, value in features.items()},
            )

    def describe(self) -> str:
        """See `Teacher`."""
        return f"teacher: {self.model.reference}, computed online in {self.precision} on {self.device}"


class CachedTeacher:
    """A teacher whose maps are read from a target store, for students with any target frames.

    Args:
        store: the target store.
        spec: the student's clips; the maps of their target frames are read.
        mirror: pair a mirrored clip with the mirrored plain map if the store has no flipped view.
    """

    def __init__(self, store: TargetStore, spec: ClipSpec, *, mirror: bool = False) -> None:
        self.store, self.spec = store, spec
        self.offsets = spec.offsets
        mirror = mirror and "flipped" not in store.plan.views
        self.reader: Callable[[Window], dict[str, Tensor]] = MapReader(store, spec, mirror)
        self.views: tuple[str, ...] = ("plain", "flipped") if mirror else store.plan.views

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], TeacherOutput]:
        """See `Teacher`."""
        return lambda: TeacherOutput(crop_like_clips(batch["teacher_map"], batch), {})

    def require(self, videos: Sequence[Video], *, flip: bool = False) -> None:
        """Check that the store has every map that a run may read.

        Args:
            videos: training videos.
            flip: whether clips are mirrored if the store has the flipped view.

        Raises:
            UserError: maps are missing; the error names their number and the first one.
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
                f"{self.store.path}: the target store lacks {len(missing)} maps that this run needs, e.g. "
                f"{missing[0]}; run `saldistill cache build` with this run's config"
            )

    def describe(self) -> str:
        """See `Teacher`."""
        fingerprint = self.store.fingerprint.get("teacher", {})
        name = self.store.notes.get("teacher") or fingerprint.get("name", "unknown")
        return f"teacher: {name}, from {self.store.path} ({self.store.codec}; views: {', '.join(self.views)})"


def crop_like_clips(maps: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Return a teacher's maps (B, N, h, w) of full frames, cropped like the batch's clips."""
    return crop_maps(maps, batch["box"].to(maps.device)) if "box" in batch else maps


def crop_features_like_clips(features: Tensor, batch: Mapping[str, Any]) -> Tensor:
    """Return a teacher's features (B, C, [t,] h, w) of full frames, cropped like the batch's clips."""
    if "box" not in batch:
        return features
    planes = features.flatten(1, -3)  # (B, C * t, h, w)
    return crop_values(planes, batch["box"].to(features.device)).reshape(features.shape)


def check_alignment(teacher_offsets: Sequence[int], student_offsets: Sequence[int]) -> None:
    """Check that teacher and student predict the same frames of a window.

    Args:
        teacher_offsets: the teacher's target frames, relative to the clip's last frame (0).
        student_offsets: the student's target frames, likewise.

    Raises:
        UserError: they differ; the error names both.
    """
    if tuple(teacher_offsets) != tuple(student_offsets):
        raise UserError(
            f"teacher and student predict different frames: the teacher {list(teacher_offsets)}, the student "
            f"{list(student_offsets)} (relative to the clip's last frame, 0); use a student with the teacher's "
            "target frames, or cache the teacher's maps, which serve any target frames"
        )
