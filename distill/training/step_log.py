"""Log of a run: one JSON object per line in log.jsonl, the same numbers for the trackers, and a progress bar.

Lines are only appended. What a crash or a damaged disk leaves unreadable is skipped by readers; a resumed run moves
it to log.unreadable.jsonl, and replaces log.jsonl, in one step, by its readable lines up to the checkpoint: the run
repeats the others, with the same numbers.
"""

import json
import logging
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from distill.data.progress import ProgressBar, bars_are_hidden
from distill.data.text import plural
from distill.errors import UserError
from distill.files import atomic_path, finite
from distill.training.pictures import ValidationPictures
from distill.training.trackers import Trackers
from distill.validation import parse_json

logger = logging.getLogger(__name__)


class LogLine(BaseModel):
    """A line of log.jsonl; the keys that the toolkit reads have types, others are kept."""

    model_config = ConfigDict(extra="allow")

    kind: str
    step: int
    loss: float | None = None
    terms: dict[str, float | None] = Field({})
    scores: dict[str, float | None] = Field({})


class StepLog:
    """Writes log.jsonl in a run folder, passes its lines to the trackers and shows the progress bar.

    Args:
        run: the run folder.
        start: number of steps that are already done.
        steps: length of the run.
        quiet: write and show nothing; set in all processes but the main one.
        trackers: trackers that log the same lines.
    """

    def __init__(
        self,
        run: Path,
        *,
        start: int,
        steps: int,
        quiet: bool = False,
        trackers: Trackers | None = None,
    ) -> None:
        self.quiet, self.trackers = quiet, Trackers() if trackers is None else trackers
        self.path = run / "log.jsonl"
        if not quiet:
            keep_until(self.path, start)
        self.bar = ProgressBar(f"training {run.name}", "step", total=steps, initial=start, shown=not quiet)

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        self.bar.close()

    def step(self, record: dict[str, Any]) -> None:
        """Log one training step and advance the bar."""
        self._write({"kind": "train", **record})
        self.bar.set_postfix_str(
            f"loss {record['loss']:.4f}, lr {record['lr']:.1e}, {record['clips_per_second']:.1f} clips/s",
            refresh=False,  # with the next update, at most ten times per second
        )
        self.bar.update()

    def validation(self, record: dict[str, Any], pictures: ValidationPictures | None = None) -> None:
        """Log one validation, and with the trackers pictures of it."""
        self._write({"kind": "validation", **record})
        if pictures is not None:
            self.trackers.log_pictures(pictures, record["step"])
        scores = ", ".join(
            f"{name} {value:.3f}" if math.isfinite(value) else f"{name} undefined on every frame"
            for name, value in record["scores"].items()
        )
        runtime = f", in {record['runtime']}" if "runtime" in record else ""
        self.message(f"step {record['step']}: validation {scores}{runtime}")

    def message(self, text: str) -> None:
        """Print a line to stderr, above the bar."""
        if not (self.quiet or bars_are_hidden()):
            self.bar.write(text, file=sys.stderr)

    def _write(self, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record)) + "\n")
        self.trackers.log(record)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Return the readable lines of log.jsonl, and log how many are not; empty if the file does not exist."""
    lines = [_parse(line) for line in _split(Path(path))]
    if unreadable := lines.count(None):
        logger.warning("%s: %s skipped", path, plural(unreadable, "unreadable line"))
    return [line for line in lines if line is not None]


def keep_until(path: Path, step: int) -> None:
    """Remove the lines of log.jsonl after a step, and move unreadable ones to log.unreadable.jsonl."""
    lines = [(line, _parse(line)) for line in _split(path)]
    unreadable = [line for line, content in lines if content is None]
    kept = [line for line, content in lines if content is not None and content["step"] <= step]
    if unreadable:
        aside = path.with_name("log.unreadable.jsonl")
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for line in unreadable)
            file.flush()
            os.fsync(file.fileno())
        logger.warning("%s: %s moved to %s", path, plural(len(unreadable), "unreadable line"), aside.name)
    if len(kept) < len(lines):
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))


def _split(path: Path) -> list[bytes]:
    """Return the lines of a file that are not blank; none if it does not exist."""
    return [line for line in path.read_bytes().split(b"\n") if line.strip()] if path.exists() else []


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line of log.jsonl; None if it is unreadable."""
    try:
        return parse_json(line, LogLine, "log.jsonl").model_dump(exclude_unset=True)
    except UserError:
        return None
