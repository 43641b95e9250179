"""Config sections of a team: several teachers whose mixed map is one target."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from distill.training.config_errors import Name, Section
from distill.training.losses import LOSSES
from distill.training.teacher_section import TeacherSection
from distill.training.terms import TEACHER, TRUTH, LossSection


class MemberSection(TeacherSection):
    """A teacher of a team, with its weight in every frame.

    Its key in `teachers` is its name. A teacher with a `store` is cached, one with a `model` alone runs online.
    """

    name: Name = TEACHER
    """Not to be set: the key in `teachers` is the name."""
    weight: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    """Weight in the mixed map, relative to the other teachers'."""
    gate: Literal["none", "agreement", "truth"] = "none"
    """What the weight depends on besides `weight`: nothing; agreement, how well the map agrees with those of the
    other teachers; or truth, how well the teacher predicts fixations, measured on labelled frames and carried to
    others by a regression (distill/training/gates.py)."""
    abstain: FiniteFloat | None = None
    """Value of the gate below which the teacher has no weight in a frame: for agreement in [0, 1]; for truth the
    predicted information gain over a centre prior, in bits per fixation. Never by default."""

    @model_validator(mode="before")
    @classmethod
    def _online_without_a_store(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("store") is None and values.get("model") is not None:
            return {"source": "online", **values}
        return values

    @model_validator(mode="after")
    def _possible(self) -> "MemberSection":
        if "name" in self.model_fields_set and self.name != TEACHER:
            raise ValueError("name: the key in 'teachers' is the teacher's name; remove it")
        if self.gate == "truth" and self.source == "online":
            raise ValueError(
                "gate: truth grades the teacher's maps before the run; give it a 'store', or use agreement"
            )
        if self.abstain is not None and self.gate == "none":
            raise ValueError("abstain: needs a gate; set gate to agreement or truth")
        if self.abstain is not None and self.gate == "agreement" and not 0 <= self.abstain <= 1:
            raise ValueError(f"abstain: expected an agreement from 0 to 1, got {self.abstain:g}")
        return self


class TeamSection(Section):
    """How the maps of a team become one."""

    mixture: Literal["density", "log"] = "density"
    """Mean of the densities, which keeps a region that only one teacher predicts, or of the log-densities, which
    suppresses a region that one teacher misses."""
    sharpness: Annotated[FiniteFloat, Field(ge=0)] = 1.0
    """How much a teacher with gate: truth loses for every bit that its predicted information gain is below the
    best teacher's of the frame: its weight is multiplied by 2 to the power of -sharpness times the bits."""


Members = Annotated[dict[Name, MemberSection], Field(min_length=1)]
"""The teachers of a team by name."""


def check_team(members: Mapping[str, MemberSection], losses: list[LossSection]) -> None:
    """Check that gates and losses are possible for a team.

    Raises:
        ValueError: they are not.
    """
    if reserved := {TRUTH, TEACHER, "all"} & set(members):
        raise ValueError(f"teachers: '{min(reserved)}' has another meaning in the log; choose another name")
    for name, member in members.items():
        if member.gate == "agreement" and len(members) == 1:
            raise ValueError(
                f"teachers.{name}: gate: agreement compares teachers, and there is one; add another, or use none"
            )
    graded = [name for name, member in members.items() if member.gate == "truth"]
    online = [name for name, member in members.items() if member.source == "online"]
    if graded and online:
        raise ValueError(
            f"teachers.{graded[0]}: gate: truth compares stored maps, and '{online[0]}' runs online; give "
            f"'{online[0]}' a 'store', or use gate: agreement or none"
        )
    if len(graded) == 1 and members[graded[0]].abstain is None:
        raise ValueError(
            f"teachers.{graded[0]}: gate: truth compares teachers with this gate, and there is one; give it to "
            "another, or add 'abstain'"
        )
    if all(member.weight == 0 for member in members.values()):
        raise ValueError("teachers: every weight is 0; give at least one teacher a weight")
    for loss in losses:
        if loss.against in members:
            raise ValueError(
                f"losses: {loss.name} is against: {loss.against}, but a team is one target; use against: teacher"
            )
        if LOSSES[loss.name].target == "features":
            raise ValueError(
                f"losses: {loss.name} needs the features of one teacher; a team has none, so remove it"
            )
