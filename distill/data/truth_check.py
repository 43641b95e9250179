"""Inspect ground truth files: what is missing, damaged or unusual, and their formats.

This module does not import PyTorch, because its functions run in the subprocesses of `distill.data.video.guard`.
"""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from distill.data.annotation import mat_version, read_mat, read_picture, read_points
from distill.data.pictures import check_picture, conversion_remarks
from distill.data.remote_data import local
from distill.data.text import named_frames, plural
from distill.data.video.folder_probe import listing_of
from distill.data.video.guard import heartbeat
from distill.data.video.probe import examine, state_of
from distill.data.video.probe_cache import Inspection
from distill.errors import UserError
from distill.fixations import inside
from distill.validation import parse_json

KINDS = (("maps", ".png"), ("fixation", ".png"), ("fixation/maps", ".mat"))
"""Folders and suffixes of the files with one image per frame."""

COMPUTED = "videos without maps (densities are computed from fixations)"


@dataclass(frozen=True)
class TruthFiles:
    """The files of one video's ground truth.

    Attributes:
        size: (height, width) of the video.
        first: number of the video's first frame in the files.
        points: fixations.json, if there is one.
        maps_video: video of the densities, if there is one.
        folder: folder of the images; None if the ground truth is a list of points.
        stem: format string of the images' names.
    """

    size: tuple[int, int]
    first: int
    points: Path | None = None
    maps_video: Path | None = None
    folder: Path | None = None
    stem: str = ""


@dataclass
class TruthCheck:
    """Result of inspecting the ground truth of one video.

    Attributes:
        labelled: frames with fixations; images that were not decoded count if they are complete.
        problems: messages on what is missing, damaged or unusual.
        forms: number of files per format.
    """

    labelled: int = 0
    problems: list[str] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the TruthCheck with the fields that `check_truth` returned."""
        return parse_json(json.dumps(fields), cls, "cached ground truth")


def inspect_truth(files: TruthFiles, num_frames: int, *, thorough: bool = False) -> Inspection:
    """Return the inspection of one video's ground truth; its result is a TruthCheck.

    The cached result depends on the size and time of every file, so creating an inspection lists all of them.

    Args:
        files: the files.
        num_frames: frames of the video.
        thorough: decode every image.
    """
    if files.folder is not None:
        path = files.folder
        state: list[Any] = [listing_of([path, *(path / folder for folder, _ in KINDS)]), files.stem]
    else:
        assert files.points is not None
        path = files.points
        state = [state_of(file) for file in (path, files.maps_video) if file is not None and file.is_file()]
    state += [files.first, list(files.size), num_frames, str(path)]  # the path is part of the messages
    call = (check_truth, (files, num_frames, thorough))
    return Inspection("truth", path, state, [call], read=TruthCheck.from_dict, thorough=thorough)


def check_truth(files: TruthFiles, num_frames: int, thorough: bool = False) -> dict[str, Any]:
    """Inspect all ground-truth files of one video; see `inspect_truth`.

    Returns:
        The fields of a TruthCheck.

    Raises:
        UserError: if a fixations.json cannot be read, because there is no ground truth then.
    """
    result = TruthCheck()
    if files.folder is not None:
        files = replace(files, folder=local(files.folder))
    if files.points is not None:
        _check_points(result, files.points, files, num_frames)
    if files.folder is None:
        _check_maps_video(result, files, num_frames, thorough)
    else:
        maps, pictures, mats = (
            _check_folder(result, files, files.folder / folder, suffix, num_frames, thorough)
            for folder, suffix in KINDS
        )
        if files.points is None:
            result.labelled = sum((mats | pictures).values())  # images take precedence over MATLAB files
        if not result.labelled:
            result.problems.append(f"{files.folder}: no fixations, so no frame is labelled")
        if not maps:
            result.forms[COMPUTED] += 1
    return {"labelled": result.labelled, "problems": result.problems, "forms": dict(result.forms)}


def _check_points(result: TruthCheck, path: Path, files: TruthFiles, num_frames: int) -> None:
    points = read_points(path)
    start = files.first - 1
    available = min(num_frames, max(0, len(points) - start))
    if available < num_frames:
        result.problems.append(f"{path}: fixations for {available} of {num_frames} frames")
    if (past := len(points) - start - num_frames) > 0:
        result.problems.append(f"{path}: {plural(past, 'frame')} past the end of the video, not used")
    counts = {frame: len(points.of(start + frame)) for frame in range(available)}
    valid = {frame: len(inside(points.of(start + frame), files.size)) for frame in counts}
    if empty := [frame for frame, count in counts.items() if not count]:
        result.problems.append(f"{path}: no fixation in {named_frames(empty)}")
    if outside := [frame for frame, count in counts.items() if count > valid[frame]]:
        lost = sum(counts[frame] - valid[frame] for frame in outside)
        result.problems.append(
            f"{path}: {plural(lost, 'point')} outside the {_pixels(files.size)} frame, in "
            f"{named_frames(outside)}, not used"
        )
    result.labelled = sum(count > 0 for count in valid.values())
    result.forms["frames in fixations.json"] += len(points)


def _check_maps_video(result: TruthCheck, files: TruthFiles, num_frames: int, thorough: bool) -> None:
    path = files.maps_video
    if path is None:
        result.forms[COMPUTED] += 1
        return
    try:
        probed = examine(str(path), decord=False, thorough=thorough)
    except UserError as error:
        result.problems.append(f"{error}; densities are computed from the fixations")
        return
    result.forms["video of densities"] += 1
    if probed["num_frames"] < num_frames:
        result.problems.append(
            f"{path}: has {probed['num_frames']} of {num_frames} frames; the densities of the others are computed "
            "from the fixations"
        )
    if (size := tuple(probed["size"])) != files.size:
        result.problems.append(
            f"{path}: has {_pixels(size)} pixels and its video {_pixels(files.size)}; maps are rescaled"
        )


def _check_folder(
    result: TruthCheck, files: TruthFiles, folder: Path, suffix: str, num_frames: int, thorough: bool
) -> dict[int, bool]:
    """Inspect the files of one kind; return, for each frame with an intact file, whether it is not empty."""
    present = {path.stem for path in folder.glob(f"*{suffix}") if path.name[0] != "."}
    expected = {files.stem.format(frame + files.first): frame for frame in range(num_frames)}
    if not present:
        return {}
    if missing := [frame for stem, frame in expected.items() if stem not in present]:
        result.problems.append(f"{folder}: no file for {named_frames(missing)}")
    if extra := sorted(present - expected.keys()):
        names = ", ".join(f"{stem}{suffix}" for stem in extra)
        result.problems.append(f"{folder}: past the end of the video or misnamed, not used: {names}")
    sizes: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    filled: dict[int, bool] = {}
    conversions: dict[str, str] = {}
    kind = folder.relative_to(files.folder or folder).as_posix()
    for stem in sorted(present & expected.keys()):
        heartbeat()
        path, frame = folder / (stem + suffix), expected[stem]
        try:
            size, form, values, conversions[path.name] = _inspect_file(path, thorough)
        except UserError as error:
            result.problems.append(str(error))
            continue
        sizes[size].append(frame)
        result.forms[f"{kind}/*{suffix}{form}"] += 1
        filled[frame] = values is None or bool(values.any())
    for size, frames in sizes.items():
        if size != files.size:
            result.problems.append(
                f"{folder}: {_pixels(size)} pixels in {named_frames(frames)}, but the video has "
                f"{_pixels(files.size)}; rescaled"
            )
    result.problems += [f"{folder}: {text}" for text in conversion_remarks(conversions, "grey levels")]
    if empty := [frame for frame, nonempty in filled.items() if not nonempty]:
        what = "an empty map" if kind == "maps" else "no fixation"
        result.problems.append(f"{folder}: {what} in {named_frames(empty)}")
    return filled


def _inspect_file(path: Path, thorough: bool) -> tuple[tuple[int, ...], str, np.ndarray | None, str]:
    """Return the size of an image or MATLAB file, its format, its values if decoded, and its `conversion_of`."""
    if path.suffix == ".mat":  # always read, because its header does not show whether the file is complete
        values = read_mat(path)
        return values.shape, f" (MATLAB {mat_version(path)})", values, ""
    size, channels, conversion = check_picture(path)
    form = f" ({channels} channels)" * (channels > 1)
    return size, form, read_picture(path) if thorough else None, conversion


def _pixels(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]}"
