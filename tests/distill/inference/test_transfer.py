"""Copies to and from the device: each frame is read and sent once, and the maps are those of whole windows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.data.video.array_reader import ArrayReader
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.inference.transfer import Sender, ahead
from distill.models.registry import create_model

FRAMES = 24


class CountingReader(ArrayReader):
    """Frames in memory, with a record of those that were read."""

    def __init__(self, frames: np.ndarray) -> None:
        super().__init__(frames)
        self.read_frames: list[int] = []

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        self.read_frames += frames
        return super().read(frames, size)


@pytest.fixture
def reader() -> CountingReader:
    return CountingReader(np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 48, 3), dtype=np.uint8))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All tensors that are sent to the device."""
    values: list[Tensor] = []
    real = Sender.send

    def send(self: Sender, pixels: Tensor, prepare: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        values.append(pixels)
        return real(self, pixels, prepare)

    monkeypatch.setattr(Sender, "send", send)
    return values


@pytest.mark.parametrize("batch_size", [1, 4])
def test_slide_reads_and_sends_each_frame_once(batch_size: int, reader: CountingReader, sent: list[Tensor]) -> None:
    torch.manual_seed(0)
    network: Any = create_model("teacher/salfom:micro").network.eval()
    found = torch.cat(
        [maps for _, maps in slide(network, reader, range(FRAMES), InferenceSettings(batch_size=batch_size))]
    )
    assert sorted(reader.read_frames) == list(range(FRAMES))
    assert sum(len(pixels) for pixels in sent) == FRAMES
    assert {pixels.dtype for pixels in sent} == {torch.uint8}

    frames = torch.from_numpy(ArrayReader.read(reader, range(FRAMES), network.size)).permute(3, 0, 1, 2)
    clips = torch.stack([frames[:, [max(0, end - 15 + i) for i in range(16)]] for end in range(FRAMES)])
    with torch.no_grad():
        expected = torch.cat([network(clips[i : i + batch_size])[:, 0] for i in range(0, FRAMES, batch_size)])
    assert torch.equal(found, expected)


def test_streaming_slide_reads_and_sends_each_frame_once(reader: CountingReader, sent: list[Tensor]) -> None:
    network = create_model("student/stream:micro").network
    list(slide(network, reader, range(FRAMES), InferenceSettings(batch_size=5)))
    assert sorted(reader.read_frames) == list(range(FRAMES))
    assert sum(len(pixels) for pixels in sent) == FRAMES


@pytest.mark.parametrize(("count", "taken"), [(0, [1, 2, 3]), (1, [2, 3, 3]), (5, [3, 3, 3])])
def test_ahead_takes_later_items_before_it_yields_one(count: int, taken: list[int]) -> None:
    items = iter(range(3))
    started: list[int] = []
    seen = []
    for item in ahead((started.append(each) or each for each in items), count):
        seen.append((item, len(started)))
    assert seen == list(zip(range(3), taken, strict=True))
