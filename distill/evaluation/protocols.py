"""Evaluation protocols: how published papers preprocess maps, define metrics and average scores.

    saldistill evaluate MODEL DATA --protocol ntire2026

Numbers of two papers are comparable only if they were computed in the same way. `official` is this project's own
protocol: the benchmarks' definitions on the maps as they are, with both averages.

Sources: the scripts published by the papers' authors: DHF1K's evaluation code (Wang et al., TPAMI 2019); `bench.py`
of the AIM 2024 and NTIRE 2026 video saliency challenges; TinyHD's `generate.py` and `compute_metrics.py` (Hu et
al., WACV 2023). Whatever they compute in 8 bits is rounded here where they round it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy.ndimage import convolve1d
from torch.nn import functional as F

from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import METRICS, Metric, nss

Size = tuple[int, int]

NTIRE_EPS = 1e-7
"""Added to denominators by the challenge's script."""

TINYHD_KERNEL = np.array([1, 4, 6, 4, 1]) / 16
"""One side of TinyHD's blur: OpenCV's Gaussian of 5 pixels."""


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How one paper scores.

    Attributes:
        name: its name on the command line.
        help: what it does, in a line.
        metrics: metrics that it publishes, in its order.
        average: key of `scores.AVERAGES` that it publishes; None for both.
        resize: (map, size) -> map (h, w) of that size, with all its processing before scoring.
        resize_how: what `resize` does, for reports.
        blur: its blur of maps, for reports.
        variants: its own definitions of metrics, by name.
        most_frames: if there are more frames, this many are drawn and scored; None for no limit.
    """

    name: str
    help: str
    metrics: tuple[str, ...]
    average: str | None
    resize: Callable[[np.ndarray, Size], np.ndarray]
    resize_how: str
    blur: str = "none"
    variants: Mapping[str, Metric] = field(default_factory=dict)
    most_frames: int | None = None

    @property
    def definitions(self) -> Mapping[str, Metric]:
        """METRICS with its own definitions."""
        return {**METRICS, **self.variants}


def to_8_bits(saliency: np.ndarray, size: Size) -> np.ndarray:
    """Resize a map as MATLAB does and round it to a submission's PNG levels: 0 to 255, peak 255.

    A uint8 map of that size is taken as such a file's and returned unchanged; an all-zero map stays zero.
    """
    if saliency.dtype == np.uint8 and saliency.shape == size:
        return saliency
    resized = np.maximum(imresize(saliency, size), 0.0)
    return np.rint(resized * (255 / (resized.max() or 1.0)))


def bilinear_min_max(saliency: np.ndarray, size: Size) -> np.ndarray:
    """Scale a map to [0, 1] and resize it as the NTIRE challenge does: OpenCV's bilinear, not antialiased.

    A constant map becomes zero.
    """
    return _interpolate(_min_max(saliency), size, "bilinear")


def tinyhd_picture(saliency: np.ndarray, size: Size) -> np.ndarray:
    """Return TinyHD's 8-bit picture of a map: min-max, OpenCV's bicubic resize, blur; rounded after each step.

    A map of that size is taken as such a picture and returned unchanged.
    """
    if saliency.shape == size:
        return saliency
    grey = np.floor(_min_max(saliency) * 255)
    resized = np.clip(np.rint(_interpolate(grey, size, "bicubic")), 0, 255)
    for axis in (0, 1):
        resized = convolve1d(resized, TINYHD_KERNEL, axis=axis, mode="mirror")
    return np.floor(resized + 0.5)


def ntire_nss(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """Return NSS with ddof 0 and 1e-7 added to the deviation; repeated fixations count. 0 for a constant map.

    NaN without a fixation.
    """
    if not fixations.any():
        return float("nan")
    scores = (saliency - saliency.mean()) / (saliency.std() + NTIRE_EPS)
    return float((scores * fixations).sum() / fixations.sum())


def ntire_sim(saliency: np.ndarray, density: np.ndarray) -> float:
    """Return the sum of minima of the maps over their sums, the density after min-max. 0 for an all-zero map."""
    truth = _min_max(density)
    guess = saliency / (saliency.sum() + NTIRE_EPS)
    return float(np.minimum(guess, truth / (truth.sum() + NTIRE_EPS)).sum())


def ntire_cc(saliency: np.ndarray, density: np.ndarray) -> float:
    """Return Pearson's correlation with 1e-7 added to its denominators. 0 for a constant map."""
    first, second = (
        (values - values.mean()) / (values.std() + NTIRE_EPS) for values in (saliency, _min_max(density))
    )
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + NTIRE_EPS))


def ntire_auc_judd(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """Return AUC-Judd over all fixations, repeated ones included, without breaking ties. NaN without a fixation.

    At the i-th highest of N fixations the true positive rate is i / N and the false one (pixels at least as high
    - i) / (pixels - 2). The script means to subtract the number of fixated pixels, but takes the unique columns of
    an array with two columns, row and column, in place of its unique rows.
    """
    counts = fixations.astype(np.int64).ravel()
    if not counts.any():
        return float("nan")
    values = saliency.ravel()
    thresholds = np.sort(np.repeat(values, counts))[::-1]
    rivals = np.sort(values[values >= thresholds[-1]])
    hits = np.arange(1, len(thresholds) + 1)
    above = len(rivals) - np.searchsorted(rivals, thresholds, side="left")
    true = np.concatenate([[0.0], hits / len(hits), [1.0]])
    false = np.concatenate([[0.0], (above - hits) / (values.size - 2), [1.0]])
    return float(np.trapezoid(true, false))


def tinyhd_nss(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """Return NSS with ddof 0; NaN as the official one."""
    return nss(saliency, fixations) * float(np.sqrt(saliency.size / (saliency.size - 1)))


def _min_max(values: np.ndarray) -> np.ndarray:
    """Scale a map to [0, 1] in float64; a constant one becomes zero."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low or 1.0)


def _interpolate(values: np.ndarray, size: Size, mode: str) -> np.ndarray:
    """Resize (h', w') to (h, w) as OpenCV does: not antialiased, edges repeated, its own bicubic (a = -3/4)."""
    if values.shape == size:
        return values
    image = torch.from_numpy(np.ascontiguousarray(values))[None, None]
    resized: np.ndarray = F.interpolate(image, size=size, mode=mode, align_corners=False)[0, 0].numpy()
    return resized


def _variants(**definitions: tuple[Callable[[np.ndarray, np.ndarray], float], str]) -> dict[str, Metric]:
    """Return metrics by name with another function, and how it differs from the official one."""
    return {
        name: replace(METRICS[name], function=function, batched=None, how=how)
        for name, (function, how) in definitions.items()
    }


PROTOCOLS: dict[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        EvaluationProtocol(
            name="official",
            help="the definitions of the DHF1K and MIT benchmarks, maps not modified; both averages",
            metrics=("auc_judd", "nss", "cc", "sim", "kldiv"),
            average=None,
            resize=imresize,
            resize_how="to the video's own size, bicubic, antialiased when shrunk (MATLAB's imresize)",
        ),
        EvaluationProtocol(
            name="dhf1k",
            help="8-bit maps, pooled over at most 50,000 frames",
            metrics=("auc_judd", "sim", "auc_shuffled", "cc", "nss"),
            average="pooled",
            resize=to_8_bits,
            resize_how="to the video's own size, bicubic (MATLAB's imresize), then to 8 bits with a peak of 255, "
            "as the PNG files of a submission",
            most_frames=50_000,
        ),
        EvaluationProtocol(
            name="ntire2026",
            help="min-max, bilinear resize, its own metrics, mean over videos",
            metrics=("auc_judd", "cc", "sim", "nss"),
            average="per_video",
            resize=bilinear_min_max,
            resize_how="min-max to [0, 1], then to the video's own size, bilinear, not antialiased (OpenCV's)",
            variants=_variants(
                auc_judd=(
                    ntire_auc_judd,
                    "repeated fixations counted, no jitter; false positives over all pixels but two, as scripted",
                ),
                nss=(ntire_nss, "ddof 0, repeated fixations counted, 1e-7 added to the standard deviation"),
                cc=(ntire_cc, "1e-7 added to the standard deviations"),
                sim=(ntire_sim, "normalised by the sum alone, the density after min-max"),
            ),
        ),
        EvaluationProtocol(
            name="tinyhd",
            help="8-bit maps, bicubic resize, 5 x 5 blur, mean over videos",
            metrics=("auc_judd", "auc_borji", "cc", "nss", "sim"),
            average="per_video",
            resize=tinyhd_picture,
            resize_how="min-max to 8 bits, then to the video's own size, bicubic, not antialiased (OpenCV's); maps "
            "of the video's size are used as they are, without blur",
            blur="Gaussian of 5 x 5 pixels (OpenCV's, sigma 1.1) after the resize, in 8 bits",
            variants=_variants(nss=(tinyhd_nss, "ddof 0")),
        ),
    )
}
