"""Saliency maps: conversion between log-saliency, densities and peak maps; the letters used for shapes.

    B  clips per batch           T  frames per clip         N  maps per clip (its target frames)
    C  channels                  H, W  size of the clip     h, w  size of the map

Four forms of a map are used in the project:

    log-saliency   what every model returns: the logarithm of the map, up to an additive constant per map
    density        non-negative, sums to 1 over (h, w): what losses compare
    peak map       density divided by its maximum, in [0, 1]: what is stored in 8 bits and displayed
    fixations      number of fixations per pixel, or points as rows of (row, column)
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def log_density(log_saliency: Tensor) -> Tensor:
    """Normalise log-saliency so that its exponential sums to 1 over each map.

    Args:
        log_saliency: (..., h, w), up to an additive constant per map.

    Returns:
        (..., h, w) logarithm of the density, at least float32. A constant map gives the uniform density.
    """
    log_saliency = log_saliency.float() if log_saliency.dtype in (torch.float16, torch.bfloat16) else log_saliency
    return log_saliency - torch.logsumexp(log_saliency, dim=(-2, -1), keepdim=True)


def density(log_saliency: Tensor) -> Tensor:
    """Return the density (..., h, w) of log-saliency (..., h, w): non-negative, sum 1 per map."""
    return log_density(log_saliency).exp()


def normalise_density(values: Tensor) -> Tensor:
    """Divide non-negative maps (..., h, w) by their sums; an all-zero map stays zero."""
    total = values.sum(dim=(-2, -1), keepdim=True)
    return values / total.clamp_min(torch.finfo(values.dtype).tiny)


def resize_density(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize densities (B, N, h, w) to (B, N, *size) with antialiased bilinear filtering and renormalise to sum 1.

    Returns the input itself if the size is unchanged. A zero map stays zero.
    """
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    resized = F.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)
    return normalise_density(resized)


def peak_map(log_saliency: np.ndarray) -> np.ndarray:
    """Return the peak map (h, w) of one log-saliency map (h, w): float32, maximum 1; all ones if constant."""
    log_saliency = np.asarray(log_saliency, dtype=np.float32)
    return np.exp(log_saliency - log_saliency.max())


def to_peak(saliency: np.ndarray) -> np.ndarray:
    """Scale one map (h, w) of any range to a maximum of 1: float32 in [0, 1].

    Negative values are set to 0. A map without positive values gives all zeros.
    """
    saliency = np.clip(np.asarray(saliency, dtype=np.float32), 0.0, None)
    return saliency / (saliency.max() or np.float32(1.0))
