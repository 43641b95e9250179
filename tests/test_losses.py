"""The losses: a table of what holds for each, gradients, and agreement with the published metrics."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from distill import metrics
from distill.losses import LOSSES, TARGETS


@dataclass(frozen=True)
class Properties:
    """What is known of one loss, option included."""

    name: str
    at_equality: float | None  # None: not defined, the target is no map
    lowest: float
    highest: float
    without_target: float = 0.0
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
    Properties("cc", at_equality=-1, lowest=-1, highest=1),
    Properties("sim", at_equality=-1, lowest=-1, highest=0),
    Properties("nss", at_equality=None, lowest=-INF, highest=INF),
]
each_loss = pytest.mark.parametrize("loss", TABLE, ids=str)
SHAPE = (2, 3, 12, 16)


def maps(seed: int = 0, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def target_for(loss: Properties, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    """A density with zeros, or counts with a repeated fixation."""
    if TARGETS[loss.name] == "density":
        values = maps(seed, dtype).exp()
        values[..., :4, :] = 0
        return values / values.sum(dim=(-2, -1), keepdim=True)
    counts = torch.zeros(SHAPE, dtype=dtype)
    counts[..., 3, 4], counts[..., 7, 9], counts[..., 5, 5] = 1, 2, 1
    return counts


def test_the_table_and_the_registries_speak_of_the_same_losses() -> None:
    assert {loss.name for loss in TABLE} == LOSSES.keys() == TARGETS.keys()
    assert set(TARGETS.values()) == {"density", "fixations"}


@each_loss
def test_one_value_a_map(loss: Properties) -> None:
    log_saliency, target = maps(), target_for(loss)
    values = loss(log_saliency, target)
    assert values.shape == SHAPE[:2]
    alone = loss(log_saliency[1:, 2:], target[1:, 2:])  # no map looks at another
    torch.testing.assert_close(alone[0, 0], values[1, 2])
    assert len(set(values.flatten().tolist())) == values.numel()


@each_loss
def test_bounds(loss: Properties) -> None:
    for seed in range(5):
        values = loss(5 * maps(seed), target_for(loss, seed + 10))
        assert (values >= loss.lowest - 1e-6).all()
        assert (values <= loss.highest + 1e-6).all()
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("loss", [loss for loss in TABLE if loss.at_equality is not None], ids=str)
def test_value_at_equality_is_the_best(loss: Properties) -> None:
    target = maps(3).exp()
    target = target / target.sum(dim=(-2, -1), keepdim=True)
    at_equality = loss(target.log(), target)
    torch.testing.assert_close(at_equality, torch.full(SHAPE[:2], float(loss.at_equality or 0)), atol=1e-5, rtol=0)
    elsewhere = loss(target.log() + 0.3 * maps(4), target)
    assert (elsewhere > at_equality + 1e-3).all()


@pytest.mark.parametrize("loss", [loss for loss in TABLE if loss.name in ("kldiv", "cc")], ids=str)
def test_no_gradient_at_equality(loss: Properties) -> None:
    # SIM has a corner there
    target = maps(3, torch.float64).exp()
    log_saliency = target.log().requires_grad_()
    loss(log_saliency, target).sum().backward()
    assert log_saliency.grad is not None
    assert log_saliency.grad.abs().max() < 1e-9


@each_loss
def test_a_constant_added_to_a_log_map_changes_nothing(loss: Properties) -> None:
    log_saliency, target = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    constants = torch.linspace(-300, 300, 6, dtype=torch.float64).reshape(2, 3, 1, 1)
    torch.testing.assert_close(loss(log_saliency + constants, target), loss(log_saliency, target))


@each_loss
def test_the_scale_of_the_target_changes_nothing(loss: Properties) -> None:
    log_saliency, target = maps(), target_for(loss)
    torch.testing.assert_close(loss(log_saliency, 255 * target), loss(log_saliency, target))


@each_loss
def test_mirroring_both_changes_nothing(loss: Properties) -> None:
    log_saliency, target = maps(), target_for(loss)
    torch.testing.assert_close(loss(log_saliency.flip(-1), target.flip(-1)), loss(log_saliency, target))


@each_loss
def test_gradcheck(loss: Properties) -> None:
    log_saliency = maps(5, torch.float64)[:, :1].requires_grad_()
    target = target_for(loss, dtype=torch.float64)[:, :1]
    assert torch.autograd.gradcheck(lambda maps: loss(maps, target), (log_saliency,))


@each_loss
def test_a_step_against_the_gradient_helps(loss: Properties) -> None:
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
        assert (values == loss.without_target).all()
        assert (log_saliency.grad == 0).all()


@each_loss
def test_no_map_at_all(loss: Properties) -> None:
    """A batch in which nothing is labelled."""
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
def test_shapes_are_never_broadcast(loss: Properties) -> None:
    for shape in ((2, 1, 12, 16), (3, 12, 16), (2, 3, 6, 8)):
        with pytest.raises(ValueError, match=r"one shape \(B, N, h, w\)"):
            loss(maps(), torch.ones(shape))


# the temperature


def test_temperature_by_hand() -> None:
    """Two pixels: p and q are 9:1 and 1:1; at temperature 2 they are 3:1 and 1:1; times 4."""
    log_saliency, target = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.9, 0.1]]]])
    wanted = 4 * (0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))
    assert LOSSES["kldiv"](log_saliency, target, temperature=2).item() == pytest.approx(wanted, rel=1e-6)


def test_temperature_keeps_zeros_and_softens_the_rest() -> None:
    log_saliency = torch.zeros(1, 1, 1, 3)
    target = torch.tensor([[[[0.9, 0.1, 0.0]]]])
    hot = LOSSES["kldiv"](log_saliency, target, temperature=1e4).item() / 1e8
    assert hot == pytest.approx(np.log(3 / 2), rel=1e-2)  # half, half, zero against thirds


def test_temperature_squared_keeps_the_gradient_about_as_large() -> None:
    """Near equality the gradient of a log-map's error does not shrink as T grows (Hinton et al., section 2.1)."""
    target = torch.softmax(0.1 * maps(1, torch.float64).flatten(-2), -1).reshape(SHAPE)
    sizes = []
    for temperature in (1.0, 8.0):
        log_saliency = (0.1 * maps(2, torch.float64)).requires_grad_()
        LOSSES["kldiv"](log_saliency, target, temperature=temperature).sum().backward()
        assert log_saliency.grad is not None
        sizes.append(log_saliency.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize("temperature", [0, -1, float("nan")])
def test_a_temperature_that_is_not_positive_is_an_error(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected a number above 0"):
        LOSSES["kldiv"](maps(), maps().exp(), temperature=temperature)


# agreement with the published metrics, on maps of one size


@pytest.mark.parametrize(("name", "sign"), [("kldiv", 1), ("cc", -1), ("sim", -1), ("nss", -1)])
def test_losses_agree_with_the_metrics_where_the_definitions_do(name: str, sign: int) -> None:
    loss = next(loss for loss in TABLE if loss.name == name)
    log_saliency, target = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    if name == "sim":
        log_saliency[..., 0, 0] = -1000  # a map whose lowest value is 0, which the metric subtracts
    if name == "nss":
        target = target.clamp_max(1)  # the metric asks whether, not how often, a pixel was fixated
    values = loss(log_saliency, target)
    for b in range(2):
        for n in range(3):
            published = metrics.METRICS[name](log_saliency[b, n].exp().numpy(), target[b, n].numpy())
            assert values[b, n].item() == pytest.approx(sign * published, abs=1e-9)


def test_repeated_fixations_count_in_the_loss() -> None:
    loss = next(loss for loss in TABLE if loss.name == "nss")
    log_saliency, counts = maps(dtype=torch.float64), target_for(loss, dtype=torch.float64)
    saliency = log_saliency[0, 0].exp().numpy()
    scaled = (saliency - saliency.mean()) / saliency.std(ddof=1)
    wanted = (scaled[3, 4] + 2 * scaled[7, 9] + scaled[5, 5]) / 4
    assert loss(log_saliency, counts)[0, 0].item() == pytest.approx(-wanted)
