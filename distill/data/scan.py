"""What the data sets share: going through a folder's videos, leaving out what is broken, saying what was found."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from distill.data.clips import Video
from distill.data.truth import Truth
from distill.data.video import VIDEO_SUFFIXES, describe, natural, open_size
from distill.errors import UserError

log = logging.getLogger(__name__)


@dataclass
class Scan:
    """What a data set's folder holds.

    Attributes:
        dataset: the data set's name.
        layout: which layout was found, in words.
        videos: the videos that can be used, in their natural order.
        broken: name of each video that cannot be, and why.
        left_out: names of the videos left out for having no ground truth in a split that has it.
        splits: videos on the disk in each of the published splits.
    """

    dataset: str
    layout: str
    videos: list[Video] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)


def same_name(name: str, wanted: str) -> bool:
    """Whether a video is the one that was asked for: by name, file name, or number (`2` is `002`)."""
    wanted = str(wanted)
    if Path(wanted).suffix.lower() in VIDEO_SUFFIXES:
        wanted = wanted[: -len(Path(wanted).suffix)]
    return name == wanted or (name.isdigit() and wanted.isdigit() and int(name) == int(wanted))


def collect(
    scan: Scan,
    media: Iterable[tuple[str, Path]],
    truth_of: Callable[[str, tuple[int, int]], Truth | None],
    *,
    names: Sequence[str] | None,
    annotated_only: bool,
    progress: bool,
    recording: Callable[[str], str] | None = None,
) -> Scan:
    """Probe videos and sort them into the scan's lists.

    Args:
        scan: the lists to fill.
        media: (name, path) of each video on the disk.
        truth_of: gives the ground truth of the video of a name and a size (height, width); None where it has none.
        names: only these videos (`same_name`), with or without ground truth; all when None.
        annotated_only: leave out videos without ground truth, unless they were named.
        progress: show a bar.
        recording: gives the name of the recording that the video of a name was cut from; every video is one of its
            own when None.
    """
    chosen = [m for m in media if names is None or any(same_name(m[0], wanted) for wanted in names)]
    chosen.sort(key=lambda m: natural(m[0]))
    bar = tqdm(chosen, f"reading {scan.dataset}", unit="video", disable=not progress, leave=False, delay=2)
    for name, path in bar:
        try:
            num_frames, fps, size = open_size(path)
            truth = truth_of(name, size)
        except UserError as error:
            scan.broken[name] = str(error)
            continue
        if truth is None and annotated_only and names is None:
            scan.left_out.append(name)
            continue
        cut_from = recording(name) if recording else name
        frames = range(num_frames)
        scan.videos.append(Video(name, path, num_frames, fps, size, frames, truth, scan.dataset, cut_from))
    return scan


def wrong_root(root: Path, dataset: str, expected: str, fits: Callable[[Path], bool]) -> UserError:
    """Return the error for a folder that does not hold the data set: what was looked for and what is there instead.

    Args:
        root: the folder that was given.
        dataset: the data set's name.
        expected: what was looked for, in words.
        fits: whether a folder holds the data set; tried on the neighbours to name the one that was meant.
    """
    if not root.exists():
        return UserError(f"{root}: there is no such folder; expected the root of {dataset}, with {expected}")
    if not root.is_dir():
        return UserError(f"{root}: this is a file; expected the root folder of {dataset}, with {expected}")
    near = [p for p in [root.resolve().parent, *sorted(root.iterdir())] if p.is_dir() and fits(p)]
    meant = f"; did you mean {near[0]}?" if near else ""
    return UserError(f"{root}: expected {dataset} here, with {expected}; found {describe(root)}{meant}")


def files_named(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of a folder with one of the suffixes, in natural order; hidden files are left out."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[0] != "." and p.is_file()]
    return sorted(found, key=lambda p: natural(p.name))


def unknown_split(dataset: str, split: str, splits: Iterable[str]) -> UserError:
    """Return the error for a split that a data set does not have."""
    return UserError(f"{dataset} has no split '{split}'; it has {', '.join(splits)}")
