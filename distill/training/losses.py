"""What training minimises: differentiable losses of log-saliency, one value a map.

Every loss takes log-saliency (B, N, h, w) and a target of the same shape and gives (B, N), or (B, N - 1) where it
compares neighbouring maps; the caller takes the mean over the maps that have a target. `TARGETS` says what a loss
compares with. All are finite, gradients included, for zeros in the target, for constant maps and for targets
without any fixation (where the value is 0 and teaches nothing). None changes when a constant is added to a log-map.
All is computed in float32 at least.

`kldiv` and `reverse_kldiv` are each other's mirror; `cc`, `sim`, `log_mse` and `temporal` stay the same when map
and target are swapped.

`metrics.py` holds the published scores. The two share no code on purpose: a choice made for training must not move
a published number. Where definitions differ, the loss says so.

Shapes: B clips in a batch, N maps of a clip, (h, w) the map's size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distill.saliency import density, log_density, normalise_density
from distill.targets.codec import DEEPEST

SPREAD = 1e-12
"""Added to variances of maps whose peak is 1, so that a constant map has a gradient and not a division by zero."""


def kldiv(log_saliency: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the map from the target density, both softened by a temperature, times T^2.

    A density p at temperature T is p^(1/T), renormalised. A pixel where the target is zero stays zero.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w), density of any scale.
        temperature: T > 0. The factor T^2 keeps the size of the gradient about the same at any T.

    Returns:
        (B, N), nats times T^2, in [0, inf); 0 at equality.

    Raises:
        ValueError: if the temperature is not positive.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    _check_temperature(temperature)
    log_saliency, target = _same(log_saliency, target)
    goal = normalise_density(target)
    if temperature != 1:
        goal = normalise_density((goal / _peak(goal)) ** (1 / temperature))  # by the peak: no underflow
    log_map = log_density(log_saliency / temperature)
    return (torch.xlogy(goal, goal) - goal * log_map).sum(dim=(-2, -1)) * temperature**2


def reverse_kldiv(log_saliency: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the target density from the map, both softened by a temperature, times T^2.

    It costs to put mass where the target has none, rather than to leave out a part of the target as in `kldiv`.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w), density of any scale; what is less than e^-64 of the peak counts as that.
        temperature: T > 0, as for `kldiv`.

    Returns:
        (B, N), nats times T^2, in [0, inf); 0 at equality.

    Raises:
        ValueError: if the temperature is not positive.

    Source: Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", ICLR 2024, section 2.1.
    """
    _check_temperature(temperature)
    log_saliency, target = _same(log_saliency, target)
    log_goal = log_density(_logarithm(target) / temperature)
    log_map = log_density(log_saliency / temperature)
    values = (log_map.exp() * (log_map - log_goal)).sum(dim=(-2, -1)) * temperature**2
    return values * _is_some(target)


def cc(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Minus Pearson's correlation of the map (not its logarithm) and the target density.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w), density of any scale.

    Returns:
        (B, N), in [-1, 1]; -1 at equality, 0 if either is constant.
    """
    log_saliency, target = _same(log_saliency, target)
    one = _standardised(_peak_one(log_saliency))
    two = _standardised(target / _peak(target))
    return -(one * two).mean(dim=(-2, -1))


def sim(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Minus the similarity: the mass that the two densities share.

    Unlike the published metric, neither map is min-max normalised first, so a floor under the map costs something.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w), density of any scale.

    Returns:
        (B, N), in [-1, 0]; -1 at equality.
    """
    log_saliency, target = _same(log_saliency, target)
    return -torch.minimum(log_density(log_saliency).exp(), normalise_density(target)).sum(dim=(-2, -1))


def nss(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Minus the normalised scanpath saliency: the map in standard deviations (ddof 1), averaged over fixations.

    Unlike the published metric, a pixel that was fixated twice counts twice: every observer teaches.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w), fixation counts.

    Returns:
        (B, N), standard deviations, unbounded; 0 for a constant map and without fixations.
    """
    log_saliency, target = _same(log_saliency, target)
    values = _standardised(_peak_one(log_saliency), ddof=1)
    return -(values * normalise_density(target)).sum(dim=(-2, -1))


def log_mse(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of the two log-maps, up to a constant: the variance of their difference.

    Every pixel counts alike, dark ones too.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w), density of any scale; what is less than e^-64 of the peak counts as that.

    Returns:
        (B, N), nats squared, in [0, inf); 0 at equality.

    Source: Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NeurIPS 2014,
    the scale-invariant error of section 3.2.
    """
    log_saliency, target = _same(log_saliency, target)
    ratio = log_saliency - _logarithm(target)
    centred = ratio - ratio.mean(dim=(-2, -1), keepdim=True)
    return centred.square().mean(dim=(-2, -1)) * _is_some(target)


def temporal(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Mass that moves otherwise than the target's from each map of a clip to the next.

    Half the absolute difference between the two densities' changes: a map that stands still pays for all the mass
    that moves in the target, and flicker pays where the target is still. Where the mass lies does not count.

    Args:
        log_saliency: (B, N, h, w), N >= 2, in the order of time.
        target: (B, N, h, w), density of any scale.

    Returns:
        (B, N - 1), share of the mass, in [0, 2]; 0 at equality, and beside a target without any mass.

    Raises:
        ValueError: if a clip has one map.
    """
    log_saliency, target = _same(log_saliency, target)
    if log_saliency.shape[1] < 2:
        raise ValueError("temporal compares the change from map to map, got clips of one map")
    change = density(log_saliency).diff(dim=1)
    wanted = normalise_density(target).diff(dim=1)
    some = _is_some(target)
    return (change - wanted).abs().sum(dim=(-2, -1)) / 2 * (some[:, 1:] & some[:, :-1])


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")


def _same(log_saliency: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Check shapes and bring both to the map's dtype, float32 at least.

    Raises:
        ValueError: if the shapes differ; broadcasting would hide a mistake.
    """
    if log_saliency.shape != target.shape or log_saliency.ndim != 4:
        shapes = f"{tuple(log_saliency.shape)} and {tuple(target.shape)}"
        raise ValueError(f"a loss compares maps of one shape (B, N, h, w), got {shapes}")
    dtype = torch.promote_types(log_saliency.dtype, torch.float32)
    return log_saliency.to(dtype), target.to(dtype)


def _peak(values: Tensor) -> Tensor:
    """Return the maximum (B, N, 1, 1) of non-negative maps (B, N, h, w), above zero for zero maps."""
    return values.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


def _logarithm(target: Tensor) -> Tensor:
    """Return the logarithm of a target (B, N, h, w) beside its peak, no deeper than a stored map goes."""
    return (target / _peak(target)).clamp_min(math.exp(-DEEPEST)).log()


def _is_some(target: Tensor) -> Tensor:
    """Tell which targets (B, N, h, w) have any mass, (B, N)."""
    return target.amax(dim=(-2, -1)) > 0


def _peak_one(log_saliency: Tensor) -> Tensor:
    """Return the maps (B, N, h, w) scaled to a peak of 1.

    The scale is a constant to the gradient, which is exact for what follows: no standardised map depends on it.
    """
    return (log_saliency - log_saliency.detach().amax(dim=(-2, -1), keepdim=True)).exp()


def _standardised(values: Tensor, ddof: int = 0) -> Tensor:
    """Return maps (B, N, h, w) with mean 0 and variance 1; a constant map gives zeros."""
    centred = values - values.mean(dim=(-2, -1), keepdim=True)
    pixels = max(values.shape[-2] * values.shape[-1] - ddof, 1)
    variance = centred.square().sum(dim=(-2, -1), keepdim=True) / pixels
    return centred * (variance + SPREAD).rsqrt()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "kldiv": kldiv,
    "cc": cc,
    "sim": sim,
    "nss": nss,
    "reverse_kldiv": reverse_kldiv,
    "log_mse": log_mse,
    "temporal": temporal,
}

TARGETS: dict[str, str] = {
    "kldiv": "density",
    "cc": "density",
    "sim": "density",
    "nss": "fixations",
    "reverse_kldiv": "teacher",
    "log_mse": "teacher",
    "temporal": "teacher",
}
"""What each loss compares the map with: "density" (sum 1, a teacher's or the ground truth's), "fixations" (counts),
or "teacher" (a teacher's density alone: recorded gaze is zero almost everywhere, and jumps from frame to frame)."""
