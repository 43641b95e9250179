"""Pretrained students that come with the project: their records in student/pretrained/models.json, and their files.

    load_model("stream-small")
    create_model("student/stream", variant="small", weights="pretrained")

`scripts/ship_pretrained.py` writes the records and the files, which are part of the wheel. A file is compared with
the SHA-256 of its record whenever it is loaded.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

from distill.errors import UserError
from distill.files import file_hash
from distill.models.identity import Identity
from distill.stride import Stride
from distill.validation import read_json

DEFAULT_MODEL = "stream-small"
"""Pretrained model that `saldistill predict VIDEO` and `distill.load()` use."""

PRETRAINED = "pretrained"
"""Value of `weights` for the pretrained weights of an architecture and variant."""

RECORDS = "models.json"

REINSTALL = "reinstall saldistill, or restore the file from the repository"

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,99}$")]
Interval = tuple[FiniteFloat, FiniteFloat]


class Record(BaseModel):
    """A part of models.json; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShippedFile(Record):
    """A file in student/pretrained."""

    name: FileName
    sha256: Hash
    bytes: int = Field(ge=1)
    precision: Literal["fp16", "fp32", "int8"]
    """Type of the stored weights; networks are loaded in fp32."""
    max_error: FiniteFloat | None = None
    """Largest difference of a map, in [0, 1], from the maps of the run's own weights; on frames of a real video."""
    cc: FiniteFloat | None = None
    """Mean correlation of the maps with those of the run's own weights."""


class Input(Record):
    """Frames that the model takes, and its maps."""

    size: tuple[int, int]
    fit: str
    stride: Stride
    map_size: tuple[int, int]
    reach: int


class ScoreRow(Record):
    """Scores of one model or baseline: means and 95% intervals by metric."""

    name: str
    means: dict[str, FiniteFloat | None]
    intervals: dict[str, Interval | None] = {}


class ScoreTable(Record):
    """Scores on one data set; the first row is the model's own."""

    key: str
    title: str
    what: str
    rows: list[ScoreRow] = Field(min_length=1)


class Cost(Record):
    """Size and speed; times are from one interleaved run of `saldistill benchmark`."""

    weights: int
    gmacs: FiniteFloat | None = None
    milliseconds: FiniteFloat | None = None
    ratio: FiniteFloat | None = None
    compared_with: str = ""
    how: str = ""


class DataUse(Record):
    """Data that the weights were trained on, with terms; `used` says which part, and what for."""

    title: str
    used: str
    licence: str
    citation: str
    url: str = ""


class Training(Record):
    """How the weights were trained."""

    command: str
    config: dict[str, Any]
    config_sha256: Hash
    steps: int
    minutes: FiniteFloat
    device: str
    best: str
    chosen: list[str]
    data: list[DataUse]
    teachers: list[str] = []


class PretrainedModel(Record):
    """The record of one pretrained model."""

    summary: str
    model: Identity
    licence: str
    weights: ShippedFile
    onnx: ShippedFile
    input: Input
    cost: Cost
    scores: list[ScoreTable]
    training: Training
    intended_use: list[str]
    limits: list[str]

    @property
    def architecture(self) -> str:
        """Name and variant of the network, such as `student/stream:small`."""
        return f"{self.model.name}:{self.model.variant}"


class Records(Record):
    """The content of models.json."""

    format: Literal[1]
    models: dict[Annotated[str, Field(pattern="^[a-z0-9][a-z0-9-]{0,49}$")], PretrainedModel]


def pretrained_folder() -> Path:
    """Return the folder of the pretrained models, student/pretrained."""
    spec = importlib.util.find_spec("student")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "pretrained"


def pretrained_models() -> dict[str, PretrainedModel]:
    """Return the records of all pretrained models by name; none if there is no models.json.

    Raises:
        UserError: if models.json is damaged.
    """
    path = pretrained_folder() / RECORDS
    if not path.exists():
        return {}
    return read_json(path, Records, "the list of pretrained models", REINSTALL).models


def pretrained_model(name: str) -> PretrainedModel:
    """Return the record of a pretrained model.

    Raises:
        UserError: if there is none of this name; the message lists those that exist.
    """
    models = pretrained_models()
    if name not in models:
        raise UserError(f"{name}: no pretrained model of this name; {_existing(models)}")
    return models[name]


def is_pretrained(reference: str | Path) -> bool:
    """Return whether a reference names a pretrained model; an existing path of that name takes precedence."""
    return str(reference) in pretrained_models() and not Path(reference).exists()


def checked_file(file: ShippedFile) -> Path:
    """Return the path of a file of a pretrained model, after a comparison with its SHA-256.

    Raises:
        UserError: if the file is missing or changed.
    """
    path = pretrained_folder() / file.name
    if not path.is_file():
        raise UserError(f"{path}: missing, but listed in {RECORDS} next to it; {REINSTALL}")
    found = file_hash(path)
    if found != file.sha256:
        raise UserError(
            f"{path}: differs from the file that was shipped (SHA-256 {found[:12]}..., expected "
            f"{file.sha256[:12]}...); {REINSTALL}"
        )
    return path


def pretrained_for(name: str, variant: str, weights: str) -> tuple[str, PretrainedModel]:
    """Return the pretrained model of an architecture and variant, and its name.

    Args:
        name: name of the architecture, such as `student/stream`.
        variant: its variant.
        weights: `pretrained`, or the name of a pretrained model.

    Raises:
        UserError: if there is none; the message lists the architectures that have pretrained weights.
    """
    models = pretrained_models()
    for each, record in models.items():
        if weights in (PRETRAINED, each) and (record.model.name, record.model.variant) == (name, variant):
            return each, record
    what = "there are no pretrained weights" if weights == PRETRAINED else f"the weights '{weights}' do not fit"
    raise UserError(f"{name}:{variant}: {what} for this model; {_existing(models)}")


def misfit(wanted: str, name: str, record: PretrainedModel, arguments: Mapping[str, Any]) -> UserError:
    """Return the error for arguments of an architecture that its pretrained weights do not fit."""
    given = ", ".join(f"{key} = {value}" for key, value in arguments.items())
    return UserError(
        f"{wanted} with {given}: the pretrained weights '{name}' have other tensors; they fit "
        f"{record.architecture} with its own arguments; remove the arguments that change layers, or choose other "
        "weights"
    )


def _existing(models: Mapping[str, PretrainedModel]) -> str:
    """Return the end of an error message: the pretrained models, and what they fit."""
    if not models:
        return f"no pretrained model is installed ({pretrained_folder() / RECORDS} does not exist); {REINSTALL}"
    return f"available: {', '.join(f'{name} (for {each.architecture})' for name, each in models.items())}"


def as_json(models: Mapping[str, PretrainedModel]) -> dict[str, Any]:
    """Return the content of models.json."""
    records = Records(format=1, models=dict(models))
    content: dict[str, Any] = TypeAdapter(Records).dump_python(records, mode="json", exclude_defaults=False)
    return content
