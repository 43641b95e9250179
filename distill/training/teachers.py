"""Teachers for distillation, online (a network) or cached (a target store), behind one protocol.

    teacher = OnlineTeacher(model, settings)                       # or CachedTeacher(store, spec)
    clips = ClipDataset(sources, spec, extras=[teacher.reader])    # workers read the teacher's input
    finish = teacher.begin(batch)                                  # start the teacher, run the student,
    maps, features = finish()                                      # and wait for the teacher's output

Both kinds see full frames in their original colours, at the teacher's own size and stride, mirrored if the
student's clip is. If that clip is cropped, the teacher's output is cropped accordingly.

A run may have several teachers, each for some of its training sources, and a target store may lack maps. What a
teacher adds to a sample is named after it, and says which of the clip's maps have a target: `teacher_present`, (N,)
bool. An online teacher runs only on the clips that it teaches.

A teacher is not a submodule of any module: no optimiser sees its weights, and no checkpoint contains them.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from distill.data.augment import crop_maps, crop_values
from distill.data.clip_reader import read_clip, read_fit_box
from distill.data.clips import ClipSpec, Video, Window
from distill.data.fit import unfit, unfit_features
from distill.errors import UserError
from distill.file_cache import CachedFile
from distill.inference.settings import InferenceSettings
from distill.models.device import PRECISIONS, device_of, moved
from distill.models.loaded import LoadedModel
from distill.targets.store import TargetStore, first_few
from distill.training.heads import last_part
from distill.training.terms import TEACHER


class TeacherOutput(NamedTuple):
    """A teacher's output for a batch, without gradient."""

    maps: Tensor
    """Log-saliency (B, N, h, w), float32; constant where the teacher has no target."""
    features: dict[str, Tensor]
    """Features (B, C, t, h, w) or (B, C, h, w) by name, float32, cropped to what the student's clips show; empty if
    the teacher teaches no clip of the batch."""
    present: Tensor
    """Which maps have a target, bool (B, N)."""
    weights: Tensor | None = None
    """How much each map counts, in [0, 1], float32 (B, N); None if all count the same."""
    shares: Mapping[str, Tensor] = MappingProxyType({})
    """Share of each teacher of a team in the map, times the map's weight, float32 (B, N), by name."""


@dataclass(frozen=True)
class Role:
    """What a teacher is to a run.

    Attributes:
        name: its name, unique in the run.
        sources: numbers of the training sources that it teaches; None means all.
        partial: whether its target store may lack maps of these sources.
        notes: further facts for its description.
        key: key of its section in the config, for messages.
    """

    name: str = TEACHER
    sources: Collection[int] | None = None
    partial: bool = False
    notes: tuple[str, ...] = ()
    key: str = "teacher"

    def teaches(self, window: Window) -> bool:
        """Return whether the teacher teaches the source of a clip."""
        return self.sources is None or window.video.source in self.sources

    def describe(self, text: str) -> str:
        """Return a description that starts with the teacher's name and ends with the notes."""
        name = "teacher" if self.name == TEACHER else f"teacher {self.name}"
        return "; ".join([f"{name}: {text}", *self.notes])


def present_maps(batch: Mapping[str, Any], name: str) -> Tensor:
    """Return which maps of a batch have a target of a teacher, bool (B, N); all of them without a record of it."""
    present = batch.get(f"{name}_present")
    return torch.ones_like(batch["labelled"]) if present is None else present


class Teacher(Protocol):
    """Interface of a teacher to the training loop."""

    role: Role
    """Its name in the run, and what it teaches there."""
    reader: Callable[[Window], dict[str, Tensor]]
    """Reads the teacher's input for a sample, as an extra of `ClipDataset`; picklable."""
    views: tuple[str, ...]
    """Views that it provides: "plain", and "flipped" if clips may be mirrored."""
    stores: Mapping[str, TargetStore]
    """The target stores that it reads, by the name of the teacher."""
    remote_files: Callable[[Window], Iterable[CachedFile]] | None
    """Returns the files at addresses that its input for a clip needs, besides the video; None if there are none."""

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
    role: Role = Role()

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return "teacher_clip", "teacher_present" and, unless frames fill the clip, "teacher_fit_box".

        The clip is uint8 (3, T, H, W), zeros if the teacher does not teach it; the box is that of `fit.fit_box`.
        """
        name, whole, taught = self.role.name, window.for_teacher(), self.role.teaches(window)
        return {
            f"{name}_clip": read_clip(whole, self.spec) if taught else self._empty(),
            f"{name}_present": torch.full((len(self.spec.target_frames),), taught),
            **{f"{name}_{key}": box for key, box in read_fit_box(whole, self.spec).items()},
        }

    def _empty(self) -> Tensor:
        return torch.zeros(3, self.spec.num_frames, *self.spec.size, dtype=torch.uint8)


@dataclass(frozen=True)
class MapReader:
    """Reads the stored maps of a window's target frames, from the flipped view if the window is mirrored."""

    store: TargetStore
    spec: ClipSpec
    mirror: bool = False
    """Mirror the maps of the plain view in place of reading the flipped view."""
    role: Role = Role()

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return "teacher_map", float32 (N, h, w), zeros where the store needs no map; and the flags.

        Raises:
            UserError: a map is missing or damaged.
        """
        keys, taught = self.keys(window), self.role.teaches(window)
        present = [taught and self.expects(window.video, frame, view) for _, frame, view in keys]
        empty = np.zeros(self.store.map_size, np.float32)
        read = [self.store.read(*key) if there else empty for key, there in zip(keys, present, strict=True)]
        maps = torch.from_numpy(np.stack(read))
        return {
            f"{self.role.name}_map": maps.flip(-1) if window.flipped and self.mirror else maps,
            f"{self.role.name}_present": torch.tensor(present),
        }

    def keys(self, window: Window) -> list[tuple[str, int, str]]:
        """Return video, frame and view of the maps of a window."""
        view = "flipped" if window.flipped and not self.mirror else "plain"
        return [(window.video.name, frame, view) for frame in self.spec.targets(window.end, window.video.fps)]

    def remote_files(self, window: Window) -> list[CachedFile]:
        """Return the shards at an address that have the maps of a window."""
        return self.store.remote_files(self.keys(window)) if self.role.teaches(window) else []

    def expects(self, video: Video, frame: int, view: str) -> bool:
        """Return whether the store must have a map: any map, or one of its plan if it may be partial."""
        return not self.role.partial or self.store.plan.locate(video.name, frame, view) is not None


class OnlineTeacher:
    """A teacher network that runs during training, frozen and in evaluation mode.

    Args:
        model: the teacher; its network is moved to the device and frozen.
        settings: its stride, device and precision; the stride and the device default to the model's.
        features: names of the features to return.
        fraction: fraction of its clip, from the end, that the student's clip also shows; features are cropped.
        role: its name in the run, and what it teaches there.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: InferenceSettings = InferenceSettings(),
        *,
        features: Sequence[str] = (),
        fraction: float = 1.0,
        role: Role = Role(),
    ) -> None:
        self.model, self.network, self.role = model, model.network, role
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
        self.reader: Callable[[Window], dict[str, Tensor]] = ClipReader(self.spec, role)
        self.views: tuple[str, ...] = ("plain", "flipped")
        self.stores: Mapping[str, TargetStore] = {}
        self.remote_files: Callable[[Window], Iterable[CachedFile]] | None = None

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], TeacherOutput]:
        """See `Teacher`."""
        clip = batch[f"{self.role.name}_clip"]
        if self.stream is not None:  # the current stream may still be copying the batch to the device
            self.stream.wait_stream(torch.cuda.current_stream(clip.device if clip.is_cuda else self.device))
        with torch.cuda.stream(self.stream):  # does nothing if the stream is None
            found = self._taught(clip, batch)
            maps, features, present = found.maps, found.features, found.present

        def finish() -> TeacherOutput:
            if self.stream is not None:
                current = torch.cuda.current_stream(self.device)
                current.wait_stream(self.stream)
                for tensor in (maps, *features.values(), present):
                    if tensor.device == self.device:  # the flags may still lie on the student's device
                        tensor.record_stream(current)  # keeps its memory until the current stream is done with it
            return TeacherOutput(
                maps.to(clip.device),
                {name: value.to(clip.device) for name, value in features.items()},
                moved(present, clip.device),
            )

        return finish

    def _taught(self, clip: Tensor, batch: Mapping[str, Any]) -> TeacherOutput:
        """Return the output of a batch; the network runs only on the clips that the teacher teaches."""
        shape = (len(clip), len(self.spec.target_frames))
        present = batch.get(f"{self.role.name}_present", torch.ones(shape, dtype=torch.bool))
        boxes, rows = [batch.get(key) for key in ("box", f"{self.role.name}_fit_box")], present.any(dim=1)
        if self.role.sources is None or rows.all():  # no wait for the GPU, because the loop keeps flags on the host
            return TeacherOutput(*self._forward(clip, *boxes), present)
        maps = torch.zeros(*shape, *self.spec.map_size, device=self.device)
        if not rows.any():
            return TeacherOutput(maps, {}, present)
        taught = moved(rows.nonzero()[:, 0], clip.device)
        found, features = self._forward(clip[taught], *(None if each is None else each[taught] for each in boxes))
        taught = moved(taught, self.device)
        maps[taught] = found
        spread = {name: _spread(value, taught, len(clip)) for name, value in features.items()}
        return TeacherOutput(maps, spread, present)

    def _forward(
        self, clip: Tensor, boxes: Tensor | None, fit_boxes: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the network on the teacher's device; return its maps and features, cropped like the student's clips.

        Args:
            clip: (n, 3, T, H, W).
            boxes: crops of the student's clips (n, 4) or of its target frames (n, N, 4), or None.
            fit_boxes: where the frames lie in the clip (n, 4), or None if they fill it.
        """
        self.network.requires_grad_(False).eval()  # a caller may have switched the network to training mode
        dtype = PRECISIONS[self.precision]
        # fp32 has to leave the student's autocast explicitly
        cast = torch.autocast(self.device.type, dtype) if dtype else torch.autocast(self.device.type, enabled=False)
        with torch.no_grad(), cast:
            clip = clip.to(self.device, non_blocking=True)
            all_features = self.network.forward_features(clip) if self.features else {}
            maps = self.network.forward_head(all_features) if self.features else self.network(clip)
            features = {name: last_part(all_features[name], self.fraction).float() for name in self.features}
            if fit_boxes is not None:
                fit_boxes = fit_boxes.to(self.device)
                maps = unfit(maps, fit_boxes)
                features = {name: unfit_features(value, fit_boxes) for name, value in features.items()}
            return (
                crop_like_clips(maps.float(), boxes),
                {name: crop_features_like_clips(value, boxes) for name, value in features.items()},
            )

    def describe(self) -> str:
        """See `Teacher`."""
        return self.role.describe(f"{self.model.reference}, computed online in {self.precision} on {self.device}")


class CachedTeacher:
    """A teacher whose maps are read from a target store, for students with any target frames.

    Args:
        store: the target store.
        spec: the student's clips; the maps of their target frames are read.
        mirror: pair a mirrored clip with the mirrored plain map if the store has no flipped view.
        role: its name in the run, and what it teaches there.
    """

    def __init__(self, store: TargetStore, spec: ClipSpec, *, mirror: bool = False, role: Role = Role()) -> None:
        self.store, self.spec, self.role = store, spec, role
        self.offsets = spec.offsets
        mirror = mirror and "flipped" not in store.plan.views
        self._maps = MapReader(store, spec, mirror, role)
        self.reader: Callable[[Window], dict[str, Tensor]] = self._maps
        self.views: tuple[str, ...] = ("plain", "flipped") if mirror else store.plan.views
        self.stores: Mapping[str, TargetStore] = {role.name: store}
        self.remote_files: Callable[[Window], Iterable[CachedFile]] | None = None
        if store.is_remote:
            self.remote_files = self._maps.remote_files

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], TeacherOutput]:
        """See `Teacher`."""
        maps = batch[f"{self.role.name}_map"]
        present = batch.get(f"{self.role.name}_present", torch.ones_like(maps[..., 0, 0], dtype=torch.bool))
        return lambda: TeacherOutput(crop_like_clips(maps, batch.get("box")), {}, present)

    def targets(self, video: Video) -> list[int]:
        """Return the frames of a training video whose maps a run may read, 0-based and ascending."""
        return sorted({frame for end in video.frames for frame in self.spec.targets(end, video.fps)})

    def coverage(self, videos: Iterable[Video]) -> tuple[int, int]:
        """Return how many target frames of videos the store plans to have, and how many there are."""
        plan = self.store.plan
        planned = [
            plan.locate(video.name, frame, "plain") is not None for video in videos for frame in self.targets(video)
        ]
        return sum(planned), len(planned)

    def require(self, videos: Sequence[Video], *, flip: bool = False) -> None:
        """Check that the store has every map that a run may read, or if it may be partial those of its plan.

        Args:
            videos: training videos that the teacher teaches.
            flip: whether clips are mirrored if the store has the flipped view.

        Raises:
            UserError: maps are missing; the error names their number and the first one.
        """
        complete = self.store.complete
        views = self.store.plan.views if flip else ("plain",)
        missing: list[str] = []
        for video in videos:
            for view, frame in product(views, self.targets(video)):
                planned = self.store.plan.locate(video.name, frame, view) is not None
                if not self._maps.expects(video, frame, view):
                    continue
                if not planned or not (complete or self.store.has(video.name, frame, view)):
                    missing.append(f"{video.name}, frame {frame + 1}{'' if view == 'plain' else f' ({view})'}")
        if missing:
            raise UserError(
                f"{self.store.path}: the target store lacks {len(missing)} maps that this run needs, e.g. "
                f"{missing[0]}; run `saldistill cache build` with this run's config, or set {self.role.key}.partial"
                "=true to train without them"
            )

    def require_any(self, videos: Sequence[Video]) -> None:
        """Check that the store has a map that a run may read.

        Raises:
            UserError: it has none; the error names some videos of both.
        """
        plan = self.store.plan
        if not any(
            plan.locate(video.name, frame, "plain") is not None for video in videos for frame in self.targets(video)
        ):
            raise UserError(
                f"{self.store.path}: the target store covers none of the {len(videos)} training videos "
                f"({first_few(video.name for video in videos)}); it has {first_few(self.store.plan.videos)}; run "
                "`saldistill cache build` with this run's config and another store, or correct "
                f"{self.role.key}.sources"
            )

    def describe(self) -> str:
        """See `Teacher`."""
        fingerprint = self.store.fingerprint.get("teacher", {})
        name = self.store.notes.get("teacher") or fingerprint.get("name", "unknown")
        return self.role.describe(
            f"{name}, from {self.store.path} ({self.store.codec}; views: {', '.join(self.views)})"
        )


def crop_like_clips(maps: Tensor, boxes: Tensor | None) -> Tensor:
    """Return a teacher's maps (B, N, h, w) of full frames, cropped like the clips, with boxes as in `crop_maps`."""
    return maps if boxes is None else crop_maps(maps, boxes.to(maps.device))


def crop_features_like_clips(features: Tensor, boxes: Tensor | None) -> Tensor:
    """Return a teacher's features (B, C, [t,] h, w) of full frames, cropped like the clips.

    With boxes (B, N, 4) of the target frames of a camera move, those of the t steps lie evenly between the first
    and the last of them.
    """
    if boxes is None:
        return features
    boxes, planes = boxes.to(features.device), features.flatten(1, -3)  # (B, C * t, h, w)
    if boxes.ndim == 3:
        steps = features.shape[2] if features.ndim == 5 else 1
        time = torch.linspace(0, 1, steps, device=boxes.device) if steps > 1 else boxes.new_full((1,), 0.5)
        between = torch.lerp(boxes[:, :1], boxes[:, -1:], time[:, None])  # (B, t, 4)
        boxes = between.repeat(1, features.shape[1], 1)
    return crop_values(planes, boxes).reshape(features.shape)


def _spread(values: Tensor, rows: Tensor, size: int) -> Tensor:
    """Return a batch (size, ...) with values (n, ...) in the n rows of the given indices, and zeros elsewhere."""
    spread = values.new_zeros(size, *values.shape[1:])
    spread[rows] = values
    return spread


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
