"""On-disk cache of file inspections, invalidated by size and modification time.

The cache is in the user's cache folder and can be deleted at any time. It has one JSON file per inspected folder.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill.data.progress import ProgressBar
from distill.data.video.guard import CALLS_PER_PROCESS, Call, CallFailure, guarded
from distill.errors import UserError
from distill.file_cache import cache_folder
from distill.files import write_text
from distill.validation import read_json

log = logging.getLogger(__name__)

FORMAT = 3
"""Increment when the result for an unchanged file changes."""

RETRY_AFTER = 24 * 3600
"""Seconds after which a file is inspected again whose inspection hung, crashed or failed unexpectedly."""

INNER_NAMES = ("images", "fixations.json")
"""Names that are the same for every video; their results are stored with those of the neighbouring folders."""


@dataclass(frozen=True)
class Inspection:
    """An inspection of a file or folder.

    Attributes:
        kind: name of the inspection, part of the cache key.
        path: file or folder.
        state: JSON value, e.g. size and modification time; a cached result is valid while it is equal.
        calls: alternatives that return a JSON value; the next one is tried if the process of one hangs or crashes.
            For a broken file, a call raises a UserError whose message starts with the path.
        read: converts the JSON value to the result; if it fails, the cache entry is ignored.
        thorough: only accept cached results of thorough inspections.
    """

    kind: str
    path: Path
    state: Any
    calls: Sequence[Call]
    read: Callable[[Any], Any] = lambda plain: plain
    thorough: bool = False


@dataclass(frozen=True)
class Entry:
    """A cached result.

    Attributes:
        state: see `Inspection`.
        thorough: see `Inspection`.
        answer: JSON value of the call; None if the file is broken.
        broken: error message without the path.
        until: time at which it expires.
    """

    state: Any
    thorough: bool
    answer: Any = None
    broken: str | None = None
    until: float | None = None


@dataclass(frozen=True)
class CacheFile:
    """Content of the file of one folder; `made_by` changes when results would."""

    made_by: str
    folder: str
    entries: dict[str, Entry]


class ProbeCache:
    """Results of inspections, by folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, Entry]] = {}
        self._unsaved: dict[Path, dict[str, Entry]] = {}

    def _entries(self, home: Path) -> dict[str, Entry]:
        if home not in self._folders:
            self._folders[home] = _load(home)
        return self._folders[home]

    def get(self, inspection: Inspection) -> Any:
        """Return the result, a UserError if the file is broken, or None if the result is not cached."""
        home, key = _place(inspection)
        entry = self._entries(home).get(key)
        if entry is None or entry.state != inspection.state or entry.thorough < inspection.thorough:
            return None
        if entry.until is not None and time.time() > entry.until:
            return None
        if entry.broken is not None:
            return UserError(f"{inspection.path}{entry.broken}")
        try:
            return inspection.read(entry.answer)
        except Exception:  # a damaged entry
            return None

    def put(self, inspection: Inspection, result: Any) -> Any:
        """Store the result of a call, a UserError or a CallFailure; return it as `get` will."""
        entry = Entry(inspection.state, inspection.thorough)
        if isinstance(result, CallFailure):  # may be the machine's fault, so that it expires
            message = f": the decoder {result.how}; the file may be damaged, convert it or leave it out"
            entry = replace(entry, broken=message, until=time.time() + RETRY_AFTER)
        elif isinstance(result, UserError):
            entry = replace(entry, broken=str(result).removeprefix(str(inspection.path)))
        else:
            entry = replace(entry, answer=result)
        home, key = _place(inspection)
        self._entries(home)[key] = entry
        self._unsaved.setdefault(home, {})[key] = entry
        return self.get(inspection)

    def discard(self, inspection: Inspection) -> None:
        """Remove a result from this process's cache."""
        home, key = _place(inspection)
        self._entries(home).pop(key, None)

    def save(self) -> None:
        """Write new results to the cache folder, if it is writable."""
        for home, unsaved in self._unsaved.items():
            entries = {**_load(home), **unsaved}  # another process may have written in the meantime
            existing = {key: entry for key, entry in entries.items() if (home / key.partition(" ")[2]).exists()}
            content = CacheFile(_made_by(), str(home), existing)
            try:
                write_text(_file(home), json.dumps(asdict(content)))
            except OSError as error:
                log.info("%s: inspections of the data cannot be cached (%s)", cache_folder(), error)
                break
        self._unsaved.clear()


PROBE_CACHE = ProbeCache()
"""The cache of this process and its forks."""


def inspect_all(inspections: Sequence[Inspection], *, progress: str | None = None) -> list[Any]:
    """Return the results of inspections, running those that are not cached in parallel guarded subprocesses.

    Args:
        inspections: the inspections.
        progress: label of a progress bar; None shows none.

    Returns:
        The results in order; a UserError for each file that is broken, or that makes its reader hang or crash.
    """
    results = [PROBE_CACHE.get(inspection) for inspection in inspections]
    pending = [number for number, result in enumerate(results) if result is None]
    bar = ProgressBar(progress or "", "video", total=len(pending), shown=progress is not None, delay=1)
    attempt = 0
    try:
        while pending:
            retries = []
            calls = [inspections[number].calls[attempt] for number in pending]
            thorough = any(inspections[number].thorough for number in pending)
            with closing(guarded(calls, per_process=1 if thorough else CALLS_PER_PROCESS)) as done:
                for place, result in done:
                    number = pending[place]
                    inspection = inspections[number]
                    if isinstance(result, CallFailure) and result.died and attempt + 1 < len(inspection.calls):
                        retries.append(number)
                        continue
                    results[number] = PROBE_CACHE.put(inspection, result)
                    bar.update()
            pending, attempt = retries, attempt + 1
    finally:
        bar.close()
        PROBE_CACHE.save()  # after Ctrl-C as well
    return results


def _place(inspection: Inspection) -> tuple[Path, str]:
    """Return the folder whose results are in one file, and the key in it: kind and relative path."""
    path = inspection.path.absolute()
    home = path.parents[1] if path.name in INNER_NAMES else path.parent
    return home, f"{inspection.kind} {path.relative_to(home).as_posix()}"


def _file(home: Path) -> Path:
    return cache_folder() / "known" / f"{hashlib.sha256(os.fsencode(home)).hexdigest()[:32]}.json"


def _load(home: Path) -> dict[str, Entry]:
    """Return the stored results for a folder; empty if the file is missing, damaged or from another version."""
    try:
        content = read_json(_file(home), CacheFile, "a cache of inspections")
    except UserError:
        return {}
    return content.entries if content.made_by == _made_by() else {}


@cache
def _made_by() -> str:
    """Return the versions that results depend on: another decoder may read other files."""
    return f"{FORMAT}, av {_version('av')}, decord2 {_version('decord2')}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
