"""Build the components of a training run from its config: model, teacher, data, objective and optimiser."""

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from distill.data.augment import Camera, Crop, Jitter
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec, Video
from distill.data.video.names import is_image
from distill.errors import UserError
from distill.models.device import resolve_device
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.models.references import load_model, weights_of_run
from distill.models.registry import create_model
from distill.targets.build import Engine, build
from distill.targets.fingerprint import describe_video, fingerprint
from distill.targets.store import TargetStore
from distill.training import encoder_layers, sharding
from distill.training.agreement import check_same_data
from distill.training.config import OptimizerSection, RunConfig
from distill.training.gate_table import decide_gates
from distill.training.heads import Learner, Projection, SideMap, feature_shape, feature_shapes, shared_fractions
from distill.training.losses import LOSSES
from distill.training.objective import Objective
from distill.training.processes import on_every
from distill.training.sources import (
    scored_videos,
    taught_sources,
    training_sources,
    training_videos,
    warn_of_trained_frames,
)
from distill.training.teacher_section import TeacherSection
from distill.training.teachers import CachedTeacher, OnlineTeacher, Role, Teacher, check_alignment
from distill.training.team import Team, members_of, require_graded
from distill.training.team_section import MemberSection

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The components of a training run."""

    model: LoadedModel
    """The unsharded model, which is validated and saved."""
    learner: Learner
    """The model with its heads, or a sharded copy of them, which is trained."""
    optimizer: torch.optim.Optimizer
    objective: Objective
    teachers: list[Teacher]
    clips: ClipDataset
    validation: list[Video]
    steps: int
    """Length of the run in optimiser steps."""
    clips_per_step: int
    """Clips per optimiser step, over all batches and processes."""


def build_parts(config: RunConfig, accelerator: Accelerator) -> Parts:
    """Return the components of a run.

    Raises:
        UserError: the config does not fit the machine, the data or the teacher.
    """
    built = on_every(accelerator, lambda: build_unsharded(config, accelerator.device))
    model, learner, teachers, clips, validation = built
    check_same_data(accelerator, clips, teachers)
    if config.training.shard:
        learner = sharding.shard(learner, accelerator.device, accelerator.num_processes)
    fused = accelerator.device.type == "cuda"
    optimizer = build_optimizer(config.optimizer, learner.model, learner.heads, fused=fused)
    clips_per_step = config.training.batch_size * config.training.accumulate * accelerator.num_processes
    steps = config.training.steps
    if steps is None:
        assert config.training.epochs is not None
        steps = max(1, math.ceil(config.training.epochs * len(clips) / clips_per_step))
    objective = Objective(config.terms)
    return Parts(model, learner, optimizer, objective, teachers, clips, validation, steps, clips_per_step)


def build_unsharded(
    config: RunConfig, device: torch.device
) -> tuple[LoadedModel, Learner, list[Teacher], ClipDataset, list[Video]]:
    """Return the parts that a process builds without the others: model, learner, teachers, clips, validation."""
    sources = training_sources(config.data)
    validation = scored_videos(config.data.validation)
    warn_of_trained_frames(sources, validation, "data.train")
    model = build_model(config)
    spec = ClipSpec.of(model.network, stride=config.data.stride)
    spec.check_batch(config.training.batch_size, "training.batch_size")
    teachers = build_teachers(config, sources, spec, device)
    clips = build_clips(config, sources, spec, teachers)
    learner = build_learner(config, model, teachers, spec, sources)
    return model, learner, teachers, clips, validation


def build_stores(
    config: RunConfig, *, runtime: str | None = None, engine: Engine | None = None
) -> list[TargetStore]:
    """Return the target stores of a config's teachers that have a model and a store, as `build_store`.

    Args:
        config: the run.
        runtime: what runs the teachers, see `InferenceSettings`.
        engine: what computes the maps; defaults to this process.

    Raises:
        UserError: no teacher has both.
    """
    sections = [each for each in config.teacher_sections if each.model is not None and each.store is not None]
    if not sections:
        key = "teacher" if config.teachers is None else "teachers"
        raise UserError(f"{key}: a target store needs 'model', the teacher, and 'store', its folder; set both")
    return [build_store(config, section, runtime=runtime, engine=engine) for section in sections]


def build_store(
    config: RunConfig,
    section: TeacherSection | None = None,
    *,
    runtime: str | None = None,
    engine: Engine | None = None,
) -> TargetStore:
    """Return the target store of the videos that a teacher teaches, built here or resumed after an interruption.

    Several processes may call this at once; those of one launcher use one GPU each.

    Args:
        config: the run.
        section: the teacher; defaults to the config's first one.
        runtime: what runs the teacher, see `InferenceSettings`.
        engine: what computes the maps; defaults to this process.

    Raises:
        UserError: the config names no teacher or no store.
    """
    section = section or next(iter(config.teacher_sections), None)
    if section is None or section.model is None or section.store is None:
        raise UserError("teacher: a target store needs 'model', the teacher, and 'store', its folder; set both")
    taught = taught_sources(training_sources(config.data), config.data, section)
    device = _teacher_device(config.device) if engine is None else engine.device(config.device)
    return build(
        load_model(section.model, device="cpu" if engine else device),  # an engine's device may be on another node
        training_videos(taught.values()),
        section.store,
        replace(section.settings(device), runtime=runtime),
        codec=section.codec,
        views=section.views,
        engine=engine,
    )


def _teacher_device(name: str) -> torch.device:
    """Return the device of a teacher in this process."""
    device = resolve_device(name)
    if device == torch.device("cuda"):  # accelerate and torchrun number the processes of a machine
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return device


def build_accelerator(config: RunConfig) -> Accelerator:
    """Return the accelerator of a run, which handles device, processes and precision.

    Raises:
        UserError: the device does not exist or does not support the precision.
    """
    device = resolve_device(config.device)
    if config.training.precision == "fp16" and device.type == "cpu":
        raise UserError("training.precision: fp16 needs a GPU; use fp32 or bf16 on the CPU")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    precision = "no" if config.training.precision == "fp32" else config.training.precision
    timeout = InitProcessGroupKwargs(timeout=timedelta(days=1))  # all processes wait while one validates
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=[timeout])


def build_model(config: RunConfig) -> LoadedModel:
    """Return the model to train; its random weights depend only on the seed."""
    torch.manual_seed(config.seed)
    section = config.model
    weights: str | Path | None = section.weights
    if weights is not None and (Path(weights) / "config.yaml").is_file():
        weights = weights_of_run(Path(weights))
    model = create_model(section.name, variant=section.variant, weights=weights, **section.arguments)
    network = model.network
    for name, weight in network.named_parameters():
        if any(fnmatch(name, pattern) for pattern in network.no_gradient):
            weight.requires_grad_(False)  # otherwise processes would wait for a gradient that never comes
    encoder_layers.freeze(network, config.training.freeze)
    if config.training.recompute:
        encoder_layers.recompute(network)
    if config.training.compile:
        network.compile()
    return model


def build_teachers(
    config: RunConfig, sources: Sequence[ClipSource], spec: ClipSpec, device: torch.device
) -> list[Teacher]:
    """Return the teachers of a run, checked against the student's target frames and the run's videos.

    Args:
        config: the run.
        sources: training videos.
        spec: the student's clips.
        device: default device of an online teacher.

    Raises:
        UserError: a target store was built by another teacher or from other videos (unless `accept` is set), lacks
            maps, or has none of the videos that its teacher teaches; teacher and student predict different frames;
            the gates of a team cannot be decided, or leave no teacher.
    """
    teachers: list[Teacher] = []
    for section in config.teacher_sections:
        taught = taught_sources(sources, config.data, section)
        if section.source == "online":
            teachers.append(_online_teacher(config, section, taught, spec, device))
        else:
            teachers.append(_cached_teacher(config, section, taught, spec))
        for fps in sorted(frame_rates(taught.values())):
            check_alignment(teachers[-1].offsets(fps), spec.offsets(fps))
    if config.teachers is not None:
        teachers = [_team(config, teachers, sources, spec)]
    untaught = set(range(len(sources))).difference(
        *(config.data.numbers_of(each.sources) for each in config.teacher_sections)
    )
    for number in sorted(untaught):
        if all(video.truth is None for video in sources[number].videos):
            log.warning(
                "data.train[%d]: no video has ground truth or a teacher, so its clips have no loss; name it in a "
                "teacher's sources, or remove it",
                number,
            )
    return teachers


def _team(config: RunConfig, teachers: Sequence[Teacher], sources: Sequence[ClipSource], spec: ClipSpec) -> Team:
    """Return the team of several teachers; gates are decided here if all teachers are cached."""
    members = [section for section in config.teacher_sections if isinstance(section, MemberSection)]
    cached = [each for each in teachers if isinstance(each, CachedTeacher)]
    table = None
    if len(cached) == len(teachers) and any(member.gate != "none" for member in members):
        labels = [source.label for source in config.data.train]
        table = decide_gates(
            cached, members, sources, labels, sharpness=config.team.sharpness, map_size=spec.map_size
        )
        require_graded(table.report)
    return Team(teachers, members, config.team, spec, table)


def _role(config: RunConfig, section: TeacherSection, taught: Mapping[int, ClipSource]) -> Role:
    """Return the role of a teacher, with its weight and its sources if they are not the defaults."""
    notes = [f"weight {section.weight:g}"] * (section.weight != 1 and config.teachers is None)
    notes += [f"sources: {', '.join(section.sources)}"] if section.sources is not None else []
    sources = None if section.sources is None else frozenset(taught)
    return Role(section.name, sources, section.partial, tuple(notes), config.key_of(section))


def _online_teacher(
    config: RunConfig,
    section: TeacherSection,
    taught: Mapping[int, ClipSource],
    spec: ClipSpec,
    device: torch.device,
) -> Teacher:
    assert section.model is not None
    device = device if section.device is None else resolve_device(section.device)
    model = load_model(section.model, device=device)
    names = [term.teacher for term in config.terms if term.against == section.name]
    features = tuple(dict.fromkeys(name for name in names if name is not None))
    teacher_spec = ClipSpec.of(model.network, section.stride)
    teacher_spec.check_batch(config.training.batch_size, "training.batch_size")
    rates = frame_rates(taught.values())
    return OnlineTeacher(
        model,
        section.settings(device),
        features=features,
        fraction=shared_fractions(spec, teacher_spec, rates)[1] if features else 1.0,
        role=_role(config, section, taught),
    )


def _cached_teacher(
    config: RunConfig, section: TeacherSection, taught: Mapping[int, ClipSource], spec: ClipSpec
) -> Teacher:
    assert section.store is not None
    store = TargetStore.open(section.store)
    videos = training_videos(taught.values())
    role = _role(config, section, taught)
    teacher = CachedTeacher(store, spec, mirror=section.mirror, role=role)
    teacher.require_any(videos)
    if section.partial:
        covered, every = teacher.coverage(videos)
        teacher.role = replace(role, notes=(*role.notes, f"partial: {covered:,} of {every:,} maps"))
    described = [video for video in videos if not section.partial or video.name in store.plan.videos]
    # videos are compared only by size; `cache verify` also compares their content
    expected: dict[str, Any] = {"videos": {each.name: describe_video(each, content=False) for each in described}}
    if section.model is not None:
        model = load_model(section.model)
        expected = fingerprint(model, section.stride, described, precision=section.precision, content=False)
    differences = store.check(expected)
    if differences and not section.accept:
        lacks = any(video.name not in store.plan.videos for video in described)
        partial = f"; set {role.key}.partial=true to train on other videos without it" if lacks else ""
        raise UserError(
            f"{section.store}: the target store does not match the run: {'; '.join(differences)}; rebuild it in "
            f"another folder, or accept the differences with --accept ({role.key}.accept=true){partial}"
        )
    for difference in differences:
        log.warning("%s: target store accepted although %s", section.store, difference)
    teacher.require(videos, flip=config.data.flip)
    return teacher


def build_clips(
    config: RunConfig, sources: Sequence[ClipSource], spec: ClipSpec, teachers: Sequence[Teacher] = ()
) -> ClipDataset:
    """Return the training clips, each with the teachers' input.

    A teacher's map of a mirrored clip is not the mirrored map of the clip. Clips are therefore mirrored only if all
    teachers provide the flipped view, or if `teacher.mirror` accepts the mirrored map in its place. Crops and
    colours apply only to the student's clip: a teacher sees full frames.
    """
    videos = [video for source in sources for video in source.videos if not is_image(video.path)]
    short = [span for video in videos if (span := spec.span(video.fps)) > video.num_frames]
    if short:
        log.info(
            "%d of %d training videos are shorter than a clip (%d frames); they are padded with their first frame",
            len(short),
            len(videos),
            max(short),
        )
    every = [each for teacher in teachers for each in members_of(teacher)]
    plain = [each for each in every if "flipped" not in each.views]
    flip = config.data.flip and not plain
    if config.data.flip and plain:
        log.warning(
            "data.flip is off: the target store%s has no flipped view; rebuild it with "
            "%s.views=[plain,flipped], or set %s.mirror=true",
            f" of {plain[0].role.name}" if len(every) > 1 else "",
            plain[0].role.key,
            plain[0].role.key,
        )
    crop, colour, camera = config.data.crop, config.data.colour, config.data.camera
    return ClipDataset(
        sources,
        spec,
        seed=config.seed,
        flip=flip,
        crop=None if crop is None else Crop(crop.area, crop.stretch),
        colour=None if colour is None else Jitter(colour.brightness, colour.contrast, colour.saturation),
        camera=None if camera is None else Camera(**camera.model_dump()),
        extras=[teacher.reader for teacher in teachers],
        in_memory=config.data.in_memory,
    )


def frame_rates(sources: Iterable[ClipSource]) -> set[float]:
    """Return the frame rates of all videos, in frames per second."""
    return {video.fps for source in sources for video in source.videos}


def build_learner(
    config: RunConfig,
    model: LoadedModel,
    teachers: Sequence[Teacher],
    spec: ClipSpec,
    sources: Sequence[ClipSource],
) -> Learner:
    """Return the model with the heads of its losses, whose random weights depend only on the seed.

    Args:
        config: the run.
        model: the model to train.
        teachers: the teachers, with whose features hints compare.
        spec: the model's clips.
        sources: training videos.

    Raises:
        UserError: model or teacher lacks the named features, or the model predicts too few maps for a loss.
    """
    maps: int = len(spec.target_frames)
    for loss in config.losses:
        if maps < (needed := LOSSES[loss.name].min_maps):
            raise UserError(
                f"losses: {loss.name} needs at least {needed} maps per clip, and {config.model.name} predicts "
                f"{maps}; use a model with more target frames, or remove the loss"
            )
    terms = [(term, term.student) for term in config.terms if term.student is not None]
    shapes = feature_shapes(model) if terms else {}
    teacher_shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    fractions: dict[str, tuple[float, float]] = {}
    for teacher, section in zip(teachers, config.teacher_sections, strict=False):  # a team is one, without features
        if isinstance(teacher, OnlineTeacher) and teacher.features:
            taught = taught_sources(sources, config.data, section)
            teacher_shapes[section.name] = feature_shapes(teacher.model)
            fractions[section.name] = shared_fractions(spec, teacher.spec, frame_rates(taught.values()))
    torch.manual_seed(config.seed)
    heads: dict[str, nn.Module] = {}
    for term, student in terms:
        shape = feature_shape(student, shapes, f"losses: {term.label}: the model")
        if term.teacher:
            target = feature_shape(term.teacher, teacher_shapes[term.against], f"losses: {term.label}: the teacher")
            heads[term.head] = Projection(student, shape, target, fractions[term.against])
        else:
            heads[term.head] = SideMap(student, shape, maps=maps, size=spec.map_size)
    learner = Learner(model.network, heads)
    if heads and config.training.compile:
        learner.compile()  # without heads the compiled model itself runs
    return learner


def build_optimizer(
    section: OptimizerSection, model: SaliencyModel, heads: nn.Module | None = None, *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return the optimiser of all trainable weights, those of the heads last.

    With layer_decay, every group has a `scale`, by which the loop multiplies the learning rate. `fused` updates all
    weights in one kernel, as suits a GPU; on a CPU the weights would differ in rounding.
    """
    weights: Any = [weight for weight in model.parameters() if weight.requires_grad]
    if section.layer_decay != 1:
        weights = encoder_layers.decayed_groups(model, section.layer_decay)
    settings: dict[str, Any] = {"lr": section.lr, "weight_decay": section.weight_decay}
    settings |= {"momentum": 0.9} if section.name == "sgd" else {}
    settings |= {"fused": True} if fused else {}
    algorithm: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[section.name]
    optimizer: torch.optim.Optimizer = algorithm(weights, **settings)
    if heads is not None and (head_weights := list(heads.parameters())):
        optimizer.add_param_group({"params": head_weights})
    return optimizer
