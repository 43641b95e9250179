"""From a run's config to the things it names: here the config objects end, and plain values go on."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from fnmatch import fnmatch
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from distill import layers, sharding
from distill.config import DataSection, LossSection, OptimizerSection, RunConfig, ScoredSource, SourceSection
from distill.data import find_videos
from distill.data.clips import ClipDataset, ClipSpec, Source, Video
from distill.errors import UserError
from distill.models import create_model, load_model, resolve_device
from distill.objective import Objective, Term
from distill.targets.fingerprint import describe_video, fingerprint
from distill.targets.store import TargetStore
from distill.teaching import CachedTeacher, OnlineTeacher, Teacher, check_alignment

log = logging.getLogger(__name__)


def build_accelerator(config: RunConfig) -> Accelerator:
    """Return accelerate's view of the device, the processes and the precision that a run asks for.

    Raises:
        UserError: if the device is not there or cannot do the precision.
    """
    device = resolve_device(config.device)
    if config.training.precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision: fp16 needs a GPU; use fp32 or bf16 on the CPU")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    precision = "no" if config.training.precision == "fp32" else config.training.precision
    patience = InitProcessGroupKwargs(timeout=timedelta(days=1))  # the others wait while one process validates
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=[patience])


def build_model(config: RunConfig) -> nn.Module:
    """Return the model to train; its random weights depend on the seed alone."""
    torch.manual_seed(config.seed)
    section = config.model
    model = create_model(section.name, variant=section.variant, weights=section.weights, **section.arguments)
    patterns = cast(tuple[str, ...], model.no_gradient)
    for name, weight in model.named_parameters():
        if any(fnmatch(name, pattern) for pattern in patterns):
            weight.requires_grad_(False)  # else processes would wait for a gradient that never comes
    layers.freeze(model, config.training.freeze)
    if config.training.recompute:
        layers.recompute(model)
    if config.training.compile:
        model.compile()
    return model


def shard(config: RunConfig, model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Return the model to train: the one that was built, or a copy whose weights lie in parts on the processes.

    Raises:
        UserError: if there is one process, or the model does not say what its encoder's blocks are.
    """
    if not config.training.shard:
        return model
    if accelerator.num_processes == 1:
        raise UserError(
            "training.shard: there is one process, and nothing to share; start several with accelerate launch, or "
            "leave it out"
        )
    return sharding.shard(model, accelerator.device, accelerator.num_processes)


def videos_of(source: SourceSection) -> list[Video]:
    """Return the videos that a source of the config names."""
    root = source.root or source.dataset  # generated videos have no folder
    videos = find_videos(
        source.dataset, root, split=source.split, videos=source.videos, frames=source.frames, progress=True
    )
    if source.share is None:
        return videos
    shared = share_of(videos, source.share, seed=source.share_seed)
    if not shared:
        raise UserError(
            f"{root}: a share of {list(source.share)} of {len(videos)} videos is none of them; widen it"
        )
    return shared


def share_of(videos: list[Video], share: tuple[float, float], *, seed: int) -> list[Video]:
    """Return the videos between two shares of their recordings, in the order they came in.

    The recordings are ordered by a hash of the seed and their names, and cut at the nearest whole one: shares that
    meet have no recording in common and leave none out.
    """

    def recording(video: Video) -> str:
        return video.recording or video.name

    names = sorted(
        {recording(video) for video in videos}, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
    )
    first, last = (round(edge * len(names)) for edge in share)
    chosen = set(names[first:last])
    return [video for video in videos if recording(video) in chosen]


def training_sources(data: DataSection) -> list[Source]:
    """Return the videos to train on, with the clips that an epoch takes from each."""
    return [Source(videos_of(source), clips_per_video=source.clips_per_video) for source in data.train]


def training_videos(sources: Sequence[Source]) -> list[Video]:
    """Return every video that is trained on, each once with all its training frames: what a teacher labels."""
    videos: dict[str, Video] = {}
    for source in sources:
        for video in source.videos:
            other = videos.setdefault(video.name, video)
            if other.path != video.path:
                raise UserError(
                    f"data.train: two videos are called '{video.name}' ({other.path} and {video.path}); a store of "
                    "targets tells videos apart by name, so rename one or train on them in separate runs"
                )
            frames = sorted({*other.frames, *video.frames})
            videos[video.name] = replace(video, frames=tuple(frames))
    return list(videos.values())


def scored_videos(sources: list[ScoredSource]) -> list[Video]:
    """Return the videos to validate or test on, with every so many of their frames.

    Raises:
        UserError: for a video without ground truth, before anything is computed that could not be scored.
    """
    videos = [
        replace(video, frames=video.frames[:: source.every]) for source in sources for video in videos_of(source)
    ]
    for video in videos:
        if video.truth is None:
            raise UserError(
                f"{video.path}: the video has no ground truth to score against; leave it out of the data"
            )
    return videos


def build_teacher(
    config: RunConfig, sources: Sequence[Source], spec: ClipSpec, device: torch.device
) -> Teacher | None:
    """Return the teacher that a run names, checked against the student's target frames and the run's videos.

    Args:
        config: the run.
        sources: the videos it trains on.
        spec: what the student wants.
        device: where a teacher that is computed online runs.

    Raises:
        UserError: if the store was made by another teacher or from other videos (and `accept` is not set), lacks
            maps, or teacher and student predict different frames.
    """
    section = config.teacher
    if section is None:
        return None
    if section.source == "online":
        assert section.model is not None
        model = load_model(section.model, device=device)
        teacher: Teacher = OnlineTeacher(model, stride=section.stride, device=device, precision=section.precision)
    else:
        assert section.store is not None
        store = TargetStore.open(section.store)
        videos = training_videos(sources)
        # sizes alone tell one video from another here; `cache verify` compares their content too
        expected: dict[str, Any] = {"videos": {each.name: describe_video(each, content=False) for each in videos}}
        if section.model is not None:
            model = load_model(section.model)
            seen = ClipSpec.of(model, section.stride)
            expected = fingerprint(model, seen, videos, precision=section.precision, content=False)
        differences = store.check(expected)
        if differences and not section.accept:
            raise UserError(
                f"{section.store}: these targets do not fit the run: {'; '.join(differences)}; build them anew in "
                "another folder, or use them as they are with teacher.accept=true"
            )
        for difference in differences:
            log.warning("%s: accepted although %s", section.store, difference)
        teacher = CachedTeacher(store, spec)
        flip = config.data.flip and "flipped" in teacher.views
        teacher.require(videos, ("plain", "flipped") if flip else ("plain",))
    check_alignment(teacher.offsets, spec.offsets)
    return teacher


def build_clips(
    config: RunConfig, sources: Sequence[Source], spec: ClipSpec, teacher: Teacher | None
) -> ClipDataset:
    """Return the training clips, with what the teacher needs beside each.

    A mirrored clip's teacher map is not the mirrored map of the clip, so clips are mirrored only when the teacher
    can judge the mirrored view itself.
    """
    span = (spec.num_frames - 1) * spec.stride + 1
    lengths = [video.num_frames for source in sources for video in source.videos]
    if short := sum(length < span for length in lengths):
        log.info(
            "%d of %d training videos are shorter than a clip (%d frames); their first frame is repeated before it",
            short,
            len(lengths),
            span,
        )
    flip = config.data.flip and (teacher is None or "flipped" in teacher.views)
    if config.data.flip and not flip:
        log.warning("flips are off: the store of targets holds no flipped view (teacher.views)")
    extras = [] if teacher is None else [teacher.reader]
    return ClipDataset(sources, spec, seed=config.seed, flip=flip, extras=extras)


def build_objective(losses: list[LossSection]) -> Objective:
    """Return the sum of the configured terms."""
    return Objective(
        [
            Term(
                loss.name,
                loss.against,
                loss.weight,
                {} if loss.temperature == 1 else {"temperature": loss.temperature},
            )
            for loss in losses
        ]
    )


def build_optimizer(section: OptimizerSection, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser over every trainable weight.

    With layer_decay, weights stand in groups whose `scale` the loop multiplies the learning rate with.
    """
    weights: Any = [weight for weight in model.parameters() if weight.requires_grad]
    if section.layer_decay != 1:
        weights = layers.decayed_groups(model, section.layer_decay)
    if section.name == "sgd":
        return torch.optim.SGD(weights, lr=section.lr, weight_decay=section.weight_decay, momentum=0.9)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[section.name]
    return kind(weights, lr=section.lr, weight_decay=section.weight_decay)


def count_steps(config: RunConfig, clips: int, processes: int) -> int:
    """Return the length of a run in optimiser steps; an epoch is every clip once."""
    if config.training.steps is not None:
        return config.training.steps
    assert config.training.epochs is not None
    per_step = config.training.batch_size * config.training.accumulate * processes
    return max(1, math.ceil(config.training.epochs * clips / per_step))
