"""What the gates of a team decided, as `saldistill cache info RUN` prints it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel

from distill.data.clips import Video
from distill.data.text import plural
from distill.evaluation.other_frames import recording_of
from distill.training import gates
from distill.training.team_section import MemberSection
from distill.validation import read_json

GATES_FILE = "gates.json"
"""Name of the file with the report in a run folder."""


class Measured(NamedTuple):
    """What is known of n frames: features (n, M, F), gains (n, M) and presence (n, M); NaN where unknown."""

    features: np.ndarray
    gains: np.ndarray
    present: np.ndarray


class TeacherGate(BaseModel):
    """What the gate of one teacher decided.

    Attributes:
        gate: its gate.
        weight: its weight in the config.
        maps: number of frames of which it has a map.
        abstained: number of these in which its gate is below `abstain`.
        mean_weight: mean over all frames of its share of the mixed map times the weight of the frame.
        by_source: the same over the frames of each training source.
        gain: measured information gain over the baseline centre-prior in bits per fixation, mean over labelled
            recordings; None without a gate `truth`.
        correlation: of predicted and measured gains over labelled frames; None likewise.
    """

    gate: str
    weight: float
    maps: int
    abstained: int
    mean_weight: float
    by_source: dict[str, float]
    gain: float | None = None
    correlation: float | None = None


class GateReport(BaseModel):
    """What the gates of a team decided.

    Attributes:
        frames: number of frames that a run may use.
        graded: number of these with fixations, on which a gate `truth` is fitted; 0 without such a gate.
        without_teacher: number of these in which every teacher is absent or abstains.
        teachers: decisions by teacher.
    """

    frames: int
    graded: int
    without_teacher: int
    teachers: dict[str, TeacherGate]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return self.model_dump(mode="json")

    def __str__(self) -> str:
        sources = list(dict.fromkeys(name for each in self.teachers.values() for name in each.by_source))
        head = ["teacher", "gate", "maps", "abstains", "weight", *sources, "gain", "r"]
        rows = [head]
        for name, each in self.teachers.items():
            numbers = [each.mean_weight, *(each.by_source.get(source) for source in sources)]
            rows.append(
                [name, each.gate, f"{each.maps:,}", f"{each.abstained / max(1, each.maps):.1%}"]
                + ["-" if number is None else f"{number:.3f}" for number in numbers]
                + ["-" if each.gain is None else f"{each.gain:+.2f}"]
                + ["-" if each.correlation is None else f"{each.correlation:.2f}"]
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        lines.append(
            f"{plural(self.frames, 'frame')}, {self.without_teacher:,} without any teacher; weight: mean share of "
            "the mixed map times the frame's weight, over all frames and by source"
        )
        if any(each.gain is not None for each in self.teachers.values()):
            lines.append(
                f"gain: measured on {plural(self.graded, 'frame')}, information gain over a centre prior in bits "
                "per fixation, mean over recordings; r: correlation of predicted and measured gains"
            )
        return "\n".join(line.rstrip() for line in lines)


def read_report(run: str | Path) -> GateReport:
    """Return the report of a run folder.

    Raises:
        UserError: it has none, or a damaged one.
    """
    return read_json(Path(run) / GATES_FILE, GateReport, "the gates of a run", "train again")


def gate_report(
    members: Sequence[MemberSection],
    measured: Measured,
    predicted: np.ndarray,
    values: np.ndarray,
    of_frame: Sequence[Video],
    labels: Sequence[str],
) -> GateReport:
    """Return what the gates of a team decided.

    Args:
        members: the sections of its M teachers.
        measured: what is known of all n frames.
        predicted: predicted information gains (n, M); NaN where unknown.
        values: gates (n, M).
        of_frame: video of each frame, (n,).
        labels: names of the training sources.
    """
    weights = torch.tensor([member.weight for member in members], dtype=torch.float64)
    shares, of_frames = gates.combine(torch.from_numpy(values), weights, torch.from_numpy(measured.present))
    effective = (shares * of_frames[:, None]).numpy()
    recordings = np.array([recording_of(video) for video in of_frame])
    label_of = np.array([labels[video.source] for video in of_frame])  # sources may share a label
    present = [label for label in dict.fromkeys(labels) if label in label_of]
    teachers = {}
    for place, member in enumerate(members):
        there, graded = measured.present[:, place], member.gate == "truth"
        known = np.isfinite(measured.gains[:, place]) & np.isfinite(predicted[:, place])
        gain, guess = measured.gains[known, place], predicted[known, place]
        by_recording = [gain[recordings[known] == each].mean() for each in np.unique(recordings[known])]
        varied = len(gain) > 1 and gain.std() > 0 and guess.std() > 0
        teachers[member.name] = TeacherGate(
            gate=member.gate,
            weight=member.weight,
            maps=int(there.sum()),
            abstained=int((there & (values[:, place] == 0)).sum()),
            mean_weight=float(effective[:, place].mean()),
            by_source={label: float(effective[label_of == label, place].mean()) for label in present},
            gain=float(np.mean(by_recording)) if graded else None,
            correlation=float(np.corrcoef(gain, guess)[0, 1]) if graded and varied else None,
        )
    return GateReport(
        frames=len(values),
        graded=int(np.isfinite(measured.gains).any(axis=1).sum()),
        without_teacher=int((of_frames == 0).sum()),
        teachers=teachers,
    )
