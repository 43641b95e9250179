"""Speed and memory of reading clips: this project's reader compared with PNG frames and with OpenCV.

    saldistill benchmark --of data VIDEO [--json FILE]

The usual practice is a folder of PNG frames, extracted beforehand, which Pillow opens and resizes one by one.
OpenCV seeks in the video, decodes and resizes. All readers read the same random clips in one thread. The loader
runs as in training, with one worker process. It caches no decoded frames, as with a data set much larger than
memory.
"""

import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from distill.benchmark.process import memory_growth
from distill.benchmark.rows import Call, Table, environment, interleave, summarise, timed
from distill.data import clip_reader
from distill.data.augment import Crop, Jitter
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec, Video
from distill.data.loader import make_loader
from distill.data.progress import ProgressBar
from distill.data.video.decord_reader import load_decord
from distill.data.video.open import open_size, open_video
from distill.errors import UserError

Size = tuple[int, int]
Read = Callable[[Sequence[int], Size], np.ndarray]
"""Increasing frame numbers from 0 and a size (H, W) -> (n, H, W, 3) uint8 RGB."""

SIZES: Sequence[Size] = ((224, 224), (224, 384))
"""Clip sizes of SalFoM and THTD-Net."""

LENGTH = 16
"""Frames per clip."""

FRAMES = 320
"""Number of frames that are read, from the first on: PNG files of all frames of a long video could fill the
disk."""

BATCH_SIZE, BATCHES = 4, 4
"""Clips per batch of a loader, and batches per timed call. A reader's timed call is one clip, because long calls
lose more time to other work on the processors than short ones."""

HABIT = "PNG files, Pillow"
"""Row that the other rows are compared with."""

LOADERS: dict[str, dict[str, Any]] = {
    "loader, 1 worker": {},
    "the same, augmented": {"crop": Crop((0.5, 1.0), stretch=1.33), "colour": Jitter(0.2, 0.2, 0.2)},
}
"""Row -> arguments of the data set that the loader reads."""

COLUMNS = "reader size clips_per_second frames_per_second milliseconds ratio memory_mb"


@dataclass(frozen=True)
class Clips:
    """A video file, the folder of its PNG frames, and the number of frames that are read."""

    path: Path
    folder: Path
    frames: int

    def __iter__(self) -> Iterator[range]:
        """Yield random clips of consecutive frames endlessly, the same ones each time."""
        random = np.random.default_rng(0)
        while True:
            first = int(random.integers(self.frames - LENGTH + 1))
            yield range(first, first + LENGTH)

    def dataset(self, size: Size, loader: str) -> ClipDataset:
        """Return the random clips that a loader reads."""
        num_frames, fps, own = open_size(self.path)
        used = range(LENGTH - 1, self.frames)
        video = Video(self.path.stem, self.path, num_frames, fps, own, used, None, "folder")
        spec = ClipSpec(LENGTH, size, (LENGTH - 1,), size)
        return ClipDataset([ClipSource([video], BATCH_SIZE)], spec, seed=0, flip=True, **LOADERS[loader])


def benchmark_data(video: str | Path, *, rounds: int = 5, memory: bool = True, progress: bool = True) -> Table:
    """Measure readers and loaders on random clips of 16 frames of one video, at 224x224 and 224x384.

    Args:
        video: video file; its first 320 frames are read.
        rounds: interleaved rounds.
        memory: measure memory, in one more process per row.
        progress: show progress bars.

    Returns:
        For each size one row per reader and loader. Keys: `reader`, `size`, `clips_per_second`,
        `frames_per_second`, `milliseconds` (per clip; all three from the median call), `p99`, `calls`, `ratio`
        (clips per second divided by those of the PNG files at that size), `memory_mb` (growth of a fresh process's
        peak resident memory while it reads 16 clips; None if not measured) and `clips` (number timed). OpenCV is
        left out, with a note, if it is not installed or cannot open the file.

    Raises:
        UserError: the video file does not exist or has fewer than 16 frames.
    """
    path = Path(video)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a video file")
    num_frames, _, size = open_size(path)
    if num_frames < LENGTH:
        raise UserError(f"{path}: has {num_frames} frames; expected a video of at least {LENGTH} frames (one clip)")
    with tempfile.TemporaryDirectory() as folder:
        source = Clips(path, Path(folder), min(num_frames, FRAMES))
        extract(path, source.folder, source.frames, progress=progress)
        rows, missing = _measure(source, rounds, memory=memory, progress=progress)
    setting = {
        "video": path.name,
        "video_size": "{}x{}".format(*size),
        "frames": source.frames,
        "clip_frames": LENGTH,
        "rounds": rounds,
        "machine": platform.machine(),
        **environment(),
        "augmented": "mirrored, cropped to 50 to 100% of the area, colours changed by up to 20%",
    }
    notes = [
        "{video} ({video_size}), {frames} frames, random clips of {clip_frames} frames, {rounds} rounds, "
        "{cpus} CPUs".format(**setting),
        "ratio: clips per second relative to PNG files; ms: per clip, in one thread; loaders also batch and "
        "transfer the clips",
        "memory: growth of a fresh process's peak resident memory, including the frames that a worker caches",
        *missing,
    ]
    return Table(rows, COLUMNS, setting, notes)


def _measure(source: Clips, rounds: int, *, memory: bool, progress: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows, and why readers are left out."""
    readers, missing = {}, []
    for name, opener in READERS.items():
        try:
            readers[name] = opener(source.path, source.folder)
        except UserError as error:
            missing.append(str(error))
    cases: list[tuple[str, Size, Call, int]] = []
    for size in SIZES:
        cases += [(name, size, _reader_call(read, source, size), 1) for name, read in readers.items()]
        cases += [(name, size, _loader_call(source, size, name), BATCHES * BATCH_SIZE) for name in LOADERS]
    times = interleave([call for _, _, call, _ in cases], rounds, progress=progress)
    rows: list[dict[str, Any]] = []
    for (name, size, _, clips), seconds in zip(cases, times, strict=True):
        timing = summarise(seconds, clips)
        rate = 1000 / timing["milliseconds"]
        rows.append(
            {
                "reader": name,
                "size": "{}x{}".format(*size),
                "clips_per_second": rate,
                "frames_per_second": LENGTH * rate,
                **timing,
                "memory_mb": memory_growth(reading_work, name, source, size) if memory else None,
                "clips": clips * len(seconds),
            }
        )
    habit = {row["size"]: row["clips_per_second"] for row in rows if row["reader"] == HABIT}
    return [{**row, "ratio": row["clips_per_second"] / habit[row["size"]]} for row in rows], missing


def extract(path: Path, folder: Path, number: int, *, progress: bool) -> None:
    """Write a video's first frames as PNG files, starting with 0001.png, at the video's size."""
    reader = open_video(path)
    for frame in ProgressBar("extracting PNG files", "frame", range(number), shown=progress):
        Image.fromarray(reader.read([frame])[0]).save(folder / f"{frame + 1:04d}.png")


def png_reader(_path: Path, folder: Path) -> Read:
    """Return the reader of PNG frames, the usual practice: open, convert and resize one file per frame."""

    def read(frames: Sequence[int], size: Size) -> np.ndarray:
        images = (Image.open(folder / f"{frame + 1:04d}.png").convert("RGB") for frame in frames)
        return np.stack([np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)) for image in images])

    return read


def opencv_reader(path: Path, _folder: Path) -> Read:
    """Return an OpenCV reader of consecutive frames, which seeks to the first one and decodes from there.

    It resizes with OpenCV's default, bilinear without antialiasing, which is less work.

    Raises:
        UserError: OpenCV is not installed or cannot open the video.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("OpenCV is left out: it is not installed (pip install opencv-python-headless)") from None
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise UserError(f"OpenCV is left out: it cannot open {path}")

    def read(frames: Sequence[int], size: Size) -> np.ndarray:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            capture.set(cv2.CAP_PROP_POS_FRAMES, frames[0])
            images = [cv2.resize(capture.read()[1], size[::-1]) for _ in frames]
            return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])
        finally:
            cv2.setNumThreads(threads)

    return read


READERS: dict[str, Callable[[Path, Path], Read]] = {
    "saldistill": lambda path, _: open_video(path).read,
    HABIT: png_reader,
    "OpenCV": opencv_reader,
}
"""Row -> function from the video and the folder of its PNG files to a reader."""


class UncachedClips(Dataset[dict[str, Any]]):
    """The clips of a data set, read without the cache of decoded frames."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip_reader.FRAME_CACHE.max_bytes = 0  # here, because this runs in the worker process
        return self.dataset[index]


class NextBatches:
    """Batches of clip numbers, new ones in each round."""

    first = 0

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(BATCHES):
            yield list(range(self.first, self.first + BATCH_SIZE))
            self.first += BATCH_SIZE


def _reader_call(read: Read, source: Clips, size: Size) -> Call:
    """Return a call that reads the next random clip."""
    following = iter(source)
    return timed(lambda: read(next(following), size))


def _loader_call(source: Clips, size: Size, name: str) -> Call:
    """Return a call that loads the next batches in a persistent worker."""
    loader = make_loader(UncachedClips(source.dataset(size, name)), NextBatches(), workers=1)
    return timed(lambda: [None for _ in loader])


def reading_work(name: str, source: Clips, size: Size) -> Callable[[], object]:
    """Return the work whose memory is measured: reading 16 clips with a reader, or as a loader's worker does."""
    load_decord()  # loaded here, so that the libraries are not counted
    if name == "OpenCV":
        import cv2  # noqa: F401
    number = BATCHES * BATCH_SIZE
    if name in LOADERS:
        dataset = source.dataset(size, name)
        return lambda: [dataset[index] and None for index in range(number)]

    def work() -> None:
        read = READERS[name](source.path, source.folder)
        for clip in islice(source, number):
            read(clip, size)

    return work
