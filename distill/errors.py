"""Exceptions that end a command with a message instead of a traceback, and the door of every file reader."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk: no space left, quota exceeded, or file too large."""

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of a missing permission or a read-only file system."""

REASON_LENGTH = 200
"""Number of characters of a library's error that a message quotes."""


class UserError(ValueError):
    """Invalid input. The message names the key or file, what was expected and what to do. Exit code 2."""


class RunError(RuntimeError):
    """A run that fails although its input is valid, e.g. because the loss is NaN. Exit code 1."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which clusters send before they kill a job; whatever handles Ctrl-C handles it. Exit code 143."""


@contextmanager
def reading(path: object, what: str, remedy: str = "it may be truncated or damaged") -> Iterator[None]:
    """Turn every exception of a library that reads a file into one sentence.

    Libraries raise errors of many types for damaged files, and no list of types is complete. Therefore the block
    holds only the library's call and the conversion of its result, never our own logic.

    Args:
        path: file to name, or another name of the source.
        what: format that was expected, with its article, e.g. "an image".
        remedy: what to do about a damaged file.

    Raises:
        UserError: the block raised an exception; a UserError of the block itself stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            remedy = "check the path and its permissions"
        raise UserError(f"{path}: cannot be read as {what} ({reason_of(error)}); {remedy}") from error


def reason_of(error: BaseException) -> str:
    """Return the first line of an error, shortened to REASON_LENGTH; its type if it has no text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return shorten(text, REASON_LENGTH)


def shorten(text: str, length: int = 80) -> str:
    """Return a text for a message, cut to a length."""
    return text if len(text) <= length else text[: length - 3] + "..."
