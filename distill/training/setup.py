"""From a run config to the objects that the training loop works with."""

import logging
import math
import os
from collections.abc import Sequence
from datetime import timedelta
from fnmatch import fnmatch
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from distill.data.augment import Crop, Jitter
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.models.device import resolve_device
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.targets.build import build
from distill.targets.fingerprint import describe_video, fingerprint
from distill.targets.store import TargetStore
from distill.training import encoder_layers, sharding
from distill.training.config import (
    LossSection,
    OptimizerSection,
    RunConfig,
)
from distill.training.heads import Learner, Projection, SideMap, feature_shapes, shape_of, shares_in_common
from distill.training.losses import LOSSES
from distill.training.objective import Objective, Term
from distill.training.sources import training_sources, training_videos
from distill.training.teachers import CachedTeacher, OnlineTeacher, Teacher, check_alignment

log = logging.getLogger(__name__)


def build_store(config: RunConfig) -> TargetStore:
    """Compute and store the teacher's maps of a config's training videos; go on where an earlier call stopped.

    Several processes may do so at once; those that one launcher started take a GPU each.

    Raises:
        UserError: if the config names no teacher or no store.
    """
    section = config.teacher
    if section is None or section.model is None or section.store is None:
        raise UserError("teacher: a store is made from 'model', the teacher, in the folder 'store'; name both")
    device = resolve_device(config.device)
    if device == torch.device("cuda"):  # accelerate and torchrun say which of a machine's processes this is
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return build(
        load_model(section.model, device=device),
        training_videos(training_sources(config.data)),
        section.store,
        InferenceSettings(
            stride=section.stride,
            batch_size=section.batch_size,
            device=device,
            precision=section.precision,
        ),
        codec=section.codec,
        views=section.views,
    )


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


def build_model(config: RunConfig) -> LoadedModel:
    """Return the model to train; its random weights depend on the seed alone."""
    torch.manual_seed(config.seed)
    section = config.model
    model = create_model(section.name, variant=section.variant, weights=section.weights, **section.arguments)
    network = model.network
    for name, weight in network.named_parameters():
        if any(fnmatch(name, pattern) for pattern in network.no_gradient):
            weight.requires_grad_(False)  # else processes would wait for a gradient that never comes
    encoder_layers.freeze(network, config.training.freeze)
    if config.training.recompute:
        encoder_layers.recompute(network)
    if config.training.compile:
        network.compile()
    return model


def shard(config: RunConfig, learner: Learner, accelerator: Accelerator) -> Learner:
    """Return what to train: what was built, or a copy of it whose weights lie in parts on the processes.

    Raises:
        UserError: if there is one process, or the model does not say what its encoder's blocks are.
    """
    if not config.training.shard:
        return learner
    if accelerator.num_processes == 1:
        raise UserError(
            "training.shard: there is one process, and nothing to share; start several with accelerate launch, or "
            "leave it out"
        )
    return sharding.shard(learner, accelerator.device, accelerator.num_processes)


def build_teacher(
    config: RunConfig, sources: Sequence[ClipSource], spec: ClipSpec, device: torch.device
) -> Teacher | None:
    """Return the teacher that a run names, checked against the student's target frames and the run's videos.

    Args:
        config: the run.
        sources: the videos it trains on.
        spec: what the student wants.
        device: where a teacher that is computed online runs, unless it has a device of its own.

    Raises:
        UserError: if the store was made by another teacher or from other videos (and `accept` is not set), lacks
            maps, or teacher and student predict different frames.
    """
    section = config.teacher
    if section is None:
        return None
    if section.source == "online":
        assert section.model is not None
        own = device if section.device is None else resolve_device(section.device)
        model = load_model(section.model, device=own)
        features = tuple(dict.fromkeys(loss.teacher for loss in config.losses if loss.teacher is not None))
        teacher: Teacher = OnlineTeacher(
            model,
            stride=section.stride,
            device=own,
            precision=section.precision,
            features=features,
            share=in_common(spec, ClipSpec.of(model.network, section.stride), sources)[1] if features else 1.0,
        )
    else:
        assert section.store is not None
        store = TargetStore.open(section.store)
        videos = training_videos(sources)
        # sizes alone tell one video from another here; `cache verify` compares their content too
        expected: dict[str, Any] = {"videos": {each.name: describe_video(each, content=False) for each in videos}}
        if section.model is not None:
            model = load_model(section.model)
            seen = ClipSpec.of(model.network, section.stride)
            expected = fingerprint(model, seen, videos, precision=section.precision, content=False)
        differences = store.check(expected)
        if differences and not section.accept:
            raise UserError(
                f"{section.store}: these targets do not fit the run: {'; '.join(differences)}; build them anew in "
                "another folder, or use them as they are with --accept (teacher.accept=true), which the run records"
            )
        for difference in differences:
            log.warning("%s: accepted although %s", section.store, difference)
        teacher = CachedTeacher(store, spec, mirror=section.mirror)
        teacher.require(videos, flip=config.data.flip)
    for fps in sorted({video.fps for source in sources for video in source.videos}):
        check_alignment(teacher.offsets(fps), spec.offsets(fps))
    return teacher


def build_clips(
    config: RunConfig, sources: Sequence[ClipSource], spec: ClipSpec, teacher: Teacher | None
) -> ClipDataset:
    """Return the training clips, with what the teacher needs beside each.

    A mirrored clip's teacher map is not the mirrored map of the clip, so clips are mirrored only when the teacher
    can judge the mirrored view itself, or when `teacher.mirror` says that the one may stand for the other. Crops
    and colours are the clip's alone: a teacher sees whole frames.
    """
    videos = [video for source in sources for video in source.videos]
    short = [span for video in videos if (span := spec.span(video.fps)) > video.num_frames]
    if short:
        log.info(
            "%d of %d training videos are shorter than a clip (%d frames); their first frame is repeated before it",
            len(short),
            len(videos),
            max(short),
        )
    flip = config.data.flip and (teacher is None or "flipped" in teacher.views)
    if config.data.flip and not flip:
        log.warning("flips are off: the store of targets holds no flipped view (teacher.views, teacher.mirror)")
    crop, colour = config.data.crop, config.data.colour
    return ClipDataset(
        sources,
        spec,
        seed=config.seed,
        flip=flip,
        crop=None if crop is None else Crop(crop.area, crop.stretch),
        colour=None if colour is None else Jitter(colour.brightness, colour.contrast, colour.saturation),
        extras=[] if teacher is None else [teacher.reader],
        in_memory=config.data.in_memory,
    )


def build_objective(losses: list[LossSection]) -> Objective:
    """Return the sum of the configured terms."""
    return Objective(
        [
            Term(
                loss.name,
                loss.against,
                loss.weight,
                {} if loss.temperature == 1 else {"temperature": loss.temperature},
                student=loss.student or "",
                teacher=loss.teacher or "",
                final_weight=loss.final_weight,
                over=loss.ramp,
                shape=loss.shape,
            )
            for loss in losses
        ]
    )


def in_common(student: ClipSpec, teacher: ClipSpec, sources: Sequence[ClipSource]) -> tuple[float, float]:
    """Return the share of each one's clip, from its end, that the other's shows as well, in all training videos."""
    return shares_in_common(student, teacher, {video.fps for source in sources for video in source.videos})


def build_learner(
    config: RunConfig, model: LoadedModel, teacher: Teacher | None, spec: ClipSpec, sources: Sequence[ClipSource]
) -> Learner:
    """Return the model with the heads that its losses need; their random weights depend on the seed alone.

    Args:
        config: the run.
        model: what is trained.
        teacher: whose features hints compare with.
        spec: what the model sees.
        sources: the videos it trains on.

    Raises:
        UserError: if model or teacher has no features of a name, or the model makes too few maps for a loss.
    """
    maps: int = len(spec.target_frames)
    for loss in config.losses:
        if maps < (needed := LOSSES[loss.name].min_maps):
            raise UserError(
                f"losses: {loss.name} needs at least {needed} maps per clip, and {config.model.name} predicts "
                f"{maps}; use a model with more target frames, or remove the loss"
            )
    terms = [term for term in build_objective(config.losses).terms if term.head]
    shapes = feature_shapes(model) if terms else {}
    of_teacher: dict[str, tuple[int, ...]] = {}
    shares = (1.0, 1.0)
    if isinstance(teacher, OnlineTeacher) and teacher.features:
        of_teacher, shares = feature_shapes(teacher.model), in_common(spec, teacher.spec, sources)
    torch.manual_seed(config.seed)
    heads: dict[str, nn.Module] = {}
    for term in terms:
        shape = shape_of(term.student, shapes, f"losses: {term.name}: the model")
        if term.teacher:
            wanted = shape_of(term.teacher, of_teacher, f"losses: {term.name}: the teacher")
            heads[term.head] = Projection(term.student, shape, wanted, shares)
        else:
            heads[term.head] = SideMap(term.student, shape, maps=maps, size=spec.map_size)
    learner = Learner(model.network, heads)
    if heads and config.training.compile:
        learner.compile()  # without heads, the model itself is what runs
    return learner


def build_optimizer(
    section: OptimizerSection, model: SaliencyModel, heads: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Return the optimiser over every trainable weight, those of the heads last.

    With layer_decay, weights stand in groups whose `scale` the loop multiplies the learning rate with.
    """
    weights: Any = [weight for weight in model.parameters() if weight.requires_grad]
    if section.layer_decay != 1:
        weights = encoder_layers.decayed_groups(model, section.layer_decay)
    settings: dict[str, Any] = {"lr": section.lr, "weight_decay": section.weight_decay}
    settings |= {"momentum": 0.9} if section.name == "sgd" else {}
    kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[section.name]
    optimizer: torch.optim.Optimizer = kind(weights, **settings)
    if heads is not None and (own := list(heads.parameters())):
        optimizer.add_param_group({"params": own})
    return optimizer


def count_steps(config: RunConfig, clips: int, processes: int) -> int:
    """Return the length of a run in optimiser steps; an epoch is every clip once."""
    if config.training.steps is not None:
        return config.training.steps
    assert config.training.epochs is not None
    per_step = config.training.batch_size * config.training.accumulate * processes
    return max(1, math.ceil(config.training.epochs * clips / per_step))
