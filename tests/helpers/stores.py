"""Small target stores, their expected maps, and a tiny teacher."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from distill.inference.settings import InferenceSettings
from distill.models.loaded import LoadedModel
from distill.targets.build import build
from distill.targets.codec import CODECS
from distill.targets.store import TargetStore
from helpers.writer_process import ARGUMENTS, SIZE, log_map

EVERYTHING = [
    (video, frame, view)
    for video, frames in ARGUMENTS["videos"].items()
    for view in ARGUMENTS["views"]
    for frame in frames
]


def stored(video: str, frame: int, view: str) -> np.ndarray:
    codec = CODECS["log8"]
    return codec.decode(codec.encode(log_map(video, frame, view)), SIZE)


def assert_readable(store: TargetStore, keys) -> None:
    for video, frame, view in keys:
        np.testing.assert_array_equal(store.read(video, frame, view), stored(video, frame, view))


class TinyTeacher(nn.Module):
    """Tiny teacher whose maps depend on positions and on all frames of a clip."""

    num_frames, size, target_frames, map_size = 3, (24, 32), (2,), (12, 16)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(1, 3, 3, 5, 5, generator=generator) / 8)
        self.seed = seed
        self.calls = 0
        self.interrupt_at: int | None = None

    def forward(self, clip):
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        maps = nn.functional.conv3d(clip.float() / 255, self.weight, stride=(1, 2, 2), padding=(0, 2, 2))
        return nn.functional.logsigmoid(4 * maps[:, 0])  # (B, 1, h, w)

    def loaded(self) -> LoadedModel:
        identity = {"name": "teacher/tiny", "variant": "base", "arguments": {"seed": self.seed}}
        return LoadedModel(self, identity, "teacher/tiny")


def build_small(path: Path, videos, network: TinyTeacher | None = None, **options) -> TargetStore:
    settings = InferenceSettings(
        batch_size=4, stride=options.pop("stride", 1), precision=options.pop("precision", "fp32")
    )
    model = (network or TinyTeacher()).loaded()
    return build(model, videos, path, settings, batches_per_shard=2, progress=False, **options)


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def flip_byte(file: Path, position: int) -> None:
    """Change one byte of a file; doing so twice restores it."""
    content = bytearray(file.read_bytes())
    content[position] ^= 16
    file.write_bytes(content)
