"""Simulated power cuts: fsynced content survives, any part of the rest may be lost."""

import os
import stat
from pathlib import Path

import numpy as np

CALLS = ("pwrite", "fsync", "ftruncate", "rename", "link")
SECTOR = 64
"""Bytes that are written together; small because the files are."""


class PowerCutError(Exception):
    """The power is off: no call reaches the disk any more."""


class Disk:
    """Tracks the calls that change a folder and restores what a power cut could have left of it.

    A file's content and a folder's names are durable once an fsync of that file or folder has returned. Of later
    writes, each sector may be new or old (zeros if there was none), and a folder's names may be new or old.

    Args:
        monkeypatch: pytest's fixture, used to wrap the calls.
        cut_at: first call that fails, counted from 0; a write may happen in part.
        seed: seed of what survives.
    """

    def __init__(self, monkeypatch, cut_at: int | None, seed: int = 0) -> None:
        self.cut_at, self.calls = cut_at, 0
        self.random = np.random.default_rng(seed)
        self.contents: dict[int, bytes] = {}  # inode -> durable content
        self.names: dict[int, dict[str, int]] = {}  # inode of a folder -> its durable names
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
            self.remember(arguments[0])  # without calling fsync: the real disk is not tested
            return None

        return happen

    def remember(self, file: int) -> None:
        """Record what an fsync makes durable."""
        found = os.fstat(file)
        if stat.S_ISDIR(found.st_mode):
            self.names[found.st_ino] = {entry.name: entry.inode() for entry in os.scandir(file)}
        else:
            self.contents[found.st_ino] = os.pread(file, found.st_size, 0)

    def remember_all(self, folder: Path) -> None:
        """Record a whole folder as durable."""
        for place in (folder, *folder.rglob("*")):
            file = os.open(place, os.O_RDONLY)
            self.remember(file)
            os.close(file)

    def after_power_cut(self, folder: Path, restored: Path) -> None:
        """Write to `restored` what a power cut could have left of `folder`."""
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
        """Return content whose sectors are each taken from `before` (zeros if there is none) or `after`."""
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
