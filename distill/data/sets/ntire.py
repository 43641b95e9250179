"""The layout of the AIM 2024 and NTIRE 2026 video saliency challenges.

    Videos/<name>.mp4
    TrainTestSplit.json                         {"train": ["<name>.mp4", ...], "public_test": [...], ...}
    FixationsTrain/Train/<name>/fixations.json
    FixationsTest/Test/<name>/fixations.json
    SaliencyTrain/Train/<name>.mp4              the densities, 10 bits deep; else they are built from the points

A fixations.json holds one list of [row, column] points a frame, in pixels of the video; repeats count.

Source: Moskalenko et al., "AIM 2024 Challenge on Video Saliency Prediction: Methods and Results", 2024 (CC BY).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.data.sets.scan import Scan, collect, files_named, unknown_split, wrong_root
from distill.data.truth import PointsTruth
from distill.data.video.frames import Frames
from distill.data.video.names import VIDEO_SUFFIXES
from distill.data.video.probe import Probe
from distill.errors import UserError

SPLITS = ("train", "public_test", "private_test", "all")

EXPECTED = "Videos/<name>.mp4 and TrainTestSplit.json"

FIXATIONS = ("FixationsTrain/Train", "FixationsTest/Test", "FixationsTrain", "FixationsTest", "Fixations")

DENSITIES = ("SaliencyTrain/Train", "SaliencyTest/Test", "SaliencyTrain", "SaliencyTest")


def scan(
    root: Path, *, split: str | None = None, names: Sequence[str] | None = None, progress: bool = False
) -> Scan:
    """Go through a folder of the challenge's layout.

    Of the train split, videos without fixations are left out unless they were named. Videos that the split file
    names and that are not on the disk are reported as broken.

    Raises:
        UserError: if the folder has another layout, the split file cannot be read, or there is no such split.
    """
    if split is not None and split not in SPLITS:
        raise unknown_split("ntire", split, SPLITS)
    if not fits(root):
        raise wrong_root(root, "ntire", EXPECTED, fits)
    media = {path.stem: path for path in files_named(root / "Videos", VIDEO_SUFFIXES)}
    listed = read_splits(root / "TrainTestSplit.json")
    members = {name: [video for video in listed[name] if video in media] for name in listed} | {"all": list(media)}
    found = collect(
        Scan(
            "ntire",
            "videos in Videos/, splits in TrainTestSplit.json",
            splits={name: len(there) for name, there in members.items()},
            members=members,
            published={name: len(listed[name]) for name in listed},
            withheld="private_test",
            remarks=list(_remarks(root, listed, media)),
        ),
        [(name, media[name]) for name in members[split or "all"]],
        lambda name, found: _truth(root, name, found),
        names=names,
        annotated_only=split == "train",
        progress=progress,
    )
    if names is None:
        for name in (name for part in listed if split in (None, "all", part) for name in listed[part]):
            if name not in media:
                path = root / "Videos" / f"{name}.mp4"
                found.broken[name] = f"{path}: listed in TrainTestSplit.json and not there"
    return found


def _remarks(root: Path, listed: dict[str, list[str]], media: dict[str, Path]) -> Iterator[str]:
    """Say what no split names, what is named twice, and which fixations have no video."""
    parts = [name for part in listed.values() for name in part]
    for name, path in media.items():
        if name not in parts:
            yield f"{path}: in no split of TrainTestSplit.json"
    for name in dict.fromkeys(name for name in parts if parts.count(name) > 1):
        yield f"{root / 'TrainTestSplit.json'}: names {name} more than once"
    for place in FIXATIONS:
        for path in sorted((root / place).glob("*/fixations.json")):
            if path.parent.name not in media:
                yield f"{path}: fixations without a video"


def fits(root: Path) -> bool:
    """Whether a folder has the challenge's layout."""
    return (root / "TrainTestSplit.json").is_file() and bool(files_named(root / "Videos", VIDEO_SUFFIXES))


def has_fixations(root: Path) -> bool:
    """Whether a folder holds fixations as the challenge gives them, whatever else is missing."""
    return any(next((root / place).glob("*/fixations.json"), None) for place in FIXATIONS)


def read_splits(path: Path) -> dict[str, list[str]]:
    """Return the video names (without .mp4) of each split.

    Raises:
        UserError: if the file is not a JSON object of lists of names.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {split: [Path(name).stem for name in content.get(split, [])] for split in SPLITS[:-1]}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: expected lists of video names under {', '.join(SPLITS[:-1])} ({error})"
        ) from error


def _truth(root: Path, name: str, found: Probe | Frames) -> PointsTruth | None:
    maps = next((path for place in DENSITIES if (path := root / place / f"{name}.mp4").is_file()), None)
    for place in FIXATIONS:
        path = root / place / name / "fixations.json"
        if path.is_file():
            return PointsTruth(path, found.size, maps=maps)
    return None
