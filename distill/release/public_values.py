"""Configs and notes for publication: without the folders and user names of the machine they were made on."""

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from distill.models.hub import PREFIX

HOME = re.compile(r"(/root|(/home|/Users|[A-Za-z]:[\\/]Users)([\\/][^\\/]*)?|~[^\\/]*)[\\/]?")
"""A whole path that is a home folder, whose last part is the name of a user."""

EMBEDDED = re.compile(r"""(?<![^\s'"=:,;(\[])(?:~[^\s/\\]*|[A-Za-z]:)?[/\\][^\s'",;)\]]*""")
"""An absolute path within a text."""


def public(value: Any) -> Any:
    """Return a JSON value in which paths outside the working folder are reduced to their last part.

    Relative paths, names of models and references of the Hugging Face Hub stay as they are. The address of remote
    storage is reduced as well, because it may name a private bucket or hold a password.
    """
    if isinstance(value, dict):
        return {public(key): public(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [public(each) for each in value]
    return public_text(value) if isinstance(value, str) else value


def public_text(text: str) -> str:
    """Return a text without the folders of one machine; see `public`."""
    if text.startswith(PREFIX):
        return text
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return _last_part(text.partition("://")[2])
    posix, windows = PurePosixPath(text), PureWindowsPath(text)
    outside = posix.is_absolute() or text.startswith(("~", "\\")) or ".." in (*posix.parts, *windows.parts)
    if outside or windows.drive:
        return _last_part(text)
    return EMBEDDED.sub(lambda match: _last_part(match[0]), text.replace(str(Path.home()), "~"))


def _last_part(path: str) -> str:
    """Return the last part of a path; a dot for a home folder or a root."""
    if HOME.fullmatch(path) or path == str(Path.home()):
        return "."
    name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
    return "." if name in ("", "..", "~", Path.home().name) else name
