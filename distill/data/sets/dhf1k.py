"""DHF1K: 1000 videos of free viewing, 640 x 360, 30 frames a second; 17 observers.

Splits by number: 1-600 train, 601-700 validation, 701-1000 test (no ground truth published).
Ground truth in annotation/0001/: maps/0001.png (density, peak 255) with fixation/0001.png (binary) or
fixation/maps/0001.mat (variable `I`), or fixations.json (one list of [row, column] points a frame).

Source: Wang et al., "Revisiting Video Saliency Prediction in the Deep Learning Era", TPAMI 2019 (CC BY 4.0).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.data.sets.scan import Scan, collect, holds_frames, unknown_split, wrong_root
from distill.data.text import plural, ranges
from distill.data.truth import MapsTruth, PointsTruth, truth_of
from distill.data.video.frames import Frames
from distill.data.video.names import VIDEO_SUFFIXES
from distill.data.video.probe import Probe
from distill.errors import UserError

SPLITS = {"train": range(1, 601), "validation": range(601, 701), "test": range(701, 1001), "all": range(1, 1001)}

LAYOUTS = {
    "videos in video/": "video/*.*",
    "videos in the folder itself": "*.*",
    "frames in annotation/NNNN/images/": "annotation/*/images",
    "frames in video/NNN/": "video/*",
    "frames in video/NNN/images/": "video/*/images",
    "frames in frames/NNN/": "frames/*",
    "frames in frames/NNN/images/": "frames/*/images",
    "frames in train|val|test/NNN/images/": "*/*/images",
    "frames in NNN/images/": "*/images",
}
"""Where people keep the videos, or the frames they extracted from them; the first that holds any is used."""

TRUTHS = ("annotation", "train", "val", "validation")
"""Where the ground truth of a video lies that does not stand beside it: in folders of three or four digits."""

EXPECTED = "video/001.AVI or frames in annotation/0001/images/, video/0001/, frames/0001/ or train/0001/images/"


def scan(
    root: Path, *, split: str | None = None, names: Sequence[str] | None = None, progress: bool = False
) -> Scan:
    """Go through a DHF1K folder.

    Of the train and validation splits, videos without ground truth are left out unless they were named.

    Raises:
        UserError: if the folder holds no DHF1K video, or there is no such split.
    """
    if split is not None and split not in SPLITS:
        raise unknown_split("dhf1k", split, SPLITS)
    layout, media = find(root)
    if not media:
        raise wrong_root(root, "dhf1k", EXPECTED, lambda folder: bool(find(folder)[1]))
    numbers = SPLITS[split or "all"]
    members = {name: [f"{n:03d}" for n in sorted(media) if n in SPLITS[name]] for name in SPLITS}
    return collect(
        Scan(
            "dhf1k",
            layout,
            splits={name: len(there) for name, there in members.items()},
            members=members,
            published={name: len(numbers) for name, numbers in SPLITS.items()},
            withheld="test",
            remarks=list(_remarks(root, layout, media)),
        ),
        [(f"{n:03d}", path) for n, path in media.items() if n in numbers],
        lambda name, found: _truth(root, media[int(name)], int(name), found),
        names=names,
        annotated_only=split in ("train", "validation"),
        progress=progress,
    )


def find(root: Path) -> tuple[str, dict[int, Path]]:
    """Return the layout of a folder in words, and each video's path by its number; empty where there is none.

    Of several videos of one number the first in the order of the alphabet counts.
    """
    for layout, pattern in LAYOUTS.items():
        media: dict[int, Path] = {}
        for number, path in _candidates(root, pattern):
            if number is not None:
                media.setdefault(number, path)
        if media:
            return layout, media
    return "", {}


def _candidates(root: Path, pattern: str) -> Iterator[tuple[int | None, Path]]:
    """Yield the videos that a layout finds, in the order of the alphabet, with the number that the name says."""
    for path in sorted(root.glob(pattern)) if root.is_dir() else []:
        if pattern.endswith("*.*"):
            there = path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "." and path.is_file()
        else:
            there = holds_frames(path)
        if there:
            yield _number(path.parent if path.name == "images" else path), path


def _number(path: Path) -> int | None:
    number = int(path.stem) if re.fullmatch(r"\d{1,4}", path.stem) else None
    return number if number in SPLITS["all"] else None


def _remarks(root: Path, layout: str, media: dict[int, Path]) -> Iterator[str]:
    """Say which videos are missing, and what is there that no video of the data set is."""
    for name, numbers in SPLITS.items():
        missing = set(numbers) - media.keys()
        if name != "all" and 0 < len(missing) < len(numbers):
            yield f"{plural(len(missing), 'video')} of {name} not here: {ranges(missing)}"
    for number, path in _candidates(root, LAYOUTS[layout]):
        if number is None:
            yield f"{path}: not used, since the name is no number from 1 to 1000"
        elif media[number] != path:
            yield f"{path}: not used, since {media[number].name} is of the same number"
    annotated = {_number(path) for place in TRUTHS for path in (root / place).glob("*") if path.is_dir()}
    if alone := [number for number in annotated if number is not None and number not in media]:
        yield f"ground truth without its video, in {plural(len(alone), 'folder')}: {ranges(alone)}"


def _truth(root: Path, media: Path, number: int, found: Probe | Frames) -> MapsTruth | PointsTruth | None:
    """Return a video's ground truth; maps belong to extracted frames by their numbers, counted from 1 or from 0."""
    beside = media.parent if media.name == "images" else media
    folders = [root / place / f"{number:0{digits}d}" for place in TRUTHS for digits in (4, 3)]
    first = max(1, found.first) if isinstance(found, Frames) else 1
    for folder in (beside, *folders):
        if (truth := truth_of(folder, found.size, first)) is None:
            continue
        if isinstance(found, Frames) and found.gap:
            raise UserError(f"{media}/{found.gap}")
        return truth
    return None
