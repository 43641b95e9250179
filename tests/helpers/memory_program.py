"""What a fresh process does in the test of memory: it must load quickly."""

from collections.abc import Callable


def allocate(megabytes: int) -> Callable[[], int]:
    """Prepare work that takes so much memory; what it takes before is not counted."""
    if megabytes < 0:
        raise ValueError("no such amount")
    kept = b"1" * 100_000_000
    return lambda: len(kept) + len(b"1" * (megabytes * 1_000_000))
