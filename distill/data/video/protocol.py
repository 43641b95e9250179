"""Protocol that every video reader implements."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

PART_BYTES = 64 * 2**20
"""Size of whole frames that are decoded at a time: ten frames of full HD, but one of 8K."""


class VideoReader(Protocol):
    """Random access to the frames of one video."""

    @property
    def num_frames(self) -> int:
        """Number of frames that can be read."""

    @property
    def fps(self) -> float:
        """Frame rate."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as displayed, e.g. after rotation of a phone's video."""

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Return frames as an array.

        Args:
            frames: 0-based indices in any order; repeated frames are decoded once.
            size: (H, W) to scale to (bicubic, antialiased); defaults to the video's size.

        Returns:
            (n, H, W, 3) uint8 RGB, in the requested order.

        Raises:
            UserError: if a frame cannot be decoded.
            IndexError: if an index is not in 0 to num_frames - 1.
        """


def in_parts(frames: Sequence[int], size: tuple[int, int]) -> Iterator[Sequence[int]]:
    """Divide a list of frames of (height, width) into parts of at most PART_BYTES, but at least one frame."""
    length = max(1, PART_BYTES // (3 * size[0] * size[1]))
    for start in range(0, len(frames), length):
        yield frames[start : start + length]


def unique_frames(frames: Sequence[int], num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted unique frames, and the position of each requested frame in them.

    Raises:
        IndexError: if an index is not in 0 to num_frames - 1.
    """
    unique, positions = np.unique(np.asarray(frames, dtype=np.int64), return_inverse=True)
    if len(unique) and (unique[0] < 0 or unique[-1] >= num_frames):
        raise IndexError(
            f"frames {unique[0]} to {unique[-1]} are not in 0 to {num_frames - 1} of a video of {num_frames} frames"
        )
    return unique, positions
