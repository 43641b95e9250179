"""The two exceptions that end a command with a sentence instead of a traceback."""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk: no space, no quota left, or the file may not grow."""


class UserError(ValueError):
    """Bad input: one clear sentence that says what, where, what was expected and what to do; exit code 2."""


class RunError(RuntimeError):
    """A run that cannot go on though its input was right (a loss that is no number, say); exit code 1."""
