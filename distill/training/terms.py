"""A term of the objective: its config section, its name in logs and its weight over the run."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, FiniteFloat, model_validator
from torch import Tensor

from distill.training.config_errors import Pair, Section, one_of
from distill.training.losses import LOSSES
from distill.training.schedule import ramp

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
TRUTH = "truth"
"""What a term against the ground truth compares with."""
TEACHER = "teacher"
"""Every teacher of the run, as what a loss compares with; also the name of a teacher without a name."""

ALL = "all"
"""Key of the log for the number of all maps, next to the names of the teachers."""

Unit = Literal["maps", "pairs", "clips"]
"""What a term averages over: maps, pairs of neighbouring maps, or clips."""

LossName = Annotated[str, AfterValidator(lambda name: one_of(name, LOSSES, "loss"))]


class LossSection(Section):
    """One weighted loss, against the ground truth or against the teachers."""

    name: LossName
    """Name of the loss (distill/training/losses.py)."""
    against: str = TRUTH
    """Compare with the ground truth (truth), with every teacher (teacher), or with one teacher, by its name."""
    weight: FiniteFloat = 1.0
    """Factor of the term in the sum."""
    final_weight: FiniteFloat | None = None
    """Weight at the end of the ramp; constant by default."""
    ramp: Pair[Share] = (0.0, 1.0)
    """Part of the run in which the weight changes, as fractions: [0, 0.1] is the first tenth, [0.5, 0.5] a jump."""
    shape: Literal["linear", "cosine"] = "linear"
    """Shape of the ramp; a cosine is slow at both ends."""
    temperature: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    """Temperature of both densities, for kldiv and reverse_kldiv; 1 leaves them unchanged."""
    student: str | None = None
    """Name of the model's features. A hint projects them; any other loss compares a side map, predicted from them,
    in place of the model's map."""
    teacher: str | None = None
    """Name of the teacher's features, which a hint compares with."""

    @model_validator(mode="after")
    def _consistent(self) -> "LossSection":
        loss, of_features = LOSSES[self.name], LOSSES[self.name].target == "features"
        if self.temperature != 1 and "temperature" not in loss.options:
            softened = [name for name, other in LOSSES.items() if "temperature" in other.options]
            raise ValueError(f"{self.name} has no temperature; {' and '.join(softened)} have one")
        if self.against != TRUTH and loss.target == "fixations":
            raise ValueError(f"{self.name} compares with fixations, which a teacher lacks; use against: truth")
        if self.against == TRUTH and loss.teacher_only:
            raise ValueError(f"{self.name} compares with a teacher only; use against: teacher")
        if of_features and (self.student is None or self.teacher is None):
            raise ValueError(f"{self.name} needs 'student' and 'teacher', the names of the features to compare")
        if not of_features and self.teacher is not None:
            raise ValueError(f"{self.name} compares maps; remove 'teacher', which names features")
        if self.final_weight is None and (self.ramp, self.shape) != ((0, 1), "linear"):
            raise ValueError("ramp and shape need 'final_weight', the weight at the end of the ramp")
        if self.ramp[0] > self.ramp[1]:
            raise ValueError(f"ramp: expected [from, to] such as [0, 0.1], got {list(self.ramp)}")
        return self

    @property
    def head(self) -> str:
        """Name of the head whose output is compared, such as `stage4-encoder`; empty for the model's own map.

        A side map is compared with everything; each named teacher has its own projections.
        """
        owner = self.against if self.teacher and self.against != TEACHER else None
        return "-".join(name for name in (self.student, owner, self.teacher) if name)

    @property
    def label(self) -> str:
        """Name in logs: `teacher/kldiv@4` (at temperature 4), or with a head `teacher/hint:stage4-encoder`."""
        temperature = "" if self.temperature == 1 else f"@{self.temperature:g}"
        features = "-".join(name for name in (self.student, self.teacher) if name)
        return f"{self.against}/{self.name}{temperature}" + (f":{features}" if features else "")

    @property
    def unit(self) -> Unit:
        """What the term averages over."""
        loss = LOSSES[self.name]
        return "clips" if loss.target == "features" else "pairs" if loss.min_maps > 1 else "maps"

    def against_teacher(self, name: str, weight: float) -> Self:
        """Return the term of this loss against one teacher, whose weight is a factor of the term's."""
        final = None if self.final_weight is None else weight * self.final_weight
        return self.model_copy(update={"against": name, "weight": weight * self.weight, "final_weight": final})

    def weight_at(self, progress: float) -> float:
        """Return the weight at a point of the run, from 0 (first step) to 1 (last step)."""
        if self.final_weight is None:
            return self.weight
        return ramp(progress, first=self.weight, last=self.final_weight, over=self.ramp, shape=self.shape)

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the unreduced loss: (B, N) maps, (B, N - 1) pairs of maps, or (B, 1) clips."""
        options = {} if self.temperature == 1 else {"temperature": self.temperature}
        return LOSSES[self.name](predicted, target, **options)
