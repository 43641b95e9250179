"""Benchmark submissions: a map of every frame of the test videos, in the format that the benchmark accepts.

    saldistill submit MODEL DATA --to dhf1k|ntire -o DIR

    DIR/0701/0001.png      DHF1K: 8-bit grey, at the video's size; each map's maximum is 255
    DIR/<name>.mp4         AIM 2024 and NTIRE 2026: 10-bit, at the video's size and rate; each map from 0 to 1

DIR contains only what is submitted; its settings are recorded next to it, in DIR.json. The same command, run again
or in several shells, resumes, and another model is refused.

Maps are resized as `saldistill evaluate --protocol dhf1k|ntire2026` resizes them, so that a submission scores as
evaluated, up to its bit depth. 10 bits because 8 leave few levels for the faint parts of a map, which SIM and AUC
count. x264's quality 0, which the challenge uses for its ground truth, because a 1920 x 1080 map then takes 9 KB
instead of the 36 KB of lossless.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distill.data.clips import Video
from distill.data.map_files import write_map_video
from distill.data.pictures import picture_size
from distill.data.progress import ProgressBar
from distill.data.sets import dhf1k, ntire
from distill.data.text import plural, ranges
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.evaluation.map_sources import MapSource, checked_maps
from distill.evaluation.protocols import PROTOCOLS, Size
from distill.evaluation.worker_pool import run_ahead
from distill.files import atomic_folder, refuse_existing
from distill.inference.shared_work import WorkSummary, check_record, exists, process_missing
from distill.paths import path_inside

AHEAD = 16
"""Maps that may be computed ahead of the one being written."""


@dataclass(frozen=True, kw_only=True)
class SubmissionFormat:
    """How a benchmark accepts maps.

    Attributes:
        name: name of the benchmark's data set.
        help: form of the files.
        protocol: name in PROTOCOLS of its evaluation, whose resizing is used.
        split: split of the data set that it scores.
        place: video name -> name of its file or folder in the submission.
        published: (root of the data set, split) -> names of the videos that a submission must contain.
        write: (path, video, maps) -> writes all resized maps (h, w) of a video, or nothing.
        check: (path, video) -> problems of what was written.
    """

    name: str
    help: str
    protocol: str
    split: str
    place: Callable[[str], str]
    published: Callable[[Path, str], list[str]]
    write: Callable[[Path, Video, Iterable[np.ndarray]], None]
    check: Callable[[Path, Video], Iterator[str]]


@dataclass(frozen=True)
class Submission:
    """Result of `submit`; ready to be sent if there are no problems."""

    out: Path
    outcome: WorkSummary
    videos: int
    frames: int
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "out": str(self.out)}

    def __str__(self) -> str:
        lines = [str(self.outcome), *self.problems]
        if self.outcome.elsewhere:
            lines.append(f"{self.out}: not complete yet; the process that writes the last video checks it")
        elif not self.problems:
            counts = f"{plural(self.videos, 'video')}, {plural(self.frames, 'frame')}"
            lines.append(f"{self.out}: complete; {counts}, each at its video's size")
        return "\n".join(lines)


def submit(
    maps: MapSource,
    videos: Sequence[Video],
    out: str | Path,
    *,
    to: str,
    made_by: Mapping[str, Any],
    expected: Sequence[str] = (),
    progress: bool = True,
) -> Submission:
    """Write the maps of every frame of videos, resuming an earlier call, and check the submission.

    Args:
        maps: map source.
        videos: videos to write, with all their frames, whether in use or not.
        out: folder to write.
        to: name in SUBMISSION_FORMATS.
        made_by: what the maps depend on, with a name under "model" and perhaps the runtime; recorded in OUT.json.
        expected: names of the videos that the benchmark scores; one that is not in `videos` is a problem.
        progress: show a progress bar over all frames.

    Returns:
        What was written, and its problems. A video that cannot be read is a problem; the others are written.

    Raises:
        UserError: unknown format, a folder with other contents or another model's maps, or two videos of one name.
    """
    if to not in SUBMISSION_FORMATS:
        raise UserError(f"to: expected one of {', '.join(SUBMISSION_FORMATS)}; got {to!r}")
    form, out = SUBMISSION_FORMATS[to], Path(out)
    places = _places(videos, out, form)
    _record(out, {**made_by, "to": to})
    by_name = {video.name: video for video in videos}
    frames = sum(video.num_frames for video in videos)
    done = sum(by_name[name].num_frames for name, path in places.items() if exists(path))
    resize = PROTOCOLS[form.protocol].resize

    with ProgressBar(
        f"writing {out.name}", "frame", total=frames, initial=done, shown=progress, result=False
    ) as bar:

        def make(name: str, missing: list[Path]) -> int:
            video = by_name[name]
            form.write(missing[0], video, _resized_maps(maps, video, resize, bar))
            return video.num_frames

        outcome = process_missing({name: [path] for name, path in places.items()}, make)
        outcome.runtime = made_by.get("runtime", "")
        bar.n = sum(by_name[name].num_frames for name, path in places.items() if exists(path))
    problems = _problems(out, videos, form, outcome, expected, progress=progress)
    return Submission(out, outcome, len(videos), frames, problems)


def _places(videos: Sequence[Video], out: Path, form: SubmissionFormat) -> dict[str, Path]:
    """Return each video's file or folder."""
    places: dict[str, Path] = {}
    taken: set[Path] = set()
    for video in videos:
        path_inside(out, video.name, f"a video of {video.dataset}")
        place = path_inside(out, form.place(video.name), f"a video of {video.dataset}")
        if place.parent != out:
            raise UserError(f"{video.name}: is in a subfolder of the data set; a submission cannot have subfolders")
        if video.name in places or place in taken:
            raise UserError(f"{video.name}: listed twice; expected each video once")
        places[video.name] = place
        taken.add(place)
    return places


def _record(out: Path, record: dict[str, Any]) -> None:
    """Record the settings next to the submission; refuse a folder with other contents."""
    if not out.name:
        raise UserError(f"{out}: expected the name of a folder that contains only the submission")
    path = out.with_name(f"{out.name}.json")
    if not path.exists():
        refuse_existing(out, "a folder that is not a submission")
    check_record(path, record, out)
    out.mkdir(parents=True, exist_ok=True)


def _resized_maps(
    maps: MapSource, video: Video, resize: Callable[[np.ndarray, Size], np.ndarray], bar: ProgressBar
) -> Iterator[np.ndarray]:
    """Yield every map of a video, in order, at its size; a thread resizes while the next are computed."""
    calls = (partial(resize, saliency, video.size) for saliency in _every_map(maps, video))
    with ThreadPoolExecutor(1) as pool:
        for resized in run_ahead(pool, calls, AHEAD):
            bar.update()
            yield resized


def _every_map(maps: MapSource, video: Video) -> Iterator[np.ndarray]:
    """Yield the map of every frame of a video, in order; errors as `checked_maps`."""
    frames = range(video.num_frames)
    for following, (frame, saliency) in zip(frames, checked_maps(maps, video, frames), strict=True):
        if frame != following:
            raise UserError(f"{video.name}: the map of frame {frame + 1} is out of order")
        yield saliency


def _problems(
    out: Path,
    videos: Sequence[Video],
    form: SubmissionFormat,
    outcome: WorkSummary,
    expected: Sequence[str],
    *,
    progress: bool,
) -> list[str]:
    """Return what is wrong with the submission: missing videos, frames or sizes, and other files."""
    found = [f"{name}: not written: {why}" for name, why in outcome.failed.items()]
    checked = [video for video in videos if video.name not in {*outcome.failed, *outcome.elsewhere}]
    for video in ProgressBar(f"checking {out.name}", "video", checked, shown=progress, result=False):
        found += form.check(out / form.place(video.name), video)
    names = {video.name for video in videos}
    if absent := [name for name in expected if name not in names]:
        listed = ranges(map(int, absent)) if all(name.isdecimal() for name in absent) else ", ".join(absent)
        found.append(f"{plural(len(absent), 'video')} of the benchmark missing: {listed}")
    if not outcome.elsewhere:
        places = {form.place(video.name) for video in videos}
        others = sorted(path.name for path in out.iterdir() if path.name not in places)
        found += [f"{out / name}: not part of the submission; remove it" for name in others]
    return found


def _write_pictures(path: Path, video: Video, maps: Iterable[np.ndarray]) -> None:
    """Write maps in [0, 255] as 8-bit grey images 0001.png, ..."""
    with atomic_folder(path) as folder:
        for frame, saliency in enumerate(maps):
            Image.fromarray(saliency.astype(np.uint8)).save(folder / f"{frame + 1:04d}.png")


def _check_pictures(path: Path, video: Video) -> Iterator[str]:
    if not path.is_dir():
        yield f"{path}: no such folder"
        return
    wanted = {f"{frame + 1:04d}.png" for frame in range(video.num_frames)}
    present = {file.name for file in path.iterdir()}
    if missing := wanted - present:
        yield f"{path}: {len(missing)} of {plural(len(wanted), 'map')} missing, e.g. {min(missing)}"
    if others := present - wanted:
        yield f"{path}: {plural(len(others), 'file')} not part of the submission, e.g. {min(others)}"
    for name in sorted(wanted & present):
        try:
            size = picture_size(path / name)
        except UserError as error:
            yield str(error)
        else:
            yield from _wrong_size(path / name, size, video)


def _write_video(path: Path, video: Video, maps: Iterable[np.ndarray]) -> None:
    """Write maps in [0, 1] as a 10-bit video at the video's frame rate."""
    write_map_video(path, maps, fps=video.fps, bits=10, crf=0, overwrite=False)


def _check_video(path: Path, video: Video) -> Iterator[str]:
    if not path.is_file():
        yield f"{path}: no such file"
        return
    try:
        frames, _, size = open_size(path)
    except UserError as error:
        yield str(error)
        return
    if frames != video.num_frames:
        yield f"{path}: has {frames} maps, the video {video.num_frames} frames"
    yield from _wrong_size(path, size, video)


def _wrong_size(path: Path, size: tuple[int, ...], video: Video) -> Iterator[str]:
    if size != video.size:
        yield f"{path}: is {size[1]} x {size[0]}, the video {video.size[1]} x {video.size[0]}"


def _four_digits(name: str) -> str:
    """Return the name of a DHF1K video's folder of annotations, e.g. 0701."""
    return f"{int(name):04d}" if re.fullmatch("[0-9]{1,9}", name) else name


def _ntire_names(root: Path, split: str) -> list[str]:
    """Return the names of the challenge's videos in a split; `all` joins the splits."""
    splits = ntire.read_splits(root / "TrainTestSplit.json")
    return [name for names in splits.values() for name in names] if split == "all" else splits[split]


SUBMISSION_FORMATS: dict[str, SubmissionFormat] = {
    form.name: form
    for form in (
        SubmissionFormat(
            name="dhf1k",
            help="DIR/0701/0001.png, 8 bits",
            protocol="dhf1k",
            split="test",
            place=_four_digits,
            published=lambda root, split: [f"{number:03d}" for number in dhf1k.SPLITS[split]],
            write=_write_pictures,
            check=_check_pictures,
        ),
        SubmissionFormat(
            name="ntire",
            help="DIR/NAME.mp4, 10 bits",
            protocol="ntire2026",
            split="public_test",
            place=lambda name: f"{name}.mp4",
            published=_ntire_names,
            write=_write_video,
            check=_check_video,
        ),
    )
}
