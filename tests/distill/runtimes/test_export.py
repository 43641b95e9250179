"""Export in clip mode: the file equals the network, describes itself, and does not exist if a check fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.model_cases import loaded
from helpers.places import REPOSITORY
from torch import Tensor, nn
from torch.nn import functional as F

from distill.errors import UserError
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.runtimes import onnx_check, onnx_graph
from distill.runtimes.export import export

REAL_VIDEO = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"


class SmallModel(nn.Module):
    """A clip network of two maps per clip, with its normalisation in a non-persistent buffer."""

    num_frames, size, target_frames, map_size = 4, (16, 24), (1, 3), (8, 12)

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1, 1), 0.4), persistent=False)
        self.spatial = nn.Conv3d(3, 4, 3, padding=1)
        self.temporal = nn.Linear(4, 2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, clip: Tensor) -> Tensor:
        x = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        x = F.relu(self.spatial(x - self.mean)).mean(1)  # (B, T, H, W)
        x = self.temporal(x.movedim(1, -1)).movedim(-1, 1)  # (B, N, H, W)
        return F.logsigmoid(F.avg_pool2d(x, 2))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(path: Path, clip: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["saliency"], {"clip": clip})[0]


def clips(batch: int, seed: int = 3) -> Tensor:
    return torch.randint(
        0, 256, (batch, 3, 4, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_export_any_batch_size_equals_network(tmp_path: Path) -> None:
    model = SmallModel()
    report = export(loaded(model), tmp_path / "s.onnx")
    assert names(tmp_path) == ["s.onnx"]
    assert [check.batch for check in report.checks] == [1, 2, 3]
    assert all(check.max_error < 1e-5 and check.cc > 0.99999 for check in report.checks)
    for batch in (1, 2, 3, 5):
        maps = run(tmp_path / "s.onnx", clips(batch).numpy())
        log_saliency = model(clips(batch)).detach()
        expected = (log_saliency - log_saliency.amax((-2, -1), keepdim=True)).exp()
        np.testing.assert_allclose(maps, expected.numpy(), atol=1e-5)
        assert maps.dtype == np.float32
        np.testing.assert_array_equal(maps.max((-2, -1)), 1)


@pytest.mark.parametrize("values", ["sigmoid", "log"])
def test_export_other_values_and_float_input_equals_network(tmp_path: Path, values: str) -> None:
    model = SmallModel()
    report = export(loaded(model), tmp_path / "s.onnx", values=values, input_type="float32")
    maps = run(tmp_path / "s.onnx", (clips(2).float() / 255).numpy())
    expected = model(clips(2)).detach()
    np.testing.assert_allclose(maps, (expected.exp() if values == "sigmoid" else expected).numpy(), atol=1e-4)
    assert report.metadata["output"]["values"] == values
    assert report.metadata["input"]["range"] == [0.0, 1.0]


def test_export_metadata_describes_file(tmp_path: Path) -> None:
    model = SmallModel()
    report = export(loaded(model), tmp_path / "s.onnx", notes={"run": "demo"}, licence="CC BY 4.0")
    file = onnx.load(tmp_path / "s.onnx")
    metadata = json.loads({p.key: p.value for p in file.metadata_props}["saldistill"])
    assert metadata == report.metadata
    wanted = {
        "format": 2,
        "mode": "clip",
        "model": {"name": "SmallModel"},
        "frames": 4,
        "reach": 4,
        "state": [],
        "precision": "fp32",
        "size": [16, 24],
        "target_frames": [1, 3],
        "map_size": [8, 12],
        "weights": sum(p.numel() for p in model.parameters()),
        "gflops_per_map": None,
        "licence": "CC BY 4.0",
        "notes": {"run": "demo"},
        "opset": file.opset_import[0].version,
    }
    assert {key: metadata[key] for key in wanted} == wanted
    assert metadata["input"]["shape"] == ["batch", 3, 4, 16, 24]
    assert metadata["output"]["shape"] == ["batch", 2, 8, 12]
    assert len(metadata["weights_sha256"]) == 64
    (given,), (made,) = file.graph.input, file.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == ("clip", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", 3, 4, 16, 24]
    assert [d.dim_param or d.dim_value for d in made.type.tensor_type.shape.dim] == ["batch", 2, 8, 12]
    assert b".py" not in (tmp_path / "s.onnx").read_bytes()  # no stack traces, which contain local paths


def test_export_very_low_saliency_is_finite(tmp_path: Path) -> None:
    model = SmallModel()
    model.temporal.bias.data.fill_(-200.0)
    export(loaded(model), tmp_path / "s.onnx", values="log")
    maps = run(tmp_path / "s.onnx", clips(1).numpy())
    assert np.isfinite(maps).all()
    np.testing.assert_allclose(maps, model(clips(1)).detach().numpy(), rtol=1e-5)


class Attention(SmallModel):
    """Attention over tensors of five dimensions, with a mask of the given kind."""

    def __init__(self, mask: Tensor | None, scale: float | None = None) -> None:
        super().__init__()
        self.mask, self.scale = mask, scale

    def forward(self, clip: Tensor) -> Tensor:
        tokens = F.avg_pool2d(clip.float().flatten(0, 2) / 64, 2).unflatten(0, (-1, 3, 4))  # (B, 3, T, h, w)
        seen = F.scaled_dot_product_attention(
            tokens, tokens.flip(-2), tokens, attn_mask=self.mask, scale=self.scale
        )
        return F.logsigmoid(seen[:, 0, :2])


@pytest.mark.parametrize("mask", ["none", "added", "allowed"])
def test_export_five_dimensional_attention_equals_network(tmp_path: Path, mask: str) -> None:
    values = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    allowed = (values > 0) | torch.eye(8, dtype=torch.bool)
    model = Attention({"none": None, "added": values, "allowed": allowed}[mask], 0.3 if mask == "none" else None)
    report = export(loaded(model), tmp_path / "s.onnx")
    assert max(check.max_error for check in report.checks) < 1e-5


class TrainingOnly(SmallModel):
    def forward(self, clip: Tensor) -> Tensor:
        return super().forward(clip) + (torch.rand(1, generator=None) * 0 if self.training else 0)


def test_export_leaves_model_unchanged(tmp_path: Path) -> None:
    model = TrainingOnly().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export(loaded(model), tmp_path / "s.onnx")
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("limit", "value"), [("MAX_ERROR", -1.0), ("MIN_CC", 1.1)])
def test_export_failed_comparison_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    settings = {"max_error": value} if limit == "MAX_ERROR" else {}
    monkeypatch.setattr(onnx_check, limit, value)
    with pytest.raises(UserError, match=r"s\.onnx: the exported graph differs from PyTorch at batch 1: max error"):
        export(loaded(SmallModel()), tmp_path / "s.onnx", **settings)
    assert names(tmp_path) == []


def test_export_wrong_translation_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong translation of one operator stands for a bug in the exporter."""
    right = onnx_graph.translations

    def wrong(opset: int) -> dict[Any, Any]:
        table = right(opset)
        key = torch.ops.aten.log_sigmoid.default
        op = onnx_graph.onnx_values.Opset("", opset)
        return {**table, key: lambda x: op.Neg(op.Softplus(x))}

    monkeypatch.setattr(onnx_graph, "translations", wrong)
    with pytest.raises(UserError, match="differs from PyTorch"):
        export(loaded(SmallModel()), tmp_path / "s.onnx")
    assert names(tmp_path) == []


def test_export_network_with_nan_leaves_no_file(tmp_path: Path) -> None:
    model = SmallModel()
    model.temporal.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="max error nan"):
        export(loaded(model), tmp_path / "s.onnx")
    assert names(tmp_path) == []


def test_export_large_weights_go_into_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "EXTERNAL_BYTES", 1)
    export(loaded(SmallModel()), tmp_path / "s.onnx")
    assert names(tmp_path) == ["s.onnx", "s.onnx.data"]
    assert run(tmp_path / "s.onnx", clips(2).numpy()).shape == (2, 2, 8, 12)
    load_model(tmp_path / "s.onnx")
    with (tmp_path / "s.onnx.data").open("r+b") as data:
        data.write(b"other")
    with pytest.raises(UserError, match=r"s\.onnx: its checksum differs"):
        load_model(tmp_path / "s.onnx")
    (tmp_path / "s.onnx.data").unlink()
    with pytest.raises(UserError, match=r"s\.onnx: ONNX Runtime cannot load it"):
        load_model(tmp_path / "s.onnx")


def test_export_invalid_setting_is_rejected(tmp_path: Path) -> None:
    model, path = SmallModel(), tmp_path / "s.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"s\.onnx: the ONNX file already exists"):
        export(loaded(model), path)
    assert path.read_bytes() == b"mine"
    for arguments, message in (
        ({"path": tmp_path / "s.pt"}, r"expected a file name ending in \.onnx"),
        ({"values": "softmax"}, "values: expected one of peak, sigmoid, log, got 'softmax'"),
        ({"input_type": "int8"}, "input_type: expected one of uint8, float32"),
        ({"mode": "stream"}, "mode: expected one of clip, step, got 'stream'"),
        ({"mode": "step"}, "SmallModel: does not stream and has no step mode; export it in clip mode"),
        ({"frames": np.zeros((4, 3, 16, 24), np.uint8)}, r"expected uint8 RGB of shape \(n, 16, 24, 3\)"),
        ({"frames": tmp_path / "nowhere.mp4"}, "nowhere"),
    ):
        with pytest.raises(UserError, match=message):
            export(loaded(model), **{"path": tmp_path / "t.onnx", **arguments})
    assert names(tmp_path) == ["s.onnx"]


def test_export_of_onnx_file_is_rejected(tmp_path: Path) -> None:
    export(loaded(SmallModel()), tmp_path / "s.onnx", frames=np.full((2, 16, 24, 3), 9, np.uint8))
    with pytest.raises(UserError, match="the model is an exported"):
        export(load_model(tmp_path / "s.onnx"), tmp_path / "t.onnx")


@pytest.mark.parametrize("name", ["student/thtdnet:micro", "teacher/salfom:micro"])
def test_export_project_model_on_real_frames_equals_network(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name)
    report = export(model, tmp_path / "m.onnx", frames=REAL_VIDEO)
    assert max(check.max_error for check in report.checks) < 1e-5
    assert "real frames of 002.AVI, batch 3: max error" in str(report)
    assert report.as_dict()["metadata"]["model"]["name"] == name.partition(":")[0]
    again = load_model(tmp_path / "m.onnx")
    clip = torch.randint(0, 256, (2, 3, model.network.num_frames, *model.network.size), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.network.eval()(clip)
    torch.testing.assert_close(
        again.network(clip), expected - expected.amax((-2, -1), keepdim=True), rtol=0, atol=1e-4
    )
