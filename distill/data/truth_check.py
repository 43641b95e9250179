"""Looking at ground truth before it is used: what is missing, damaged or odd, and in which forms it comes."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from distill.data.annotation import mat_version, read_mat, read_picture, read_points
from distill.data.text import named_frames, plural
from distill.data.truth import MapsTruth, PointsTruth, inside
from distill.data.video.examine import examine
from distill.data.video.frames import check_picture, listing_of
from distill.data.video.guard import alive
from distill.data.video.known import Question
from distill.data.video.probe import state_of
from distill.errors import UserError

KINDS = (("maps", ".png"), ("fixation", ".png"), ("fixation/maps", ".mat"))
"""Folders and files of a MapsTruth."""

BUILT = "videos without maps (densities are built from fixations)"


@dataclass
class TruthCheck:
    """What was found in the ground truth of one video.

    Attributes:
        labelled: frames with fixations; of pictures that were not opened, those that are there and whole.
        complaints: what is missing, damaged or odd, one sentence each.
        forms: how many there are of each form: lists of points, pictures, MATLAB files.
    """

    labelled: int = 0
    complaints: list[str] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """Return what `check_truth` has found."""
        return cls(int(plain["labelled"]), list(plain["complaints"]), Counter(plain["forms"]))


def truth_question(truth: MapsTruth | PointsTruth, num_frames: int, *, thorough: bool = False) -> Question:
    """Return the question what is in a ground truth; its answer is a TruthCheck.

    Every file counts for what is known, so asking goes through all their sizes and times.

    Args:
        truth: the ground truth.
        num_frames: frames of its video.
        thorough: decode every picture.
    """
    if isinstance(truth, PointsTruth):
        path, files = truth.path, [path for path in (truth.path, truth.maps) if path is not None]
        state: list[Any] = [state_of(file) for file in files if file.is_file()]
    else:
        path = truth.folder
        state = [listing_of([path, *(path / folder for folder, _ in KINDS)]), truth.stem]
    state += [truth.first, list(truth.size), num_frames, str(path)]  # as it is asked for: complaints start with it
    call = (check_truth, (truth, num_frames, thorough))
    return Question("truth", path, state, [call], read=TruthCheck.of, thorough=thorough)


def check_truth(truth: MapsTruth | PointsTruth, num_frames: int, thorough: bool = False) -> dict[str, Any]:
    """Look at all files of a ground truth.

    Args:
        truth: the ground truth.
        num_frames: frames of its video.
        thorough: decode every picture.

    Returns:
        The fields of a TruthCheck.

    Raises:
        UserError: if a fixations.json cannot be read: then there is no ground truth.
    """
    found = TruthCheck()
    listed = truth if isinstance(truth, PointsTruth) else truth.listed
    if listed is not None:
        _check_points(found, listed, num_frames)
        if listed is truth:
            _check_maps_video(found, listed, num_frames, thorough)
    if isinstance(truth, MapsTruth):
        maps, pictures, mats = (_check_folder(found, truth, *kind, num_frames, thorough) for kind in KINDS)
        if listed is None:
            found.labelled = sum((mats | pictures).values())  # a picture counts before a MATLAB file
        if not found.labelled:
            found.complaints.append(f"{truth.folder}: no fixations here, so that no frame is labelled")
        if not maps:
            found.forms[BUILT] += 1
    return {"labelled": found.labelled, "complaints": found.complaints, "forms": dict(found.forms)}


def _check_points(found: TruthCheck, truth: PointsTruth, num_frames: int) -> None:
    points = read_points(truth.path)
    start = truth.first - 1
    there = min(num_frames, max(0, len(points) - start))
    if there < num_frames:
        found.complaints.append(f"{truth.path}: fixations for {there} of {num_frames} frames")
    if (past := len(points) - start - num_frames) > 0:
        found.complaints.append(f"{truth.path}: {plural(past, 'frame')} past the end of the video are not used")
    counts = {frame: len(points.of(start + frame)) for frame in range(there)}
    valid = {frame: len(inside(points.of(start + frame), truth.size)) for frame in counts}
    if empty := [frame for frame, count in counts.items() if not count]:
        found.complaints.append(f"{truth.path}: no fixation in {named_frames(empty)}")
    if outside := [frame for frame, count in counts.items() if count > valid[frame]]:
        lost = sum(counts[frame] - valid[frame] for frame in outside)
        found.complaints.append(
            f"{truth.path}: {plural(lost, 'point')} outside the {truth.size[1]} x {truth.size[0]} picture, in "
            f"{named_frames(outside)}, not used"
        )
    found.labelled = sum(count > 0 for count in valid.values())
    found.forms["frames in fixations.json"] += len(points)


def _check_maps_video(found: TruthCheck, truth: PointsTruth, num_frames: int, thorough: bool) -> None:
    if truth.maps is None:
        found.forms[BUILT] += 1
        return
    try:
        there = examine(str(truth.maps), decord=False, thorough=thorough)
    except UserError as error:
        found.complaints.append(f"{error}; densities are built from the fixations")
        return
    found.forms["video of densities"] += 1
    if there["num_frames"] < num_frames:
        found.complaints.append(
            f"{truth.maps}: has {there['num_frames']} of {num_frames} frames; the others' densities are built from "
            "the fixations"
        )
    if (size := there["size"]) != list(truth.size):
        found.complaints.append(
            f"{truth.maps}: is {size[1]} x {size[0]} pixels and its video {truth.size[1]} x {truth.size[0]}; "
            "it is rescaled"
        )


def _check_folder(
    found: TruthCheck, truth: MapsTruth, folder: str, suffix: str, num_frames: int, thorough: bool
) -> dict[int, bool]:
    """Look at the files of one kind; return for the frames whose file is whole whether something is in it."""
    place = truth.folder / folder
    there = {path.stem for path in place.glob(f"*{suffix}") if path.name[0] != "."}
    wanted = {truth.stem.format(frame + truth.first): frame for frame in range(num_frames)}
    if not there:
        return {}
    if missing := [frame for stem, frame in wanted.items() if stem not in there]:
        found.complaints.append(f"{place}: no file for {named_frames(missing)}")
    if extra := sorted(there - wanted.keys()):
        names = ", ".join(f"{stem}{suffix}" for stem in extra)
        found.complaints.append(f"{place}: past the end of the video or misnamed, not used: {names}")
    sizes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    filled: dict[int, bool] = {}
    for stem in sorted(there & wanted.keys()):
        alive()
        path, frame = place / (stem + suffix), wanted[stem]
        try:
            size, form, values = _look(path, thorough)
        except UserError as error:
            found.complaints.append(str(error))
            continue
        sizes[size].append(frame)
        found.forms[f"{folder}/*{suffix}{form}"] += 1
        filled[frame] = values is None or bool(values.any())
    for size, frames in sizes.items():
        if size != truth.size:
            found.complaints.append(
                f"{place}: {size[1]} x {size[0]} pixels in {named_frames(frames)}, and the video has "
                f"{truth.size[1]} x {truth.size[0]}; rescaled"
            )
    if empty := [frame for frame, some in filled.items() if not some]:
        what = "an empty map" if folder == "maps" else "no fixation"
        found.complaints.append(f"{place}: {what} in {named_frames(empty)}")
    return filled


def _look(path: Path, thorough: bool) -> tuple[tuple[int, ...], str, np.ndarray | None]:
    """Return the size of a picture or MATLAB file, its form, and its values if they were read."""
    if path.suffix == ".mat":  # read as a whole: small, and nothing at its end says that it is whole
        values = read_mat(path)
        return values.shape, f" (MATLAB {mat_version(path)})", values
    size, channels = check_picture(path)
    return size, f" ({channels} channels)" * (channels > 1), read_picture(path) if thorough else None
