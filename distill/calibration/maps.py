"""Apply a calibration to log-saliency maps in PyTorch, in float64 and with gradients."""

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from distill.calibration.numbers import BANDS, FLOOR, SIGMAS, Calibration, coordinates

Size = tuple[int, int]


@lru_cache(maxsize=32)
def blur_matrix(length: int, sigma: float) -> np.ndarray:
    """Return the matrix (length, length) of a Gaussian blur along an axis; each row sums to 1, at borders too.

    Args:
        length: number of pixels.
        sigma: standard deviation in pixels.
    """
    places = np.arange(length)
    weights = np.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
    matrix: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def blurs(size: Size) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each of SIGMAS the matrices (h, h) and (w, w) that blur the rows and the columns of a map."""
    h, w = size
    return [(blur_matrix(h, sigma * w), blur_matrix(w, sigma * w)) for sigma in SIGMAS]


def clamped(log_saliency: Tensor) -> Tensor:
    """Return maps (..., h, w) with a maximum of 0 and a minimum of at least FLOOR."""
    return (log_saliency - log_saliency.detach().amax(dim=(-2, -1), keepdim=True)).clamp_min(FLOOR)


def bands_of(log_saliency: Tensor) -> Tensor:
    """Return the bands (BANDS, n, h, w) of maps (n, h, w), finest first; their sum is the map.

    The first is the map minus its slightest blur, the last its strongest blur.
    """
    size = (log_saliency.shape[-2], log_saliency.shape[-1])
    levels = [log_saliency]
    for down, across in blurs(size):
        rows, columns = (torch.tensor(each, dtype=log_saliency.dtype) for each in (down, across))
        levels.append(rows @ log_saliency @ columns.T)
    return torch.stack([*(fine - coarse for fine, coarse in itertools.pairwise(levels)), levels[-1]])


def grid(size: Size) -> tuple[Tensor, Tensor]:
    """Return the rows (h, 1) and columns (1, w) of pixel centres, in (0, 1)."""
    h, w = size
    rows, columns = ((torch.arange(side, dtype=torch.float64) + 0.5) / side for side in (h, w))
    return rows[:, None], columns[None]


def log_bias(size: Size, tilt: Tensor | Sequence[float], curvature: Tensor | Sequence[float]) -> Tensor:
    """Return what is added to the log-saliency (h, w): tilt . x - curvature . x^2 / 2 around the centre."""
    y, x = (each - 0.5 for each in grid(size))
    return tilt[0] * y + tilt[1] * x - (curvature[0] * y**2 + curvature[1] * x**2) / 2


def centre_prior(size: Size, place: Tensor | Sequence[float], width: Tensor | Sequence[float]) -> Tensor:
    """Return the density (h, w) of the centre prior; its sum is 1."""
    rows, columns = grid(size)
    gaussian = torch.exp(-0.5 * (((rows - place[0]) / width[0]) ** 2 + ((columns - place[1]) / width[1]) ** 2))
    return gaussian / gaussian.sum()


def mixed(bands: Tensor, x: Tensor) -> Tensor:
    """Return calibrated densities (n, h, w) from bands (BANDS, n, h, w) and coordinates (13,); each sums to 1."""
    size = (bands.shape[-2], bands.shape[-1])
    weights = torch.exp(torch.cat([x[1:BANDS], x.new_zeros(1)]) - x[0])
    log_map = torch.einsum("k,knhw->nhw", weights, bands) + log_bias(size, x[4:6], x[6:8])
    peaks = clamped(log_map).exp()
    network = peaks / peaks.sum(dim=(-2, -1), keepdim=True)
    return (1 - x[8]) * network + x[8] * centre_prior(size, x[9:11], x[11:13].exp())


def calibrate_maps(log_saliency: Tensor, calibration: Calibration) -> Tensor:
    """Return the calibrated log-saliency of raw maps, the reference for exported graphs.

    Args:
        log_saliency: (n, h, w), the maps of a network's input, up to a constant per map.
        calibration: the numbers; `motion` acts inside the network, not here.

    Returns:
        (n, h, w) float64, the logarithm of a density that sums to 1.
    """
    x = torch.from_numpy(coordinates(calibration))
    return mixed(bands_of(clamped(log_saliency.double())), x).log()
