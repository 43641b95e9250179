"""What a prediction writes: an overlay, maps, and a table of numbers per frame.

Each output is a sink that gets one map per frame, in order, and appears under its name when the video is done.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from distill.data.map_files import MapVideoWriter
from distill.data.video.canvas import Canvas
from distill.data.video.frames import Frames, KeepingReader
from distill.data.video.names import is_image
from distill.data.video.writer import PictureWriter, Timing, VideoWriter
from distill.errors import UserError
from distill.files import atomic_folder, atomic_path, temporary_folder
from distill.inference.overlay import DrawSettings, Painter, resize_map
from distill.models.edge import describe_map

MAP_FORMS = {
    "png": "a folder of 8-bit grey PNG files at the size of the video, with maximum 255",
    "png16": "the same in 16 bits, with maximum 65535",
    "npy": "a folder of float32 arrays at the size of the model's maps, with maximum 1",
    "video": "one 10-bit grey video at the size of the video, lossless",
}
"""Name of a form of maps -> what is written."""

SUFFIXES = {"png": ".png", "png16": ".png", "npy": ".npy"}
"""Suffix of the files in a folder of maps."""

MAP_VIDEOS = (".mp4", ".mkv")


def map_form_of(maps: str | Path | None) -> str:
    """Return the form of maps that a path asks for: `video` by its suffix, else `png`."""
    return "video" if maps is not None and Path(maps).suffix.lower() in MAP_VIDEOS else "png"


@dataclass(frozen=True)
class OutputSettings:
    """How results are written.

    Attributes:
        draw: how the overlay is drawn.
        map_form: name in MAP_FORMS.
        sound: copy the sound of the source into the overlay.

    Raises:
        UserError: naming the setting and the accepted values.
    """

    draw: DrawSettings = DrawSettings()
    map_form: str = "png"
    sound: bool = True

    def __post_init__(self) -> None:
        if self.map_form not in MAP_FORMS:
            raise UserError(f"map_form: expected one of {', '.join(MAP_FORMS)}, got {self.map_form!r}")


@dataclass(frozen=True)
class Targets:
    """Paths of the outputs of one video; None for those that are not written.

    Attributes:
        out: the overlay, a video, or a picture for a still image.
        maps: a folder for maps, or a video.
        csv: a table with one row per frame.
    """

    out: Path | None = None
    maps: Path | None = None
    csv: Path | None = None

    def named(self, source: Path, settings: OutputSettings) -> Iterator[tuple[Path, str]]:
        """Yield each path with the name of what it is."""
        kind = "picture" if is_image(source) else "video"
        maps = "the video of maps" if settings.map_form == "video" else "the folder of maps"
        for path, what in ((self.out, f"the overlay {kind}"), (self.maps, maps), (self.csv, "the table")):
            if path is not None:
                yield path, what


Sink = Callable[[int, np.ndarray], None]
"""An output: takes the map (h, w) of each 0-based frame in order, float32 with maximum 1."""


@contextmanager
def overlay_sink(
    path: Path,
    source: Path,
    frames: Frames,
    reader: KeepingReader,
    timing: Timing | None,
    settings: OutputSettings,
    *,
    overwrite: bool,
) -> Iterator[Sink]:
    """Yield the sink of an overlay, which takes its pictures from a reader that keeps them."""
    painter = Painter(settings.draw)
    if is_image(source) and source.is_file():
        with PictureWriter(path, overwrite=overwrite) as picture:

            def write_picture(frame: int, saliency: np.ndarray) -> None:
                picture.write(painter(Canvas.of_rgb(reader.take(frame).to_ndarray()), saliency).rgb())

            yield write_picture
        return
    sound = source if settings.sound and source.is_file() else None
    size = settings.draw.size(frames.size)
    with VideoWriter(path, size, frames.fps, timing=timing, sound=sound, overwrite=overwrite) as video:

        def write_frame(frame: int, saliency: np.ndarray) -> None:
            video.write_canvas(painter(Canvas.of_frame(reader.take(frame), frames.turn), saliency))

        yield write_frame


@contextmanager
def map_sink(
    path: Path, size: tuple[int, int], fps: float, settings: OutputSettings, *, overwrite: bool
) -> Iterator[Sink]:
    """Yield the sink of maps, for a video of (height, width) and frame rate."""
    form = settings.map_form
    if form == "video":
        with MapVideoWriter(path, fps=fps, overwrite=overwrite) as video:
            yield lambda _, saliency: video.write(_even(resize_map(saliency, size)))
        return
    with _folder(path, overwrite=overwrite) as folder:

        def write(frame: int, saliency: np.ndarray) -> None:
            file = folder / f"{frame + 1:04d}{SUFFIXES[form]}"
            if form == "npy":
                np.save(file, saliency)
            else:
                top, kind = (255, np.uint8) if form == "png" else (65535, np.uint16)
                levels = np.rint(resize_map(saliency, size) * top).astype(kind)
                Image.fromarray(levels).save(file, compress_level=1)  # half the time, and a tenth larger

        yield write


@dataclass
class Table:
    """The rows of a video's table: see the columns in student/edge.py's `describe`.

    Args:
        size: (height, width) of the frames, which positions are given in.
        fps: frame rate, for the column `seconds` of frames without timestamps.
        timing: when the frames are shown.
        cuts: frames that start a new scene; it may grow until their rows are added.

    Attributes:
        rows: one row per frame.
    """

    size: tuple[int, int]
    fps: float
    timing: Timing | None
    cuts: Sequence[int]
    rows: list[dict[str, float]] = field(default_factory=list)

    def write(self, frame: int, saliency: np.ndarray) -> None:
        """Add the row of one frame; a `Sink`."""
        seconds = frame / self.fps
        if self.timing is not None:
            seconds = float(self.timing.stamps[frame] * self.timing.time_base)
        numbers = describe_map(saliency, self.size)
        self.rows.append({"frame": frame + 1, "seconds": seconds, **numbers, "cut": int(frame in self.cuts)})

    def save(self, path: Path, *, overwrite: bool) -> None:
        """Write the rows as a CSV file with a header, atomically."""
        with (
            atomic_path(path, overwrite=overwrite) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)


def _even(saliency: np.ndarray) -> np.ndarray:
    """Return a map whose odd sides are extended by one row or column, as H.264 requires."""
    return np.pad(saliency, [(0, side % 2) for side in saliency.shape], mode="edge")


def _folder(path: Path, *, overwrite: bool) -> AbstractContextManager[Path]:
    """Return a context with a folder that is renamed to `path`; with `overwrite`, existing files are replaced."""
    if not overwrite or not path.exists() or not any(path.iterdir()):
        return atomic_folder(path)
    return _merged_folder(path)


@contextmanager
def _merged_folder(path: Path) -> Iterator[Path]:
    with temporary_folder(path) as temporary:
        yield temporary
        for file in sorted(temporary.iterdir()):
            file.replace(path / file.name)
