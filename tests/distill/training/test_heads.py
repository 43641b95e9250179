"""Hints and side maps: the loss on features, matching of sizes and frames, and the heads."""

from typing import Any

import pytest
import torch
from torch import Tensor

from distill.data.clips import ClipSpec
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.registry import create_model
from distill.saliency import log_density
from distill.training.heads import (
    Learner,
    Projection,
    SideMap,
    feature_shape,
    feature_shapes,
    last_part,
    shared_fractions,
)
from distill.training.losses import hint, resize_features
from distill.training.teachers import OnlineTeacher

B, C, t, h, w = 2, 3, 4, 5, 6


def features(seed: int = 0, shape: tuple[int, ...] = (B, C, t, h, w), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def standardised(values: Tensor) -> Tensor:
    centred = values - values.mean((2, 3, 4), keepdim=True)
    return centred / values.std((2, 3, 4), correction=0, keepdim=True)


# ---------------------------------------------------------------- the loss


def test_hint_is_zero_at_equality_and_one_for_zeros() -> None:
    teacher = features(dtype=torch.float32)
    assert hint(standardised(teacher), teacher).shape == (B, 1)
    torch.testing.assert_close(hint(standardised(teacher), teacher), torch.zeros(B, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(hint(torch.zeros_like(teacher), teacher), torch.ones(B, 1), atol=1e-5, rtol=0)


def test_hint_with_one_of_two_channels_matched_is_one_half() -> None:
    teacher = features(shape=(1, 2, t, h, w), dtype=torch.float32)
    projected = standardised(teacher) * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    assert hint(projected, teacher).item() == pytest.approx(0.5, rel=1e-5)


def test_hint_ignores_scale_and_offset_of_teacher_channels() -> None:
    """Foundation models have channels a thousand times larger than others."""
    teacher, projected = features(dtype=torch.float32), features(1, dtype=torch.float32)
    scale = torch.tensor([1000.0, 1.0, 0.01]).view(C, 1, 1, 1)
    torch.testing.assert_close(hint(projected, scale * (teacher + 3)), hint(projected, teacher), rtol=1e-3, atol=0)


def test_hint_is_a_mean_over_channels_frames_and_pixels_per_clip() -> None:
    teacher, projected = features(dtype=torch.float32), features(1, dtype=torch.float32)
    once = hint(projected, teacher)
    twice = hint(*(each.repeat(1, 2, 1, 2, 2) for each in (projected, teacher)))
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close(hint(projected[1:], teacher[1:]), once[1:])
    assert not torch.allclose(hint(teacher, projected), once)  # not symmetric


def test_hint_gradient_matches_finite_differences() -> None:
    teacher, projected = features(shape=(1, 2, 4, 4, 2)), features(1, (1, 2, 2, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda projected: hint(projected, teacher), (projected,))


@pytest.mark.parametrize("value", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(B, C, t, h, w), (B, C, h, w)])
def test_hint_counts_constant_features_as_zeros(value: float, shape: tuple[int, ...]) -> None:
    projected = features(1, (B, C, 1, h, w), torch.float32).requires_grad_()
    left = hint(projected, torch.full(shape, value))
    torch.testing.assert_close(left, projected.square().mean((1, 2, 3, 4))[:, None], rtol=1e-3, atol=0)
    left.sum().backward()
    assert projected.grad is not None
    assert torch.isfinite(projected.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    teacher, projected = features().to(dtype), features(1).to(dtype)
    value = hint(projected, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, hint(projected.float(), teacher.float()))


def test_hint_with_other_channels_raises() -> None:
    with pytest.raises(ValueError, match="hint: expected features of one shape"):
        hint(features(), features()[:, :1])


# ---------------------------------------------------------------- sizes and frames


def test_resize_features_averages_areas() -> None:
    values = torch.arange(16.0).reshape(1, 1, 2, 2, 4)
    assert torch.equal(resize_features(values, (2, 2, 4)), values)
    assert resize_features(values, (1, 1, 1)).item() == 7.5
    assert resize_features(values, (2, 1, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(resize_features(values[:, :, 0], (1, 2, 4)), values[:, :, :1])  # no time axis: one frame


@pytest.mark.parametrize(("share", "first"), [(1.0, 0), (0.5, 2), (0.75, 1), (0.01, 3)])
def test_last_part_crops_frames(share: float, first: int) -> None:
    assert torch.equal(last_part(features(), share), features()[:, :, first:])
    without_time = features(shape=(B, C, h, w))
    assert torch.equal(last_part(without_time, share), without_time)


def spec(num_frames: int, stride: int | str = 1) -> ClipSpec:
    return ClipSpec(num_frames, (16, 16), (num_frames - 1,), (16, 16), stride)


@pytest.mark.parametrize(
    ("student", "teacher", "shares"),
    [
        (spec(32), spec(16), (0.5, 1)),  # THTD-Net and SalFoM
        (spec(8), spec(16), (1, 0.5)),
        (spec(8, 2), spec(16), (1, 1)),
        (spec(8, "30fps"), spec(8, "15fps"), (1, 0.5)),
    ],
)
def test_shared_fractions(student: ClipSpec, teacher: ClipSpec, shares: tuple[float, float]) -> None:
    assert shared_fractions(student, teacher, [25, 30]) == shares


def test_shared_fractions_that_depend_on_the_frame_rate_are_refused() -> None:
    assert shared_fractions(spec(8), spec(8, "30fps"), [60]) == (1, 0.5)
    with pytest.raises(UserError, match=r"data\.stride 1 and teacher\.stride 30fps: .* give both in frames"):
        shared_fractions(spec(8), spec(8, "30fps"), [30, 60])


# ---------------------------------------------------------------- the teacher's side


def teacher_with_batch(
    share: float = 1.0, box: list[float] | None = None, device: str = "cpu"
) -> tuple[OnlineTeacher, Any]:
    torch.manual_seed(3)
    model = create_model("teacher/salfom:micro")
    teacher = OnlineTeacher(model, InferenceSettings(device=device), features=("encoder", "a3"), fraction=share)
    batch = {"teacher_clip": torch.randint(0, 256, (B, 3, 16, 32, 48), dtype=torch.uint8, device=device)}
    if box is not None:
        batch["box"] = torch.tensor([box] * B, device=device)
    return teacher, batch


def test_online_teacher_returns_maps_and_features_without_gradient() -> None:
    teacher, batch = teacher_with_batch()
    output = teacher.begin(batch)()
    found = output.features
    assert torch.equal(output.maps, teacher.network(batch["teacher_clip"]))
    wanted = teacher.network.forward_features(batch["teacher_clip"])
    assert found.keys() == {"encoder", "a3"}
    for name, value in found.items():
        assert torch.equal(value, wanted[name])
        assert not value.requires_grad
        assert value.dtype == torch.float32


def test_teacher_features_are_cropped_to_the_students_frames_and_box() -> None:
    whole = OnlineTeacher.begin(*teacher_with_batch())().features
    late = OnlineTeacher.begin(*teacher_with_batch(share=0.25))().features
    assert torch.equal(late["encoder"], whole["encoder"][:, :, 12:])
    right = OnlineTeacher.begin(
        *teacher_with_batch(box=[0.0, 0.5, 1.0, 0.5])
    )().features  # top, left, height, width
    columns = [1.25, 1.75, 2.0]  # positions in the encoder's three columns, clamped at the border
    for column, found in zip(columns, right["encoder"].unbind(-1), strict=True):
        wanted = (2 - column) * whole["encoder"][..., 1] + (column - 1) * whole["encoder"][..., 2]
        torch.testing.assert_close(found, wanted)
    wanted = 0.75 * whole["a3"][..., 24] + 0.25 * whole["a3"][..., 25]
    torch.testing.assert_close(right["a3"][..., 1], wanted)


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize(
    ("shape", "teacher", "shares", "wanted"),
    [
        ((7, 8, 10, 12), (3, 16, 5, 6), (0.5, 1.0), (4, 5, 6)),  # the teacher sees 4 of the student's 8 steps
        ((7, 8, 10, 12), (3, 5, 24), (1.0, 1.0), (1, 5, 12)),  # the teacher's features have no time axis
        ((7, 10, 12), (3, 16, 20, 20), (1.0, 0.5), (1, 10, 12)),
    ],
)
def test_projection_returns_the_coarser_grid(
    shape: tuple[int, ...], teacher: tuple[int, ...], shares: tuple[float, float], wanted: tuple[int, ...]
) -> None:
    projection = Projection("stage4", shape, teacher, shares)
    projected = projection(torch.randn(B, *shape))
    assert projected.shape == (B, 3, *wanted)
    assert sum(weight.numel() for weight in projection.parameters()) == 7 * 3 + 3  # one pixel, one frame
    assert torch.isfinite(hint(projected, last_part(torch.randn(B, *teacher), shares[1]))).all()


def test_projection_ignores_frames_that_the_teacher_does_not_see() -> None:
    projection = Projection("stage4", (2, 4, 3, 3), (2, 4, 3, 3), (0.5, 1.0))
    values = features(shape=(1, 2, 4, 3, 3), dtype=torch.float32)
    before = projection(values)
    values[:, :, :2] += 100
    assert torch.equal(projection(values), before)


@pytest.mark.parametrize("shape", [(7, 8, 4, 6), (7, 4, 6), (7, 8, 40, 60)])
def test_side_map_has_the_models_size_and_starts_nearly_uniform(shape: tuple[int, ...]) -> None:
    side = SideMap("stage2", shape, maps=2, size=(16, 24))
    maps = side(torch.randn(B, *shape))
    assert maps.shape == (B, 2, 16, 24)
    assert (log_density(maps).exp() * 16 * 24).sub(1).abs().max() < 0.7
    assert maps.flatten(2).std(2).min() > 0


def test_learner_returns_the_models_maps_and_the_heads_outputs() -> None:
    torch.manual_seed(0)
    loaded = create_model("student/thtdnet:micro")
    model: Any = loaded.network.eval()
    clip = torch.randint(0, 256, (1, 3, 8, 32, 48), dtype=torch.uint8)
    shape = feature_shapes(loaded)["stage2"]
    assert shape == model.forward_features(clip)["stage2"].shape[1:]
    side = SideMap("stage2", shape, maps=1, size=(32, 48))
    learner = Learner(model, {"stage2": side})
    maps, heads = learner(clip)
    assert torch.equal(maps, model(clip))
    assert torch.equal(heads["stage2"], side(model.forward_features(clip)["stage2"]))
    alone, nothing = Learner(model)(clip)
    assert torch.equal(alone, maps)
    assert nothing == {}
    assert learner.encoder_layers[0] == "model." + model.encoder_layers[0]
    assert learner.get_submodule(learner.encoder_layers[-1]) is model.get_submodule(model.encoder_layers[-1])


def test_unknown_features_are_listed_with_the_known_ones() -> None:
    shapes = feature_shapes(create_model("student/thtdnet:micro"))
    assert feature_shape("stage4", shapes, "x") == (64, 4, 1, 2)
    with pytest.raises(
        UserError, match=r"here: the model has no features 'stage9'; expected one of .*stage4, decoder"
    ):
        feature_shape("stage9", shapes, "here: the model")
    exported = OnnxModel.__new__(OnnxModel)
    with pytest.raises(UserError, match=r"student\.onnx: an exported model has no named features"):
        feature_shapes(LoadedModel(exported, {}, "student.onnx"))
