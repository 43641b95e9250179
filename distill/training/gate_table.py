"""Decide the gates of a team before a run, from the maps in its target stores, and report what they decided.

    table = decide_gates(teachers, members, sources, sharpness=1.0, map_size=(40, 64))
    table.of("BQSquare", [11, 13, 15])          # gates (3, M)
    print(table.report)

One pass over all maps that a run may read, and over the frames of the videos if a gate is `truth`. The result
is kept in the cache folder, so that runs with the same stores, videos and gates share it.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill import saliency
from distill.data.clip_dataset import ClipSource
from distill.data.clips import Video
from distill.data.progress import ProgressBar
from distill.data.text import plural
from distill.data.video.names import is_image
from distill.data.video.open import open_video
from distill.errors import UserError, reading
from distill.evaluation.other_frames import recording_of
from distill.file_cache import cache_folder
from distill.files import atomic_path
from distill.locks import lock_file
from distill.targets.fingerprint import describe_truth, describe_video
from distill.training import gates
from distill.training.gate_report import GateReport, Measured, gate_report
from distill.training.sources import training_videos
from distill.training.teachers import CachedTeacher
from distill.training.team_section import MemberSection

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the files in the cache; changes with what they contain and how it is computed."""

MOTION_SIZE = (36, 64)
"""Size at which frames are subtracted."""

BLOCK = 64
"""Frames whose maps are in memory at a time."""


@dataclass(frozen=True)
class GateTable:
    """The gates of a team in all frames that a run may use.

    Attributes:
        frames: video -> frames, ascending (n,).
        values: video -> gates (n, M) in [0, 1], float32; 0 where a teacher has no map.
        report: what they decided.
    """

    frames: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    report: GateReport

    def of(self, video: str, frames: Sequence[int]) -> np.ndarray:
        """Return the gates (N, M) of frames of a video."""
        gates: np.ndarray = self.values[video][np.searchsorted(self.frames[video], frames)]
        return gates

    def save(self, path: Path) -> None:
        """Write the table as .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                videos=np.array(list(self.frames)),
                lengths=np.array([len(each) for each in self.frames.values()]),
                frames=np.concatenate(list(self.frames.values())),
                values=np.concatenate(list(self.values.values())),
                report=np.array(self.report.model_dump_json()),
            )

    @classmethod
    def load(cls, path: Path) -> "GateTable":
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged.
        """
        with reading(path, "gates of a team", "remove it"), np.load(path, allow_pickle=False) as file:
            names, ends = file["videos"].tolist(), np.cumsum(file["lengths"])[:-1]
            frames, values = (np.split(file[key], ends) for key in ("frames", "values"))
            report = GateReport.model_validate_json(file["report"].item())
            return cls(dict(zip(names, frames, strict=True)), dict(zip(names, values, strict=True)), report)


def decide_gates(
    teachers: Sequence[CachedTeacher],
    members: Sequence[MemberSection],
    sources: Sequence[ClipSource],
    labels: Sequence[str],
    *,
    sharpness: float,
    map_size: tuple[int, int],
) -> GateTable:
    """Return the gates of a team, from the cache if they were decided before.

    Args:
        teachers: the teachers.
        members: their sections, in the same order.
        sources: training sources.
        labels: their names, for the report.
        sharpness: see `TeamSection`.
        map_size: (h, w) at which maps are compared: that of the student's maps.

    Raises:
        UserError: a gate is `truth`, and a teacher has maps of labelled frames of fewer than two recordings.
    """
    videos = training_videos(sources)
    targets = {video.name: teachers[0].targets(video) for video in videos}  # all teachers have the student's
    path = cache_folder() / "gates" / f"{_key(teachers, members, sources, targets, sharpness, map_size)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        lock_file(lock.fileno(), wait=True)  # the processes of a launcher decide once
        if path.exists():
            try:
                return GateTable.load(path)
            except UserError as error:
                log.warning("%s; deciding again", error)
        table = _decide(teachers, members, sources, videos, targets, labels, sharpness, map_size)
        table.save(path)
    return table


def _decide(
    teachers: Sequence[CachedTeacher],
    members: Sequence[MemberSection],
    sources: Sequence[ClipSource],
    videos: Sequence[Video],
    targets: Mapping[str, list[int]],
    labels: Sequence[str],
    sharpness: float,
    map_size: tuple[int, int],
) -> GateTable:
    graded = any(member.gate == "truth" for member in members)
    found = []
    sources_of = _sources_of(sources)
    with ProgressBar("deciding gates", "frame", total=sum(map(len, targets.values()))) as bar:
        for video in videos:
            taught = [
                teacher
                if teacher.role.sources is None or sources_of[video.name] & set(teacher.role.sources)
                else None
                for teacher in teachers
            ]
            found.append(_measure(video, targets[video.name], taught, map_size, graded=graded))
            bar.update(len(targets[video.name]))
    measured = Measured(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    of_frame = [video for video in videos for _ in targets[video.name]]
    predicted = np.full(measured.gains.shape, np.nan)
    if graded:
        recordings = [recording_of(video) for video in of_frame]
        _require_truth(members, measured.gains, recordings)
        predicted = gates.cross_fit(
            measured.features, measured.gains, recordings, [video.source for video in of_frame]
        )
    values = _gates(members, measured, predicted, sharpness)
    report = gate_report(members, measured, predicted, values, of_frame, labels)
    ends = np.cumsum([len(targets[video.name]) for video in videos])[:-1]
    split = np.split(values.astype(np.float32), ends)
    return GateTable(
        {video.name: np.array(targets[video.name], dtype=np.int64) for video in videos},
        {video.name: part for video, part in zip(videos, split, strict=True)},
        report,
    )


def _sources_of(sources: Sequence[ClipSource]) -> dict[str, set[int]]:
    """Return the numbers of the sources that have each video; a video may be in several."""
    found: dict[str, set[int]] = {}
    for source in sources:
        for video in source.videos:
            found.setdefault(video.name, set()).add(video.source)
    return found


def _gates(
    members: Sequence[MemberSection], measured: Measured, predicted: np.ndarray, sharpness: float
) -> np.ndarray:
    """Return the gates (n, M), 0 where a teacher is absent or abstains."""
    agreements = measured.features[..., gates.FEATURES.index("agreement")]
    graded = np.array([member.gate == "truth" for member in members])
    truth = gates.truth_gate(np.where(graded, predicted, np.nan), sharpness=sharpness)
    values = np.zeros_like(predicted)
    for place, member in enumerate(members):
        gate = {"none": np.ones(len(values)), "agreement": agreements[:, place], "truth": truth[:, place]}[
            member.gate
        ]
        judged = predicted[:, place] if member.gate == "truth" else gate
        kept = np.ones(len(gate), dtype=bool) if member.abstain is None else judged >= member.abstain
        values[:, place] = np.where(measured.present[:, place] & kept, gate, 0)
    return values


def _measure(
    video: Video,
    frames: Sequence[int],
    teachers: Sequence[CachedTeacher | None],
    map_size: tuple[int, int],
    *,
    graded: bool,
) -> Measured:
    """Measure the maps of frames by the teachers of a video; motion and gains are NaN unless `graded`."""
    n, count = len(frames), len(teachers)
    features = np.full((n, count, len(gates.FEATURES)), np.nan)
    gains, present = np.full((n, count), np.nan), np.zeros((n, count), dtype=bool)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        densities, there = _densities(video, frames[rows], teachers, map_size)
        present[rows] = there
        for name, value in (
            ("entropy", gates.entropy(densities)),
            ("centre_distance", gates.centre_distance(densities)),
            ("agreement", gates.agreement(densities, there)),
        ):
            features[rows, :, gates.FEATURES.index(name)] = torch.where(there, value, torch.nan)
        if graded and video.truth is not None:
            counts = torch.from_numpy(
                np.stack([video.truth.fixation_map(frame, map_size) for frame in frames[rows]])
            )
            gains[rows] = torch.where(there, gates.information_gain(densities, counts), torch.nan)
    if graded:
        features[..., gates.FEATURES.index("motion")] = motion(video, frames)[:, None]
    return Measured(features, gains, present)


def _densities(
    video: Video, frames: Sequence[int], teachers: Sequence[CachedTeacher | None], map_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return densities (n, M, h, w) of frames by all teachers, zero where there is none, and presence (n, M)."""
    densities = torch.zeros(len(frames), len(teachers), *map_size)
    present = torch.zeros(len(frames), len(teachers), dtype=torch.bool)
    for place, teacher in enumerate(teachers):
        if teacher is None:
            continue
        plan = teacher.store.plan
        rows = [row for row, frame in enumerate(frames) if plan.locate(video.name, frame, "plain") is not None]
        if rows:
            maps = np.stack([teacher.store.read(video.name, frames[row]) for row in rows])
            density = saliency.density(torch.from_numpy(maps))[None]
            densities[rows, place] = saliency.resize_density(density, map_size)[0]
            present[rows, place] = True
    return densities, present


def motion(video: Video, frames: Sequence[int]) -> np.ndarray:
    """Return the mean absolute change of the grey level from the previous frame, (n,) in [0, 1]; 0 for a still."""
    if video.num_frames == 1 or is_image(video.path):
        return np.zeros(len(frames))
    reader, found = open_video(video.path), []
    for start in range(0, len(frames), BLOCK):
        block = list(frames[start : start + BLOCK])
        both = reader.read([*(max(frame - 1, 0) for frame in block), *block], MOTION_SIZE)
        before, now = np.split(both.astype(np.float32).mean(axis=-1) / 255, 2)
        found.append(np.abs(now - before).mean(axis=(1, 2)))
    return np.concatenate(found)


def _require_truth(members: Sequence[MemberSection], gains: np.ndarray, recordings: Sequence[str]) -> None:
    """Raise a UserError unless each teacher with a gate `truth` can be graded."""
    for place, member in enumerate(members):
        labelled = {name for name, gain in zip(recordings, gains[:, place], strict=True) if math.isfinite(gain)}
        if member.gate == "truth" and len(labelled) < 2:
            raise UserError(
                f"teachers.{member.name}.gate: truth grades a teacher on labelled training videos, and its store "
                f"covers {plural(len(labelled), 'recording')} with fixations; expected at least 2; add labelled "
                "videos, or use gate: agreement or none"
            )


def _key(
    teachers: Sequence[CachedTeacher],
    members: Sequence[MemberSection],
    sources: Sequence[ClipSource],
    targets: Mapping[str, list[int]],
    sharpness: float,
    map_size: tuple[int, int],
) -> str:
    """Return a hash of all that the gates depend on."""
    content: list[Any] = [FORMAT, sharpness, map_size]
    for teacher, member in zip(teachers, members, strict=True):
        section = member.model_dump(
            mode="json", include={"name", "weight", "gate", "abstain", "sources", "partial"}
        )
        content.append([section, str(teacher.store.path), teacher.store.fingerprint, teacher.store.notes])
    for source in sources:
        for video in source.videos:
            described = {} if video.path.is_dir() else describe_video(video, content=False)
            content.append([video.name, video.source, video.recording, described, describe_truth(video)])
    content.append(list(targets.items()))
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:32]
