"""DHF1K: 1000 videos of free viewing, 640 x 360, 30 frames a second; 17 observers.

Splits by number: 1-600 train, 601-700 validation, 701-1000 test (no ground truth published).
Ground truth in annotation/0001/: maps/0001.png (density, peak 255) with fixation/0001.png (binary) or
fixation/maps/0001.mat (variable `I`), or fixations.json (one list of [row, column] points a frame).

Source: Wang et al., "Revisiting Video Saliency Prediction in the Deep Learning Era", TPAMI 2019 (CC BY 4.0).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill.data.scan import Scan, collect, unknown_split, wrong_root
from distill.data.truth import Truth, truth_of
from distill.data.video import VIDEO_SUFFIXES, frame_files

SPLITS = {"train": range(1, 601), "validation": range(601, 701), "test": range(701, 1001), "all": range(1, 1001)}

LAYOUTS = {
    "videos in video/": "video/*.*",
    "videos in the folder itself": "*.*",
    "frames in annotation/NNNN/images/": "annotation/*/images",
    "frames in video/NNN/": "video/*",
    "frames in video/NNN/images/": "video/*/images",
    "frames in frames/NNN/": "frames/*",
    "frames in train|val|test/NNN/images/": "*/*/images",
    "frames in NNN/images/": "*/images",
}
"""Where people keep the videos, or the frames they extracted from them; the first that holds any is used."""

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
    splits = {name: sum(n in SPLITS[name] for n in media) for name in SPLITS}
    return collect(
        Scan("dhf1k", layout, splits=splits),
        [(f"{n:03d}", path) for n, path in media.items() if n in numbers],
        lambda name, size: _truth(root, media[int(name)], int(name), size),
        names=names,
        annotated_only=split in ("train", "validation"),
        progress=progress,
    )


def find(root: Path) -> tuple[str, dict[int, Path]]:
    """Return the layout of a folder in words, and each video's path by its number; empty where there is none."""
    for layout, pattern in LAYOUTS.items():
        media = dict(_numbered(root, pattern)) if root.is_dir() else {}
        if media:
            return layout, media
    return "", {}


def _numbered(root: Path, pattern: str) -> Iterator[tuple[int, Path]]:
    for path in root.glob(pattern):
        name = path.parent.name if path.name == "images" else path.stem
        if not re.fullmatch(r"\d{1,4}", name) or int(name) not in SPLITS["all"]:
            continue
        if pattern.endswith("*.*"):
            if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
                yield int(name), path
        elif frame_files(path):
            yield int(name), path


def _truth(root: Path, media: Path, number: int, size: tuple[int, int]) -> Truth | None:
    beside = [media.parent] if media.name == "images" else [media]
    for folder in [root / "annotation" / f"{number:04d}", root / "annotation" / f"{number:03d}", *beside]:
        if (truth := truth_of(folder, size)) is not None:
            return truth
    return None
