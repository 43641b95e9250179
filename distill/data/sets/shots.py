"""What Hollywood-2 and UCF-Sports share: a folder a shot; maps and fixations under the names of its frames.

    training|testing/SHOT/{images,maps,fixation}/PREFIX00001.png      or fixation/maps/PREFIX00001.mat

Frames keep the numbers of the video that a shot was cut from, so a shot need not start at 1. A shot shorter than a
model's clip is padded on the left with its first frame, as every clip is that reaches before a video's start.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from distill.data.sets.scan import Scan, collect, unknown_split, wrong_root
from distill.data.truth import MapsTruth
from distill.data.video.frames import Frames
from distill.data.video.probe import Probe
from distill.errors import UserError

SPLITS = {"train": ("training",), "test": ("testing",), "all": ("training", "testing")}

SIGMA = 20.0
"""Standard deviation, in pixels at a shot's own size, of the Gaussian behind both data sets' maps (window 150)."""


def scan_shots(
    root: Path,
    *,
    dataset: str,
    shot: re.Pattern[str],
    expected: str,
    published: dict[str, int],
    recording: Callable[[str], str],
    split: str | None,
    names: Sequence[str] | None,
    progress: bool,
) -> Scan:
    """Go through the shots of a folder.

    Of a named split, shots without ground truth are left out unless they were named.

    Args:
        root: the data set's folder.
        dataset: its name.
        shot: what a shot's folder is called.
        expected: what was looked for, in words.
        published: how many shots the splits have.
        recording: gives the name of the video that a shot was cut from.
        split: train, test or all.
        names: only these shots.
        progress: show a bar.

    Raises:
        UserError: if the folder holds no such shot, or there is no such split.
    """
    if split is not None and split not in SPLITS:
        raise unknown_split(dataset, split, SPLITS)
    shots = find(root, shot)
    if not shots:
        raise wrong_root(root, dataset, expected, lambda folder: bool(find(folder, shot)))
    halves = SPLITS[split or "all"]
    folders = {name: folder for name, folder in shots.items() if folder.parent.name in halves}
    members = {each: [name for name, at in shots.items() if at.parent.name in SPLITS[each]] for each in SPLITS}
    return collect(
        Scan(
            dataset,
            "frames in training|testing/SHOT/images/",
            splits={each: len(there) for each, there in members.items()},
            members=members,
            published=published,
        ),
        [(name, folder / "images") for name, folder in folders.items()],
        lambda name, found: shot_truth(folders[name], found),
        names=names,
        annotated_only=split in ("train", "test"),
        progress=progress,
        recording=recording,
    )


def find(root: Path, shot: re.Pattern[str]) -> dict[str, Path]:
    """Return the folder of each shot, by its name; empty where there is none."""
    if not root.is_dir():
        return {}
    found = [p for half in SPLITS["all"] for p in (root / half).glob("*/images") if shot.fullmatch(p.parent.name)]
    return {images.parent.name: images.parent for images in found}


def shot_truth(folder: Path, found: Probe | Frames) -> MapsTruth | None:
    """Return the ground truth of one shot, under the names of its frames; None where it has none.

    Raises:
        UserError: if the frames' names do not end in numbers that follow one another, since maps belong to frames
            by number.
    """
    if not (folder / "maps").is_dir() and not (folder / "fixation").is_dir():
        return None
    assert isinstance(found, Frames), "a shot is a folder of frames"
    if found.gap or found.stem is None:
        raise UserError(f"{folder / 'images'}/{found.gap}")
    return MapsTruth(folder, found.size, stem=found.stem, first=found.first, sigma=SIGMA)
