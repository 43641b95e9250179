"""Turn a folder of videos and a table of fixations into a data set that training and evaluation read.

    saldistill data import VIDEOS fixations.csv -o data/own-gaze

The table is a CSV file with one fixation, or one gaze sample, per row, in any order:

    video       name of a file in VIDEOS, with or without its suffix
    x, y        pixels of the video, from its left and upper edge
    start       seconds from the start of the video; or `frame`, counted from 1
    duration    seconds; optional. The row counts in every frame that is shown meanwhile, else in one frame

Other columns, such as the observer, are ignored. The result has the layout of the NTIRE challenge, dataset `ntire`
(distill/data/sets/ntire.py): links to the videos, and one fixations.json per video. All videos are in the split
`train`; the shares of a config divide them.
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distill.claims import claim
from distill.data.sets.dataset import files_named
from distill.data.sets.ntire import FIXATIONS, SPLIT_FILE
from distill.data.text import plural
from distill.data.video.names import VIDEO_SUFFIXES, describe
from distill.data.video.open import open_size
from distill.errors import UserError, reading, shorten
from distill.files import atomic_folder, write_json, write_text
from distill.limits import MAX_POINTS_BYTES, MAX_VIDEO_POINTS, check_limit
from distill.paths import path_inside

DELIMITERS = ",;\t"

EXPECTED = "columns video, x, y, and start (seconds) or frame (from 1)"


@dataclass
class ImportedGaze:
    """Result of `import_gaze`: fixations per video, and the number of rows that are not in a video's frames."""

    out: Path
    points: dict[str, int] = field(default_factory=dict)
    outside: int = 0
    after_end: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `points` are the fixations in frames of each video."""
        return {**asdict(self), "out": str(self.out)}

    def __str__(self) -> str:
        total = sum(self.points.values())
        lines = [f"{self.out}: {plural(len(self.points), 'video')}, {plural(total, 'fixation')} in frames"]
        if self.outside:
            lines.append(f"  left out: {plural(self.outside, 'row')} outside the picture")
        if self.after_end:
            lines.append(f"  left out: {plural(self.after_end, 'row')} after the end of the video")
        if empty := [name for name, count in self.points.items() if not count]:
            lines.append(f"  without fixations: {', '.join(empty)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Fixation:
    """One row of the table; `start` is the first frame (0-based) as a fraction, if the row has a frame."""

    x: float
    y: float
    start: float
    duration: float
    in_frames: bool

    def frames(self, fps: float, num_frames: int) -> range:
        """Return the 0-based frames that the fixation covers; empty if it starts after the end."""
        first = self.start if self.in_frames else self.start * fps
        begin = math.floor(first + 1e-6)
        end = math.ceil(first + self.duration * fps - 1e-6)
        return range(begin, min(max(end, begin + 1), num_frames))


def import_gaze(videos: str | Path, table: str | Path, out: str | Path) -> ImportedGaze:
    """Write a data set from a folder of videos and a table of fixations.

    Args:
        videos: folder of video files; they are linked, not copied.
        table: CSV file, see the head of this file.
        out: folder to write.

    Raises:
        UserError: the folder has no video or two of the same name, the table cannot be read or names other videos,
            no fixation is inside a video, or `out` exists.
    """
    videos, table, out = Path(videos), Path(table), Path(out)
    files = files_named(videos, VIDEO_SUFFIXES)
    media = {path.stem: path for path in files}
    if not media:
        raise UserError(
            f"{videos}: no video in this folder; expected {', '.join(VIDEO_SUFFIXES)}; found {describe(videos)}"
        )
    for path in files:
        if (other := media[path.stem]) != path:
            raise UserError(
                f"{videos}: {path.name} and {other.name} differ only in their suffix; rename one of them"
            )
    with claim(out, "the data set"):
        rows = read_table(table, media)
        result = ImportedGaze(out)
        with atomic_folder(out) as folder:
            (folder / "Videos").mkdir()
            for name, path in media.items():
                (folder / "Videos" / path.name).symlink_to(path.resolve())
                points = points_of(rows.get(name, []), path, result)
                result.points[name] = sum(map(len, points))
                target = path_inside(folder / FIXATIONS[0], name, videos) / "fixations.json"
                target.parent.mkdir(parents=True)
                write_text(target, json.dumps(points, separators=(",", ":")))
            write_json(folder / SPLIT_FILE, {"train": [path.name for path in media.values()]})
            if not any(result.points.values()):
                raise UserError(
                    f"{table}: no fixation is inside a frame of its video ({result.outside} outside the picture, "
                    f"{result.after_end} after the end); expected x and y in pixels and start in seconds"
                )
    return result


def points_of(rows: list[Fixation], path: Path, result: ImportedGaze) -> list[list[list[int]]]:
    """Return the [row, column] points of each frame of a video, and count rows that are in none of its frames."""
    num_frames, fps, (height, width) = open_size(path)
    points: list[list[list[int]]] = [[] for _ in range(num_frames)]
    total = 0
    for each in rows:
        row, column = math.floor(each.y), math.floor(each.x)
        frames = each.frames(fps, num_frames)
        if not (0 <= row < height and 0 <= column < width):
            result.outside += 1
        elif not frames:
            result.after_end += 1
        else:
            total += len(frames)
            check_limit(total, MAX_VIDEO_POINTS, f"{path.name}: fixations in frames")
            for frame in frames:
                points[frame].append([row, column])
    return points


def read_table(path: Path, media: Mapping[str, Path]) -> dict[str, list[Fixation]]:
    """Return the fixations of a table by the name of their video.

    Raises:
        UserError: the table cannot be read, a column is missing, or a row has no number or names an unknown video.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV file with {EXPECTED}")
    by_name = {**{each.name: name for name, each in media.items()}, **{name: name for name in media}}
    with reading(path, "a table of fixations", f"expected a CSV file with {EXPECTED}"):
        check_limit(path.stat().st_size, MAX_POINTS_BYTES, f"{path}: bytes")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        delimiter = max(DELIMITERS, key=Counter(lines[0] if lines else "").__getitem__)
        head, *body = list(csv.reader(lines, delimiter=delimiter, strict=True)) or [[]]
    columns = [name.strip().lower() for name in head]
    missing = {"video", "x", "y"} - set(columns)
    if missing or not {"start", "frame"} & set(columns):
        raise UserError(
            f"{path}: no column {min(missing, default='start or frame')}; expected {EXPECTED}, got "
            f"{shorten(', '.join(columns)) or 'nothing'}"
        )
    rows: dict[str, list[Fixation]] = {}
    for number, cells in enumerate(body, 2):
        if not any(cell.strip() for cell in cells):
            continue
        row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
        if row.get("video") not in by_name:
            raise UserError(
                f"{path}: line {number}: no video {shorten(repr(row.get('video')))} in the folder; expected "
                f"{shorten(', '.join(media))}"
            )
        rows.setdefault(by_name[row["video"]], []).append(_fixation(row, f"{path}: line {number}"))
    return rows


def _fixation(row: Mapping[str, str], where: str) -> Fixation:
    """Return a row of the table."""
    in_frames = "frame" in row
    time = "frame" if in_frames else "start"
    values = {name: _number(row.get(name, ""), f"{where}: {name}") for name in ("x", "y", time)}
    duration = _number(row["duration"], f"{where}: duration") if row.get("duration") else 0.0
    first = 1 if in_frames else 0
    if values[time] < first or duration < 0:
        wrong = time if values[time] < first else "duration"
        raise UserError(f"{where}: {wrong}: expected at least {first if wrong == time else 0}, got {row[wrong]}")
    return Fixation(values["x"], values["y"], values[time] - first, duration, in_frames)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 1e9:
        raise UserError(f"{where}: expected a number, got {shorten(repr(text))}")
    return value
