"""Submissions: a map of every frame of a benchmark's test videos, in the form that the benchmark takes.

    saldistill submit MODEL DATA --to dhf1k|ntire -o DIR

    DIR/0701/0001.png      DHF1K: 8 bits, grey, at the video's size; each map's maximum is 255
    DIR/<name>.mp4         AIM 2024 and NTIRE 2026: 10 bits, at the video's size and rate; each map from 0 to 1

DIR is what is sent, and holds nothing else. What made it stands beside it, in DIR.json: the same command, given
again or in several shells, goes on with what is missing, and another model is refused.

A map is resized to the video's size as `saldistill evaluate --protocol dhf1k|ntire2026` resizes it (bicubic, and
bilinear as the challenge's script does it), so what is sent scores as what was evaluated, but for the bits.
10 bits, because a map's faint parts, which SIM and AUC count, fall into few levels of 8; and x264's quality 0, the
challenge's own for its ground truth, because at 1920 x 1080 a map then takes 9 KB, and 36 without loss.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from distill.data.clips import Video
from distill.data.map_files import write_map_video
from distill.data.sets import dhf1k, ntire
from distill.data.text import plural, ranges
from distill.data.video.image_folder import read_image
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.evaluation.map_sources import MapSource
from distill.evaluation.protocols import PROTOCOLS, Size
from distill.files import atomic_folder, refuse_existing
from distill.inference.shared_work import Outcome, check_record, make_each, stands

AHEAD = 16
"""Maps that may be computed before the one that is being written."""


@dataclass(frozen=True)
class Format:
    """How a benchmark takes maps.

    Attributes:
        protocol: how it scores, one of PROTOCOLS: maps are resized as this does it.
        split: the split that it scores, of the data set of its name.
        place: video's name -> name of its file or folder in the submission.
        published: (root of the data set, split) -> names of the videos that the submission must have.
        write: (path, video, maps) -> writes a video's resized maps (h, w), all of them or nothing.
        complaints: (path, video) -> what is wrong with what was written.
    """

    protocol: str
    split: str
    place: Callable[[str], str]
    published: Callable[[Path, str], list[str]]
    write: Callable[[Path, Video, Iterable[np.ndarray]], None]
    complaints: Callable[[Path, Video], Iterator[str]]


@dataclass(frozen=True)
class Submission:
    """What `submit` did, and what is wrong with the submission as it stands: nothing, when it can be sent."""

    out: Path
    outcome: Outcome
    videos: int
    frames: int
    complaints: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [str(self.outcome), *self.complaints]
        if self.outcome.elsewhere:
            lines.append(f"{self.out}: not complete yet; the process that makes the last video checks it")
        elif not self.complaints:
            lines.append(
                f"{self.out}: complete; {self.videos} videos, {self.frames} frames, each at its video's size"
            )
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
    """Write the maps of every frame of videos; go on where an earlier call stopped; check what stands at the end.

    Args:
        maps: whose.
        videos: of these, all frames, whichever are in use.
        out: the folder to be sent.
        to: one of FORMATS.
        made_by: what the maps depend on, with "model", a name; noted in OUT.json.
        expected: names of the videos that the benchmark scores; it is a complaint if one is not among `videos`.
        progress: show a bar over all frames, with the time left.

    Returns:
        What was made, and what is wrong: videos that cannot be read are complained of, and the others made.

    Raises:
        UserError: no such format, a folder that holds something else or another model's maps, or two videos of one
            name.
    """
    if to not in FORMATS:
        raise UserError(f"there is no submission format '{to}'; there are {', '.join(FORMATS)}")
    form, out = FORMATS[to], Path(out)
    places = _places(videos, out, form)
    _note(out, {**made_by, "to": to})
    by_name = {video.name: video for video in videos}
    frames = sum(video.num_frames for video in videos)
    done = sum(by_name[name].num_frames for name, path in places.items() if stands(path))

    with tqdm(total=frames, initial=done, desc=out.name, unit="frame", disable=not progress) as bar:

        def make(name: str, missing: list[Path]) -> int:
            form.write(
                missing[0], by_name[name], _resized_maps(maps, by_name[name], PROTOCOLS[form.protocol].resize, bar)
            )
            return by_name[name].num_frames

        outcome = make_each({name: [path] for name, path in places.items()}, make)
    complaints = _complaints(out, videos, form, outcome, expected, progress=progress)
    return Submission(out, outcome, len(videos), frames, complaints)


def _places(videos: Sequence[Video], out: Path, form: Format) -> dict[str, Path]:
    """Return where each video's maps go."""
    places: dict[str, Path] = {}
    for video in videos:
        place = out / form.place(video.name)
        if place.parent != out:
            raise UserError(f"{video.name}: lies in a folder of the data set, and a submission has none")
        if video.name in places or place in places.values():
            raise UserError(f"{video.name}: stands twice among the videos; a submission has each once")
        places[video.name] = place
    return places


def _note(out: Path, record: dict[str, Any]) -> None:
    """Note what makes the submission beside it; refuse a folder that something else has begun."""
    if not out.name:
        raise UserError(f"{out}: name a folder for the submission alone")
    path = out.with_name(f"{out.name}.json")
    if not path.exists():
        refuse_existing(out, "a folder that no submission was begun in", remedy="choose another name, or remove it")
    check_record(path, record, out)
    out.mkdir(parents=True, exist_ok=True)


def _resized_maps(
    maps: MapSource, video: Video, resize: Callable[[np.ndarray, Size], np.ndarray], bar: tqdm
) -> Iterator[np.ndarray]:
    """Yield the map of every frame of a video, in order, at the video's size: resized while others are computed."""
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for saliency in _every_map(maps, video):
            waiting.append(pool.submit(resize, saliency, video.size))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
            bar.update()
        for future in waiting:
            yield future.result()


def _every_map(maps: MapSource, video: Video) -> Iterator[np.ndarray]:
    """Yield the map of every frame of a video, in order.

    Raises:
        UserError: if one is missing or holds NaN or infinity.
    """
    frames = range(video.num_frames)
    following = iter(frames)
    for frame, saliency in maps(video, frames):
        if frame != next(following, None):
            raise UserError(
                f"{video.name}: the map of frame {frame + 1} came out of turn; maps are written in order"
            )
        if not np.isfinite(saliency).all():
            raise UserError(f"{video.name}: the map of frame {frame + 1} holds NaN or infinity")
        yield saliency
    missing = next(following, None)
    if missing is not None:
        raise UserError(f"{video.name}: there is no map of frame {missing + 1} and those after it")


def write_pictures(path: Path, video: Video, maps: Iterable[np.ndarray]) -> None:
    """Write maps in [0, 255] as 8-bit grey pictures: 0001.png and so on."""
    with atomic_folder(path) as folder:
        for frame, saliency in enumerate(maps):
            Image.fromarray(saliency.astype(np.uint8)).save(folder / f"{frame + 1:04d}.png")


def write_video(path: Path, video: Video, maps: Iterable[np.ndarray]) -> None:
    """Write maps in [0, 1] as a 10-bit video of the video's rate, a map a frame."""
    write_map_video(path, maps, fps=video.fps, bits=10, crf=0)


def _complaints(
    out: Path,
    videos: Sequence[Video],
    form: Format,
    outcome: Outcome,
    expected: Sequence[str],
    *,
    progress: bool,
) -> list[str]:
    """Count what stands: videos, frames, sizes, and what does not belong there."""
    found = [f"{name}: not made: {why}" for name, why in outcome.broken.items()]
    checked = [video for video in videos if video.name not in {*outcome.broken, *outcome.elsewhere}]
    for video in tqdm(checked, desc="checking", unit="video", disable=not progress, leave=False):
        found += form.complaints(out / form.place(video.name), video)
    names = {video.name for video in videos}
    if absent := [name for name in expected if name not in names]:
        found.append(f"{plural(len(absent), 'video')} not here that the benchmark scores: {_listed(absent)}")
    if not outcome.elsewhere:
        places = {form.place(video.name) for video in videos}
        strangers = sorted(path.name for path in out.iterdir() if path.name not in places)
        found += [f"{out / name}: does not belong to the submission; remove it" for name in strangers]
    return found


def _png_complaints(path: Path, video: Video) -> Iterator[str]:
    if not path.is_dir():
        yield f"{path}: there is no such folder"
        return
    wanted = [f"{frame + 1:04d}.png" for frame in range(video.num_frames)]
    there = {file.name for file in path.iterdir()}
    if missing := [name for name in wanted if name not in there]:
        yield f"{path}: {len(missing)} of {len(wanted)} maps are missing, {missing[0]} for one"
    if strange := sorted(there.difference(wanted)):
        yield f"{path}: {len(strange)} files do not belong there, {strange[0]} for one"
    for name in wanted:
        if name not in there:
            continue
        try:
            image = read_image(path / name, decode=False)
        except UserError as error:
            yield str(error)
            continue
        if image.size[::-1] != video.size:
            yield f"{path / name}: is {_times(image.size[::-1])}, the video {_times(video.size)}"


def _video_complaints(path: Path, video: Video) -> Iterator[str]:
    if not path.is_file():
        yield f"{path}: there is no such file"
        return
    try:
        frames, _, size = open_size(path)
    except UserError as error:
        yield str(error)
        return
    if frames != video.num_frames:
        yield f"{path}: has {frames} maps, the video {video.num_frames} frames"
    if size != video.size:
        yield f"{path}: is {_times(size)}, the video {_times(video.size)}"


def _listed(names: Sequence[str]) -> str:
    return ranges(map(int, names)) if all(name.isdecimal() for name in names) else ", ".join(names)


def _times(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"


def _four_digits(name: str) -> str:
    """Name a video of DHF1K as its folder of annotations: 0701."""
    return f"{int(name):04d}" if re.fullmatch(r"\d+", name) else name


FORMATS: dict[str, Format] = {
    "dhf1k": Format(
        protocol="dhf1k",
        split="test",
        place=_four_digits,
        published=lambda root, split: [f"{number:03d}" for number in dhf1k.SPLITS[split]],
        write=write_pictures,
        complaints=_png_complaints,
    ),
    "ntire": Format(
        protocol="ntire2026",
        split="public_test",
        place=lambda name: f"{name}.mp4",
        published=lambda root, split: ntire.read_splits(root / "TrainTestSplit.json")[split],
        write=write_video,
        complaints=_video_complaints,
    ),
}
"""What `--to` takes: the name of the benchmark's data set."""
