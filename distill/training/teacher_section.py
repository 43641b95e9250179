"""The teachers of a run: their config section, and the terms that compare the student with each of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Discriminator, Field, FiniteFloat, Tag, model_validator

from distill.inference.settings import InferenceSettings
from distill.targets.codec import CODECS, DEFAULT_CODEC
from distill.training.config_errors import (
    ONE,
    SEVERAL,
    BatchSize,
    FrameStride,
    Name,
    PathText,
    Precision,
    Section,
    one_of,
    one_or_several,
)
from distill.training.losses import LOSSES
from distill.training.terms import ALL, TEACHER, TRUTH, LossSection

CodecName = Annotated[str, AfterValidator(lambda name: one_of(name, CODECS, "codec"))]


class TeacherSection(Section):
    """A teacher that the student learns from."""

    name: Name = TEACHER
    """Name in logs and in a loss's `against`; each of several teachers needs its own."""
    model: PathText | None = None
    """Run folder, weight file, hf://OWNER/NAME or name:variant; needed to build the target store and for
    source: online."""
    source: Literal["cached", "online"] = "cached"
    """Read the teacher's maps from a target store, or compute them during training."""
    weight: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    """Factor of all terms against this teacher."""
    sources: Annotated[list[str], Field(min_length=1)] | None = None
    """Names of the training sources that it teaches (`data.train[].name`); all by default."""
    store: PathText | None = None
    """Folder of the target store, as built by `saldistill cache build`."""
    partial: bool = False
    """Accept a target store that covers only some of the videos or frames; maps without a target have no term
    against this teacher. Without this, a missing map is an error."""
    codec: CodecName = DEFAULT_CODEC
    """Encoding of the maps when the target store is built."""
    views: list[Literal["plain", "flipped"]] = Field(["plain"])
    """Views to store; data.flip also needs flipped, or `mirror`."""
    mirror: bool = False
    """If the target store has no flipped view, as with imported maps, pair a mirrored clip with the mirrored map of
    the plain clip. Without this, such a store turns data.flip off."""
    stride: FrameStride = 1
    """Like data.stride, for the teacher's own clips."""
    batch_size: BatchSize = 8
    """Clips per forward pass of the teacher; the target store commits this many maps at once."""
    precision: Precision = "fp32"
    """Precision of the teacher's forward pass."""
    device: str | None = None
    """Device of an online teacher; defaults to the student's."""
    accept: bool = False
    """Train even if the target store was built by another teacher, by other code or from other videos; the run logs
    the differences."""

    @model_validator(mode="after")
    def _complete(self) -> "TeacherSection":
        if self.name in (TRUTH, ALL):
            raise ValueError(f"name: '{self.name}' has another meaning in the log; choose another name")
        if self.source == "cached" and self.store is None:
            raise ValueError("source: cached needs 'store', the folder of the target store")
        if self.source == "online" and self.model is None:
            raise ValueError("source: online needs 'model', the teacher to run")
        return self

    def settings(self, device: torch.device) -> InferenceSettings:
        """Return how the teacher runs on a device."""
        return InferenceSettings(self.stride, self.batch_size, device, self.precision)


def _distinct(teachers: list[TeacherSection]) -> list[TeacherSection]:
    """Return several teachers if each has its own name."""
    names = [teacher.name for teacher in teachers]
    if len(names) > 1 and TEACHER in names:
        raise ValueError(f"each of several teachers needs a 'name' other than '{TEACHER}'; set it")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two teachers are called '{twice[0]}'; give each another name")
    return teachers


Teachers = Annotated[
    Annotated[TeacherSection, Tag(ONE)]
    | Annotated[list[TeacherSection], Field(min_length=1), AfterValidator(_distinct), Tag(SEVERAL)],
    Discriminator(one_or_several),
]
"""One teacher, or a list of several."""


def terms_of(
    losses: Sequence[LossSection], weights: Mapping[str, float], *, online: Collection[str]
) -> list[LossSection]:
    """Return one term per loss against the ground truth, and one per other loss and teacher that it is against.

    Args:
        losses: the losses.
        weights: factor of the terms against each teacher, by its name.
        online: names of the teachers that run online, and so have features.

    Raises:
        ValueError: a loss is against a teacher that does not exist or has no features for it, or a teacher has no
            loss.
    """
    terms = []
    for loss in losses:
        chosen = [] if loss.against == TRUTH else _teachers_of(loss, list(weights), online)
        terms += [loss.against_teacher(name, weights[name]) for name in chosen] if chosen else [loss]
    for name in weights:
        if all(term.against != name for term in terms):
            what = "remove the section" if len(weights) == 1 else f"remove the teacher '{name}'"
            raise ValueError(f"teacher: no loss is against: {name}; add one or {what}")
    return terms


def _teachers_of(loss: LossSection, names: Sequence[str], online: Collection[str]) -> list[str]:
    """Return the teachers that a loss is against; for a loss of features those that run online."""
    known = dict.fromkeys([TRUTH, TEACHER, *names])
    try:
        one_of(loss.against, known, "value of 'against'")
    except ValueError as error:
        raise ValueError(f"losses: {error}") from None
    if not names:
        raise ValueError(f"losses: a term is against: {loss.against}, but the section 'teacher' is missing; add it")
    chosen = [name for name in names if loss.against in (TEACHER, name)]
    if LOSSES[loss.name].target != "features":
        return chosen
    with_features = [name for name in chosen if name in online]
    if not with_features:
        raise ValueError(
            f"losses: {loss.name} needs the teacher's features, and a target store holds maps only; use "
            "teacher.source: online, or remove the term"
        )
    return with_features
