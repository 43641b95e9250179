"""DHF1K: 1000 free-viewing videos, 640 x 360 at 30 fps, 17 observers.

Splits by number: 1-600 train, 601-700 validation, 701-1000 test (ground truth withheld).
Ground truth in annotation/0001/: maps/0001.png (density, peak 255) with fixation/0001.png (binary) or
fixation/maps/0001.mat (variable `I`), or fixations.json (one list of [row, column] points per frame).

Source: Wang et al., "Revisiting Video Saliency Prediction in the Deep Learning Era", TPAMI 2019 (CC BY 4.0).
"""

from collections.abc import Iterator
from pathlib import Path

from distill.data.sets.dataset import DataSet, Layout, VideoProbe, holds_frames
from distill.data.text import plural, ranges
from distill.data.truth import FileTruth, truth_of
from distill.data.video.folder_probe import FolderProbe
from distill.data.video.names import VIDEO_SUFFIXES, number_in
from distill.errors import UserError

SPLITS = {"train": range(1, 601), "validation": range(601, 701), "test": range(701, 1001), "all": range(1, 1001)}

LAYOUTS = {
    "videos in video/": "video/*.*",
    "videos in the root folder": "*.*",
    "frames in annotation/NNNN/images/": "annotation/*/images",
    "frames in video/NNN/": "video/*",
    "frames in video/NNN/images/": "video/*/images",
    "frames in frames/NNN/": "frames/*",
    "frames in frames/NNN/images/": "frames/*/images",
    "frames in train|val|test/NNN/images/": "*/*/images",
    "frames in NNN/images/": "*/images",
}
"""Common places of the videos or extracted frames; the first one that exists is used."""

ANNOTATION_FOLDERS = ("annotation", "train", "val", "validation")
"""Folders of the ground truth if it is not next to the frames, in subfolders with three or four digits."""


def name_of(number: int) -> str:
    """Return the name of a video: its number with three digits."""
    return f"{number:03d}"


def find(root: Path) -> Layout:
    """Return the layout of a DHF1K folder."""
    for title, pattern in LAYOUTS.items():
        media: dict[int, Path] = {}
        for number, path in _candidates(root, pattern):
            if number is not None:
                media.setdefault(number, path)
        if media:
            return _layout(root, title, pattern, media)
    return Layout("")


def _layout(root: Path, title: str, pattern: str, media: dict[int, Path]) -> Layout:
    return Layout(
        title,
        media={name_of(number): path for number, path in media.items()},
        members={split: [name_of(n) for n in sorted(media) if n in numbers] for split, numbers in SPLITS.items()},
        published={split: len(numbers) for split, numbers in SPLITS.items()},
        truth_of=lambda name, probe: _truth(root, media[int(name)], int(name), probe),
        remarks=list(_remarks(root, pattern, media)),
    )


def _candidates(root: Path, pattern: str) -> Iterator[tuple[int | None, Path]]:
    """Yield the videos of a layout in alphabetical order, with the number in their name."""
    for path in sorted(root.glob(pattern)) if root.is_dir() else []:
        if pattern.endswith("*.*"):
            is_video = path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != "." and path.is_file()
        else:
            is_video = holds_frames(path)
        if is_video:
            yield _number(path.parent if path.name == "images" else path), path


def _number(path: Path) -> int | None:
    number = number_in(path.stem) if len(path.stem) <= 4 else None
    return number if number in SPLITS["all"] else None


def _remarks(root: Path, pattern: str, media: dict[int, Path]) -> Iterator[str]:
    """Yield messages on missing and unexpected videos."""
    for split, numbers in SPLITS.items():
        missing = set(numbers) - media.keys()
        if split != "all" and 0 < len(missing) < len(numbers):
            yield f"{plural(len(missing), 'video')} of {split} missing: {ranges(missing)}"
    for number, path in _candidates(root, pattern):
        if number is None:
            yield f"{path}: not used, because its name is not a number from 1 to 1000"
        elif media[number] != path:
            yield f"{path}: not used, because {media[number].name} has the same number"
    annotated = {
        _number(path) for place in ANNOTATION_FOLDERS for path in (root / place).glob("*") if path.is_dir()
    }
    if unmatched := [number for number in annotated if number is not None and number not in media]:
        yield f"ground truth without a video in {plural(len(unmatched), 'folder')}: {ranges(unmatched)}"


def _truth(root: Path, media: Path, number: int, probe: VideoProbe) -> FileTruth | None:
    """Return a video's ground truth. Maps are matched to extracted frames by number, counted from 1 or from 0."""
    own = media.parent if media.name == "images" else media
    folders = [root / place / f"{number:0{digits}d}" for place in ANNOTATION_FOLDERS for digits in (4, 3)]
    first = max(1, probe.first) if isinstance(probe, FolderProbe) else 1
    for folder in (own, *folders):
        if (truth := truth_of(folder, probe.size, first)) is None:
            continue
        if isinstance(probe, FolderProbe) and probe.gap:
            raise UserError(f"{media}/{probe.gap}")
        return truth
    return None


DHF1K = DataSet(
    name="dhf1k",
    title="DHF1K",
    expected="video/001.AVI or frames in annotation/0001/images/, video/0001/, frames/0001/ or train/0001/images/",
    splits=tuple(SPLITS),
    find=find,
    recognise=lambda root: bool(find(root).media),
    labelled=("train", "validation"),
    withheld="test",
    at_address=True,
)
