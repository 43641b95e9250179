"""Cropping at fractions of a pixel, so that a slow camera moves smoothly rather than in steps of a pixel."""

import numpy as np

from distill.errors import UserError

FRACTIONS = 128
"""Positions per pixel; sums of a pixel's parts then fit into 16 bits."""


def crop_plane(plane: np.ndarray, start: float, length: int, axis: int) -> np.ndarray:
    """Return a part of one plane of a frame, by linear interpolation between neighbouring pixels.

    In 4:2:0 video the planes of colour have half the size: crop them with half the start and half the length.

    Args:
        plane: (H, W) uint8.
        start: first row or column in pixels, in [0, side - length]; rounded to 1 / FRACTIONS.
        length: rows or columns of the part.
        axis: axis that is cropped, 0 for rows and 1 for columns.

    Returns:
        (length, W) or (H, length) uint8, C-contiguous, each value rounded to the nearest, halves up. At a whole
        `start` the pixels are unchanged.

    Raises:
        UserError: if the part is not inside the plane.
    """
    side = plane.shape[axis]
    first, fraction = divmod(round(start * FRACTIONS), FRACTIONS)
    if not (length >= 1 and first >= 0 and first + length + (fraction > 0) <= side):
        raise UserError(f"crop: expected a part of 0 to {side}, got {length} from {start:g}")
    before = _part(plane, first, length, axis)
    if fraction == 0:
        return np.array(before, order="C")
    mixed = np.multiply(before, np.uint16(FRACTIONS - fraction), dtype=np.uint16)
    mixed += np.multiply(_part(plane, first + 1, length, axis), np.uint16(fraction), dtype=np.uint16)
    mixed += np.uint16(FRACTIONS // 2)
    mixed //= np.uint16(FRACTIONS)
    return mixed.astype(np.uint8)


def _part(plane: np.ndarray, first: int, length: int, axis: int) -> np.ndarray:
    return plane[first : first + length] if axis == 0 else plane[:, first : first + length]
