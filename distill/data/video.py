"""Video in and out: any frames of a file or a folder, at any size, and an H.264 writer.

Files are read by decord, under the name of its maintained continuation decord2. decord 0.6.0 itself is the last of
its line (2021): it has no wheels for ARM, a cut file can make it wait for ever while holding Python's lock, and
importing it before OpenCV makes `cv2.imread` fail on every PNG. decord2 has the same interface and none of these;
it scales while it decodes, and reads the same pixels in any order. PyAV, which brings its own FFmpeg, reads what
decord cannot be trusted with: containers without a frame count or frame times, and files whose header and content
disagree. Which of them reads a file is decided by `distill.data.probe`; both give the same frames, upright where
the file says how it was held.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import av
import numpy as np
from PIL import Image

from distill.data.load_decord import load_decord, reader_class
from distill.data.probe import Probe, probe
from distill.errors import UserError
from distill.files import atomic_path

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
FOLDER_FPS = 30.0
"""Frames a second of a folder of frames, which does not say: the rate of DHF1K."""


class VideoReader(Protocol):
    """Frames of one video, in any order."""

    @property
    def num_frames(self) -> int:
        """Frames that can be read."""

    @property
    def fps(self) -> float:
        """Frames a second."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as shown: videos of a phone held upright stand upright."""

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames at a size.

        Args:
            frames: 0-based indices in any order; repeats are allowed and decoded once.
            size: (H, W) to scale to (bicubic, antialiased); the video's own when None.

        Returns:
            (n, H, W, 3) uint8 RGB, in the order asked for.

        Raises:
            UserError: if a frame cannot be decoded.
            IndexError: if an index is outside 0 ... num_frames - 1.
        """


def open_video(path: str | Path) -> VideoReader:
    """Open a video file, a folder of frames, or a generated video (`synthetic:...`).

    Raises:
        UserError: if it is missing, no video, cut off, damaged, or an empty folder.
    """
    if str(path).startswith("synthetic:"):
        from distill.data.synthetic import SyntheticReader  # here, since that file imports this one

        return SyntheticReader(str(path))
    path = Path(path)
    if path.is_dir():
        return FolderReader(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such video file or folder of frames")
    found = probe(path)
    if found.regular:
        try:
            return DecordReader(path, found)
        except Exception as error:  # decord's errors share no base class of their own
            log.info("%s: decord does not open it, PyAV reads it (%s)", path, str(error).splitlines()[-1:])
    return AvReader(path, found)


def open_size(path: str | Path) -> tuple[int, float, tuple[int, int]]:
    """Return (num_frames, fps, (height, width)) of a video without keeping it open.

    Raises:
        UserError: as `open_video`.
    """
    path = Path(path)
    if path.is_file():
        found = probe(path)
        return found.num_frames, found.fps, found.size
    reader = open_video(path)
    return reader.num_frames, reader.fps, reader.size


def once_each(frames: Sequence[int], num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames to decode, increasing and without repeats, and where each asked frame stands among them.

    Raises:
        IndexError: if an index is outside 0 ... num_frames - 1.
    """
    unique, places = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    if len(unique) and (unique[0] < 0 or unique[-1] >= num_frames):
        raise IndexError(f"frames {unique[0]} to {unique[-1]} asked of a video of {num_frames} frames (from 0)")
    return unique, places


class DecordReader:
    """A video file read by decord, one decoding thread; one decoder for each of the last two sizes asked for.

    Args:
        path: the file.
        found: what it holds, `regular`: decord counts the same frames and shows them upright.
    """

    def __init__(self, path: Path, found: Probe) -> None:
        self.path, self.num_frames, self.fps, self.size = path, found.num_frames, found.fps, found.size
        self._found = found
        self._decoders: dict[tuple[int, int], Any] = {}
        self._padded: dict[tuple[int, int], AvReader] = {}  # for the sizes that decord cannot do
        self._decoder(self.size)

    def _decoder(self, size: tuple[int, int]) -> Any:
        if size not in self._decoders:
            if len(self._decoders) == 2:
                del self._decoders[next(iter(self._decoders))]
            height, width = (-1, -1) if size == self.size else size
            self._decoders[size] = reader_class()(str(self.path), width=width, height=height, num_threads=1)
        return self._decoders[size]

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, places = once_each(frames, self.num_frames)
        size = size or self.size
        if len(unique) == 0:
            return np.zeros((0, *size, 3), dtype=np.uint8)
        if size in self._padded:
            return self._padded[size].read(frames, size)
        try:
            pixels = self._decoder(size).get_batch(unique).asnumpy()
        except load_decord().DECORDError as error:
            if "size must exactly match" in str(error):  # decord cannot hand over rows that FFmpeg pads: 48 wide
                self._padded[size] = AvReader(self.path, self._found)
                return self._padded[size].read(frames, size)
            raise UserError(
                f"{self.path}: frames {unique[0] + 1} to {unique[-1] + 1} cannot be decoded; the file is damaged"
            ) from error
        return pixels if len(unique) == len(frames) and (np.diff(places) > 0).all() else pixels[places]


class AvReader:
    """A video file read by PyAV: it seeks to the key frame before what is asked for and decodes on from there.

    Where frames have no times of their own, frames are counted from the start of the file: right, but slow.
    """

    def __init__(self, path: Path, found: Probe) -> None:
        self.path, self.num_frames, self.fps, self.size = path, found.num_frames, found.fps, found.size
        self._stamps, self._keys, self._turn = found.stamps, found.keys, found.turn
        self._places = {} if found.stamps is None else {int(s): i for i, s in enumerate(found.stamps)}
        self._scaler = av.video.reformatter.VideoReformatter()
        self._container: Any = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._next = found.num_frames  # the frame that `_frames` gives next; the end: nothing is being decoded

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, places = once_each(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        if self._turn % 2:  # scaled as stored, then turned
            height, width = width, height
        for row, index in enumerate(unique.tolist()):
            scaled = self._scaler.reformat(
                self.frame(index), width=width, height=height, format="rgb24", interpolation="BICUBIC"
            )
            pixels[row] = np.rot90(scaled.to_ndarray(), self._turn)
        return pixels[places]

    def frame(self, index: int) -> av.VideoFrame:
        """Decode one frame, as the file holds it: at its own size, depth and colours, and not turned.

        Raises:
            UserError: if it cannot be decoded.
        """
        try:
            return self._find(index)
        except av.error.FFmpegError as error:
            raise self._damaged(index) from error

    def _find(self, index: int) -> av.VideoFrame:
        if index < self._next or self._key_between(self._next, index):
            self._seek(index)
        for place, frame in self._frames:
            self._next = place + 1
            if place == index:
                return frame
            if place > index:  # the container sought too far
                break
        self._restart()
        for place, frame in self._frames:
            self._next = place + 1
            if place == index:
                return frame
        raise self._damaged(index)

    def _damaged(self, index: int) -> UserError:
        self._next = self.num_frames
        return UserError(f"{self.path}: frame {index + 1} cannot be decoded; the file is damaged")

    def _key_between(self, position: int, index: int) -> bool:
        """Whether a jump to a key frame saves decoding."""
        if self._stamps is None:
            return False
        after = np.searchsorted(
            self._keys, self._stamps[[min(position, len(self._stamps) - 1), index]], side="right"
        )
        return bool(after[1] > after[0])

    def _seek(self, index: int) -> None:
        if self._stamps is None or self._container is None:
            self._restart()
        if self._stamps is not None:
            key = self._keys[max(0, int(np.searchsorted(self._keys, self._stamps[index], side="right")) - 1)]
            self._container.seek(int(key), stream=self._container.streams.video[0])
            self._frames = self._decode()

    def _restart(self) -> None:
        if self._container is not None:
            self._container.close()
        self._container = av.open(str(self.path))
        self._container.streams.video[0].codec_context.thread_count = 1
        self._frames = self._decode()
        self._next = 0

    def _decode(self) -> Iterator[tuple[int, av.VideoFrame]]:
        """Give (index, frame) from where the container stands; frames that belong to no index are left out."""
        counted = 0
        for packet in self._container.demux(self._container.streams.video[0]):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                continue  # whoever asks for the frame that is missing now is told so
            for frame in decoded:
                place = counted if self._stamps is None else self._places.get(frame.pts, -1)
                counted += 1
                if place >= 0:
                    yield place, frame


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `frame 2` stands before `frame 10`, whatever the zeros before a number."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


@lru_cache(maxsize=64)
def _listing(folder: str, _changed: int) -> tuple[Path, ...]:
    images = [p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
    return tuple(sorted(images, key=lambda p: natural(p.name)))


def frame_files(folder: Path) -> tuple[Path, ...]:
    """Return the images of a folder in natural numeric order; hidden files are left out."""
    return _listing(str(folder), folder.stat().st_mtime_ns) if folder.is_dir() else ()


class FolderReader:
    """A folder of frames (PNG, JPEG, BMP), in the natural numeric order of their names.

    Raises:
        UserError: if the folder holds no image, or an image cannot be opened or has another size than the first.
    """

    def __init__(self, path: Path, fps: float = FOLDER_FPS) -> None:
        self.path, self.fps = path, fps
        self.files = frame_files(path)
        if not self.files:
            raise UserError(
                f"{path}: there is no frame in this folder; expected images ({', '.join(IMAGE_SUFFIXES)}), "
                f"found {describe(path)}"
            )
        self.num_frames = len(self.files)
        self.size = read_image(self.files[0], decode=False).size[::-1]

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, places = once_each(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        for row, index in enumerate(unique.tolist()):
            image = read_image(self.files[index])
            if image.size[::-1] != self.size:
                raise UserError(
                    f"{self.files[index]}: the frame is {image.size[0]} x {image.size[1]} pixels and the first one "
                    f"of its folder {self.size[1]} x {self.size[0]}; the frames of a video must have one size"
                )
            image = image.convert("RGB")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            pixels[row] = np.asarray(image)
        return pixels[places]


def read_image(path: Path, *, decode: bool = True) -> Image.Image:
    """Read an image file; its size and kind alone when not to `decode`.

    Raises:
        UserError: if it cannot be opened or decoded.
    """
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return image
    except (OSError, SyntaxError) as error:  # Pillow calls some broken PNGs a SyntaxError
        raise UserError(f"{path}: cannot be decoded as an image; it is damaged or no image ({error})") from error


def describe(folder: Path) -> str:
    """Say in a few words what lies in a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"


CODECS = {
    "libx264": {"crf": "20", "preset": "veryfast"},
    "libopenh264": {},
    "libvpx-vp9": {"crf": "32", "b:v": "0", "deadline": "realtime", "cpu-used": "6"},
}
"""Encoders whose MP4 plays in browsers, the first that FFmpeg has is used; x264's quality 20 shows no blocks."""


class VideoWriter:
    """An MP4 that plays in browsers: H.264 (VP9 where FFmpeg has no H.264 encoder), yuv420p, index in front.

    Used as `with VideoWriter(path, size, fps) as writer: writer.write(rgb)`. The file appears under its name when
    the block ends well, and not at all when it raises. Odd sizes are padded by repeating the last row or column,
    since yuv420p needs even ones.

    Args:
        path: the file to write; its suffix must be .mp4, .mov or .mkv.
        size: (height, width) of the frames.
        fps: frames a second.

    Raises:
        UserError: if the suffix is another one, or FFmpeg has none of the encoders.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float) -> None:
        self.path, self.size, self.fps = Path(path), size, fps
        if self.path.suffix.lower() not in (".mp4", ".mov", ".mkv"):
            raise UserError(f"{self.path}: videos are written as .mp4, .mov or .mkv; change the name's ending")
        self.codec = next((name for name in CODECS if name in av.codecs_available), "")
        if not self.codec:
            raise UserError(f"this PyAV can encode none of {', '.join(CODECS)}; install `av` from its own wheels")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            options = {} if self.path.suffix.lower() == ".mkv" else {"movflags": "faststart"}
            self._container = stack.enter_context(av.open(str(temporary), "w", options=options))
            rate = Fraction(self.fps).limit_denominator(1001)
            stream = self._container.add_stream(self.codec, rate=rate, options=CODECS[self.codec])
            stream.height, stream.width = self.size[0] + self.size[0] % 2, self.size[1] + self.size[1] % 2
            stream.pix_fmt = "yuv420p"
            self._stream = stream
            self._stack = stack.pop_all()
        return self

    def write(self, rgb: np.ndarray) -> None:
        """Append one frame (H, W, 3), or several (n, H, W, 3), uint8 RGB of the writer's size."""
        frames = rgb if rgb.ndim == 4 else rgb[None]
        assert frames.dtype == np.uint8
        assert frames.shape[1:] == (*self.size, 3), (frames.shape, self.size)
        for image in frames:
            even = np.pad(image, ((0, self.size[0] % 2), (0, self.size[1] % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._container.mux(self._stream.encode(None))
