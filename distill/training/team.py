"""A team of teachers: their maps of a frame, weighted by gates, are one target.

    team = Team([base, small], members, mixture="density", map_size=(40, 64), table=table)

A team is a `Teacher` to the training loop. Its members may be cached or online, and may each lack maps of some
frames: the mixture is over those that have one. Gates that were decided before the run (`gate_table.py`) come with
the samples. Without a table, as with an online member, agreement is computed for each batch from what the student's
clips show.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill import saliency
from distill.data.clips import ClipSpec, Window
from distill.errors import UserError
from distill.file_cache import CachedFile
from distill.models.device import moved
from distill.targets.store import TargetStore
from distill.training import gates
from distill.training.gate_table import GateReport, GateTable
from distill.training.teachers import Role, Teacher, TeacherOutput
from distill.training.team_section import MemberSection, TeamSection


@dataclass(frozen=True)
class TeamReader:
    """Reads the input of all members for a window, and the gates of its target frames.

    Attributes:
        readers: the members' readers, by name.
        weights: the members' weights.
        spec: the student's clips.
        table: gates; None if they are computed for each batch.
        name: name of the team in the run.
    """

    readers: Mapping[str, Callable[[Window], dict[str, Tensor]]]
    weights: Mapping[str, float]
    spec: ClipSpec
    table: GateTable | None
    name: str

    def __call__(self, window: Window) -> dict[str, Tensor]:
        """Return the members' tensors, `teacher_gates` (N, M) if there is a table, and `teacher_present` (N,).

        A map has a target if a member with a weight has a map and does not abstain.
        """
        sample: dict[str, Tensor] = {}
        for reader in self.readers.values():
            sample.update(reader(window))
        counted = torch.stack(
            [sample[f"{name}_present"] & (self.weights[name] > 0) for name in self.readers], dim=-1
        )  # (N, M)
        if self.table is not None:
            values = self.table.of(window.video.name, self.spec.targets(window.end, window.video.fps))
            sample[f"{self.name}_gates"] = torch.from_numpy(values)
            counted &= sample[f"{self.name}_gates"] > 0
        sample[f"{self.name}_present"] = counted.any(dim=-1)
        return sample


class Team:
    """Several teachers whose mixed map is one target.

    Args:
        teachers: the members; their names are those of `members`.
        members: their sections.
        section: how their maps become one.
        spec: the student's clips; maps are mixed at the size of its maps.
        table: gates that were decided before the run; None computes them for each batch.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        members: Sequence[MemberSection],
        section: TeamSection,
        spec: ClipSpec,
        table: GateTable | None = None,
    ) -> None:
        self.teachers, self.members, self.section, self.spec, self.table = teachers, members, section, spec, table
        self.role = Role()
        self.offsets = spec.offsets  # the members' were checked against the student's
        self.views = tuple(view for view in teachers[0].views if all(view in each.views for each in teachers))
        self.stores: Mapping[str, TargetStore] = {
            name: store for each in teachers for name, store in each.stores.items()
        }
        self.reader: Callable[[Window], dict[str, Tensor]] = TeamReader(
            {each.role.name: each.reader for each in teachers},
            {each.name: each.weight for each in members},
            spec,
            table,
            self.role.name,
        )
        remote = [each.remote_files for each in teachers if each.remote_files is not None]
        self.remote_files: Callable[[Window], Iterable[CachedFile]] | None = None
        if remote:
            self.remote_files = lambda window: [file for files in remote for file in files(window)]

    @property
    def report(self) -> GateReport | None:
        """What the gates decided before the run; None if they are computed for each batch."""
        return None if self.table is None else self.table.report

    def begin(self, batch: Mapping[str, Any]) -> Callable[[], TeacherOutput]:
        """See `Teacher`."""
        finishes = [teacher.begin(batch) for teacher in self.teachers]

        def finish() -> TeacherOutput:
            return self._mixed([each() for each in finishes], batch)

        return finish

    def _mixed(self, outputs: Sequence[TeacherOutput], batch: Mapping[str, Any]) -> TeacherOutput:
        """Return the mixture of the members' maps."""
        device = outputs[0].maps.device
        present = torch.stack([moved(each.present, device) for each in outputs], dim=-1)  # (B, N, M)
        size = self.spec.map_size
        densities = torch.stack(
            [saliency.resize_density(saliency.density(each.maps), size) for each in outputs], dim=2
        )
        densities = densities * present[..., None, None]  # (B, N, M, h, w)
        given: Tensor | None = batch.get(f"{self.role.name}_gates")
        values = self._gates(densities, present) if given is None else given.to(device)
        weights = torch.tensor([member.weight for member in self.members], device=device)
        shares, of_maps = gates.combine(values, weights, present)
        names = [member.name for member in self.members]
        return TeacherOutput(
            gates.mix(densities, shares, self.section.mixture),
            {},
            batch[f"{self.role.name}_present"],
            of_maps,
            {name: shares[..., place] * of_maps for place, name in enumerate(names)},
        )

    def _gates(self, densities: Tensor, present: Tensor) -> Tensor:
        """Return the gates (B, N, M) of a batch."""
        values = torch.ones(present.shape, device=densities.device)
        if any(member.gate == "agreement" for member in self.members):
            agreements = gates.agreement(densities, present)
            for place, member in enumerate(self.members):
                if member.gate == "agreement":
                    lowest = 0.0 if member.abstain is None else member.abstain
                    values[..., place] = agreements[..., place] * (agreements[..., place] >= lowest)
        return values

    def describe(self) -> str:
        """See `Teacher`; one line per member, then what the gates decided."""
        lines = [
            f"{each.describe()}; weight {member.weight:g}, gate {member.gate}"
            for each, member in zip(self.teachers, self.members, strict=True)
        ]
        lines.append(f"team: {len(self.members)} teachers, mixed by {self.section.mixture}")
        return "\n".join(lines if self.report is None else [*lines, str(self.report)])


def require_graded(report: GateReport) -> None:
    """Check that the gates leave a teacher in some frame.

    Raises:
        UserError: every teacher abstains in every frame.
    """
    if report.without_teacher == report.frames:
        raise UserError(
            f"teachers: every teacher is absent or abstains in all {report.frames:,} frames; lower 'abstain', or "
            "use other teachers"
        )


def members_of(teacher: Teacher) -> Sequence[Teacher]:
    """Return the members of a team; a teacher alone otherwise."""
    return teacher.teachers if isinstance(teacher, Team) else [teacher]
