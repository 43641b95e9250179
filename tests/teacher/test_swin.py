"""SalFoM on a Video Swin encoder: its structure, shapes, and Kinetics weights in both formats."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.video import swin3d_b, swin3d_s, swin3d_t

from distill.models.published_weights import load_published_weights
from teacher import salfom
from teacher.salfom import VARIANTS, Model
from teacher.swin import Encoder
from teacher.weights import to_published

load = partial(load_published_weights, salfom)


def micro(seed: int = 0, **changes: object) -> Model:
    torch.manual_seed(seed)
    return Model(**VARIANTS["micro-swin"] | changes).eval()


def kinetics(model: Model, classes: int = 400) -> dict[str, Tensor]:
    """A torchvision weight file for this encoder."""
    tensors = {key: value.clone() for key, value in model.encoder.swin.state_dict().items()}
    return tensors | {"head.weight": torch.zeros(classes, 32), "head.bias": torch.zeros(classes)}


def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's keys to those of the original Video Swin."""
    renamed = {}
    for key, value in tensors.items():
        if part := re.match(r"features\.(\d+)\.", key):
            stage, merging = divmod(int(part[1]), 2)
            ours = "downsample." if merging else "blocks."
            key = f"layers.{stage}.{ours}" + key[part.end() :]
        key = key.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.3.", ".mlp.fc2.")
        renamed[
            ("cls_" + key.replace("head.", "head.fc_cls.")) if key.startswith("head.") else f"backbone.{key}"
        ] = value
    return renamed


@pytest.mark.parametrize(
    ("arguments", "published"),
    [
        ({"width": 1024, "depth": 24, "heads": 32}, swin3d_b),
        ({"width": 768, "depth": 24, "heads": 24}, swin3d_s),
        ({"width": 768, "depth": 12, "heads": 24}, swin3d_t),
    ],
)
def test_encoder_has_the_weights_of_torchvisions_network_without_head(arguments: dict, published: object) -> None:
    with torch.device("meta"):
        ours = Encoder(num_frames=16, **arguments).swin.state_dict()
        theirs = published().state_dict()  # type: ignore[operator]
    del theirs["head.weight"], theirs["head.bias"]
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


def test_swin_variant_has_the_papers_decoder() -> None:
    with torch.device("meta"):
        swin, base = Model(**VARIANTS["swin-encoder"]), Model()
    assert (swin.size, swin.num_frames) == (base.size, base.num_frames)
    ours, theirs = swin.decoder.state_dict(), base.decoder.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    with torch.device("meta"):
        assert swin.encoder(torch.zeros(1, 3, 16, 224, 224)).shape == (1, 1024, 16, 14, 14)
    assert swin.encoder.layers[0] == "swin.patch_embed"
    assert len(swin.encoder.layers) == 1 + 24 + 3


@pytest.mark.parametrize(("frames", "size"), [(8, (32, 48)), (16, (48, 48)), (16, (48, 80))])
def test_encoder_at_other_sizes_and_odd_grids_has_stride_16(frames: int, size: tuple[int, int]) -> None:
    model = micro(num_frames=frames, size=size)
    with torch.no_grad():
        features = model.forward_features(torch.rand(1, 3, frames, *size))
    assert features["encoder"].shape == (1, 32, frames, size[0] // 16, size[1] // 16)


@torch.no_grad()
def test_encoder_output_is_the_sum_of_two_stages() -> None:
    encoder = micro().encoder
    clip = torch.rand(1, 3, 16, 32, 48)
    x = encoder.swin.patch_embed(clip)
    for part in encoder.swin.features[:5]:
        x = part(x)
    third = x.permute(0, 4, 1, 2, 3)
    assert third.shape == (1, 16, 8, 2, 3)
    encoder.swin.norm.weight.zero_()  # stage 4 is zero
    encoder.swin.norm.bias.zero_()
    fine = torch.einsum("oi,bithw->bothw", encoder.lateral.weight[:, :, 0, 0, 0], third)
    y = encoder(clip)
    torch.testing.assert_close(y[:, :, 0], fine[:, :, 0], atol=1e-6, rtol=0)  # interpolated at quarters
    torch.testing.assert_close(y[:, :, 1], 0.75 * fine[:, :, 0] + 0.25 * fine[:, :, 1], atol=1e-6, rtol=0)
    encoder.lateral.weight.zero_()
    encoder.swin.norm.bias.copy_(torch.arange(32.0))  # stage 4 is constant per channel
    torch.testing.assert_close(encoder(clip), torch.arange(32.0)[None, :, None, None, None].expand(1, 32, 16, 2, 3))


@pytest.mark.parametrize("release", ["torchvision", "original"])
def test_load_kinetics_weights_fills_only_the_swin_network(release: str, tmp_path: Path) -> None:
    source, target = micro(1), micro(2)
    decoder = {key: value.clone() for key, value in target.decoder.state_dict().items()}
    content = kinetics(source)
    torch.save({"state_dict": original(content)} if release == "original" else content, tmp_path / "swin.pth")
    report = load(target, tmp_path / "swin.pth")
    assert "Video Swin weights" in report
    assert "; dropped " in report
    assert "its lateral and the decoder keep their initial weights" in report
    own = target.encoder.swin.state_dict()
    assert all(torch.equal(own[key], value) for key, value in source.encoder.swin.state_dict().items())
    assert not torch.equal(target.encoder.lateral.weight, source.encoder.lateral.weight)
    assert all(torch.equal(target.decoder.state_dict()[key], value) for key, value in decoder.items())


def test_load_own_state_dict_restores_all_tensors(tmp_path: Path) -> None:
    source, target = micro(1), micro(2)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    assert "with this project's keys" in load(target, tmp_path / "own.pth")
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_load_weights_of_other_encoder_raises(tmp_path: Path) -> None:
    umt = Model(**VARIANTS["micro"])
    torch.save(to_published(umt), tmp_path / "salfom.pth")
    torch.save({"patch_embed.proj.weight": torch.zeros(1)}, tmp_path / "umt.pth")
    torch.save(kinetics(micro()), tmp_path / "swin.pth")
    for model, file in [(micro(), "salfom.pth"), (micro(), "umt.pth"), (umt, "swin.pth")]:
        with pytest.raises(ValueError, match=rf"{file}: .*weights are for another model: "):
            load(model, tmp_path / file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 36}, r"width 36, heads 8: .* such as width 1024 and heads 32"),
        ({"heads": 4}, "width 32, heads 4"),
        ({"depth": 6}, "depth 6: a Swin encoder needs at least 7 blocks"),
        ({"encoder": "resnet"}, "encoder 'resnet': expected umt or swin"),
    ],
)
def test_model_with_unsupported_swin_arguments_raises(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        micro(**changes)


def test_to_published_with_swin_encoder_raises() -> None:
    with pytest.raises(ValueError, match="there are none for a Swin encoder"):
        to_published(micro())
