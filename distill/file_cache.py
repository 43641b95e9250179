"""Local cache of fetched files, of bounded size: the least recently used files are removed first.

Any number of processes can share it. A file appears in it whole, and is fetched by one process while others wait.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from platformdirs import user_cache_path

from distill.claims import lock
from distill.errors import NO_SPACE, UserError
from distill.files import atomic_folder, atomic_path, clear_leftovers, temporary_folder

DEFAULT_GIB = 50.0
"""Size of the cache of files from addresses, unless $SALDISTILL_CACHE_GIB sets it."""

IN_USE = 2.0
"""Seconds for which a file that was asked for stays, so that whoever asked can open it."""

ESTIMATE = 10.0
"""Seconds for which a process adds to the total size that it has counted, in place of counting again."""

FOLDER = ".folder"
"""Suffix of a folder that is fetched and removed as one."""

POLL = 0.05
"""Seconds between two looks at a file that another process is fetching."""


def cache_folder() -> Path:
    """Return $SALDISTILL_CACHE, or the platform's cache folder (on Linux $XDG_CACHE_HOME or ~/.cache)."""
    if own := os.environ.get("SALDISTILL_CACHE"):
        return Path(own)
    folder = user_cache_path("saldistill", appauthor=False)
    return folder if folder.is_absolute() else Path(tempfile.gettempdir()) / "saldistill"  # a user without a home


def cache_bytes() -> int:
    """Return the size of the cache of files from addresses in bytes: $SALDISTILL_CACHE_GIB, or DEFAULT_GIB.

    Raises:
        UserError: the variable is not a positive number.
    """
    text = os.environ.get("SALDISTILL_CACHE_GIB") or str(DEFAULT_GIB)
    try:
        gib = float(text)
    except ValueError:
        gib = -1.0
    if not 0 < gib < 1e9:
        raise UserError(f"SALDISTILL_CACHE_GIB: expected a number of GiB above 0, got {text!r}")
    return int(gib * 2**30)


def shared_cache() -> "FileCache":
    """Return this process's cache of files from addresses, which shares its folder with other processes.

    Raises:
        UserError: as `cache_bytes`.
    """
    return _cache(cache_folder() / "remote", cache_bytes())


@lru_cache(maxsize=1)
def _cache(folder: Path, limit: int) -> "FileCache":
    return FileCache(folder, limit)


class FileCache:
    """A cache of fetched files and folders. It can be pickled.

    Args:
        folder: its folder.
        limit: largest sum of the files' sizes in bytes. Files that are being fetched, and those that were removed
            while a process has them open, are not counted.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._estimate = (0, -math.inf)  # of the total size, and when it was made

    def get(self, entry: "CachedFile") -> Path:
        """Return the path of a file or folder, which is fetched if it is not in the cache.

        It stays for at least IN_USE seconds, and then until others need its space.

        Raises:
            UserError: the file is larger than the cache, no space is left, or it cannot be fetched.
        """
        path = self.folder / entry.name
        while not _use(path):
            with lock(path) as locked:
                if not locked:
                    time.sleep(POLL)
                elif not _use(path):
                    clear_leftovers(path)
                    self._fetch(path, entry)
        return path

    def has(self, entry: "CachedFile") -> bool:
        """Return whether a file is in the cache."""
        return (self.folder / entry.name).exists()

    def _fetch(self, path: Path, entry: "CachedFile") -> None:
        if entry.size > self.limit:
            raise UserError(
                f"{entry.name}: has {entry.size:,} bytes, and the cache {self.folder} may have {self.limit:,} (set "
                "by SALDISTILL_CACHE_GIB); set it higher"
            )
        self._make_room(entry.size)
        try:
            if entry.is_folder:
                with atomic_folder(path) as temporary:
                    entry.fetch(temporary)
            else:
                with atomic_path(path) as temporary:
                    entry.fetch(temporary)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise self._full(entry.size) from error

    def _make_room(self, size: int) -> None:
        """Remove the least recently used files until `size` more bytes fit into the cache and on the disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        total, made = self._estimate
        free = shutil.disk_usage(self.folder).free
        if time.monotonic() - made < ESTIMATE and total + size <= self.limit and size <= free:
            self._estimate = (total + size, made)
            return
        while True:
            entries = sorted(self._entries(self.folder))
            total, now = sum(each for _, each, _ in entries), time.time()
            lacking = max(total + size - self.limit, size - shutil.disk_usage(self.folder).free)
            for used, each, path in entries:
                if lacking <= 0:
                    break
                if now - used > IN_USE:
                    _remove(path)
                    total, lacking = total - each, lacking - each
            if lacking <= 0:
                self._estimate = (total + size, time.monotonic())
                return
            if not entries:
                raise self._full(size)
            time.sleep(POLL)  # all that is left was asked for just now

    def _entries(self, folder: Path) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, size and path of every file and cached folder."""
        for path in folder.iterdir():
            if path.name.startswith("."):  # a lock, or a file that is being fetched
                continue
            with suppress(FileNotFoundError, NotADirectoryError):
                status = path.stat()
                if not path.is_dir():
                    yield status.st_mtime, status.st_size, path
                elif path.suffix == FOLDER:
                    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
                    yield status.st_mtime, size, path
                else:
                    yield from self._entries(path)

    def _full(self, size: int) -> UserError:
        return UserError(
            f"{self.folder}: no space left in the cache for a file of {size:,} bytes; free some space, or let "
            "SALDISTILL_CACHE name a folder on another disk"
        )


@dataclass(frozen=True)
class CachedFile:
    """A file or folder elsewhere, and its place in a cache.

    Attributes:
        cache: the cache.
        name: relative path in the cache, which identifies the content; ends in FOLDER for a folder.
        size: its size in bytes.
        fetch: downloads it to a path, for a folder an empty one; raises if the content is not that of the name.
    """

    cache: FileCache
    name: str
    size: int
    fetch: Callable[[Path], None]

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith(FOLDER)

    @property
    def is_cached(self) -> bool:
        """Whether it is in the cache now."""
        return self.cache.has(self)

    def path(self) -> Path:
        """Return its path in the cache; see `FileCache.get`."""
        return self.cache.get(self)


def _use(path: Path) -> bool:
    """Mark a file as used now; return False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a file or a folder; the name of a folder disappears before its content."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError), temporary_folder(path) as aside:
        path.rename(aside / path.name)
