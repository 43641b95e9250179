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
