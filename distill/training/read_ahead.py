"""Fetch what the coming clips need from addresses into the local cache, while earlier clips are trained on."""

import copy
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from distill.data.clip_dataset import ClipDataset
from distill.data.clips import Window
from distill.data.remote_data import remote_file
from distill.data.truth import MapsTruth, PointsTruth
from distill.file_cache import CachedFile
from distill.training.teachers import Teacher

log = logging.getLogger(__name__)

THREADS = 8
"""Files that are fetched at once."""

MAX_CLIPS = 8192
"""Clips that are looked ahead; drawing one takes 20 microseconds."""


def read_ahead(
    batches: Iterable[list[int]], clips: ClipDataset, teachers: Sequence[Teacher]
) -> Iterator[list[int]]:
    """Yield batches of clip numbers as they are, and fetch the files of the coming ones.

    Files of at most half of the cache are fetched ahead. A file that cannot be fetched is left to its reader, which
    reports the error.

    Args:
        batches: clip numbers of each batch.
        clips: the data set that the numbers belong to.
        teachers: the teachers of the clips.
    """
    sources = [each.remote_files for each in teachers if each.remote_files is not None]
    if any(remote_file(video.path) is not None for source in clips.sources for video in source.videos):
        sources.append(_of_video)
    if not sources:
        yield from batches
        return
    clips = copy.copy(clips)  # it remembers the order of one epoch, and this looks into the next one

    def files_of(batch: list[int]) -> Iterator[CachedFile]:
        for number in batch:
            window = clips.window(number)
            for remote_files in sources:
                yield from remote_files(window)

    yield from _fetched_ahead(batches, files_of)


def _of_video(window: Window) -> list[CachedFile]:
    """Return what is fetched for the frames and the ground truth of a clip."""
    truth = window.video.truth
    paths = [window.video.path, *(truth.paths if isinstance(truth, PointsTruth | MapsTruth) else ())]
    found = map(remote_file, paths)
    return [file for file in found if file is not None]


def _fetched_ahead(
    batches: Iterable[list[int]], files_of: Callable[[list[int]], Iterable[CachedFile]]
) -> Iterator[list[int]]:
    """Yield batches while their files are fetched; see `read_ahead`."""
    coming: deque[tuple[list[int], list[CachedFile]]] = deque()
    fetching: dict[str, Future[None]] = {}
    held = clips = 0  # bytes that are fetched for the coming batches, and the number of their clips
    rest = iter(batches)
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="read-ahead")
    try:
        while True:
            full = False
            while not full and (batch := next(rest, None)) is not None:
                files = [file for file in files_of(batch) if file.name not in fetching and not file.is_cached]
                for file in {file.name: file for file in files}.values():
                    fetching[file.name] = pool.submit(_fetch, file)
                    held += file.size
                coming.append((batch, files))
                clips += len(batch)
                full = clips > MAX_CLIPS or any(2 * held > file.cache.limit for file in files)
            if not coming:
                return
            batch, files = coming.popleft()
            yield batch
            clips -= len(batch)
            for file in {file.name: file for file in files}.values():
                held -= file.size
                del fetching[file.name]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _fetch(file: CachedFile) -> None:
    try:
        file.path()
    except Exception as error:
        log.debug("%s: not fetched ahead (%s)", file.name, error)
