"""THTD-Net: its size, decoder shapes, Kinetics weights in both formats, and ONNX export."""

from functools import partial
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from distill.models.published_weights import load_published_weights
from student import thtdnet
from student.thtdnet import VARIANTS, Model, time_factors
from student.weights import torchvision_name

load = partial(load_published_weights, thtdnet)


def micro(seed: int = 0, **changes: object) -> Model:
    torch.manual_seed(seed)
    return Model(**VARIANTS["micro"] | changes).eval()


def video_swin() -> SwinTransformer3d:
    """A Video Swin classifier with the encoder of `micro`."""
    torch.manual_seed(5)
    return SwinTransformer3d([2, 4, 4], 8, [1, 1, 2, 1], [1, 1, 2, 2], [2, 2, 2], num_classes=400).eval()


def original_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's tensors to the original Video Swin's keys."""
    renamed = {}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        if part == "features":
            place, _, rest = rest.partition(".")
            kind = "blocks" if int(place) % 2 == 0 else "downsample"
            part = f"backbone.layers.{int(place) // 2}.{kind}"
            rest = rest.replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
        elif part == "head":
            part = "cls_head.fc_cls"
        else:
            part = f"backbone.{part}"
        renamed[f"{part}.{rest}"] = value
    return renamed


def test_state_dict_has_the_papers_size() -> None:
    with torch.device("meta"):
        model = Model()
    assert sum(parameter.numel() for parameter in model.parameters()) == 50_227_255
    bytes_of_file = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert bytes_of_file / 2**20 == pytest.approx(219.7, abs=0.1)  # the paper's 220 MB
    decoder = sum(parameter.numel() for parameter in model.decoder.parameters())
    assert 0.66e6 < decoder < 0.92e6


def test_decoder_halves_time_in_each_convolution() -> None:
    with torch.device("meta"):
        model = Model()
        lengths = []
        for conv in model.decoder.reduce:
            conv.register_forward_hook(lambda module, given, out: lengths.append((given[0].shape, out.shape)))
        features = model.forward_features(torch.zeros(1, 3, 32, 224, 384))
    assert [features[f"stage{i}"].shape[1:] for i in (1, 2, 3, 4)] == [
        (96, 16, 56, 96),
        (192, 16, 28, 48),
        (384, 16, 14, 24),
        (768, 16, 7, 12),
    ]
    assert [(given[1], given[2]) for given, _ in lengths] == [(192, 16), (96, 8), (48, 4), (24, 2)]
    assert [tuple(out[3:]) for _, out in lengths] == [(56, 96), (56, 96), (112, 192), (224, 384)]
    assert features["decoder"].shape == (1, 12, 224, 384)


@pytest.mark.parametrize(
    ("variant", "lengths", "widths", "heights"),
    [
        ("base", [8, 4, 2, 1], [96, 48, 24, 12], [56, 56, 112, 224]),
        ("decoder-shorter", [4, 1], [48, 12], [112, 224]),
        (
            "decoder-longer",
            [8, 8, 4, 4, 2, 2, 1, 1],
            [96, 96, 48, 48, 24, 24, 12, 12],
            [56] * 4 + [112] * 2 + [224] * 2,
        ),
        ("decoder-early", [1, 1, 1, 1], [96, 48, 24, 12], [56, 56, 112, 224]),
    ],
)
def test_decoder_variants_reduce_time_and_width(variant: str, lengths: list, widths: list, heights: list) -> None:
    outs = []
    with torch.device("meta"):
        model = Model(**VARIANTS[variant])
        for conv in model.decoder.reduce:
            conv.register_forward_hook(lambda module, given, out: outs.append(out.shape))
        model.decoder([torch.zeros(1, 96 << i, 16, 56 >> i, 96 >> i) for i in range(4)])
    assert [shape[2] for shape in outs] == lengths
    assert [shape[1] for shape in outs] == widths
    assert [shape[3] for shape in outs] == heights


def test_early_decoder_ignores_order_within_its_two_steps() -> None:
    stages = [torch.randn(1, 8 << i, 8, 16 >> i, 24 >> i) for i in range(4)]
    swapped = [stage[:, :, [1, 0, 2, 3, 4, 5, 6, 7]] for stage in stages]  # swapped within the first half
    for kind, alike in (("early", True), ("paper", False)):
        decoder = micro(num_frames=16, decoder=kind).decoder
        with torch.no_grad():
            assert torch.allclose(decoder(stages), decoder(swapped), atol=1e-5) == alike


def test_model_with_unsupported_decoder_raises() -> None:
    with pytest.raises(ValueError, match="decoder 'deep': expected one of paper, shorter, longer, early"):
        micro(decoder="deep")
    with pytest.raises(ValueError, match="num_frames 8: the shorter decoder needs at least 16"):
        micro(decoder="shorter")
    assert time_factors("shorter", 8) == [[2], [4]]


def test_padding_of_odd_last_stage_is_cropped() -> None:
    model = micro(size=(48, 80))  # Video Swin pads the stage of 3 x 5 before halving it
    with torch.no_grad():
        assert model(torch.rand(1, 3, 8, 48, 80)).shape == (1, 1, 48, 80)


def test_initial_map_is_nearly_uniform() -> None:
    model = Model(**VARIANTS["tiny"]).eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 16, *model.size)).exp()
    assert maps.min() > 0.2
    assert maps.max() < 0.8
    assert maps.std() > 1e-4


def test_stochastic_depth_is_an_argument() -> None:
    rates = [m.p for m in micro(drop_path=0.4).encoder.modules() if type(m).__name__ == "StochasticDepth"]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("names", ["torchvision", "original"])
def test_load_kinetics_weights_fills_only_the_encoder(names: str, tmp_path: Path) -> None:
    swin, model = video_swin(), micro()
    decoder = {key: value.clone() for key, value in model.decoder.state_dict().items()}
    content: dict = swin.state_dict()
    if names == "original":
        content = {"state_dict": original_names(content), "meta": {"epoch": 30}}
    torch.save(content, tmp_path / "swin.pth")
    report = load(model, tmp_path / "swin.pth")
    clip = torch.rand(1, 3, 8, 32, 48)
    with torch.no_grad():
        features = swin.norm(swin.features(swin.patch_embed(clip)))
        torch.testing.assert_close(model.encoder(clip)[-1], features.permute(0, 4, 1, 2, 3))
    assert all(torch.equal(model.decoder.state_dict()[key], value) for key, value in decoder.items())
    head = "head" if names == "torchvision" else "cls_head.fc_cls"
    assert f"loaded into the encoder; dropped {head}; the decoder keeps its initial weights" in report


def test_torchvision_name_inverts_original_names() -> None:
    keys = [key for key in video_swin().state_dict() if not key.startswith("head")]
    back = [torchvision_name(key.removeprefix("backbone.")) for key in original_names(dict.fromkeys(keys))]
    assert back == keys


def test_load_own_state_dict_restores_all_tensors(tmp_path: Path) -> None:
    source, target = micro(1), micro(2)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    load(target, tmp_path / "own.pth")
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_load_other_weights_names_first_misfits(tmp_path: Path) -> None:
    path = tmp_path / "swin.pth"
    tensors = video_swin().state_dict()
    del tensors["norm.bias"]
    tensors["features.0.0.attn.relative_position_bias_table"] = torch.zeros(2535, 1)
    tensors["features.9.weight"] = torch.zeros(1)
    torch.save(tensors, path)
    with pytest.raises(ValueError, match="the weights are for another model") as error:
        load(micro(), path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert "1 missing: norm.bias" in text
    assert "relative_position_bias_table (2535, 1) instead of (27, 1)" in text
    assert "1 unexpected: features.9.weight" in text
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"no Video Swin weights.*the first keys are conv1\.weight"):
        load(micro(), path)
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="cannot be read"):
        load(micro(), path)
    with pytest.raises(ValueError, match="no such weight file"):
        load(micro(), tmp_path / "absent.pth")


def add_contrast(model: nn.Module) -> None:
    """Scale the last layer, whose initial maps are nearly uniform."""
    with torch.no_grad():
        model.decoder.head.weight.mul_(20)


def test_onnx_runtime_at_any_batch_agrees_with_pytorch(tmp_path: Path) -> None:
    model = micro()
    add_contrast(model)
    path = tmp_path / "thtdnet.onnx"
    clips = torch.randint(0, 256, (3, 3, 8, 32, 48), dtype=torch.uint8)
    batch = {"clip": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(
        model,
        (clips[:2],),
        dynamo=True,
        dynamic_shapes=batch,
        input_names=["clip"],
        output_names=["log"],
        verbose=False,
    )
    program.save(path)
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    for size in (1, 2, 3):
        (log,) = session.run(["log"], {"clip": clips[:size].numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(log), model(clips[:size]), atol=1e-5, rtol=0)


def test_onnx_head_of_saturated_logits_is_finite(tmp_path: Path) -> None:
    class Head(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Model.forward_head(micro_with_identity, {"decoder": x})

    micro_with_identity = micro()
    micro_with_identity.decoder.head = nn.Identity()
    x = torch.tensor([-500.0, -50.0, 0.0, 50.0, 500.0]).view(1, 1, 1, 5)
    program = torch.onnx.export(Head().eval(), (x,), dynamo=True, output_names=["log"], verbose=False)
    program.save(tmp_path / "head.onnx")
    (log,) = onnxruntime.InferenceSession(tmp_path / "head.onnx").run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(log), nn.functional.logsigmoid(x), atol=1e-6, rtol=0)
