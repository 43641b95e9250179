"""A disk that loses power: it has what was synced, and of the rest anything."""

import os
import stat
from pathlib import Path

import numpy as np

CALLS = ("pwrite", "fsync", "ftruncate", "rename", "link")
SECTOR = 64
"""Bytes that reach the disk together; small, since so are the files."""


class PowerCutError(Exception):
    """The power is gone: nothing reaches the disk any more."""


class Disk:
    """Follows the calls that change one folder, and says what a power cut could have left of it.

    A file's content and a folder's names are on the disk once an fsync of that file or that folder has returned.
    Of what came later each sector may have arrived, or be as it was before (zeros, if it is new), and a folder's
    names may be the new or the old ones.

    Args:
        monkeypatch: pytest's, under which the calls are watched.
        cut_at: the call that no longer happens, counted from 0; a write may happen in part.
        seed: of what arrived.
    """

    def __init__(self, monkeypatch, cut_at: int | None, seed: int = 0) -> None:
        self.cut_at, self.calls = cut_at, 0
        self.random = np.random.default_rng(seed)
        self.contents: dict[int, bytes] = {}  # inode -> content that is on the disk
        self.names: dict[int, dict[str, int]] = {}  # inode of a folder -> its names that are on the disk
        for name in CALLS:
            monkeypatch.setattr(os, name, self.watched(name, getattr(os, name)))

    def watched(self, name: str, call):
        def happen(*arguments):
            cut = self.cut_at is not None and self.calls >= self.cut_at
            self.calls += 1
            if cut:
                if name == "pwrite" and self.calls == self.cut_at + 1:
                    file, content, position = arguments
                    call(file, content[: self.random.integers(len(content) + 1)], position)
                raise PowerCutError
            if name != "fsync":
                return call(*arguments)
            self.remember(arguments[0])  # without the call itself: the real disk is not what is tested
            return None

        return happen

    def remember(self, file: int) -> None:
        """Note what an fsync puts on the disk."""
        found = os.fstat(file)
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(file)}
        else:
            self.contents[found.st_ino] = os.pread(file, found.st_size, 0)

    def remember_all(self, folder: Path) -> None:
        """Take a folder as it is for what is on the disk."""
        for place in (folder, *folder.rglob("*")):
            file = os.open(place, os.O_RDONLY)
            self.remember(file)
            os.close(file)

    def after_power_cut(self, folder: Path, restored: Path) -> None:
        """Write to `restored` what the disk has of `folder` when the power comes back."""
        now = {entry.inode(): Path(entry.path).read_bytes() for entry in all_files(folder)}
        self.restore(folder, restored, now)

    def restore(self, folder: Path, restored: Path, now: dict[int, bytes]) -> None:
        restored.mkdir()
        names = {entry.name: entry.inode() for entry in os.scandir(folder)}
        old = self.names.get(folder.stat().st_ino, {})
        if self.random.integers(2):
            names = old
        for name, inode in names.items():
            if (folder / name).is_dir():
                self.restore(folder / name, restored / name, now)
            else:
                before = self.contents.get(inode, b"")
                (restored / name).write_bytes(self.mixed(before, now.get(inode, before)))

    def mixed(self, before: bytes, after: bytes) -> bytes:
        """Return a content of which each sector is the one before, zeros if there was none, or the one after."""
        if before == after:
            return before
        length = [len(before), len(after)][self.random.integers(2)]
        sectors = []
        for start in range(0, length, SECTOR):
            old, new = (each[start : start + SECTOR].ljust(SECTOR, b"\0") for each in (before, after))
            sectors.append((old, new)[self.random.integers(2)])
        return b"".join(sectors)[:length]


def all_files(folder: Path):
    """Yield the entries of all files below a folder."""
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from all_files(Path(entry.path))
        else:
            yield entry
