"""Exceptions that end a command with a message instead of a traceback."""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk: no space left, quota exceeded, or file too large."""


class UserError(ValueError):
    """Invalid input. The message names the key or file, what was expected and what to do. Exit code 2."""


class RunError(RuntimeError):
    """A run that fails although its input is valid, e.g. because the loss is NaN. Exit code 1."""
