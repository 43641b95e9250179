"""Saliency maps: density from fixations, normalising, resizing, log and exp; and the letters of shapes.

    B  clips in a batch          T  frames of a clip        N  maps of a clip (its target frames)
    C  channels                  H, W  the clip's size      h, w  the map's size

Four forms of one map, and nothing else, travel through the project:

    log-saliency   what every model returns: the logarithm of the map, up to a constant a map
    density        non-negative, sums to 1 over (h, w): what losses compare
    peak map       density divided by its maximum, in [0, 1]: what is stored in 8 bits and looked at
    fixations      how many observers looked at each pixel, or their points as rows of (row, column)
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DHF1K_SIGMA = 12.74
"""Standard deviation, in pixels at a width of 640, of the Gaussian that DHF1K blurs fixations with (FWHM 30)."""


def log_density(log_saliency: Tensor) -> Tensor:
    """Normalise log-saliency so that its exponential sums to 1 over the map.

    Args:
        log_saliency: (..., h, w), any constant added to a map.

    Returns:
        (..., h, w), the logarithm of the density, in float32 at least. A constant map gives the uniform density.
    """
    log_saliency = log_saliency.float() if log_saliency.dtype in (torch.float16, torch.bfloat16) else log_saliency
    return log_saliency - torch.logsumexp(log_saliency, dim=(-2, -1), keepdim=True)


def density(log_saliency: Tensor) -> Tensor:
    """Return the density (..., h, w) of log-saliency (..., h, w): non-negative, sum 1 over each map."""
    return log_density(log_saliency).exp()


def normalise_density(values: Tensor) -> Tensor:
    """Divide non-negative maps (..., h, w) by their sums; an all-zero map (no fixation) stays zero."""
    total = values.sum(dim=(-2, -1), keepdim=True)
    return values / total.clamp_min(torch.finfo(values.dtype).tiny)


def resize_density(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize densities (B, N, h, w) to (B, N, *size) and renormalise each to sum 1.

    Shrinking averages over areas (antialiased bilinear), growing interpolates, so no mass appears or is lost
    beyond what the renormalisation restores. The same size returns the input itself; a zero map stays zero.
    """
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    resized = F.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)
    return normalise_density(resized)


def peak_map(log_saliency: np.ndarray) -> np.ndarray:
    """Return the map divided by its maximum, float32 in [0, 1], of one log-saliency map (h, w).

    A constant map gives all ones.
    """
    log_saliency = np.asarray(log_saliency, dtype=np.float32)
    return np.exp(log_saliency - log_saliency.max())


def to_peak(saliency: np.ndarray) -> np.ndarray:
    """Scale one map (h, w) of any range to a peak of 1: float32 in [0, 1].

    What is negative becomes 0. A map without anything positive gives all zeros.
    """
    saliency = np.clip(np.asarray(saliency, dtype=np.float32), 0.0, None)
    return saliency / (saliency.max() or np.float32(1.0))


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
