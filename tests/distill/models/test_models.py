"""Tests that every registered model must pass, on its smallest variant."""

import fnmatch
import re
from pathlib import Path

import pytest
import torch
from helpers.model_cases import ALL, SMALL, awake, clip_for, smallest
from torch import Tensor

from distill.errors import UserError
from distill.models.protocols import check_model, is_streaming
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import read_header, read_notes, save_model, weights_fingerprint


@pytest.mark.parametrize("name", SMALL)
def test_forward_returns_finite_log_saliency_of_declared_shape(name: str) -> None:
    model = awake(name).network
    with torch.no_grad():
        out = model(clip_for(model))
    assert out.shape == (2, len(model.target_frames), *model.map_size)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.flatten(1).std(dim=1).min() > 1e-3
    assert all(0 <= frame < model.num_frames for frame in model.target_frames)


@pytest.mark.parametrize("name", SMALL)
def test_check_model_missing_member_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = create_model(smallest(name)).network
    check_model(network)
    for member in ("encoder_layers", *(["state_shapes"] if is_streaming(network) else [])):
        with monkeypatch.context() as patch:
            patch.setattr(network, member, None)
            with pytest.raises(
                UserError, match=rf"{type(network).__module__}\.Model: missing {member}; a model needs"
            ):
                check_model(network)
    with monkeypatch.context() as patch:
        patch.setattr(network, "fit", "letter", raising=False)
        with pytest.raises(UserError, match="Model: fit 'letter': expected one of stretch, letterbox, crop"):
            check_model(network)


@pytest.mark.parametrize("name", SMALL)
def test_forward_of_uint8_and_float_clips_agrees(name: str) -> None:
    model = awake(name).network
    clip = clip_for(model)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), model(clip.float() / 255), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_forward_equals_head_of_features(name: str) -> None:
    model = awake(name).network
    clip = clip_for(model)
    with torch.no_grad():
        features = model.forward_features(clip)
        assert all(isinstance(value, Tensor) and len(value) == 2 for value in features.values())
        assert torch.equal(model(clip), model.forward_head(features))


@pytest.mark.parametrize("name", SMALL)
def test_forward_on_a_batch_equals_single_clips(name: str) -> None:
    model = awake(name).network
    clip = clip_for(model)
    with torch.no_grad():
        each = torch.cat([model(clip[:1]), model(clip[1:])])
        torch.testing.assert_close(model(clip), each, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_forward_depends_on_every_frame(name: str) -> None:
    model = awake(name).network
    clip = clip_for(model, 1)
    with torch.no_grad():
        before = model(clip)
        for frame in range(model.num_frames):
            changed = clip.clone()
            changed[:, :, frame] = 255 - changed[:, :, frame]
            assert not torch.equal(model(changed), before), f"frame {frame} changes nothing"


@pytest.mark.parametrize("name", SMALL)
def test_backward_reaches_every_trainable_weight(name: str) -> None:
    model = awake(name).network.train()
    out = model(clip_for(model))
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        excused = any(fnmatch.fnmatch(key, pattern) for pattern in model.no_gradient)
        assert reached != excused, f"{key}: gradient {'reaches it' if reached else 'is missing'}"


@pytest.mark.parametrize("name", SMALL)
def test_save_and_load_restores_weights_identity_and_notes(name: str, tmp_path: Path) -> None:
    saved = awake(name)
    model = saved.network
    save_model(saved, tmp_path / "model.safetensors", notes={"step": 12})
    again = load_model(tmp_path / "model.safetensors")
    clip = clip_for(model)
    with torch.no_grad():
        assert torch.equal(model(clip), again.network(clip))
    assert weights_fingerprint(again.network) == weights_fingerprint(model)
    assert again.identity == saved.identity
    assert again.reference == str(tmp_path / "model.safetensors")
    assert not again.network.training
    header = read_header(tmp_path / "model.safetensors")
    assert again.notes == read_notes(tmp_path / "model.safetensors") == {"step": 12}
    assert header.spec.size == tuple(model.size)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", SMALL)
def test_create_model_with_same_seed_has_same_weights(name: str) -> None:
    prints = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        prints.append(weights_fingerprint(create_model(smallest(name)).network))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", SMALL)
def test_create_model_with_unsupported_size_names_a_supported_one(name: str) -> None:
    with pytest.raises(UserError, match=r"size \(37, 61\)") as error:
        create_model(smallest(name), size=(37, 61))
    found = re.search(r"such as \((\d+), (\d+)\)", str(error.value))
    assert found
    size = (int(found[1]), int(found[2]))
    assert create_model(smallest(name), size=size).network.size == size


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("frames", [0, 7])
def test_create_model_with_num_frames_works_or_names_a_supported_one(name: str, frames: int) -> None:
    try:
        model = create_model(smallest(name), num_frames=frames).network
    except UserError as error:
        found = re.search(rf"num_frames {frames}: .* (?:such as|nearest is) (\d+)", str(error))
        assert found
        model = create_model(smallest(name), num_frames=int(found[1])).network
    model.eval()
    assert model.num_frames > 0
    with torch.no_grad():
        assert model(clip_for(model, 1)).isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_forward_with_wrong_shape_names_the_expected_one(name: str) -> None:
    model = create_model(smallest(name)).network
    T, (H, W) = model.num_frames, model.size
    for shape in [(1, 3, T, H, W + 16), (1, 3, T - 1, H, W), (1, 1, T, H, W), (3, T, H, W)]:
        with pytest.raises(ValueError, match=re.escape(f"clip of shape {shape}, expected (B, 3, {T}, {H}, {W})")):
            model(torch.zeros(shape))


@pytest.mark.parametrize("name", SMALL)
def test_create_model_with_size_as_list_records_it(name: str) -> None:
    model = create_model(smallest(name), size=[64, 96])  # as YAML and JSON write it
    assert model.network.size == (64, 96)
    assert model.identity["arguments"] == {"size": [64, 96]}


@pytest.mark.parametrize("reference", ALL)
@torch.no_grad()
def test_every_variant_returns_maps_of_declared_shape(reference: str) -> None:
    with torch.device("meta"):
        model = create_model(reference).network.eval()
        out = model(torch.zeros(1, 3, model.num_frames, *model.size))
    assert out.shape == (1, len(model.target_frames), *model.map_size)
    assert out.dtype == torch.float32
