"""The layout of the AIM 2024 and NTIRE 2026 video saliency challenges.

    Videos/<name>.mp4
    TrainTestSplit.json                         {"train": ["<name>.mp4", ...], "public_test": [...], ...}
    FixationsTrain/Train/<name>/fixations.json
    FixationsTest/Test/<name>/fixations.json

A fixations.json holds one list of [row, column] points a frame, in pixels of the video; repeats count. Densities
are built from the points.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from distill.data.scan import Scan, collect, files_named, unknown_split, wrong_root
from distill.data.truth import PointsTruth, Truth
from distill.data.video import VIDEO_SUFFIXES
from distill.errors import UserError

SPLITS = ("train", "public_test", "private_test", "all")

EXPECTED = "Videos/<name>.mp4 and TrainTestSplit.json"

FIXATIONS = ("FixationsTrain/Train", "FixationsTest/Test", "FixationsTrain", "FixationsTest", "Fixations")


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
    chosen = list(media) if split in (None, "all") else listed[split]
    counts = {name: sum(video in media for video in listed[name]) for name in listed} | {"all": len(media)}
    found = collect(
        Scan("ntire", "videos in Videos/, splits in TrainTestSplit.json", splits=counts),
        [(name, media[name]) for name in chosen if name in media],
        lambda name, size: _truth(root, name, size),
        names=names,
        annotated_only=split == "train",
        progress=progress,
    )
    wanted = [name for part in listed if split in (None, "all", part) for name in listed[part]]
    if names is None:
        absent = {name: root / "Videos" / f"{name}.mp4" for name in wanted if name not in media}
        found.broken |= {
            name: f"{path}: listed in TrainTestSplit.json and not there" for name, path in absent.items()
        }
    return found


def fits(root: Path) -> bool:
    """Whether a folder has the challenge's layout."""
    return (root / "TrainTestSplit.json").is_file() and bool(files_named(root / "Videos", VIDEO_SUFFIXES))


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


def _truth(root: Path, name: str, size: tuple[int, int]) -> Truth | None:
    for folder in FIXATIONS:
        path = root / folder / name / "fixations.json"
        if path.is_file():
            return PointsTruth(path, size)
    return None
