"""Augmentation: one random choice acts on clip, density and fixations together."""

import numpy as np


def flip(array: np.ndarray) -> np.ndarray:
    """Mirror left and right: clip (..., H, W), density (..., h, w) or fixations (..., h, w), as a view.

    Mirroring twice gives the array back, and the sum of a density stays 1.
    """
    return array[..., ::-1]
