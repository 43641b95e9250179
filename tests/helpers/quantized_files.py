"""Models, frames and exported files for the tests of quantization."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from distill.deploy.calibration_clips import CalibrationClips
from distill.models.loaded import LoadedModel
from distill.models.registry import create_model
from distill.runtimes.export import export
from helpers.edge_models import without_checksum

BEFORE, SPOILT = "encoder.bn1/Conv", "encoder.blocks.0.0.bn1/Conv"
"""Two layers of the student; `spoil` makes the second inaccurate in INT8."""


class ClipModel(nn.Module):
    """A network from clips of four frames to the maps of two of them."""

    num_frames, size, target_frames, map_size = 4, (16, 24), (1, 3), (8, 12)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1))
        self.second = nn.Conv3d(8, 8, (3, 3, 3), padding=(0, 1, 1))
        self.last = nn.Conv3d(8, 1, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, clip: Tensor) -> Tensor:
        values = clip.float() / 255 - 0.5 if clip.dtype == torch.uint8 else clip - 0.5
        x = self.last(F.relu(self.second(F.relu(self.first(values))))).squeeze(1)  # (B, 2, H, W)
        return F.logsigmoid(F.avg_pool2d(x, 2) / 10)


def stream() -> LoadedModel:
    """Return an untrained streaming student whose maps depend on the frames."""
    torch.manual_seed(0)
    model = create_model("student/stream", variant="micro")
    network = model.network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # take the statistics of one clip, so that no layer's output vanishes
    with torch.no_grad():
        network(torch.from_numpy(np.stack(draw_clips((64, 96), 5).calibration)).transpose(1, 2))
    network.decoder.head.weight.data *= 10
    network.eval()
    return model


def spoil(source: Path, path: Path) -> Path:
    """Copy the student's file with one layer that fails in INT8 but returns the same maps in fp32.

    One input channel of the layer SPOILT is set to zero and its weights to values so large that all other weights
    round to zero.
    """
    model = without_checksum(source)
    nodes = {node.name: node for node in model.graph.node}
    tensors = {each.name: each for each in model.graph.initializer}

    def change(name: str, place: object, value: float) -> None:
        values = numpy_helper.to_array(tensors[name]).copy()
        values[place] = value
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    for name in nodes[BEFORE].input[1:]:
        change(name, 0, 0.0)
    change(nodes[SPOILT].input[1], (slice(None), 0), 1e4)
    onnx.save(model, path)
    return path


def write(model: LoadedModel, path: Path) -> Path:
    """Export a model with the fastest checks."""
    export(model, path, batches=(1,))
    return path


def draw_clips(size: tuple[int, int], length: int, *, calibration: int = 3, held_out: int = 1) -> CalibrationClips:
    """Return generated clips of moving coloured spots, different in each clip."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side) for side in size), indexing="ij")

    def one(seed: int) -> np.ndarray:
        generator = np.random.default_rng(seed)
        centre, speed = generator.uniform(-0.6, 0.6, (3, 2)), generator.uniform(-0.05, 0.05, (3, 2))
        place = centre + np.arange(length)[:, None, None] * speed  # (L, 3, 2)
        away = (rows - place[..., 0, None, None]) ** 2 + (columns - place[..., 1, None, None]) ** 2
        return (255 * np.exp(-4 * away)).astype(np.uint8)

    drawn = [one(seed) for seed in range(calibration + held_out)]
    return CalibrationClips(drawn[:calibration], drawn[calibration:], "generated spots")
