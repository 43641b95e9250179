"""Whether a model was trained on the videos that it is scored on. Stand-in: the answer is always "unknown"."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distill.data.clips import Video


@dataclass(frozen=True)
class Leaks:
    """Result of a check.

    Attributes:
        status: "none", "found" or "unknown".
        videos: names of the scored videos that are in the training data.
        reason: how it was decided, in one sentence.
    """

    status: Literal["none", "found", "unknown"]
    videos: tuple[str, ...]
    reason: str


def check_leaks(reference: str, videos: Sequence[Video]) -> Leaks:
    """Return which videos a model was trained on.

    Args:
        reference: the model, or the folder of maps.
        videos: the videos that it is scored on.
    """
    return Leaks("unknown", (), "its training data are not known")
