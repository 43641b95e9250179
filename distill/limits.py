"""Bounds on what a small file or one number may cost, each with its reason.

They are far above what real work needs. Raise one here if yours needs more.
"""

from distill.errors import UserError

MAX_JSON_BYTES = 512 * 2**20
"""Size of a JSON file: fixations of an hour of video with 40 observers take a fifth of this."""


def check_limit(value: float, limit: float, where: str) -> None:
    """Check that a value is within a bound of this file.

    Args:
        value: the value.
        limit: one of the bounds above.
        where: file or key, and what was counted, e.g. "a.png: pixels".

    Raises:
        UserError: it is not; the message names the bound.
    """
    if value > limit:
        raise UserError(f"{where}: {value:,} is over the limit of {limit:,} (set in distill/limits.py)")
