"""Work in pieces that any number of processes share: each piece is made once, and what stands is passed over.

    outcome = make_each({"001": [Path("maps/001")], "002": [Path("maps/002")]}, make)

A piece is a video; its results are files and folders that appear whole or not at all, so what stands is done. While
a process makes a piece it holds the lock (flock) of the hidden file beside each result; the system drops the locks
when the process ends, however it ends.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.files import clear_leftovers, write_json

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What was made, what stood already, what other processes are making, and what could not be made and why."""

    seconds: float = 0.0
    frames: int = 0
    made: list[str] = field(default_factory=list)
    stood: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = self.frames / max(self.seconds, 1e-9)
        parts = [f"{len(self.made)} videos made ({self.frames} frames, {rate:.1f} a second)"]
        parts += [f"{len(self.stood)} stood already"] if self.stood else []
        parts += [f"{len(self.elsewhere)} are being made by other processes"] if self.elsewhere else []
        return ", ".join(parts)


def make_each(results: Mapping[str, Sequence[Path]], make: Callable[[str, list[Path]], int]) -> Outcome:
    """Make every video's results, except those that stand or that another process is making.

    Args:
        results: a video's name -> the files and folders to be made of it.
        make: makes those of a video's results that are missing, each whole or not at all; returns the number of
            frames. A UserError of it makes the video a broken one; the others are made all the same.
    """
    outcome, started = Outcome(), time.perf_counter()

    def attempt(name: str) -> bool:
        """Make one video's missing results; return False when another process is making them."""
        with _claim(results[name]) as claimed:
            if not claimed:
                return False
            missing = [path for path in results[name] if not stands(path)]
            if not missing:
                outcome.stood.append(name)
                log.info("%s: its results stand; passed over", name)
                return True
            for path in missing:
                clear_leftovers(path)
            try:
                frames = make(name, missing)
            except UserError as error:
                outcome.broken[name] = str(error)
                log.info("%s", error)
                return True
            outcome.made.append(name)
            outcome.frames += frames
            return True

    try:
        for name in results:
            if not attempt(name):
                outcome.elsewhere.append(name)
        # Those that others worked on: most are done by now, and one whose process died is free.
        outcome.elsewhere = [name for name in outcome.elsewhere if not attempt(name)]
    except KeyboardInterrupt:
        log.info("%d videos made; the same command goes on with the others", len(outcome.made))
        raise
    outcome.seconds = time.perf_counter() - started
    return outcome


def stands(path: Path) -> bool:
    """Tell whether a result is there: a file, or a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def check_record(path: Path, record: Mapping[str, Any], results: Path) -> None:
    """Note what makes some results; refuse when something else has begun them.

    Args:
        path: the note, a JSON file.
        record: who makes them, under "model", and the settings that they depend on.
        results: the folder that is meant, for the message.

    Raises:
        UserError: naming what differs; the name of the model may.
    """
    if not path.exists():
        write_json(path, record)  # two processes that start at once write the same, or the later one finds out
    found = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in record if key != "model" and found.get(key) != record[key]]
    if different:
        key = different[0]
        raise UserError(
            f"{results}: its results were made by {found.get('model')} with {key} {found.get(key)!r}, this call is "
            f"of {record['model']} with {record[key]!r}; choose another folder"
        )


@contextmanager
def _claim(results: Iterable[Path]) -> Iterator[bool]:
    """Hold the locks of a video's results for a block; yields whether they were free and are held."""
    with ExitStack() as held:
        yield all(held.enter_context(_lock(result)) for result in results)


@contextmanager
def _lock(result: Path) -> Iterator[bool]:
    """Hold the lock of one result; yields whether it is held.

    The lock's file is removed before the lock is dropped. Whoever opened it before then holds a lock on a file
    that is no longer there, and tries again.
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
