"""The losses: a table of what holds for each, gradients, and agreement with the published metrics."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.evaluation import metrics
from distill.saliency import density
from distill.targets.codec import CODECS
from distill.training.losses import LOSSES


@dataclass(frozen=True)
class Properties:
    """Known properties of one loss with its options."""

    name: str
    at_equality: float | None  # None: undefined, the target is not a map
    lowest: float
    highest: float
    symmetric: bool = False  # in map and target
    smooth: bool = True  # differentiable at equality
    pairs: bool = False  # one value per pair of neighbouring maps, not per map
    temperature: float | None = None

    def __call__(self, log_saliency: Tensor, target: Tensor) -> Tensor:
        options = {} if self.temperature is None else {"temperature": self.temperature}
        return LOSSES[self.name](log_saliency, target, **options)

    def __str__(self) -> str:
        return self.name if self.temperature is None else f"{self.name}@{self.temperature:g}"


INF = float("inf")
TABLE = [
    Properties("kldiv", at_equality=0, lowest=0, highest=INF),
    Properties("kldiv", at_equality=0, lowest=0, highest=INF, temperature=4),
    Properties("kldiv", at_equality=0, lowest=0, highest=INF, temperature=0.5),
    Properties("cc", at_equality=-1, lowest=-1, highest=1, symmetric=True),
    Properties("sim", at_equality=-1, lowest=-1, highest=0, symmetric=True, smooth=False),
    Properties("nss", at_equality=None, lowest=-INF, highest=INF, smooth=False),
    Properties("reverse_kldiv", at_equality=0, lowest=0, highest=INF),
    Properties("reverse_kldiv", at_equality=0, lowest=0, highest=INF, temperature=4),
    Properties("log_mse", at_equality=0, lowest=0, highest=INF, symmetric=True),
    Properties("temporal", at_equality=0, lowest=0, highest=2, symmetric=True, smooth=False, pairs=True),
]
each_loss = pytest.mark.parametrize("loss", TABLE, ids=str)
SHAPE = (2, 3, 12, 16)


def maps(seed: int = 0, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def target_for(loss: Properties, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """A density with zeros, or counts with a repeated fixation."""
    if LOSSES[loss.name].target != "fixations":
        values = maps(seed, dtype).exp()
        values[..., :4, :] = 0
        return values / values.sum(dim=(-2, -1), keepdim=True)
    counts = torch.zeros(SHAPE, dtype=dtype)
    counts[..., 3, 4], counts[..., 7, 9], counts[..., 5, 5] = 1, 2, 1
    return counts


def test_table_covers_every_loss_of_maps() -> None:
    """Losses of features are in test_heads.py."""
    of_maps = {name for name, loss in LOSSES.items() if loss.target != "features"}
    assert {loss.name for loss in TABLE} == of_maps
    assert {loss.name for loss in TABLE if loss.pairs} == {name for name in of_maps if LOSSES[name].min_maps == 2}
    for name in of_maps:
        assert ("temperature" in LOSSES[name].options) == any(
            loss.temperature for loss in TABLE if loss.name == name
        )
        assert LOSSES[name].help


@each_loss
def test_loss_returns_one_value_per_map(loss: Properties) -> None:
    log_saliency, target = maps(), target_for(loss)
    values = loss(log_saliency, target)
    assert values.shape == (SHAPE[0], SHAPE[1] - loss.pairs)
    first = 2 - loss.pairs
    # no value depends on another clip, or on a map further away than the neighbour
    alone = loss(log_saliency[1:, first:], target[1:, first:])
    torch.testing.assert_close(alone[0, -1], values[1, -1])
    assert len(set(values.flatten().tolist())) == values.numel()


@each_loss
def test_values_stay_within_bounds(loss: Properties) -> None:
    for seed in range(5):
        values = loss(5 * maps(seed), target_for(loss, seed + 10))
        assert (values >= loss.lowest - 1e-6).all()
        assert (values <= loss.highest + 1e-6).all()
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("loss", [loss for loss in TABLE if loss.at_equality is not None], ids=str)
def test_value_at_equality_is_the_minimum(loss: Properties) -> None:
    target = maps(3).exp()
    target = target / target.sum(dim=(-2, -1), keepdim=True)
    at_equality = loss(target.log(), target)
    wanted = torch.full_like(at_equality, float(loss.at_equality or 0))
    torch.testing.assert_close(at_equality, wanted, atol=1e-5, rtol=0)
    elsewhere = loss(target.log() + 0.3 * maps(4), target)
    assert (elsewhere > at_equality + 1e-3).all()


@pytest.mark.parametrize("loss", [loss for loss in TABLE if loss.smooth], ids=str)
def test_gradient_at_equality_is_zero(loss: Properties) -> None:
    target = maps(3, torch.float64).exp()
    log_saliency = target.log().requires_grad_()
    loss(log_saliency, target).sum().backward()
    assert log_saliency.grad is not None
    assert log_saliency.grad.abs().max() < 1e-9


@pytest.mark.parametrize("loss", [loss for loss in TABLE if loss.at_equality is not None], ids=str)
def test_swapping_map_and_target_changes_asymmetric_losses(loss: Properties) -> None:
    one, other = maps(3, torch.float64), 2 * maps(4, torch.float64)
    right, wrong = loss(one, density(other)), loss(other, density(one))
    if loss.symmetric:
        torch.testing.assert_close(right, wrong)
    else:
        assert ((right - wrong).abs() > 0.01 * right).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_reverse_kldiv_is_kldiv_with_arguments_swapped(temperature: float) -> None:
    one, other = maps(3, torch.float64), 2 * maps(4, torch.float64)
    forth = LOSSES["kldiv"](one, density(other), temperature=temperature)
    torch.testing.assert_close(LOSSES["reverse_kldiv"](other, density(one), temperature=temperature), forth)


@pytest.mark.parametrize("change", ["constant added to log-map", "target scaled", "both mirrored"])
@each_loss
def test_value_is_invariant(loss: Properties, change: str) -> None:
    log_saliency, target = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    constants = torch.linspace(-300, 300, 6, dtype=torch.float64).reshape(2, 3, 1, 1)
    changed = {
        "constant added to log-map": (log_saliency + constants, target),
        "target scaled": (log_saliency, 255 * target),
        "both mirrored": (log_saliency.flip(-1), target.flip(-1)),
    }[change]
    torch.testing.assert_close(loss(*changed), loss(log_saliency, target))


@each_loss
def test_value_does_not_depend_on_resolution(loss: Properties) -> None:
    """Each pixel repeated 2x2 gives the same value, so that the resolution is not a hidden weight."""
    log_saliency, target = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    larger, twice = (each.repeat_interleave(2, -1).repeat_interleave(2, -2) for each in (log_saliency, target))
    torch.testing.assert_close(loss(larger, twice), loss(log_saliency, target), rtol=1e-2, atol=0)


@each_loss
def test_gradient_matches_finite_differences(loss: Properties) -> None:
    log_saliency = maps(5, torch.float64)[:1, :2].requires_grad_()
    target = target_for(loss, dtype=torch.float64)[:1, :2]
    assert torch.autograd.gradcheck(lambda maps: loss(maps, target), (log_saliency,))


@each_loss
def test_gradient_step_lowers_the_loss(loss: Properties) -> None:
    log_saliency, target = maps(dtype=torch.float64).requires_grad_(), target_for(loss, dtype=torch.float64)
    before = loss(log_saliency, target)
    before.sum().backward()
    assert log_saliency.grad is not None
    with torch.no_grad():
        after = loss(log_saliency - 1e-3 * log_saliency.grad, target)
    assert (after < before).all()


@pytest.mark.parametrize("which", ["no fixation", "constant map", "one pixel", "sharp map", "both empty"])
@each_loss
def test_degenerate_maps_have_finite_values_and_gradients(loss: Properties, which: str) -> None:
    log_saliency, target = maps(), target_for(loss)
    if which in ("no fixation", "both empty"):
        target = torch.zeros(SHAPE)
    if which in ("constant map", "both empty"):
        log_saliency = torch.full(SHAPE, -3.0)
    if which == "one pixel":
        target = torch.zeros(SHAPE)
        target[..., 2, 3] = 1
    if which == "sharp map":
        log_saliency = 100 * log_saliency
    log_saliency.requires_grad_()
    values = loss(log_saliency, target)
    values.sum().backward()
    assert log_saliency.grad is not None
    assert torch.isfinite(values).all()
    assert torch.isfinite(log_saliency.grad).all()
    if which in ("no fixation", "both empty"):
        assert (values == 0).all()
        assert (log_saliency.grad == 0).all()


@pytest.mark.parametrize("loss", [loss for loss in TABLE if not LOSSES[loss.name].teacher_only], ids=str)
def test_empty_batch_of_maps_has_a_gradient(loss: Properties) -> None:
    """As in a batch without any label."""
    log_saliency = torch.zeros(1, 0, 12, 16, requires_grad=True)
    values = loss(log_saliency, torch.zeros(1, 0, 12, 16))
    assert values.shape == (1, 0)
    values.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each_loss
def test_half_precision_is_computed_in_float32(loss: Properties, dtype: torch.dtype) -> None:
    log_saliency = maps().to(dtype)
    values = loss(log_saliency, target_for(loss))
    assert values.dtype == torch.float32
    assert torch.equal(values, loss(log_saliency.float(), target_for(loss)))


@each_loss
def test_shapes_that_differ_raise(loss: Properties) -> None:
    for shape in ((2, 1, 12, 16), (3, 12, 16), (2, 3, 6, 8)):
        with pytest.raises(ValueError, match=r"one shape \(B, N, h, w\)"):
            loss(maps(), torch.ones(shape))


# the temperature


def test_kldiv_with_temperature_matches_hand_calculation() -> None:
    """Two pixels: p and q are 9:1 and 1:1; at temperature 2 they are 3:1 and 1:1; times 4."""
    log_saliency, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.9, 0.1]]]])
    wanted = 4 * (0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))
    assert LOSSES["kldiv"](log_saliency, target, temperature=2).item() == pytest.approx(wanted, rel=1e-6)


def test_temperature_keeps_zeros_and_softens_the_rest() -> None:
    log_saliency = torch.zeros(1, 1, 1, 3)
    target = torch.tensor([[[[0.9, 0.1, 0.0]]]])
    hot = LOSSES["kldiv"](log_saliency, target, temperature=1e4).item() / 1e8
    assert hot == pytest.approx(np.log(3 / 2), rel=1e-2)  # half, half, zero against thirds


def test_gradient_size_is_nearly_independent_of_temperature() -> None:
    """Near equality the gradient of a log-map's error does not shrink as T grows (Hinton et al., section 2.1)."""
    target = torch.softmax(0.1 * maps(1, torch.float64).flatten(-2), -1).reshape(SHAPE)
    sizes = []
    for temperature in (1.0, 8.0):
        log_saliency = (0.1 * maps(2, torch.float64)).requires_grad_()
        LOSSES["kldiv"](log_saliency, target, temperature=temperature).sum().backward()
        assert log_saliency.grad is not None
        sizes.append(log_saliency.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize("name", ["kldiv", "reverse_kldiv"])
@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_temperature_not_positive_raises(name: str, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected a number above 0"):
        LOSSES[name](maps(), maps().exp(), temperature=temperature)


# losses against a teacher, by hand


def test_log_mse_matches_hand_calculation() -> None:
    """The log-ratios of two pixels are 0 and 2: one from their mean, either way."""
    log_saliency = torch.tensor([[[[-1.0, -1.0]]]])
    target = torch.tensor([[[[0.0, -2.0]]]]).exp()
    assert LOSSES["log_mse"](log_saliency, target).item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", ["reverse_kldiv", "log_mse"])
def test_zeros_in_target_equal_decoded_zeros_of_a_store(name: str) -> None:
    """Online and cached teacher maps must give the same loss."""
    target = target_for(Properties(name, at_equality=0, lowest=0, highest=INF))
    stored = [CODECS["exact"].encode(each.numpy()) for each in target.log().flatten(0, 1)]
    decoded = [torch.from_numpy(CODECS["exact"].decode(each, (12, 16))) for each in stored]
    again = torch.stack(decoded).reshape(SHAPE).exp()
    torch.testing.assert_close(LOSSES[name](maps(), again), LOSSES[name](maps(), target), rtol=1e-3, atol=0)


def test_temporal_matches_hand_calculation() -> None:
    """The target moves all its mass to the other pixel; the map moves all, half or none of it, or all back."""
    target = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    for first, wanted in (([1.0, 0.0], 0), ([0.5, 0.5], 0.5), ([0.0, 1.0], 1)):
        predicted = torch.tensor([[[first], [[0.0, 1.0]]]])
        value = LOSSES["temporal"](predicted.clamp_min(1e-30).log(), target)
        assert value.item() == pytest.approx(wanted, abs=1e-6)
    backwards = LOSSES["temporal"](target.flip(1).clamp_min(1e-30).log(), target)
    assert backwards.item() == pytest.approx(2, abs=1e-6)


def test_temporal_of_a_static_map_is_the_mass_that_moves() -> None:
    target = density(maps(3))
    moved = (target[:, 1:] - target[:, :-1]).abs().sum((-2, -1)) / 2
    for seed in (1, 2):
        still = maps(seed)[:, :1].expand(SHAPE)
        torch.testing.assert_close(LOSSES["temporal"](still, target), moved)


def test_temporal_of_one_map_raises() -> None:
    with pytest.raises(ValueError, match="temporal: expected at least 2 maps per clip, got 1"):
        LOSSES["temporal"](maps()[:, :1], maps()[:, :1].exp())


# agreement with the published metrics, on maps of one size


@pytest.mark.parametrize(("name", "sign"), [("kldiv", 1), ("cc", -1), ("sim", -1), ("nss", -1)])
def test_losses_equal_metrics_where_definitions_agree(name: str, sign: int) -> None:
    loss = next(loss for loss in TABLE if loss.name == name)
    log_saliency, target = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    if name == "sim":
        log_saliency[..., 0, 0] = -1000  # a map whose lowest value is 0, which the metric subtracts
    if name == "nss":
        target = target.clamp_max(1)  # the metric asks whether, not how often, a pixel was fixated
    values = loss(log_saliency, target)
    for b in range(2):
        for n in range(3):
            published = metrics.METRICS[name].function(log_saliency[b, n].exp().numpy(), target[b, n].numpy())
            assert values[b, n].item() == pytest.approx(sign * published, abs=1e-9)


def test_nss_counts_repeated_fixations() -> None:
    loss = next(loss for loss in TABLE if loss.name == "nss")
    log_saliency, counts = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    saliency = log_saliency[0, 0].exp().numpy()
    scaled = (saliency - saliency.mean()) / saliency.std(ddof=1)
    wanted = (scaled[3, 4] + 2 * scaled[7, 9] + scaled[5, 5]) / 4
    assert loss(log_saliency, counts)[0, 0].item() == pytest.approx(-wanted)
