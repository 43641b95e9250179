"""The schema of a run config: one strict YAML file per run, with all mistakes reported at once.

    config = load_config("configs/teacher/demo.yaml", ["training.steps=10", "losses.0.weight=2"])

The sections follow the order of the file. Unknown keys are errors. `3e-4` is a number. Relative paths start at the
working directory. `save_config` writes the resolved config, which `load_config` reads back as an equal run.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from distill import limits
from distill.data.augment import Camera, Crop
from distill.data.sets.find import DATASETS
from distill.errors import shorten
from distill.evaluation.metrics import METRICS
from distill.files import write_text
from distill.models.networks import list_models
from distill.models.registry import list_variants
from distill.training import config_errors
from distill.training.config_errors import (
    BatchSize,
    Count,
    FrameStride,
    Integer,
    Name,
    OutText,
    Pair,
    PathText,
    Precision,
    Section,
    Seed,
    at_most,
)
from distill.training.teacher_section import Teachers, TeacherSection, terms_of
from distill.training.team_section import Members, TeamSection, check_team
from distill.training.terms import TEACHER, LossSection, Share
from distill.training.yaml_text import dump_yaml

Steps = Annotated[Count, at_most(limits.MAX_STEPS, "optimiser steps")]
Frame = Annotated[Count, at_most(limits.MAX_FRAMES, "frames")]
DataSetName = Annotated[str, AfterValidator(lambda name: config_errors.one_of(name, DATASETS, "data set"))]


class ModelSection(Section):
    """The model to train."""

    name: str
    """Name of the model as listed by `saldistill models`, e.g. teacher/salfom."""
    variant: str | None = None
    """Variant of the model; defaults to the model's default variant."""
    weights: PathText | None = None
    """Weights to start from: `pretrained` for those that come with the project for this variant, whose arguments
    are then the defaults; a weight file or run folder; a repository of the Hugging Face Hub, hf://OWNER/NAME; or
    the name of published weights. Random weights by default."""
    arguments: dict[str, Any] = Field({})
    """Keyword arguments of the model that override those of the variant."""

    @field_validator("arguments")
    @classmethod
    def _bounded(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for key, value in arguments.items():
            if key in ("name", "variant", "weights"):
                raise ValueError(f"'{key}' is not an argument of the network; set model.{key}")
            for number in config_errors.numbers_in(value):
                limits.check_limit(number, limits.MAX_MODEL_ARGUMENT, shorten(key))
        return arguments

    @model_validator(mode="after")
    def _known(self) -> "ModelSection":
        config_errors.one_of(self.name, list_models(), "model")
        if self.variant is not None:
            config_errors.one_of(self.variant, list_variants(self.name), f"variant of {self.name}")
        return self


class SourceSection(Section):
    """A selection of videos from one data set."""

    dataset: DataSetName
    """Name of the data set's layout, e.g. dhf1k."""
    name: Name | None = None
    """Name of the source, which `teacher.sources` refers to, and by which an experiment reports test scores;
    defaults to the data set's."""
    root: PathText | None = None
    """Folder of the data set; needed for all but synthetic."""
    split: str | None = None
    """Split of the data set; all videos by default."""
    videos: list[str] | None = None
    """Names of the videos to use; all by default."""
    frames: Pair[Frame] | None = None
    """First and last frame to use, counted from 1, both included; all by default."""
    share: Pair[Share] | None = None
    """Part of the videos to use, as [from, to] in an order shuffled by `share_seed`: [0, 0.9] and [0.9, 1] are
    disjoint. Videos that were cut from one recording stay together. All videos by default."""
    share_seed: Integer = 0
    """Seed of the order that `share` cuts."""

    @property
    def label(self) -> str:
        """The name, or that of the data set."""
        return self.name or self.dataset

    @model_validator(mode="after")
    def _consistent(self) -> "SourceSection":
        if self.root is None and DATASETS[self.dataset].needs_root:
            raise ValueError("missing 'root', the folder of the data set")
        if self.frames is not None and self.frames[0] > self.frames[1]:
            raise ValueError(f"frames: expected [first, last], got {list(self.frames)}")
        if self.share is not None and self.share[0] >= self.share[1]:
            raise ValueError(f"share: expected [from, to] such as [0, 0.9], got {list(self.share)}")
        return self


class TrainSource(SourceSection):
    """Videos to train on."""

    clips_per_video: Annotated[Count, at_most(limits.MAX_CLIPS, "clips")] = 1
    """Random clips per video and epoch; this sets the mix of the sources."""
    ratio: Annotated[FiniteFloat, Field(gt=0), at_most(limits.MAX_CLIPS, "clips")] | None = None
    """Clips from this source per clip from the sources without a ratio, in place of clips_per_video. E.g. 1 on a
    source without ground truth makes half of all clips unlabelled. Each epoch continues where the last one ended,
    so that all videos are used."""

    @model_validator(mode="after")
    def _one_number(self) -> "TrainSource":
        if self.ratio is not None and self.clips_per_video != 1:
            raise ValueError("give one of 'clips_per_video' and 'ratio', not both")
        return self


class ScoredSource(SourceSection):
    """Videos to score on."""

    every: Frame = 1
    """Score every n-th frame; all frames by default."""


class CropSection(Section):
    """Random crops, the same in all frames of a clip, resized to the model's input size."""

    area: Pair[Share] = (0.5, 1.0)
    """Smallest and largest crop, as a fraction of the frame's area."""
    stretch: Annotated[FiniteFloat, Field(ge=1)] = 1.0
    """Largest change of the aspect ratio: 1 keeps the frame's, 1.33 allows three quarters to four thirds of it."""

    @model_validator(mode="after")
    def _possible(self) -> "CropSection":
        Crop(self.area, self.stretch)
        return self


class ColourSection(Section):
    """Random colour factors, the same in all frames of a clip."""

    brightness: Share = 0.0
    """Largest change of the brightness: 0.2 multiplies by a factor from 0.8 to 1.2."""
    contrast: Share = 0.0
    """Largest change of the contrast, like brightness."""
    saturation: Share = 0.0
    """Largest change of the saturation, like brightness."""


class CameraSection(Section):
    """A virtual camera over stills: slow pans and zooms, so that a still becomes a clip with motion.

    Ground truth and teacher maps move with it. A still with a move is not cropped as well.
    """

    zoom: Pair[Share] = (0.6, 1.0)
    """Smallest and largest part of the still that is shown, as a fraction of its height and width."""
    speed: Annotated[FiniteFloat, Field(ge=0), at_most(limits.MAX_CAMERA_SPEED, "frame sizes per second")] = 0.2
    """Largest speed of a pan, in frame widths or heights per second. A still counts 30 frames per second."""
    zoom_speed: Annotated[FiniteFloat, Field(ge=1), at_most(limits.MAX_CAMERA_SPEED, "times per second")] = 1.2
    """Largest speed of a zoom, as the factor by which the shown part grows or shrinks per second."""
    probability: Share = 1.0
    """Fraction of the clips with a move."""
    videos: bool = False
    """Move over videos too."""

    @model_validator(mode="after")
    def _possible(self) -> "CameraSection":
        Camera(self.zoom, self.speed, self.zoom_speed)
        return self


class DataSection(Section):
    """The videos, and how clips are taken from them."""

    train: list[TrainSource] = Field(min_length=1)
    """Videos to train on."""
    validation: list[ScoredSource] = Field([])
    """Videos to score during training, to select the best weights; none by default."""
    test: list[ScoredSource] = Field([])
    """Videos for `saldistill evaluate MODEL CONFIG`; training never reads them."""
    stride: FrameStride = 1
    """Step between the frames of a clip: 2 takes every second frame, 30fps resamples any video to 30 frames per
    second (distill/stride.py)."""
    flip: bool = True
    """Mirror clips and their ground truth at random, with probability 1/2."""
    crop: CropSection | None = None
    """Random crops of clips, ground truth and teacher maps; off by default. A crop without fixations counts as
    unlabelled."""
    colour: ColourSection | None = None
    """Random colours of the clips, but not of an online teacher's input; off by default."""
    camera: CameraSection | None = None
    """Random camera moves over stills; off by default, so that a still is repeated."""
    workers: Annotated[Integer, Field(ge=0), at_most(limits.MAX_WORKERS, "processes")] = 2
    """Data-loading processes; 0 loads in the main process."""
    in_memory: bool = False
    """Keep decoded videos in memory, for small data sets: each worker decodes a video in full on first use. Takes 3
    bytes per pixel and frame in each worker, at the model's input size, or at the video's size with crops."""

    @model_validator(mode="after")
    def _ratio_has_a_base(self) -> "DataSection":
        if all(source.ratio is not None for source in self.train):
            raise ValueError("train: every source has a ratio; remove it from at least one source")
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> "DataSection":
        given = [source.name for source in self.train if source.name is not None]
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"train: two sources are called '{twice[0]}'; give each another name")
        return self

    def numbers_of(self, names: Sequence[str] | None) -> frozenset[int]:
        """Return the indices in `train` of the sources with some names; of all sources without names.

        Raises:
            ValueError: a name is unknown, or is the data set of several sources.
        """
        known = [source.label for source in self.train]
        for name in names or []:
            config_errors.one_of(name, dict.fromkeys(known), "source")
            if known.count(name) > 1:
                raise ValueError(
                    f"{known.count(name)} sources are called '{name}'; give each its own data.train[].name"
                )
        return frozenset(index for index, name in enumerate(known) if names is None or name in names)


class OptimizerSection(Section):
    """The optimiser."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """Algorithm; sgd has momentum 0.9."""
    lr: Annotated[FiniteFloat, Field(gt=0)] = 1e-5
    """Learning rate at the peak of the schedule."""
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    """Weight decay; decoupled in adamw only."""
    layer_decay: Annotated[FiniteFloat, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning rate decay d: everything after the encoder has the factor 1, the encoder's last layer d,
    the layer before it d squared, and so on."""


class ScheduleSection(Section):
    """The learning rate over the run."""

    name: Literal["constant", "cosine"] = "constant"
    """Shape of the schedule after the warm-up."""
    warmup_steps: Annotated[Integer, Field(ge=0), at_most(limits.MAX_STEPS, "optimiser steps")] = 0
    """Optimiser steps of linear warm-up."""
    final: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.0
    """Fraction of the learning rate that is left at the end of a cosine."""


class TrainingSection(Section):
    """Length, batches and options of the training loop."""

    steps: Steps | None = None
    """Length in optimiser steps; set this or epochs."""
    epochs: Annotated[FiniteFloat, Field(gt=0), at_most(limits.MAX_EPOCHS, "epochs")] | None = None
    """Length in epochs, i.e. passes over clips_per_video clips of every video; set this or steps."""
    batch_size: BatchSize = 1
    """Clips per process and forward pass."""
    accumulate: Annotated[Count, at_most(limits.MAX_ACCUMULATE, "batches")] = 1
    """Batches whose gradients are accumulated for one optimiser step."""
    clip_norm: Annotated[FiniteFloat, Field(gt=0)] | None = None
    """Norm to which larger gradients are clipped; no clipping by default."""
    precision: Precision = "fp32"
    """Precision of the forward pass; fp16 needs a GPU."""
    freeze: str | int | None = None
    """Encoder layers to freeze and keep in evaluation mode: encoder for all of them, or n for the patch embedding
    and the first n blocks; none by default."""
    recompute: bool = False
    """Gradient checkpointing of the encoder's blocks: same results, less memory, about a third slower."""
    shard: bool = False
    """Shard weights, gradients and optimiser state over several GPUs (FSDP): same results, less memory, slower
    (distill/training/sharding.py)."""
    ema: Annotated[FiniteFloat, Field(gt=0, lt=1)] | None = None
    """Decay per step of a moving average of the weights, which is validated and saved as best.safetensors in place
    of the weights. The decay is lower in the first steps (distill/training/ema.py). Off by default."""
    compile: bool = False
    """Compile the model with torch.compile: faster steps after a few minutes at the start. Needs a C++ compiler."""
    validate_every: Steps | None = None
    """Optimiser steps between validations; only after the last step by default."""
    checkpoint_every: Steps = 500
    """Optimiser steps between checkpoints; each validation writes one as well."""
    keep: Count = 2
    """Checkpoints to keep: a run resumes from the newest one that is not damaged."""
    best: str = "cc"
    """Validation metric that selects the best weights; higher must be better, e.g. nss, cc or sim."""

    @field_validator("best")
    @classmethod
    def _selects(cls, name: str) -> str:
        metrics = METRICS.values()
        known = [each.name for each in metrics if each.higher_is_better and each.own_truth_only and not each.random]
        return config_errors.one_of(name, known, "selection metric")

    @field_validator("freeze", mode="before")
    @classmethod
    def _freezable(cls, value: object) -> object:
        blocks = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if value in (None, "encoder") or blocks:
            return value
        raise ValueError(f"expected encoder or a number of blocks, got {config_errors.describe_value(value)}")

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingSection":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of 'steps' and 'epochs'")
        if self.shard and (self.compile or self.precision == "fp16"):
            raise ValueError("shard supports neither compile nor precision: fp16; use fp32 or bf16 without compile")
        return self


class RunConfig(Section):
    """One training run."""

    out: OutText
    """Run folder to write."""
    seed: Seed = 0
    """Seed of the weights, the clips and all augmentation."""
    device: str = "auto"
    """cpu, cuda, cuda:N, mps or auto."""
    resume: Literal["auto", "never"] = "never"
    """auto resumes an interrupted run in the same folder."""
    tracking: list[Literal["tensorboard", "wandb", "mlflow"]] = Field([])
    """Trackers that log what log.jsonl logs, with pictures of validation frames: any of tensorboard, wandb and
    mlflow; none by default."""
    model: ModelSection
    """The model to train."""
    data: DataSection
    """The videos, and how clips are taken from them."""
    teacher: Teachers | None = None
    """The teacher, or a list of several with terms of their own; this or `teachers` is needed if a loss is against:
    teacher."""
    teachers: Members | None = None
    """A team by name, in place of `teacher`: several teachers whose mixed map is one target."""
    team: TeamSection = TeamSection()
    """How the maps of a team become one."""
    losses: list[LossSection] = Field(min_length=1)
    """Terms of the objective."""
    optimizer: OptimizerSection = OptimizerSection()
    """The optimiser."""
    schedule: ScheduleSection = ScheduleSection()
    """The learning rate over the run."""
    training: TrainingSection
    """Length, batches and options of the training loop."""

    @model_validator(mode="after")
    def _losses_fit_the_teachers(self) -> "RunConfig":
        if self.teachers is None and self.team != TeamSection():
            raise ValueError("team: needs 'teachers', the teachers by name; add them, or remove the section")
        if self.teachers is not None:
            if self.teacher is not None:
                raise ValueError("teachers: give one of 'teacher' and 'teachers', not both")
            check_team(self.teachers, self.losses)
        terms = self.terms
        if len({term.label for term in terms}) < len(terms):
            raise ValueError("losses: two terms are the same; merge them and add up their weights")
        if all(loss.student is not None for loss in self.losses):
            raise ValueError(
                "losses: no term compares the model's own map; add one, with a ramp if it is to start later"
            )
        for teacher in self.teacher_sections:
            try:
                self.data.numbers_of(teacher.sources)
            except ValueError as error:
                raise ValueError(f"{self.key_of(teacher)}.sources: {error}") from None
        return self

    @property
    def teacher_sections(self) -> list[TeacherSection]:
        """The sections of all teachers, of which there may be none, one or several; each has its name."""
        if self.teachers is not None:
            return [member.model_copy(update={"name": name}) for name, member in self.teachers.items()]
        if self.teacher is None:
            return []
        return list(self.teacher) if isinstance(self.teacher, list) else [self.teacher]

    def key_of(self, teacher: TeacherSection) -> str:
        """Return the key of a teacher's section, for messages."""
        return "teacher" if self.teachers is None else f"teachers.{teacher.name}"

    @property
    def terms(self) -> list[LossSection]:
        """The terms of the objective: one per loss against the ground truth, else one per loss and target.

        Each teacher is a target, or all teachers of a team are one.
        """
        if self.teachers is not None:
            return terms_of(self.losses, {TEACHER: 1.0}, online=())
        sections = self.teacher_sections
        weights = {each.name: each.weight for each in sections}
        return terms_of(self.losses, weights, online=[each.name for each in sections if each.source == "online"])

    def with_teachers(self, **changes: Any) -> "RunConfig":
        """Return the same run with some keys of every teacher changed."""
        return self.with_each_teacher(lambda teacher: changes)

    def with_each_teacher(self, changes: Callable[[TeacherSection], dict[str, Any]]) -> "RunConfig":
        """Return the same run with the keys of each teacher changed that a function of its section returns."""
        changed: Any = [each.model_copy(update=changes(each)) for each in self.teacher_sections]
        if self.teachers is not None:
            unnamed = [each.model_copy(update={"name": TEACHER}) for each in changed]
            return self.model_copy(update={"teachers": dict(zip(self.teachers, unnamed, strict=True))})
        several = isinstance(self.teacher, list)
        return self.model_copy(update={"teacher": changed if several else next(iter(changed), None)})


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Return the run config of a YAML file, with `key=value` overrides such as `training.steps=10`.

    Raises:
        UserError: the config is invalid; the error lists every mistake with its key and what was expected.
    """
    return config_errors.load(RunConfig, path, overrides)


def save_config(config: RunConfig, path: str | Path) -> None:
    """Write the resolved config; `load_config` of that file returns an equal one."""
    text = dump_yaml(config.model_dump(mode="json"))
    write_text(
        path, f"# Resolved config of this run. Repeat it: saldistill train {path} out=ANOTHER_FOLDER\n{text}"
    )
