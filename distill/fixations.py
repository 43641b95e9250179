"""Fixation points to fixation maps and densities, in NumPy."""

import numpy as np

DHF1K_SIGMA = 12.74
"""Standard deviation, in pixels at a width of 640, of the Gaussian that DHF1K blurs fixations with (FWHM 30)."""


def sigma_for(width: int) -> float:
    """Return DHF1K's Gaussian, in pixels, for frames of another width than 640."""
    return DHF1K_SIGMA * width / 640


def density_from_points(
    points: np.ndarray,
    frame_size: tuple[int, int],
    map_size: tuple[int, int] | None = None,
    *,
    sigma: float | None = None,
) -> np.ndarray:
    """Build the fixation density of one frame, by DHF1K's recipe unless told otherwise, at any map size.

    Every point adds one Gaussian (repeated points add up) whose standard deviation is `sigma`, or 12.74 px at a
    frame width of 640 px and in proportion to the width. What falls over the frame's border is mirrored back into
    it, as in the data set's maps. A Gaussian on a grid is an outer product, so the map of K points is one (h x K)
    by (K x w) product: exact, and at `map_size` from the start.

    Args:
        points: (K, 2) rows of (row, column) in pixels of the frame.
        frame_size: (height, width) that the points refer to.
        map_size: (h, w) of the result; the frame's size when None.
        sigma: standard deviation of the Gaussian in pixels of the frame; DHF1K's for the frame's width when None.

    Returns:
        (h, w) float32, sum 1; all zeros when no point lies inside the frame (points outside are left out).

    Source: Wang et al., "Revisiting Video Saliency Prediction in the Deep Learning Era", TPAMI 2019, and the
    data set's own maps.
    """
    height, width = frame_size
    h, w = map_size or frame_size
    points = _inside(points, frame_size)
    if len(points) == 0:
        return np.zeros((h, w), dtype=np.float32)
    sigma = sigma or sigma_for(width)
    down = _gaussians(points[:, 0], sigma, height, h)  # (h, K)
    across = _gaussians(points[:, 1], sigma, width, w)  # (w, K)
    values = down @ across.T  # (h, w)
    if values.sum() == 0:  # a map of a few pixels, all of them too far from any point for float64
        values = fixation_map(points, frame_size, (h, w))
    return (values / values.sum()).astype(np.float32)


def _gaussians(points: np.ndarray, sigma: float, length: int, steps: int) -> np.ndarray:
    """Return (steps, K): a Gaussian around each of K points of an axis, its tails mirrored at both ends."""
    centres = (np.arange(steps) + 0.5) * length / steps - 0.5  # of the map's pixels, in the frame's pixels
    mirrored = (points, -1 - points, 2 * length - 1 - points)
    return sum(np.exp(-0.5 * ((centres[:, None] - each) / sigma) ** 2) for each in mirrored)


def fixation_map(
    points: np.ndarray, frame_size: tuple[int, int], map_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Count fixations on a grid: (h, w) float32, the number of points that fall into each pixel.

    Points outside the frame are left out. No point gives all zeros.
    """
    h, w = map_size or frame_size
    counts = np.zeros((h, w), dtype=np.float32)
    pixels = np.floor(_inside(points, frame_size)).astype(np.int64)
    rows, columns = (pixels * (h, w) // frame_size).T
    np.add.at(counts, (rows, columns), 1)
    return counts


def _inside(points: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return the points (K, 2), in float64, that lie inside the frame: real files hold others too."""
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    return points[(points >= 0).all(axis=1) & (points < frame_size).all(axis=1)]
