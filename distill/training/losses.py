"""Differentiable losses on log-saliency or features, one `Loss` record each.

A loss of maps takes log-saliency (B, N, h, w) and a target of the same shape, a density of any scale or fixation
counts. It returns (B, N), or (B, N - 1) if it compares neighbouring maps. A loss of features takes (B, C, t, h, w)
and returns (B, 1). The caller averages over the maps that have a target.

Every value and gradient is finite, even for targets with zeros, constant maps and targets without a fixation (value
0, gradient 0). Adding a constant to a log-map changes nothing. Half precision is promoted to float32.

`kldiv` and `reverse_kldiv` mirror each other; `cc`, `sim`, `log_mse` and `temporal` are symmetric. The metrics to
report are in `distill/evaluation/metrics.py`. Losses and metrics share no code on purpose: a change to training
must not change a published number. The docstring of a loss notes where its definition differs.

Shapes: B clips per batch, N maps per clip, (h, w) pixels per map, C channels.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.saliency import density, log_density, normalise_density
from distill.targets.codec import DEEPEST

VARIANCE_EPS = 1e-12
"""Added to the variance of maps whose peak is 1, so that a constant map has a finite gradient."""

CONSTANT_CHANNEL = 1e-6
"""Fraction of a feature channel's mean square; a variance of at most this is little more than rounding error."""


@dataclass(frozen=True)
class Loss:
    """Registry entry of a loss, used by config validation, the objective and the tests."""

    function: Callable[..., Tensor]
    """Called as `function(predicted, target, **options)`."""
    target: Literal["density", "fixations", "features"]
    """What it compares with: a density (sum 1), fixation counts, or the teacher's features."""
    help: str
    """One line for the documentation."""
    teacher_only: bool = False
    """Whether it is defined only against a teacher: recorded fixations are zero almost everywhere and jump from
    frame to frame."""
    options: tuple[str, ...] = ()
    """Keyword arguments of the function that a config may set."""
    min_maps: int = 1
    """Smallest number of maps per clip."""

    def __call__(self, predicted: Tensor, target: Tensor, **options: float) -> Tensor:
        """Return one value per map (B, N), per pair of neighbouring maps (B, N - 1), or per clip (B, 1)."""
        return self.function(predicted, target, **options)


def kldiv(log_saliency: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(target || map) of the two densities at temperature T.

    A density p at temperature T is p^(1/T), renormalised. Zeros in the target stay zero.

    Args:
        log_saliency: (B, N, h, w).
        target: (B, N, h, w).
        temperature: T > 0. The factor T^2 keeps the gradient's size about the same at any T.

    Returns:
        (B, N), nats times T^2, in [0, inf); 0 at equality.

    Raises:
        ValueError: if the temperature is not positive.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2.
    """
    _check_temperature(temperature)
    log_saliency, target = _promote(log_saliency, target)
    goal = normalise_density(target)
    if temperature != 1:
        goal = normalise_density((goal / _peak(goal)) ** (1 / temperature))  # by the peak: no underflow
    log_map = log_density(log_saliency / temperature)
    return (torch.xlogy(goal, goal) - goal * log_map).sum(dim=(-2, -1)) * temperature**2


def reverse_kldiv(log_saliency: Tensor, target: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(map || target) of the two densities at temperature T.

    It penalises mass where the target has none, whereas `kldiv` penalises missing mass of the target.

    The target is clamped below at e^-64 times its peak.

    Returns:
        (B, N), nats times T^2, in [0, inf); 0 at equality.

    Raises:
        ValueError: if the temperature is not positive.

    Source: Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models", ICLR 2024, section 2.1.
    """
    _check_temperature(temperature)
    log_saliency, target = _promote(log_saliency, target)
    log_goal = log_density(_log_relative_to_peak(target) / temperature)
    log_map = log_density(log_saliency / temperature)
    values = (log_map.exp() * (log_map - log_goal)).sum(dim=(-2, -1)) * temperature**2
    return values * _has_mass(target)


def cc(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Return minus the Pearson correlation of the map (not its logarithm) and the target density.

    Returns:
        (B, N), in [-1, 1]; -1 at equality, 0 if either is constant.
    """
    log_saliency, target = _promote(log_saliency, target)
    one = _standardised(_scale_to_peak(log_saliency))
    two = _standardised(target / _peak(target))
    return -(one * two).mean(dim=(-2, -1))


def sim(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Return minus the similarity, the mass that the two densities share.

    Unlike in the published metric, neither map is min-max normalised first, so a constant floor under a map counts.

    Returns:
        (B, N), in [-1, 0]; -1 at equality.
    """
    log_saliency, target = _promote(log_saliency, target)
    return -torch.minimum(log_density(log_saliency).exp(), normalise_density(target)).sum(dim=(-2, -1))


def nss(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Return minus the normalised scanpath saliency: the standardised map (ddof 1), averaged over fixations.

    Unlike in the published metric, a pixel that was fixated twice counts twice.

    Returns:
        (B, N), standard deviations, unbounded; 0 for a constant map or without fixations.
    """
    log_saliency, target = _promote(log_saliency, target)
    values = _standardised(_scale_to_peak(log_saliency), ddof=1)
    return -(values * normalise_density(target)).sum(dim=(-2, -1))


def log_mse(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Return the variance of the difference of the log-maps, i.e. their mean squared error up to a constant.

    Every pixel has the same weight, dark ones included. The target is clamped below at e^-64 times its peak.

    Returns:
        (B, N), nats squared, in [0, inf); 0 at equality.

    Source: Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NeurIPS 2014,
    the scale-invariant error of section 3.2.
    """
    log_saliency, target = _promote(log_saliency, target)
    ratio = log_saliency - _log_relative_to_peak(target)
    centred = ratio - ratio.mean(dim=(-2, -1), keepdim=True)
    return centred.square().mean(dim=(-2, -1)) * _has_mass(target)


def temporal(log_saliency: Tensor, target: Tensor) -> Tensor:
    """Return half the L1 distance between the changes of the two densities from each map to the next.

    Static maps are penalised for all mass that moves in the target, and flickering maps where the target is static.
    The position of static mass does not matter.

    Returns:
        (B, N - 1), fraction of the mass, in [0, 2]; 0 at equality and for pairs with an empty target.

    Raises:
        ValueError: if N is 1.
    """
    log_saliency, target = _promote(log_saliency, target)
    if log_saliency.shape[1] < 2:
        raise ValueError("temporal: expected at least 2 maps per clip, got 1")
    change = density(log_saliency).diff(dim=1)
    wanted = normalise_density(target).diff(dim=1)
    present = _has_mass(target)
    return (change - wanted).abs().sum(dim=(-2, -1)) / 2 * (present[:, 1:] & present[:, :-1])


def hint(projected: Tensor, features: Tensor) -> Tensor:
    """Return the fraction of the variance of a teacher's features that the projected features leave unexplained.

    Each channel of the teacher is standardised over the clip, so that all channels have the same weight. A channel
    that is constant over the clip becomes zeros.

    Args:
        projected: (B, C, t, h, w).
        features: the teacher's, (B, C, t', h', w') or (B, C, h', w'), averaged to (t, h, w) here.

    Returns:
        (B, 1), the mean over channels, frames and pixels, in [0, inf); 0 if the projected features equal the
        standardised ones, 1 if they are zero.

    Raises:
        ValueError: if the channels differ.

    Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015.
    """
    dtype = torch.promote_types(projected.dtype, torch.float32)
    projected, target = projected.to(dtype), resize_features(features.to(dtype), projected.shape[2:])
    if target.shape != projected.shape:
        raise ValueError(f"hint: expected features of one shape, got {projected.shape} and {target.shape}")
    squares = target.square().mean(dim=(2, 3, 4), keepdim=True)  # (B, C, 1, 1, 1)
    centred = target - target.mean(dim=(2, 3, 4), keepdim=True)
    variance = centred.square().mean(dim=(2, 3, 4), keepdim=True)
    least = (CONSTANT_CHANNEL * squares).clamp_min(torch.finfo(target.dtype).tiny)
    target = centred * (variance + least).rsqrt()
    return (projected - target).square().mean(dim=(1, 2, 3, 4))[:, None]


def resize_features(features: Tensor, size: Iterable[int]) -> Tensor:
    """Return features (B, C, t, h, w) or (B, C, h, w) averaged over areas of frames and pixels to (B, C, *size)."""
    return F.interpolate(with_time(features), size=tuple(size), mode="area")


def with_time(features: Tensor) -> Tensor:
    """Return features as (B, C, t, h, w), with t = 1 if they have no time axis."""
    return features.unsqueeze(2) if features.ndim == 4 else features


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")


def _promote(log_saliency: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both tensors in the map's dtype, or in float32 if that is half precision.

    Raises:
        ValueError: if the shapes differ, which broadcasting would hide.
    """
    if log_saliency.shape != target.shape or log_saliency.ndim != 4:
        shapes = f"{tuple(log_saliency.shape)} and {tuple(target.shape)}"
        raise ValueError(f"expected map and target of one shape (B, N, h, w), got {shapes}")
    dtype = torch.promote_types(log_saliency.dtype, torch.float32)
    return log_saliency.to(dtype), target.to(dtype)


def _peak(values: Tensor) -> Tensor:
    """Return the maximum (B, N, 1, 1) of non-negative maps (B, N, h, w), tiny but positive for zero maps."""
    return values.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


def _log_relative_to_peak(target: Tensor) -> Tensor:
    """Return the logarithm of a target (B, N, h, w) relative to its peak, clamped like maps in a target store."""
    return (target / _peak(target)).clamp_min(math.exp(-DEEPEST)).log()


def _has_mass(target: Tensor) -> Tensor:
    """Return whether each target (B, N, h, w) has any mass, as bool (B, N)."""
    return target.amax(dim=(-2, -1)) > 0


def _scale_to_peak(log_saliency: Tensor) -> Tensor:
    """Return the maps (B, N, h, w) scaled to a peak of 1.

    The scale is detached, which leaves the gradient exact because the maps are standardised next.
    """
    return (log_saliency - log_saliency.detach().amax(dim=(-2, -1), keepdim=True)).exp()


def _standardised(values: Tensor, ddof: int = 0) -> Tensor:
    """Return maps (B, N, h, w) with mean 0 and variance 1; zeros for a constant map."""
    centred = values - values.mean(dim=(-2, -1), keepdim=True)
    pixels = max(values.shape[-2] * values.shape[-1] - ddof, 1)
    variance = centred.square().sum(dim=(-2, -1), keepdim=True) / pixels
    return centred * (variance + VARIANCE_EPS).rsqrt()


LOSSES: dict[str, Loss] = {
    "kldiv": Loss(
        kldiv,
        target="density",
        options=("temperature",),
        help="KL divergence of the map from the target; temperature softens both",
    ),
    "cc": Loss(cc, target="density", help="minus the Pearson correlation"),
    "sim": Loss(sim, target="density", help="minus the mass that the two densities share"),
    "nss": Loss(nss, target="fixations", help="minus the standardised map's mean at the fixations"),
    "reverse_kldiv": Loss(
        reverse_kldiv,
        target="density",
        teacher_only=True,
        options=("temperature",),
        help="KL divergence of the target from the map; temperature softens both",
    ),
    "log_mse": Loss(log_mse, target="density", teacher_only=True, help="variance of the log-maps' difference"),
    "temporal": Loss(
        temporal,
        target="density",
        teacher_only=True,
        min_maps=2,
        help="difference between the densities' changes from map to map; needs a model with several target frames",
    ),
    "hint": Loss(
        hint,
        target="features",
        teacher_only=True,
        help="unexplained variance of the teacher's features, given a learned projection of the model's",
    ),
}
