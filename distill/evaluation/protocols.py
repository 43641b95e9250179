"""How published papers score: what they do to a map first, their own variants of metrics, and how they average.

    saldistill evaluate MODEL DATA --protocol ntire2026

Numbers of two papers can be compared only if they were made alike. A protocol is plain data: a resize, the metrics
that are defined differently from `metrics.py`, the average that is published, and what of it can be said in words.
`official` is this project's own: the benchmarks' definitions on the maps as they are, both averages side by side.

    dhf1k      frames pooled; maps of 8 bits, since a submission is PNG files; of more than 50,000 frames, so many
    ntire2026  mean over a video's frames, then over videos; min-max, bilinear resize, its own metrics, no blur
    tinyhd     mean over a video's frames, then over videos; 8 bits, bicubic resize, then a blur of 5 x 5

Sources: the scripts that the papers' authors published: DHF1K's evaluation code (Wang et al., TPAMI 2019); the
AIM 2024 and NTIRE 2026 video saliency challenges' `bench.py`; TinyHD's `generate.py` and `compute_metrics.py` (Hu
et al., WACV 2023). Whatever they compute in 8 bits is rounded here where they round it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import METRICS

Size = tuple[int, int]

NTIRE_EPS = 1e-7
"""What the challenge's script adds to what it divides by."""

TINYHD_KERNEL = np.array([1, 4, 6, 4, 1]) / 16
"""One side of TinyHD's blur: OpenCV's Gaussian of 5 pixels."""


@dataclass(frozen=True)
class Protocol:
    """How one paper scores.

    Attributes:
        metrics: what it publishes, in its order.
        average: which of `scores.AVERAGES` it publishes; None for both.
        resize: (map, size) -> map (h, w) of that size, with all that is done to it before it is scored.
        variants: metric -> function (map, truth) -> value, where the definition is not that of `metrics.METRICS`.
        most_frames: more frames than these are not scored; so many are drawn instead.
        how: what of this goes into a report, by subject.
    """

    metrics: tuple[str, ...]
    average: str | None
    resize: Callable[[np.ndarray, Size], np.ndarray]
    variants: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = field(default_factory=dict)
    most_frames: int | None = None
    how: Mapping[str, str] = field(default_factory=dict)


def to_8_bits(saliency: np.ndarray, size: Size) -> np.ndarray:
    """Resize a map as MATLAB does and round it as a submission's PNG file holds it: 0 to 255, the peak 255.

    A map of 8 bits and of the right size is such a file's already and stays as it is; an all-zero one stays zero.
    """
    if saliency.dtype == np.uint8 and saliency.shape == size:
        return saliency
    resized = np.maximum(imresize(saliency, size), 0.0)
    return np.rint(resized * (255 / (resized.max() or 1.0)))


def bilinear_min_max(saliency: np.ndarray, size: Size) -> np.ndarray:
    """Stretch a map to [0, 1] and resize it as the challenge does: OpenCV's bilinear, not antialiased.

    A constant map becomes zero.
    """
    return _interpolate(_min_max(saliency), size, "bilinear")


def tinyhd_picture(saliency: np.ndarray, size: Size) -> np.ndarray:
    """Make TinyHD's picture of a map: 8 bits after min-max, resized (OpenCV's bicubic), blurred, 8 bits each time.

    A map of the video's size is taken for such a picture and stays as it is.
    """
    from scipy.ndimage import convolve1d  # here, since it takes long to import

    if saliency.shape == size:
        return saliency
    grey = np.floor(_min_max(saliency) * 255)
    resized = np.clip(np.rint(_interpolate(grey, size, "bicubic")), 0, 255)
    for axis in (0, 1):
        resized = convolve1d(resized, TINYHD_KERNEL, axis=axis, mode="mirror")
    return np.floor(resized + 0.5)


def ntire_nss(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """NSS with ddof 0 and 1e-7 under the line; a point fixated twice counts twice. A constant map gives 0.

    NaN without a fixation.
    """
    if not fixations.any():
        return float("nan")
    scores = (saliency - saliency.mean()) / (saliency.std() + NTIRE_EPS)
    return float((scores * fixations).sum() / fixations.sum())


def ntire_sim(saliency: np.ndarray, density: np.ndarray) -> float:
    """Sum of minima of the maps divided by their sums, the density after min-max. An all-zero map gives 0."""
    truth = _min_max(density)
    guess = saliency / (saliency.sum() + NTIRE_EPS)
    return float(np.minimum(guess, truth / (truth.sum() + NTIRE_EPS)).sum())


def ntire_cc(saliency: np.ndarray, density: np.ndarray) -> float:
    """Pearson's correlation with 1e-7 under its lines. A constant map gives 0."""
    first, second = (
        (values - values.mean()) / (values.std() + NTIRE_EPS) for values in (saliency, _min_max(density))
    )
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + NTIRE_EPS))


def ntire_auc_judd(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """AUC-Judd over all fixations, a point fixated twice being two; ties are not broken.

    At the i-th highest fixation, of N, the true positives are i / N and the false ones (pixels at least as high
    - i) / (pixels - 2). (The script means to subtract the number of fixated pixels. It takes the unique columns of
    an array of two columns, row and column, where it wants its unique rows.) NaN without a fixation.
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
    """NSS with ddof 0; NaN as the official one."""
    return METRICS["nss"](saliency, fixations) * float(np.sqrt(saliency.size / (saliency.size - 1)))


def _min_max(values: np.ndarray) -> np.ndarray:
    """Stretch a map to [0, 1] in float64; a constant one becomes zero."""
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


PROTOCOLS: dict[str, Protocol] = {
    "official": Protocol(
        metrics=("auc_judd", "nss", "cc", "sim", "kldiv"),
        average=None,
        resize=imresize,
        how={
            "resize": "predictions to the video's own size, bicubic, antialiased when shrunk (MATLAB's imresize)",
            "blur": "none",
        },
    ),
    "dhf1k": Protocol(
        metrics=("auc_judd", "sim", "auc_shuffled", "cc", "nss"),
        average="pooled",
        resize=to_8_bits,
        most_frames=50_000,
        how={
            "resize": "predictions to the video's own size, bicubic (MATLAB's imresize), then 8 bits, peak 255, as "
            "the PNG files of a submission",
            "blur": "none",
        },
    ),
    "ntire2026": Protocol(
        metrics=("auc_judd", "cc", "sim", "nss"),
        average="per_video",
        resize=bilinear_min_max,
        variants={"auc_judd": ntire_auc_judd, "nss": ntire_nss, "cc": ntire_cc, "sim": ntire_sim},
        how={
            "resize": "predictions min-max to [0, 1], then to the video's own size, bilinear, not antialiased "
            "(OpenCV's)",
            "blur": "none",
            "auc_judd": "repeated fixations counted, no jitter; false positives over all pixels but two, as the "
            "script has it",
            "nss": "ddof 0, repeated fixations counted, 1e-7 added to the standard deviation",
            "cc": "1e-7 added to the standard deviations",
            "sim": "by the sum alone, the density after min-max",
        },
    ),
    "tinyhd": Protocol(
        metrics=("auc_judd", "auc_borji", "cc", "nss", "sim"),
        average="per_video",
        resize=tinyhd_picture,
        variants={"nss": tinyhd_nss},
        how={
            "resize": "predictions min-max to 8 bits, then to the video's own size, bicubic, not antialiased "
            "(OpenCV's); maps of the video's size are taken as they are, unblurred",
            "blur": "a Gaussian of 5 x 5 pixels (OpenCV's, sigma 1.1) after the resize, in 8 bits",
            "nss": "ddof 0",
        },
    ),
}
"""Protocols by name."""
