"""File names of videos and images: suffixes, numbers, natural order, and the search of folders."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from distill.limits import MAX_FOLDERS, check_limit

VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def is_image(path: Path) -> bool:
    """Return whether a path names an image by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


MAX_DIGITS = 18
"""Digits of the largest number in a name; more are part of a name without a number."""


def number_in(text: str) -> int | None:
    """Return the number that a text consists of; None unless it has only the digits 0 to 9, at most MAX_DIGITS.

    `str.isdigit` accepts `²`, which `int` refuses, and both accept digits of other scripts.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that orders `frame 2` before `frame 10`, ignoring leading zeros."""
    parts = (part for part in re.split(r"([0-9]+)", name) if part)
    return [
        (0, len(digits), digits) if part[0] in "0123456789" else (1, 0, part)
        for part in parts
        for digits in [part.lstrip("0")]
    ]


def walk(root: Path, *, links: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder at and below a root with the sorted names of its other entries, without hidden ones.

    Args:
        root: an existing folder.
        links: follow links to folders, except to a folder that contains the link, which would never end. Otherwise
            they are among the other entries.

    Raises:
        UserError: if there are more than MAX_FOLDERS folders.
        OSError: if a folder cannot be listed.
    """
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    count = 0
    while waiting:
        folder, above = waiting.pop()
        count += 1
        check_limit(count, MAX_FOLDERS, f"{root}: folders below it")
        status = folder.stat()
        if (place := (status.st_dev, status.st_ino)) in above:
            continue
        with os.scandir(folder) as entries:
            visible = {
                entry.name: links and (folder / entry.name).is_dir() if entry.is_symlink() else entry.is_dir()
                for entry in entries
                if entry.name[0] != "."
            }
        waiting += [(folder / name, above | {place}) for name, is_folder in visible.items() if is_folder]
        yield folder, sorted(name for name, is_folder in visible.items() if not is_folder)


def describe(folder: Path) -> str:
    """Return a short listing of a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"
