"""File names of videos and images: suffixes, natural order and listings."""

import re
from pathlib import Path

VIDEO_SUFFIXES = (".avi", ".mp4", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that orders `frame 2` before `frame 10`, ignoring leading zeros."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def describe(folder: Path) -> str:
    """Return a short listing of a folder, for messages."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"
