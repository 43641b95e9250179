"""MATLAB's `imresize`, which published saliency scores are based on.

Each new pixel is a weighted sum of a few old ones in its row, then in its column. The weights along one side depend
only on its old and new length, and neighbouring new pixels need neighbouring old ones: resizing is a series of
small matrix products.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

STRIP = 16
"""New pixels per matrix product."""

SURE_BITS = 40
"""Leading bits of a resized value that are kept; the rest is rounding error."""


def imresize(values: ArrayLike, size: tuple[int, ...], *, scratch: dict[str, Array] | None = None) -> Array:
    """Resize a map as MATLAB's `imresize` does: bicubic (a = -1/2), antialiased when shrinking, mirrored borders.

    Args:
        values: (h', w') of any numeric type.
        size: (h, w) of the result.
        scratch: arrays to reuse between calls, filled by the first; each call overwrites the result of the last.
            Saves time in many calls, since allocating memory costs as much as resizing.

    Returns:
        (h, w) float64; the values themselves if they have that size. The result may slightly exceed the range of
        the values, and is rounded to 40 bits (relative 5e-13), so that a constant patch of an 8-bit or float32 map
        stays exactly constant. A constant map stays constant; one with NaN or infinity becomes NaN.

    Raises:
        ValueError: if `values` is not two-dimensional or is empty.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a map must have two dimensions and at least one pixel, got shape {values.shape}")
    if values.shape == size:
        return values.astype(np.float64, copy=False)
    scratch = {} if scratch is None else scratch
    resized = scratch_array(scratch, "resized", size)
    low, high = values.min(), values.max()
    if not low < high or not (np.isfinite(low) and np.isfinite(high)):
        resized[:] = low if np.isfinite(low) and np.isfinite(high) else np.nan
        return resized
    old = scratch_array(scratch, "old", values.shape)  # (h', w')
    wide = scratch_array(scratch, "wide", (values.shape[0], size[1]))  # (h', w)
    old[:] = values
    for strip in resize_strips(old.shape[1], size[1]):
        np.matmul(old[:, strip.old], strip.weights.T, out=wide[:, strip.new])
    for strip in resize_strips(old.shape[0], size[0]):
        np.matmul(strip.weights, wide[strip.old], out=resized[strip.new])
    return _round(resized)


def scratch_array(arrays: dict[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """Return the array of that name, allocated if there is none of that shape; its contents are arbitrary."""
    if name not in arrays or arrays[name].shape != shape:
        arrays[name] = np.empty(shape)
    return arrays[name]


class Strip(NamedTuple):
    """Weights (new, old), with rows that sum to 1, of a strip of new pixels along one side, and their positions."""

    new: slice
    old: slice
    weights: Array


@lru_cache(maxsize=64)
def resize_strips(old: int, new: int) -> tuple[Strip, ...]:
    """Return the strips that resize one side of a map."""
    scale = new / old
    shrink = min(scale, 1.0)  # antialiasing: shrinking widens the kernel
    centres = (np.arange(new) + 0.5) / scale - 0.5  # of the new pixels, in old pixels
    taps = int(np.ceil(4 / shrink)) + 2
    sources = np.floor(centres - 2 / shrink).astype(np.int64)[:, None] + np.arange(taps)  # (new, taps)
    weights = _cubic((centres[:, None] - sources) * shrink)
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = sources % (2 * old)
    mirrored = np.minimum(mirrored, 2 * old - 1 - mirrored)
    strips = []
    for start in range(0, new, STRIP):
        rows = slice(start, min(start + STRIP, new))
        first, last = mirrored[rows].min(), mirrored[rows].max()
        matrix = np.zeros((rows.stop - rows.start, last + 1 - first))
        np.add.at(matrix, (np.arange(len(matrix))[:, None], mirrored[rows] - first), weights[rows])
        matrix.flags.writeable = False
        strips.append(Strip(rows, slice(int(first), int(last) + 1), matrix))
    return tuple(strips)


def _cubic(x: Array) -> Array:
    """Return Keys' cubic convolution kernel with a = -1/2, zero beyond 2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _round(values: Array) -> Array:
    """Round to SURE_BITS significant bits, in place."""
    bits = values.view(np.int64)  # sign, exponent, mantissa: a carry into the exponent is right
    unsure = 53 - SURE_BITS
    bits += 1 << (unsure - 1)
    bits &= -(1 << unsure)
    return values
