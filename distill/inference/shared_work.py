"""Work on videos that any number of processes share: each video is processed once, existing results are skipped.

    summary = make_each({"001": [Path("maps/001")], "002": [Path("maps/002")]}, make)

Results are files and folders that appear complete or not at all. While a process works on a video, it holds an
flock on a hidden file next to each result; the operating system releases the locks when the process ends.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import clear_leftovers, write_json

log = logging.getLogger(__name__)


@dataclass
class WorkSummary:
    """What `make_each` did.

    Attributes:
        seconds: duration.
        frames: frames processed.
        made: names of the videos processed.
        skipped: names of the videos whose results existed.
        elsewhere: names of the videos that other processes are working on.
        failed: name -> error message of the videos that could not be processed.
    """

    seconds: float = 0.0
    frames: int = 0
    made: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = self.frames / max(self.seconds, 1e-9)
        parts = [f"{len(self.made)} videos processed ({self.frames} frames, {rate:.1f} per second)"]
        parts += [f"{len(self.skipped)} skipped (results exist)"] if self.skipped else []
        parts += [f"{len(self.elsewhere)} in progress in other processes"] if self.elsewhere else []
        return ", ".join(parts)


def make_each(results: Mapping[str, Sequence[Path]], make: Callable[[str, list[Path]], int]) -> WorkSummary:
    """Make the results of every video, except those that exist or that another process is making.

    Args:
        results: name of a video -> its result files and folders.
        make: function that makes the missing results of a video, each completely or not at all, and returns the
            number of frames. After a UserError the video counts as failed and the next one is processed.
    """
    summary, started = WorkSummary(), time.perf_counter()

    def attempt(name: str) -> bool:
        """Make the missing results of one video; return False if another process is making them."""
        with ExitStack() as locks:
            if not all(locks.enter_context(_lock(result)) for result in results[name]):
                return False
            missing = [path for path in results[name] if not exists(path)]
            if not missing:
                summary.skipped.append(name)
                log.info("%s: skipped, its results exist", name)
                return True
            for path in missing:
                clear_leftovers(path)
            try:
                summary.frames += make(name, missing)
                summary.made.append(name)
            except UserError as error:
                summary.failed[name] = str(error)
                log.info("%s", error)
            return True

    try:
        busy = [name for name in results if not attempt(name)]
        # Once more: most of them are finished by now, and those of a process that died are free.
        summary.elsewhere = [name for name in busy if not attempt(name)]
    except KeyboardInterrupt:
        log.info("%d videos processed; run the same command again to resume", len(summary.made))
        raise
    summary.seconds = time.perf_counter() - started
    return summary


def exists(result: Path) -> bool:
    """Tell whether a result exists: a file, or a folder that is not empty."""
    return any(result.iterdir()) if result.is_dir() else result.exists()


def check_record(path: Path, record: Mapping[str, Any], results: Path) -> None:
    """Write down what results are made by, or check that they were begun with the same.

    Args:
        path: JSON file of the record.
        record: the model's name under "model", and everything that the results depend on.
        results: folder of the results, for the error message.

    Raises:
        UserError: naming the first key that differs. The model's name may differ.
    """
    if not path.exists():
        write_json(path, record)  # of two processes that start at once, the later one fails here if they differ
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in record if key != "model" and found.get(key) != record[key]]
    if different:
        key = different[0]
        raise UserError(
            f"{results}: contains results of {found.get('model')} with {key} {found.get(key)!r}; this run is of "
            f"{record['model']} with {key} {record[key]!r}; choose another folder"
        )


@contextmanager
def _lock(result: Path) -> Iterator[bool]:
    """Hold the lock of one result; yields False if another process holds it.

    The lock file is removed before the lock is released. Whoever opened it before then holds a lock on a file that
    no longer exists, and tries again.
    """
    path = result.with_name(f".{result.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    break
        except BlockingIOError:
            os.close(file)
            yield False
            return
        os.close(file)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
