"""What was learnt about files, and not learnt again while they stay as they are: answers, and where they are kept.

Answers are kept in this process and in the user's cache folder, which may be removed at any time: it is
$SALDISTILL_CACHE, or else `saldistill` in $XDG_CACHE_HOME or ~/.cache. One file there holds the answers about one
folder.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from distill.data.video.guard import EACH, Call, NoAnswer, guarded
from distill.errors import UserError
from distill.files import write_text

log = logging.getLogger(__name__)

FORMAT = 1
"""To be counted up when another answer would be given of the same file."""

DAY = 24 * 3600
"""Seconds for which a file is left alone whose reading hung, crashed, or failed in a way that nobody foresaw."""

INNER = ("images", "fixations.json")
"""Names that say nothing of the video, whose folder's name does: one file keeps the answers about all such."""


@dataclass(frozen=True)
class Question:
    """A question about a file or folder, and how to answer it.

    Attributes:
        kind: what is asked, in a word.
        path: what it is asked about.
        state: the answer holds while this is the same, such as size and time of change; what JSON can hold.
        calls: what answers it, as something that JSON can hold; the next one is tried when the process of one hangs
            or crashes. A call raises UserError, its message starting with the path, for a broken file.
        read: makes the answer of it; what it fails on was not written by us, and is asked anew.
        thorough: an answer that was not found thoroughly is none.
    """

    kind: str
    path: Path
    state: Any
    calls: Sequence[Call]
    read: Callable[[Any], Any] = lambda answer: answer
    thorough: bool = False


class Known:
    """The answers that are known, by folder.

    Entries are {"state", "thorough", "answer", "broken": the message without the path, "until": a time or none}.
    """

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Any]] = {}
        self._fresh: dict[Path, dict[str, Any]] = {}

    def _entries(self, home: Path) -> dict[str, Any]:
        if home not in self._folders:
            self._folders[home] = _load(home)
        return self._folders[home]

    def recall(self, question: Question) -> Any:
        """Return the answer, a UserError where it is that the file is broken, or None where it is not known."""
        home, key = _place(question)
        entry: Any = self._entries(home).get(key)
        try:
            if entry["state"] != question.state or entry["thorough"] < question.thorough:
                return None
            if entry["until"] is not None and time.time() > entry["until"]:
                return None
            if entry["broken"] is not None:
                return UserError(f"{question.path}{entry['broken']}")
            return question.read(entry["answer"])
        except Exception:  # there is no entry, or one that is not ours and can make anything fail
            return None

    def keep(self, question: Question, answer: Any) -> Any:
        """Keep an answer, a UserError or that there is none, and return it as `recall` will."""
        entry: dict[str, Any] = {"state": question.state, "thorough": question.thorough}
        entry |= {"answer": answer, "broken": None, "until": None}
        if isinstance(answer, NoAnswer):  # perhaps the disk's fault or the machine's, and not the file's
            why = f": what reads it {answer.how}; it may be damaged, convert it or leave it out"
            entry |= {"answer": None, "broken": why, "until": time.time() + DAY}
        elif isinstance(answer, UserError):
            entry |= {"answer": None, "broken": str(answer).removeprefix(str(question.path))}
        home, key = _place(question)
        self._entries(home)[key] = entry
        self._fresh.setdefault(home, {})[key] = entry
        return self.recall(question)

    def forget(self, question: Question) -> None:
        """Ask this anew the next time."""
        home, key = _place(question)
        self._entries(home).pop(key, None)

    def save(self) -> None:
        """Write what was learnt since the last time to the cache folder; where that cannot be, go on without."""
        for home, fresh in self._fresh.items():
            entries = {**_load(home), **fresh}  # another process may have written in the meantime
            there = {key: entry for key, entry in entries.items() if (home / key.partition(" ")[2]).exists()}
            content = {"made_by": _made_by(), "folder": str(home), "entries": there}
            try:
                write_text(_file(home), json.dumps(content))
            except OSError as error:
                log.info("%s: what was learnt about the data cannot be kept here (%s)", cache_folder(), error)
                break
        self._fresh.clear()


KNOWN = Known()
"""What this process knows; its forks know it too."""


def learn(questions: Sequence[Question], *, progress: str | None = None) -> list[Any]:
    """Return the answers, finding out behind the guard and in parallel what is not known; keep them.

    Args:
        questions: their calls run in other processes.
        progress: what a bar says; none when None.

    Returns:
        The answers in order; a UserError where it is that the file is broken, hangs or crashes its reader.
    """
    answers = [KNOWN.recall(question) for question in questions]
    unknown = [number for number, answer in enumerate(answers) if answer is None]
    bar = tqdm(total=len(unknown), desc=progress, disable=progress is None, leave=False, delay=1, unit="video")
    attempt = 0
    try:
        while unknown:
            later = []
            calls = [questions[number].calls[attempt] for number in unknown]
            long = any(questions[number].thorough for number in unknown)
            with closing(guarded(calls, each=1 if long else EACH)) as done:
                for place, answer in done:
                    question = questions[unknown[place]]
                    if isinstance(answer, NoAnswer) and answer.died and attempt + 1 < len(question.calls):
                        later.append(unknown[place])
                        continue
                    answers[unknown[place]] = KNOWN.keep(question, answer)
                    bar.update()
            unknown, attempt = later, attempt + 1
    finally:
        bar.close()
        KNOWN.save()  # after Ctrl-C too
    return answers


def _place(question: Question) -> tuple[Path, str]:
    """Return the folder whose answers are kept in one file, and the key among them: kind and relative path."""
    path = question.path.absolute()
    home = path.parents[1] if path.name in INNER else path.parent
    return home, f"{question.kind} {path.relative_to(home).as_posix()}"


def cache_folder() -> Path:
    """Return the folder of the user in which this project keeps what it can make again."""
    if own := os.environ.get("SALDISTILL_CACHE"):
        return Path(own)
    if everybodys := os.environ.get("XDG_CACHE_HOME"):
        return Path(everybodys) / "saldistill"
    try:
        return Path.home() / ".cache" / "saldistill"
    except RuntimeError:  # a container's user may have no home
        return Path(tempfile.gettempdir()) / "saldistill"


def _file(home: Path) -> Path:
    return cache_folder() / "known" / f"{hashlib.sha256(str(home).encode()).hexdigest()[:32]}.json"


def _load(home: Path) -> dict[str, Any]:
    """Return what is kept about a folder; nothing where the file is missing, damaged or another version's."""
    try:
        content = json.loads(_file(home).read_text(encoding="utf-8"))
        return dict(content["entries"]) if content["made_by"] == _made_by() else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


@cache
def _made_by() -> str:
    """Name what answers depend on besides the files: another decoder may read what this one cannot."""
    return f"{FORMAT}, av {_version('av')}, decord2 {_version('decord2')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
