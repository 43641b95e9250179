"""What the data sets share: going through a folder's videos, leaving out what is broken, saying what was found."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.clips import Video
from distill.data.truth import MapsTruth, PointsTruth
from distill.data.truth_check import truth_question
from distill.data.video.frames import Frames, frames_question, listing_of
from distill.data.video.known import KNOWN, learn
from distill.data.video.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, describe, natural
from distill.data.video.probe import Probe, video_question
from distill.errors import UserError


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
        members: names of these videos; empty for a data set without files.
        published: how many videos each split should have, where that is known.
        withheld: the split whose ground truth nobody has published.
        remarks: what is missing or odd beside the videos themselves, a sentence each.
    """

    dataset: str
    layout: str
    videos: list[Video] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    splits: dict[str, int] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    withheld: str = ""
    remarks: list[str] = field(default_factory=list)


def same_name(name: str, wanted: str) -> bool:
    """Whether a video is the one that was asked for: by name, file name, or number (`2` is `002`)."""
    wanted = str(wanted)
    if Path(wanted).suffix.lower() in VIDEO_SUFFIXES:
        wanted = wanted[: -len(Path(wanted).suffix)]
    return name == wanted or (name.isdigit() and wanted.isdigit() and int(name) == int(wanted))


def collect(
    scan: Scan,
    media: Iterable[tuple[str, Path]],
    truth_of: Callable[[str, Probe | Frames], MapsTruth | PointsTruth | None],
    *,
    names: Sequence[str] | None,
    annotated_only: bool,
    progress: bool,
    recording: Callable[[str], str] | None = None,
) -> Scan:
    """Examine videos and sort them into the scan's lists.

    Args:
        scan: the lists to fill.
        media: (name, path) of each video on the disk.
        truth_of: gives the ground truth of the video of a name and what was found in it; None where it has none.
        names: only these videos (`same_name`), with or without ground truth; all when None.
        annotated_only: leave out videos without ground truth, unless they were named.
        progress: show a bar.
        recording: gives the name of the recording that the video of a name was cut from; every video is one of its
            own when None.
    """
    chosen = [m for m in media if names is None or any(same_name(m[0], wanted) for wanted in names)]
    chosen.sort(key=lambda m: natural(m[0]))
    found = look_at([path for _, path in chosen], progress=f"reading {scan.dataset}" if progress else None)
    for (name, path), seen in zip(chosen, found, strict=True):
        try:
            if isinstance(seen, UserError):
                raise seen
            truth = truth_of(name, seen)
        except UserError as error:
            scan.broken[name] = str(error)
            continue
        if truth is None and annotated_only and names is None:
            scan.left_out.append(name)
            continue
        cut_from = recording(name) if recording else name
        frames = range(seen.num_frames)
        scan.videos.append(
            Video(name, path, seen.num_frames, seen.fps, seen.size, frames, truth, scan.dataset, cut_from)
        )
    _leave_out_unreadable(scan, progress="reading fixations" if progress else None)
    return scan


def _leave_out_unreadable(scan: Scan, *, progress: str | None) -> None:
    """Call those videos broken whose fixations.json cannot be read: else a run would stop there, hours later."""
    listed = []
    for video in scan.videos:
        points = video.truth.listed if isinstance(video.truth, MapsTruth) else video.truth
        if isinstance(points, PointsTruth):
            listed.append((video, points))
    answers = learn([truth_question(points, video.num_frames) for video, points in listed], progress=progress)
    for (video, _), answer in zip(listed, answers, strict=True):
        if isinstance(answer, UserError):
            scan.broken[video.name] = str(answer)
            scan.videos.remove(video)


def look_at(
    paths: Sequence[Path], *, progress: str | None = None, thorough: bool = False, anew: bool = False
) -> list[Probe | Frames | UserError]:
    """Examine videos, files or folders of frames, in parallel and behind a guard; what is known is not asked again.

    Args:
        paths: what is there on the disk.
        progress: what a bar says; none when None.
        thorough: decode every frame.
        anew: see whether a picture in a folder has changed since it was looked at, which takes a while.

    Returns:
        What each holds; a UserError for those that are broken.
    """
    questions = [(frames_question if path.is_dir() else video_question)(path, thorough=thorough) for path in paths]
    for question in questions:
        if question.kind == "frames" and isinstance(KNOWN.recall(question), UserError):
            KNOWN.forget(question)  # somebody may have mended the picture, which the folder does not tell
    if anew:
        folders = [question for question in questions if question.kind == "frames"]
        with ThreadPoolExecutor() as threads:  # a disk far away answers several at once
            listings = threads.map(lambda question: listing_of([question.path]), folders)
        for question, listing in zip(folders, listings, strict=True):
            if (known := KNOWN.recall(question)) is not None and known.listing != listing:
                KNOWN.forget(question)
    return learn(questions, progress=progress)


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


def holds_frames(folder: Path) -> bool:
    """Whether there is an image in a folder; looks no further than the first."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != "." for entry in entries)


def unknown_split(dataset: str, split: str, splits: Iterable[str]) -> UserError:
    """Return the error for a split that a data set does not have."""
    return UserError(f"{dataset} has no split '{split}'; it has {', '.join(splits)}")
