"""The window that crops a video to another aspect ratio, and the share of probability that it keeps."""

from dataclasses import dataclass

import numpy as np

from distill.errors import UserError


@dataclass(frozen=True)
class CropWindow:
    """The largest window of an aspect ratio inside a frame; it moves along one axis of the frame.

    Attributes:
        frame: (height, width) of the frame in pixels.
        size: (height, width) of the window in pixels, both even, as H.264 needs them.
        axis: axis along which it moves, 0 for rows and 1 for columns.
    """

    frame: tuple[int, int]
    size: tuple[int, int]
    axis: int

    @property
    def length(self) -> float:
        """Length of the window along its axis, relative to the frame's side, in (0, 1]."""
        return self.size[self.axis] / self.frame[self.axis]

    @property
    def centre(self) -> float:
        """Start of the centre crop, relative to the frame's side."""
        return (1 - self.length) / 2


def largest_window(frame: tuple[int, int], aspect: float) -> CropWindow:
    """Return the largest window of an aspect ratio inside a frame.

    Args:
        frame: (height, width) in pixels.
        aspect: width / height of the window; it holds up to the rounding to even sizes.

    Raises:
        UserError: if the frame is too small for a window of 2 x 2 pixels.
    """
    height, width = frame
    narrower = aspect * height <= width  # than the frame
    exact = (height, aspect * height) if narrower else (width / aspect, width)
    size = _even(exact[0]), _even(exact[1])
    if min(size) < 2:
        raise UserError(f"a frame of {width}x{height} is too small for a window of aspect ratio {aspect:g}")
    return CropWindow(frame, size, axis=int(narrower))


def marginals(densities: np.ndarray, axis: int) -> np.ndarray:
    """Return the distribution of probability along one axis of the frame.

    Args:
        densities: (T, h, w), non-negative; each map is normalised here.
        axis: axis of the frame that is kept, 0 for rows and 1 for columns.

    Returns:
        (T, n) float64, n = h or w, sum 1 per frame; uniform for a map without probability.
    """
    sums = np.asarray(densities).sum(axis=2 - axis, dtype=np.float64)
    totals = sums.sum(axis=1, keepdims=True)
    return np.where(totals > 0, sums / np.where(totals > 0, totals, 1.0), 1 / sums.shape[1])


def kept_share(marginal: np.ndarray, starts: np.ndarray, length: float) -> np.ndarray:
    """Return the share of probability that a window keeps; a pixel that is partly inside counts partly.

    Args:
        marginal: (T, n), see `marginals`.
        starts: (T, K) starts of K windows per frame, or (T or 1, K) to broadcast, relative to the frame's side.
        length: length of the windows, relative to the frame's side.

    Returns:
        (T, K) in [0, 1].
    """
    cumulative = np.concatenate([np.zeros((len(marginal), 1)), marginal.cumsum(axis=1)], axis=1)
    return _interpolate(cumulative, starts + length) - _interpolate(cumulative, starts)


def _interpolate(cumulative: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the probability (T, K) before places (T or 1, K) in [0, 1], given cumulative sums (T, n + 1)."""
    n = cumulative.shape[1] - 1
    places = np.broadcast_to(np.clip(places, 0.0, 1.0) * n, (len(cumulative), places.shape[1]))
    pixel = np.minimum(places.astype(np.int64), n - 1)
    before = np.take_along_axis(cumulative, pixel, axis=1)
    after = np.take_along_axis(cumulative, pixel + 1, axis=1)
    return before + (places - pixel) * (after - before)


def _even(length: float) -> int:
    """Round a length in pixels to an even number, down unless it is even up to rounding errors."""
    return 2 * int(length / 2 + 1e-9)
