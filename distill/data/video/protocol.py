"""The protocol that every video reader follows."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class VideoReader(Protocol):
    """Frames of one video, in any order."""

    @property
    def num_frames(self) -> int:
        """Frames that can be read."""

    @property
    def fps(self) -> float:
        """Frames a second."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as shown: videos of a phone held upright stand upright."""

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames at a size.

        Args:
            frames: 0-based indices in any order; repeats are allowed and decoded once.
            size: (H, W) to scale to (bicubic, antialiased); the video's own when None.

        Returns:
            (n, H, W, 3) uint8 RGB, in the order asked for.

        Raises:
            UserError: if a frame cannot be decoded.
            IndexError: if an index is outside 0 ... num_frames - 1.
        """


def once_each(frames: Sequence[int], num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames to decode, increasing and without repeats, and where each asked frame stands among them.

    Raises:
        IndexError: if an index is outside 0 ... num_frames - 1.
    """
    unique, places = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    if len(unique) and (unique[0] < 0 or unique[-1] >= num_frames):
        raise IndexError(f"frames {unique[0]} to {unique[-1]} asked of a video of {num_frames} frames (from 0)")
    return unique, places
