"""Paths built from names that come from data: a target store, split file, folder scan, header or submission."""

import re
from pathlib import Path

from distill.errors import UserError, shorten

CONTROL = re.compile("[\x00-\x1f\x7f]")
"""Control characters."""

MAX_PART = 255
"""Bytes of one part of a path, the limit of Linux' file systems."""

MAX_NAME = 1000
"""Bytes of a whole name: of the 4096 that Linux allows for a path, most are left to the folder."""


def path_inside(folder: str | Path, name: str, source: object, *, suffix: str = "") -> Path:
    """Return `folder / (name + suffix)` for a name that comes from data, if it stays in the folder.

    The check reads the name only: links that already exist inside the folder are followed.

    Args:
        folder: folder that the path must not leave.
        name: relative path with `/` between its parts, e.g. `deep/0601`.
        source: where the name comes from, for the message.
        suffix: ours, such as `.mp4`; the name must be valid without it too.

    Raises:
        UserError: the name is empty or absolute, has an empty part, `.` or `..`, a control character or text that
            is not valid Unicode, more than MAX_NAME bytes, or a part of more than MAX_PART bytes.
    """
    if fault := _fault(name) or _fault(name + suffix):
        place = f" in {folder}" if str(folder) else ""
        shown = repr(shorten(name))
        raise UserError(
            f"{source}: the name {shown} cannot become a path{place}: {fault}; expected a relative name "
            "without '..', such as 'deep/0601'; rename it where it comes from"
        )
    return Path(folder) / (name + suffix)


def require_file(path: Path, what: str) -> None:
    """Check that a path, if it exists, is a file; opening a pipe would wait forever.

    Args:
        path: the path.
        what: what is expected there, with its article.

    Raises:
        UserError: it is a folder, pipe or device.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: cannot be read as {what} (it is not a file); expected a file")


def _fault(name: str) -> str:
    """Return what is wrong with a name, as a clause; empty if it can be used."""
    parts = name.split("/")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    if name.startswith("/"):
        return "it is absolute"
    if not {"", ".", ".."}.isdisjoint(parts):
        return "it is empty or has an empty part, '.' or '..'"
    if CONTROL.search(name):
        return "it has a control character"
    if max(sizes) > MAX_PART:
        return f"a part of it is longer than {MAX_PART} bytes"
    if sum(sizes) + len(sizes) - 1 > MAX_NAME:
        return f"it is longer than {MAX_NAME} bytes"
    return ""
