"""What reading clips costs: this project's reader beside the field's habit and OpenCV, in one run.

    saldistill benchmark --of data VIDEO [--json FILE]

The habit is a folder of PNG frames, made beforehand, of which each is opened and scaled by Pillow. OpenCV seeks in
the video, decodes and scales. All read the same random clips, each in one thread. The loader is measured as a
training uses it, with one worker process, up to the batches that arrive in this one; it keeps no decoded frames, as
on a data set that is much larger than its memory.
"""

import importlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from distill.benchmark.memory import growth
from distill.benchmark.rows import Benchmark, interleave
from distill.data import clip_reader
from distill.data.augment import Crop, Jitter
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec, Video
from distill.data.loader import make_loader
from distill.data.video.decord_reader import load_decord
from distill.data.video.open import open_size, open_video
from distill.errors import UserError

Read = Callable[[Sequence[int], tuple[int, int]], np.ndarray]
"""Frames, 0-based and increasing, and a size (H, W) -> (n, H, W, 3) uint8 RGB."""

SIZES = ((224, 224), (224, 384))
"""Of the clips: what SalFoM takes, and THTD-Net."""

LENGTH = 16
"""Frames of a clip."""

FRAMES = 320
"""The first so many frames of the video are read: as PNG files, a whole one could fill the disk."""

BATCH_SIZE = 4
"""Clips of a loader's batch."""

BATCHES = 4
"""Batches of a timed call of a loader. (A reader's call is one clip: where other work shares the processors, long
calls would lose more to it than short ones.)"""

HABIT = "PNG files, Pillow"

AUGMENTED = {"crop": Crop((0.5, 1.0), stretch=1.33), "colour": Jitter(0.2, 0.2, 0.2)}
"""What the augmented loader does to its clips, beside mirroring them."""

COLUMNS = {
    "reader": ("reader", "{}"),
    "size": ("size", "{}"),
    "clips_per_second": ("clips/s", "{:.1f}"),
    "frames_per_second": ("frames/s", "{:.0f}"),
    "milliseconds": ("ms/clip", "{:.4g}"),
    "ratio": ("x habit", "{:.2f}"),
    "memory_mb": ("memory MB", "{:.0f}"),
}
"""Key of a row -> its head and form in the table."""


def benchmark(video: str | Path, *, rounds: int = 5, memory: bool = True, progress: bool = True) -> Benchmark:
    """Measure readers side by side on random clips of 16 frames of one video, at 224x224 and 224x384.

    Args:
        video: a video file; its first 320 frames are read.
        rounds: interleaved rounds.
        memory: measure it; costs a process a row.
        progress: show bars.

    Returns:
        For each size a row a reader, and a row a loader with one worker, without augmentation and with it. A row
        has `reader`, `size`, `clips_per_second`, `frames_per_second` and `milliseconds` a clip (of the median call,
        one clip of a reader and 16 of a loader), `ratio` (clips a second against the habit's at that size),
        `memory_mb` (by how much a fresh process's peak of resident memory grows while it reads 16 clips, or a
        loader's worker with the frames that it keeps) and `clips`, how many were timed. OpenCV is left out where it
        is not installed or does not open the file; a note says so.

    Raises:
        UserError: if there is no such video file, or fewer than 16 frames in it.
    """
    path = Path(video)
    if rounds < 1:
        raise UserError(f"rounds must be at least 1, got {rounds}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; the readers are measured on a video file")
    num_frames, fps, size = open_size(path)
    if num_frames < LENGTH:
        raise UserError(f"{path}: has {num_frames} frames; expected a video of at least {LENGTH}, a clip's")
    used = min(num_frames, FRAMES)
    whole = Video(path.stem, path, num_frames, fps, size, range(LENGTH - 1, used), None, "folder")
    with tempfile.TemporaryDirectory() as folder:
        extract(path, Path(folder), used, progress=progress)
        readers, missing = {}, []
        for name, opener in READERS.items():
            try:
                readers[name] = opener(path, Path(folder))
            except UserError as error:
                missing.append(str(error))
        cases: list[tuple[str, tuple[int, int], Callable[[], float], int, tuple[Any, ...]]] = []
        for each in SIZES:
            for name, read in readers.items():
                cases.append((name, each, _reading(read, used, each), 1, (str(path), folder, name)))
            for name in LOADERS:
                call = _loading(whole, each, name)
                cases.append((name, each, call, BATCHES * BATCH_SIZE, (str(path), folder, name)))
        times = interleave([call for _, _, call, _, _ in cases], rounds, progress=progress)
        rows = []
        for (name, each, _, number, subject), seconds in zip(cases, times, strict=True):
            rate = number / float(np.median(seconds))
            row: dict[str, Any] = {
                "reader": name,
                "size": f"{each[0]}x{each[1]}",
                "clips_per_second": rate,
                "frames_per_second": LENGTH * rate,
                "milliseconds": 1000 / rate,
                "memory_mb": growth(read_some, *subject, used, *each) if memory else None,
                "clips": number * len(seconds),
            }
            rows.append(row)
    habit = {row["size"]: row["clips_per_second"] for row in rows if row["reader"] == HABIT}
    for row in rows:
        row["ratio"] = row["clips_per_second"] / habit[row["size"]]
    setting = {
        "video": path.name,
        "video_size": f"{size[0]}x{size[1]}",
        "frames": used,
        "clip_frames": LENGTH,
        "rounds": rounds,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "torch": str(torch.__version__),
        "augmented": "mirrored, cropped to 50 to 100% of the area, colours changed by up to 20%",
    }
    notes = [
        "{video} ({video_size}), {frames} frames, random clips of {clip_frames} frames, {rounds} rounds, "
        "{cpus} CPUs".format(**setting),
        "x habit: clips a second against the PNG files'; one thread; a loader also stacks and hands over",
        "memory: growth of a fresh process's peak resident memory, with the frames that a loader's worker keeps",
        *missing,
    ]
    return Benchmark(rows, COLUMNS, setting, notes)


def extract(path: Path, folder: Path, number: int, *, progress: bool) -> None:
    """Write the first frames of a video as PNG files, 0001.png first, at the video's size."""
    reader = open_video(path)
    for frame in tqdm(range(number), "extracting PNG files", unit="frame", disable=not progress, leave=False):
        Image.fromarray(reader.read([frame])[0]).save(folder / f"{frame + 1:04d}.png")


def our_reader(path: Path, _folder: Path) -> Read:
    """Return the reader that data sets, teachers and predictions read videos with."""
    return open_video(path).read


def png_reader(_path: Path, folder: Path) -> Read:
    """Return the field's habit: each frame's file opened, converted and scaled, one by one."""

    def read(frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        images = [Image.open(folder / f"{frame + 1:04d}.png").convert("RGB") for frame in frames]
        return np.stack(
            [np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC)) for image in images]
        )

    return read


def opencv_reader(path: Path, _folder: Path) -> Read:
    """Return a plain OpenCV reader of consecutive frames: it seeks to the first and reads on.

    It scales between neighbouring pixels (bilinear, OpenCV's default), without antialiasing, which is less work.

    Raises:
        UserError: if OpenCV is not installed, or does not open the video.
    """
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError:
        raise UserError("OpenCV is left out: it is not installed (pip install opencv-python-headless)") from None
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise UserError(f"OpenCV is left out: it does not open {path}")

    def read(frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            capture.set(cv2.CAP_PROP_POS_FRAMES, frames[0])
            images = [cv2.resize(capture.read()[1], (size[1], size[0])) for _ in frames]
            return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in images])
        finally:
            cv2.setNumThreads(threads)

    return read


READERS: dict[str, Callable[[Path, Path], Read]] = {
    "saldistill": our_reader,
    HABIT: png_reader,
    "OpenCV": opencv_reader,
}
"""Name of a row -> function from the video and the folder of its PNG files."""


def random_clips(frames: int) -> Iterator[range]:
    """Yield random clips of consecutive frames, without end; the same for every reader."""
    random = np.random.default_rng(0)
    while True:
        first = int(random.integers(frames - LENGTH + 1))
        yield range(first, first + LENGTH)


def _reading(read: Read, frames: int, size: tuple[int, int]) -> Callable[[], float]:
    """Return a function that reads the next random clip and returns its seconds."""
    asked = random_clips(frames)

    def call() -> float:
        chosen = next(asked)
        started = time.perf_counter()
        read(chosen, size)
        return time.perf_counter() - started

    return call


LOADERS: dict[str, dict[str, Any]] = {"loader, 1 worker": {}, "the same, augmented": AUGMENTED}
"""Name of a row -> arguments of the data set that it loads from."""


class Unremembered(Dataset[dict[str, Any]]):
    """The clips of a data set, read without the frames that were decoded before."""

    def __init__(self, dataset: ClipDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip_reader.FRAME_CACHE.max_bytes = 0  # here, in the worker's process
        return self.dataset[index]


def dataset_of(video: Video, size: tuple[int, int], loader: str) -> ClipDataset:
    """Return the random clips of one video that a loader reads."""
    spec = ClipSpec(LENGTH, size, (LENGTH - 1,), size)
    return ClipDataset([ClipSource([video], BATCH_SIZE)], spec, seed=0, flip=True, **LOADERS[loader])


def _loading(video: Video, size: tuple[int, int], name: str) -> Callable[[], float]:
    """Return a function that loads the next few batches, in a worker that lives on, and returns its seconds."""
    numbers = count()

    class Batches:
        """New clips in each round."""

        def __iter__(self) -> Iterator[list[int]]:
            for _ in range(BATCHES):
                yield [next(numbers) for _ in range(BATCH_SIZE)]

    loader = make_loader(Unremembered(dataset_of(video, size, name)), Batches(), workers=1)

    def call() -> float:
        started = time.perf_counter()
        for _ in loader:
            pass
        return time.perf_counter() - started

    return call


def read_some(path: str, folder: str, name: str, frames: int, height: int, width: int) -> Callable[[], object]:
    """Return the work whose memory is measured: 16 clips, by a reader or as a loader's worker reads them."""
    size = (height, width)
    load_decord()  # libraries are not counted
    if name == "OpenCV":
        importlib.import_module("cv2")
    if name in LOADERS:
        num_frames, fps, own = open_size(path)
        video = Video("", Path(path), num_frames, fps, own, range(LENGTH - 1, frames), None, "folder")
        dataset = dataset_of(video, size, name)
        return lambda: [dataset[index] and None for index in range(BATCHES * BATCH_SIZE)]
    asked = random_clips(frames)

    def work() -> None:
        read = READERS[name](Path(path), Path(folder))
        for _ in range(BATCHES * BATCH_SIZE):
            read(next(asked), size)

    return work
