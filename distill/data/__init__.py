"""Data sets: from a folder on the disk to videos with ground truth, clips and batches.

The names are fetched when they are first asked for: the processes that examine files (`distill.data.guard`) import
their part of this package alone, and need not wait for PyTorch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.data.find import DATASETS, find_videos
    from distill.data.loader import make_loader

__all__ = ["DATASETS", "find_videos", "make_loader"]


def __getattr__(name: str) -> Any:
    """Fetch one of the three names."""
    if name == "make_loader":
        from distill.data import loader

        return loader.make_loader
    if name in __all__:
        from distill.data import find

        return getattr(find, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
