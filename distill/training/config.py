"""What a run is made of: one YAML file, read strictly, with all mistakes reported at once.

    config = load_config("configs/teacher/demo.yaml", ["training.steps=10", "losses.0.weight=2"])

Every section is a small class below, in the order of the file. Unknown keys are errors. A number may be written
`3e-4`. Paths are relative to the folder that the command runs in. `save_config` writes the whole resolved run
down, and reading that file gives the same run again.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

from distill.data.augment import Crop
from distill.data.sets.find import DATASETS
from distill.files import write_text
from distill.models.registry import list_models, list_variants
from distill.stride import Stride, read_stride
from distill.targets.codec import CODECS
from distill.training import config_errors
from distill.training.losses import LOSSES, TARGETS

Count = Annotated[int, Field(ge=1)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Precision = Literal["fp32", "bf16", "fp16"]


class Section(BaseModel):
    """A part of the file: immutable, and no key that is not named here."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(Section):
    """The model that is trained."""

    name: str
    """As `saldistill models` lists it, for example teacher/salfom."""
    variant: str | None = None
    """One of the model's variants; its default when left out."""
    weights: str | None = None
    """A weight file to start from; random weights when left out."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of the model that depart from the variant."""

    @model_validator(mode="after")
    def _known(self) -> "ModelSection":
        config_errors.one_of(self.name, list_models(), "model")
        if self.variant is not None:
            config_errors.one_of(self.variant, list_variants(self.name), f"variant of {self.name}")
        return self


class SourceSection(Section):
    """Some videos of one data set."""

    dataset: str
    root: str | None = None
    split: str | None = None
    """One of the data set's splits; all of its videos when left out."""
    videos: list[str] | None = None
    """Only these videos, by name."""
    frames: tuple[Count, Count] | None = None
    """Only the frames from the first to the last of these two, counted from 1, both included."""
    share: tuple[Share, Share] | None = None
    """Only a part of these videos, whole: in an order shuffled by `share_seed`, those from one share of them to
    another. [0, 0.9] and [0.9, 1] have none in common; videos cut from one recording stay together."""
    share_seed: int = 0

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        return config_errors.one_of(name, DATASETS, "data set")

    @model_validator(mode="after")
    def _has_a_place(self) -> "SourceSection":
        if self.root is None and self.dataset != "synthetic":
            raise ValueError("'root', the data set's folder, is missing")
        if self.frames is not None and self.frames[0] > self.frames[1]:
            raise ValueError(f"frames: expected [first, last], got {list(self.frames)}")
        if self.share is not None and self.share[0] >= self.share[1]:
            raise ValueError(f"share: expected [from, to] such as [0, 0.9], got {list(self.share)}")
        return self


class TrainSource(SourceSection):
    """Videos to train on."""

    clips_per_video: Count = 1
    """Random clips that an epoch takes from each video; the sources' shares of an epoch follow from it."""
    ratio: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Clips that an epoch takes from this source for each clip of the sources without a ratio, however many videos
    it has: 1 on videos without gaze mixes them half and half with those that have it. Each epoch goes on where the
    last one ended, so that all videos get their turn. In place of clips_per_video."""

    @model_validator(mode="after")
    def _one_number(self) -> "TrainSource":
        if self.ratio is not None and self.clips_per_video != 1:
            raise ValueError("give one of 'clips_per_video' and 'ratio'")
        return self


class ScoredSource(SourceSection):
    """Videos to score on."""

    every: Count = 1
    """Score only every so many frames."""


class CropSection(Section):
    """Each clip shows a random part of its frames, the same in all of them, scaled to the model's size."""

    area: tuple[Share, Share] = (0.5, 1.0)
    """The smallest and the largest share of the frame's area that is kept."""
    stretch: Annotated[FiniteFloat, Field(ge=1)] = 1.0
    """How much wider or narrower than the frame the part may be: 1 keeps the frame's shape, 1.33 goes from three
    quarters of its width to four thirds."""

    @model_validator(mode="after")
    def _possible(self) -> "CropSection":
        Crop(self.area, self.stretch)
        return self


class ColourSection(Section):
    """The colours of each clip change by random factors, the same in all of its frames."""

    brightness: Share = 0.0
    """0.2 multiplies by a number from 0.8 to 1.2; contrast and saturation alike."""
    contrast: Share = 0.0
    saturation: Share = 0.0


class DataSection(Section):
    """What the model sees."""

    train: list[TrainSource] = Field(min_length=1)
    validation: list[ScoredSource] = []
    """Scored while training, to choose the best weights."""
    test: list[ScoredSource] = []
    """Scored by `saldistill evaluate MODEL CONFIG` alone; training never looks at them."""
    stride: Stride = 1
    """How far apart the frames of a clip lie in the video: 2 takes every second one, 30fps those that are shown at
    30 frames a second, whatever the video's own rate (distill/stride.py)."""
    flip: bool = True
    """Mirror every other clip, together with its ground truth."""
    crop: CropSection | None = None
    """Cut clips, ground truth and the teacher's maps to random parts of the frames; off when left out. A part that
    nobody looked at counts as unlabelled."""
    colour: ColourSection | None = None
    """Change the colours of the clips, not of what an online teacher sees; off when left out."""
    workers: Annotated[int, Field(ge=0)] = 2
    in_memory: bool = False
    """Each worker decodes a video whole when it first needs it, and keeps it: for small data sets. Takes 3 bytes a
    pixel and frame, at the model's size, or at the videos' own with crops, in each worker."""

    @field_validator("stride", mode="before")
    @classmethod
    def _stride(cls, value: object) -> Stride:
        return read_stride(value)

    @model_validator(mode="after")
    def _ratio_to_something(self) -> "DataSection":
        if all(source.ratio is not None for source in self.train):
            raise ValueError("train: every source has a ratio; leave it out of what the others are a ratio to")
        return self


class TeacherSection(Section):
    """Whose maps the student learns from."""

    model: str | None = None
    """A run folder, a weight file or name:variant; needed to build the store and for source: online."""
    source: Literal["cached", "online"] = "cached"
    store: str | None = None
    """The folder of cached maps that `saldistill cache build` makes of this file."""
    codec: str = "log8"
    views: list[Literal["plain", "flipped"]] = ["plain"]
    mirror: bool = False
    """Let a mirrored clip learn from the mirrored map of the plain one where the store has no flipped view, as
    imported maps have none; otherwise such a store turns data.flip off."""
    stride: Stride = 1
    """As data.stride, of the teacher's own clips."""
    batch_size: Count = 8
    """Clips the teacher takes at a time; the store commits this many maps at once."""
    precision: Precision = "fp32"
    device: str | None = None
    """Where an online teacher computes; beside the student when left out."""
    accept: bool = False
    """Train even from a store that some other teacher, code or video made; the run records it."""

    @field_validator("stride", mode="before")
    @classmethod
    def _stride(cls, value: object) -> Stride:
        return read_stride(value)

    @field_validator("codec")
    @classmethod
    def _known(cls, name: str) -> str:
        return config_errors.one_of(name, CODECS, "codec")

    @model_validator(mode="after")
    def _enough(self) -> "TeacherSection":
        if self.source == "cached" and self.store is None:
            raise ValueError("source: cached needs 'store', the folder of the teacher's maps")
        if self.source == "online" and self.model is None:
            raise ValueError("source: online needs 'model', the teacher to run")
        return self


SOFTENED = ("kldiv", "reverse_kldiv")
"""Losses with a temperature."""


class LossSection(Section):
    """One term of the objective."""

    name: str
    """A loss of maps (distill/losses.py), or hint, of features (distill/hints.py)."""
    against: Literal["truth", "teacher"] = "truth"
    weight: FiniteFloat = 1.0
    final_weight: FiniteFloat | None = None
    """Where the weight goes to in the course of the run; it stays when left out."""
    ramp: tuple[Share, Share] = (0.0, 1.0)
    """The part of the run in which it goes there, in shares: [0, 0.1] is the first tenth, [0.5, 0.5] a jump."""
    shape: Literal["linear", "cosine"] = "linear"
    """How it goes there; a cosine is slow at both ends."""
    temperature: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """Softens both maps of a kldiv or reverse_kldiv."""
    student: str | None = None
    """The model's features, by name, that a hint projects, or that a side map is read from and compared in place of
    the model's own map."""
    teacher: str | None = None
    """The teacher's features, by name, that a hint compares with."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return config_errors.one_of(name, [*LOSSES, "hint"], "loss")

    @model_validator(mode="after")
    def _possible(self) -> "LossSection":
        hint, target = self.name == "hint", TARGETS.get(self.name, "teacher")
        if self.temperature != 1 and self.name not in SOFTENED:
            raise ValueError(f"temperature belongs to {' and '.join(SOFTENED)}, not to {self.name}")
        if self.against == "teacher" and target == "fixations":
            raise ValueError(f"{self.name} compares with fixations, and a teacher has none; use against: truth")
        if self.against == "truth" and target == "teacher":
            raise ValueError(f"{self.name} compares with a teacher alone; use against: teacher")
        if hint and (self.student is None or self.teacher is None):
            raise ValueError("hint needs 'student' and 'teacher', the names of the features to compare")
        if not hint and self.teacher is not None:
            raise ValueError(f"'teacher', the name of features, belongs to hint, not to {self.name}")
        if self.final_weight is None and (self.ramp, self.shape) != ((0, 1), "linear"):
            raise ValueError("ramp and shape say how the weight changes; give 'final_weight', where it goes to")
        if self.ramp[0] > self.ramp[1]:
            raise ValueError(f"ramp: expected [from, until] such as [0, 0.1], got {list(self.ramp)}")
        return self


class OptimizerSection(Section):
    """How weights follow gradients."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[FiniteFloat, Field(gt=0)] = 1e-5
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    layer_decay: Annotated[FiniteFloat, Field(gt=0, le=1)] = 1.0
    """What the learning rate is multiplied with from each layer of the encoder to the one before it: the last has
    this, the first the smallest, and what follows the encoder 1."""


class ScheduleSection(Section):
    """How the learning rate changes over the run."""

    name: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0
    """The share of the learning rate that a cosine ends at."""


class TrainingSection(Section):
    """How long, and in what portions."""

    steps: Count | None = None
    """Optimiser steps; give this or epochs."""
    epochs: Annotated[FiniteFloat, Field(gt=0)] | None = None
    batch_size: Count = 1
    """Clips a process takes at a time."""
    accumulate: Count = 1
    """Batches whose gradients are added up to one step."""
    clip_norm: Annotated[FiniteFloat, Field(gt=0)] | None = None
    precision: Precision = "fp32"
    freeze: str | int | None = None
    """Weights that stay as they are, out of training mode: the whole encoder, or so many of its blocks, from the
    first, with the patch embedding before them."""
    recompute: bool = False
    """Gradient checkpointing: keep the input of each layer of the encoder alone, and compute the layer again in the
    backward pass. The same numbers in less memory and about a third more time."""
    shard: bool = False
    """On several GPUs: each keeps a part of the weights, gradients and moments, and fetches each of the encoder's
    blocks while it runs (FSDP). The same numbers in less memory and more time (distill/sharding.py)."""
    ema: Annotated[FiniteFloat, Field(gt=0, lt=1)] | None = None
    """Validate and keep as the best a moving average of the weights; each step keeps this much of it, fewer of the
    first steps (distill/ema.py)."""
    compile: bool = False
    """Compile the model by torch.compile: minutes at the start, faster steps after it; needs a C++ compiler."""
    validate_every: Count | None = None
    """Steps between two validations; once, at the end, when left out."""
    checkpoint_every: Count = 500
    """Steps between two checkpoints; each validation makes one as well."""
    best: Literal["nss", "cc", "sim", "auc_judd"] = "cc"
    """The validation score whose highest value marks the best weights."""

    @field_validator("freeze", mode="before")
    @classmethod
    def _freezable(cls, value: object) -> object:
        blocks = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value in (None, "encoder") or blocks:
            return value
        raise ValueError(f"expected encoder or a number of its blocks, got {config_errors.kind(value)}")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingSection":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        return self

    @model_validator(mode="after")
    def _shardable(self) -> "TrainingSection":
        if self.shard and (self.compile or self.precision == "fp16"):
            raise ValueError("shard goes with neither compile nor precision: fp16; use fp32 or bf16, uncompiled")
        return self


class RunConfig(Section):
    """One run, whole."""

    out: str
    """The folder that the run writes."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"
    resume: Literal["auto", "never"] = "never"
    """auto goes on where a stopped run in the same folder ended."""
    model: ModelSection
    data: DataSection
    teacher: TeacherSection | None = None
    losses: list[LossSection] = Field(min_length=1)
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    training: TrainingSection

    @model_validator(mode="after")
    def _teacher_is_used(self) -> "RunConfig":
        terms = [(loss.against, loss.name, loss.temperature, loss.student, loss.teacher) for loss in self.losses]
        if len(set(terms)) < len(terms):
            raise ValueError("losses: the same term stands there twice; add up its weights")
        if all(loss.student is not None for loss in self.losses):
            raise ValueError("losses: none is of the model's own map; add one, whose weight may come later (ramp)")
        against_teacher = any(loss.against == "teacher" for loss in self.losses)
        if against_teacher and self.teacher is None:
            raise ValueError("losses: a term is against: teacher, but there is no section 'teacher'")
        if self.teacher is not None and not against_teacher:
            raise ValueError("teacher: no loss is against: teacher; add one or remove the section")
        hints = any(loss.name == "hint" for loss in self.losses)
        if hints and self.teacher is not None and self.teacher.source == "cached":
            raise ValueError(
                "losses: a hint needs the teacher's features, and a store holds its maps alone; use "
                "teacher.source: online, or remove the hint"
            )
        return self


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run from YAML, with `key=value` overrides such as `training.steps=10` or `losses.0.weight=2`.

    Raises:
        UserError: naming every mistake with the path of its key, and what was expected.
    """
    return config_errors.load(RunConfig, path, overrides)


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write the resolved run; `load_config` of that file gives an equal run."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(path, f"# This run, resolved. To repeat it: saldistill train {path} out=ANOTHER_FOLDER\n{text}")
