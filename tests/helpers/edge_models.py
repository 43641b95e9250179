"""Models small enough for the runner's tests, what is expected of them, and a camera."""

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.models.loaded import LoadedModel
from distill.models.registry import create_model

REAL_VIDEO = Path(__file__).resolve().parents[1] / "data" / "dhf1k" / "video" / "002.AVI"


class SmallModel(nn.Module):
    """Eight frames in, one map of the last or another: cheap."""

    num_frames, size, map_size = 8, (16, 24), (8, 12)

    def __init__(self, target: int = 7) -> None:
        super().__init__()
        self.target_frames = (target,)
        generator = torch.Generator().manual_seed(0)
        self.mix = nn.Conv3d(3, 1, (8, 3, 3), padding=(0, 1, 1))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, clip: Tensor) -> Tensor:
        values = clip.float() / 255 if clip.dtype == torch.uint8 else clip
        return F.logsigmoid(F.avg_pool2d(self.mix(values).squeeze(2), 2))


def small_stream() -> LoadedModel:
    """The streaming student of the tests, whose maps are far from constant though nobody trained it."""
    torch.manual_seed(0)
    model = create_model("student/stream", variant="micro")
    model.network.eval().decoder.head.weight.data *= 100
    return model


def frames(count: int, size: tuple[int, int] = (16, 24)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def peak(log_saliency: Tensor) -> np.ndarray:
    return (log_saliency - log_saliency.amax((-2, -1), keepdim=True)).exp().detach().numpy()


def without_checksum(source: Path) -> onnx.ModelProto:
    """Load a file without its checksum, as earlier versions wrote it."""
    model = onnx.load(source)
    (entry,) = (each for each in model.metadata_props if each.key == "saldistill_sha256")
    model.metadata_props.remove(entry)
    return model


def with_metadata(source: Path, path: Path, **changes: object) -> Path:
    """Copy a file, and change what it says about itself; None takes a key away."""
    model = without_checksum(source)
    (entry,) = (each for each in model.metadata_props if each.key == "saldistill")
    said = {**json.loads(entry.value), **changes}
    entry.value = json.dumps({key: value for key, value in said.items() if value is not None})
    onnx.save(model, path)
    return path


def with_broken_weights(source: Path, path: Path, value: float = float("nan")) -> Path:
    """Copy a file, and set all its floating-point weights to NaN or another value."""
    model = without_checksum(source)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, value), tensor.name))
    onnx.save(model, path)
    return path


class FakeCapture:
    """Stands for OpenCV's `VideoCapture`: a camera that is taken away after six frames, BGR."""

    opened = ""

    def __init__(self, source: int | str) -> None:
        FakeCapture.opened = repr(source)
        self.left = 6

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return self.left > 0

    def get(self, key: int) -> float:
        return -1.0  # what OpenCV answers for a camera that does not tell

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, np.full((32, 48, 3), (1, 2, 3), np.uint8)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.left = 0
