"""The AIM 2024 and NTIRE 2026 video saliency challenges.

    Videos/<name>.mp4
    TrainTestSplit.json                         {"train": ["<name>.mp4", ...], "public_test": [...], ...}
    FixationsTrain/Train/<name>/fixations.json
    FixationsTest/Test/<name>/fixations.json
    SaliencyTrain/Train/<name>.mp4              10-bit densities; optional, otherwise computed from the fixations

A fixations.json has one list of [row, column] points per frame, in pixels of the video; repeated points count.

Source: Moskalenko et al., "AIM 2024 Challenge on Video Saliency Prediction: Methods and Results", 2024 (CC BY).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from distill.data.sets.dataset import DataSet, Layout, VideoProbe, files_named
from distill.data.truth import PointsTruth
from distill.data.video.names import VIDEO_SUFFIXES
from distill.paths import path_inside
from distill.validation import read_json

SPLITS = ("train", "public_test", "private_test", "all")

SPLIT_FILE = "TrainTestSplit.json"

SPLIT_CONTENT = '{"train": ["NAME.mp4", ...], "public_test": [...], "private_test": [...]}'

FIXATIONS = ("FixationsTrain/Train", "FixationsTest/Test", "FixationsTrain", "FixationsTest", "Fixations")

DENSITIES = ("SaliencyTrain/Train", "SaliencyTest/Test", "SaliencyTrain", "SaliencyTest")


class SplitFile(BaseModel):
    """Content of a split file: video names per split; other keys are ignored."""

    train: list[str] = []
    public_test: list[str] = []
    private_test: list[str] = []


def find(root: Path) -> Layout:
    """Return the layout of a challenge folder; videos in the split file that do not exist are missing.

    Raises:
        UserError: if the split file cannot be read.
    """
    if not recognise(root):
        return Layout("")
    videos = root / "Videos"
    media = {path.stem: path for path in files_named(videos, VIDEO_SUFFIXES)}
    listed = read_splits(root / SPLIT_FILE)
    members = {split: [name for name in names if name in media] for split, names in listed.items()}
    return Layout(
        f"videos in Videos/, splits in {SPLIT_FILE}",
        media=media,
        members={**members, "all": list(media)},
        published={split: len(names) for split, names in listed.items()},
        truth_of=lambda name, probe: _truth(root, name, probe),
        missing=[
            (split, name, f"{videos}/{name}.mp4: missing, but listed in {SPLIT_FILE}")
            for split, names in listed.items()
            for name in names
            if name not in media
        ],
        remarks=list(_remarks(root, listed, media)),
    )


def recognise(root: Path) -> bool:
    """Whether a folder has the challenge's layout."""
    return (root / SPLIT_FILE).is_file() and bool(files_named(root / "Videos", VIDEO_SUFFIXES))


def resembles(root: Path) -> bool:
    """Whether a folder has the challenge's fixations."""
    return any(next((root / place).glob("*/fixations.json"), None) for place in FIXATIONS)


def read_splits(path: Path) -> dict[str, list[str]]:
    """Return the video names (without .mp4) of each split.

    Raises:
        UserError: if the file is not a JSON object of lists of names, or a name cannot be a file in Videos/.
    """
    content = read_json(path, SplitFile, "a split file", remedy=f"expected {SPLIT_CONTENT}")
    listed = {split: getattr(content, split) for split in SPLITS[:-1]}
    return {split: [path_inside("Videos", name, path).stem for name in names] for split, names in listed.items()}


def _remarks(root: Path, listed: dict[str, list[str]], media: dict[str, Path]) -> Iterator[str]:
    """Yield messages on videos in no split or in several, and on fixations without a video."""
    names = Counter(name for part in listed.values() for name in part)
    for name, path in media.items():
        if name not in names:
            yield f"{path}: not in any split of {SPLIT_FILE}"
    for name in (name for name, count in names.items() if count > 1):
        yield f"{root / SPLIT_FILE}: lists {name} more than once"
    for place in FIXATIONS:
        for path in sorted((root / place).glob("*/fixations.json")):
            if path.parent.name not in media:
                yield f"{path}: fixations without a video"


def _truth(root: Path, name: str, probe: VideoProbe) -> PointsTruth | None:
    maps = next((path for place in DENSITIES if (path := root / place / f"{name}.mp4").is_file()), None)
    for place in FIXATIONS:
        path = root / place / name / "fixations.json"
        if path.is_file():
            return PointsTruth(path, probe.size, maps=maps)
    return None


NTIRE = DataSet(
    name="ntire",
    title="AIM 2024 and NTIRE 2026 challenges",
    expected=f"Videos/<name>.mp4 and {SPLIT_FILE}",
    splits=SPLITS,
    find=find,
    recognise=recognise,
    resembles=resembles,
    labelled=("train",),
    withheld="private_test",
)
