"""Program of a fresh process in the memory test, with few imports to start quickly."""

from collections.abc import Callable


def allocate(megabytes: int) -> Callable[[], int]:
    """Return work that allocates n megabytes on top of 100 that are allocated before."""
    if megabytes < 0:
        raise ValueError("negative size")
    kept = b"1" * 100_000_000
    return lambda: len(kept) + len(b"1" * (megabytes * 1_000_000))
