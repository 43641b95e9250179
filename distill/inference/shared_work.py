"""Share work on videos between processes: each video is processed once, existing results are skipped.

    summary = process_missing({"001": [Path("maps/001")], "002": [Path("maps/002")]}, process)

Results are files and folders that appear complete or not at all. While a process works on a video, it locks
a hidden file next to each result; the operating system releases the locks when the process ends.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill.claims import lock
from distill.data.text import plural
from distill.errors import UserError
from distill.files import clear_leftovers, write_json
from distill.validation import read_json

log = logging.getLogger(__name__)

NOT_COMPARED = ("model", "runtime")
"""Keys of a record that may differ between processes that share the work: all runtimes compute the same maps."""


class Record(BaseModel, extra="allow"):
    """What some results depend on, the name of the model, and perhaps the runtime; all keys are the caller's."""

    model: str


@dataclass
class WorkSummary:
    """Result of `process_missing`.

    Attributes:
        seconds: duration.
        frames: frames processed.
        made: names of the videos processed.
        skipped: names of the videos whose results existed.
        elsewhere: names of the videos that other processes are working on.
        failed: name -> error message of the videos that could not be processed.
        unit: what the videos are called.
        runtime: name of the runtime that computed the results; empty if none did.
    """

    seconds: float = 0.0
    frames: int = 0
    made: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    unit: str = "video"
    runtime: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        rate = self.frames / max(self.seconds, 1e-9)
        frames = "" if self.unit == "image" else f"{self.frames} frames, "
        runtime = f" in {self.runtime}" if self.runtime else ""
        parts = [f"{plural(len(self.made), self.unit)} processed ({frames}{rate:.1f} per second{runtime})"]
        parts += [f"{len(self.skipped)} skipped (results exist)"] if self.skipped else []
        parts += [f"{len(self.elsewhere)} in progress in other processes"] if self.elsewhere else []
        return ", ".join(parts)


def process_missing(
    results: Mapping[str, Sequence[Path]], process: Callable[[str, list[Path]], int], *, unit: str = "video"
) -> WorkSummary:
    """Compute the results of every video, except those that exist or that another process is computing.

    Args:
        results: name of a video -> its result files and folders.
        process: function that writes the missing results of a video, each completely or not at all, and returns
            the number of frames. After a UserError the video counts as failed and the next one is processed.
        unit: what the videos are called; skipped images are not logged one by one.
    """
    summary, started = WorkSummary(unit=unit), time.perf_counter()

    def attempt(name: str) -> bool:
        """Process one video; return False if another process is working on it."""
        with ExitStack() as locks:
            if not all(locks.enter_context(lock(result)) for result in results[name]):
                return False
            missing = [path for path in results[name] if not exists(path)]
            if not missing:
                summary.skipped.append(name)
                log.log(logging.DEBUG if unit == "image" else logging.INFO, "%s: skipped, its results exist", name)
                return True
            for path in missing:
                clear_leftovers(path)
            try:
                summary.frames += process(name, missing)
                summary.made.append(name)
            except UserError as error:
                summary.failed[name] = str(error)
                log.info("%s", error)
            return True

    try:
        busy = [name for name in results if not attempt(name)]
        # Try again: most of them are finished by now, and the locks of a process that died are free.
        summary.elsewhere = [name for name in busy if not attempt(name)]
    except KeyboardInterrupt:
        log.info("%s processed; run the same command again to resume", plural(len(summary.made), unit))
        raise
    summary.seconds = time.perf_counter() - started
    return summary


def exists(result: Path) -> bool:
    """Return whether a result exists: a file, or a folder that is not empty."""
    return any(result.iterdir()) if result.is_dir() else result.exists()


def check_record(path: Path, record: Mapping[str, Any], results: Path) -> None:
    """Record the model and settings of some results, or check that the existing record is the same.

    Args:
        path: JSON file of the record.
        record: everything that the results depend on, the model's name under "model", and perhaps the runtime.
        results: folder of the results, for the error message.

    Raises:
        UserError: naming the first key that differs, except those in NOT_COMPARED, or the file cannot be read.
    """
    locked = False
    while not locked:  # another process that starts at the same time writes its record within milliseconds
        with lock(path) as locked:
            if locked:
                clear_leftovers(path)
                if not path.exists():
                    write_json(path, record, overwrite=False)
        time.sleep(0 if locked else 0.01)
    remedy = f"choose another folder than {results}, or remove both to compute the results again"
    existing = read_json(path, Record, "the record of a model and its settings", remedy).model_dump()
    different = [key for key in record if key not in NOT_COMPARED and existing.get(key) != record[key]]
    if different:
        key = different[0]
        raise UserError(
            f"{results}: contains results of {existing['model']} with {key} {existing.get(key)!r}; this run "
            f"uses {record['model']} with {key} {record[key]!r}; choose another folder"
        )
