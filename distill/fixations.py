"""Fixation points: fixation maps, densities and changes of frame size, in NumPy."""

import numpy as np

DHF1K_SIGMA = 12.74
"""Standard deviation of the Gaussian that DHF1K blurs fixations with, in pixels at width 640 (FWHM 30)."""


def sigma_for(width: int) -> float:
    """Return the standard deviation of DHF1K's Gaussian in pixels, for a frame width other than 640."""
    return DHF1K_SIGMA * width / 640


def density_from_points(
    points: np.ndarray,
    frame_size: tuple[int, int],
    map_size: tuple[int, int] | None = None,
    *,
    sigma: float | None = None,
) -> np.ndarray:
    """Return the fixation density of one frame by DHF1K's recipe, computed exactly at any map size.

    Each point adds one Gaussian; repeated points add up. Tails that cross the frame's border are reflected back, as
    in the maps of the data set. A Gaussian on a grid is separable, so K points take one (h, K) by (K, w) product.

    Args:
        points: (K, 2) rows of (row, column) in pixels of the frame. Points outside the frame are ignored.
        frame_size: (height, width) of the frame.
        map_size: (h, w) of the result; defaults to the frame's size.
        sigma: standard deviation of the Gaussian in pixels of the frame; defaults to DHF1K's for the frame's width.

    Returns:
        (h, w) float32, sum 1; all zeros if no point lies inside the frame.

    Source: Wang et al., "Revisiting Video Saliency Prediction in the Deep Learning Era", TPAMI 2019, and the
    published maps.
    """
    height, width = frame_size
    h, w = map_size or frame_size
    points = _valid(points, frame_size)
    if len(points) == 0:
        return np.zeros((h, w), dtype=np.float32)
    sigma = sigma or sigma_for(width)
    vertical = _gaussians(points[:, 0], sigma, height, h)  # (h, K)
    horizontal = _gaussians(points[:, 1], sigma, width, w)  # (w, K)
    values = vertical @ horizontal.T  # (h, w)
    if values.sum() == 0:  # a map of a few pixels, each too far from every point for float64
        values = fixation_map(points, frame_size, (h, w))
    return (values / values.sum()).astype(np.float32)


def _gaussians(points: np.ndarray, sigma: float, length: int, steps: int) -> np.ndarray:
    """Return (steps, K): one Gaussian per point along an axis, with tails reflected at both ends."""
    centres = (np.arange(steps) + 0.5) * length / steps - 0.5  # pixel centres of the map in pixels of the frame
    reflected = (points, -1 - points, 2 * length - 1 - points)
    return sum(np.exp(-0.5 * ((centres[:, None] - each) / sigma) ** 2) for each in reflected)


def fixation_map(
    points: np.ndarray, frame_size: tuple[int, int], map_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Return the number of points in each pixel of a map, (h, w) float32; points outside the frame are ignored."""
    h, w = map_size or frame_size
    counts = np.zeros((h, w), dtype=np.float32)
    pixels = np.floor(_valid(points, frame_size)).astype(np.int64)
    rows, columns = (pixels * (h, w) // frame_size).T
    np.add.at(counts, (rows, columns), 1)
    return counts


def inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the points (K, 2) that lie inside a frame of (height, width)."""
    return points[(points >= 0).all(axis=1) & (points < size).all(axis=1)]


def rescale(points: np.ndarray, size: tuple[int, ...], new_size: tuple[int, int]) -> np.ndarray:
    """Convert integer points (K, 2) from one frame size (height, width) to another."""
    if tuple(size) == tuple(new_size):
        return points
    return points * np.array(new_size) // np.array(size)


def _valid(points: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return the points (K, 2) inside the frame as float64; published files contain others."""
    return inside(np.asarray(points, dtype=np.float64).reshape(-1, 2), frame_size)
