"""The sliding window of a streaming model: maps equal those of full windows, and each frame is encoded once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.edge_models import peak, small_stream
from torch import Tensor, nn

from distill.data.windows import stream_parents, stream_window
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.inference.streaming import CPU_CHUNK, plan_chunks
from distill.models.references import load_model
from distill.runtimes.export import export
from distill.stride import step_of
from student.edge import EdgeModel, Stream
from student.stream import Model, State

FRAMES = 40


class Noise:
    """A video of seeded noise at the model's size."""

    def __init__(self, fps: float = 25.0) -> None:
        self.num_frames, self.size, self.fps = FRAMES, (64, 96), fps
        self.pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, 64, 96, 3), dtype=np.uint8)

    def read(self, frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        assert size == self.size
        return self.pixels[list(frames)]


class Counted(Model):
    """A streaming student that counts the frames of its encoder's calls; T differs from its reach."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            num_frames=3, size=(64, 96), backbone="test_efficientnet", widths=(12, 8, 8), lags=(3, 2, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
        nn.init.normal_(self.decoder.head.weight, std=2.0)
        self.double()  # chunks of different lengths round differently
        self.encoded: list[int] = []

    def encode(self, frames: Tensor) -> list[Tensor]:
        self.encoded.append(len(frames))
        return super().encode(frames)


def collect(batches: Iterator[tuple[list[int], Tensor]]) -> dict[int, Tensor]:
    return {frame: one for frames, maps in batches for frame, one in zip(frames, maps, strict=True)}


def by_window(
    model: Counted, video: Noise, frame: int, stride: float = 1, *, flipped: bool = False, first: str = "repeat"
) -> Tensor:
    """Return the map (h, w) of one frame by stepping through its window from the initial state."""
    parents = stream_parents(FRAMES, stride)
    window = stream_window(frame, parents, length=model.reach, stride=stride, first_frames=first)
    state: State = model.initial_state()
    with torch.no_grad():
        for source in window.frames:
            image = torch.from_numpy(video.pixels[source].copy()).permute(2, 0, 1)[None]
            maps, state = Model.step(model, image.flip(-1) if flipped else image, state)
    return maps[0, 0].float()


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3, "10fps"])  # the last: every second or third frame
def test_slide_of_streaming_model_equals_stepping_through_each_window(stride: int | str, flipped: bool) -> None:
    model, video = Counted().eval(), Noise()
    maps = collect(
        slide(model, video, range(FRAMES), InferenceSettings(stride=stride, batch_size=7), flipped=flipped)
    )
    for frame in range(FRAMES):
        expected = by_window(model, video, frame, step_of(stride, video.fps), flipped=flipped)
        torch.testing.assert_close(maps[frame], expected, atol=1e-5, rtol=0)
    assert maps[FRAMES - 1].std() > 0.1


def test_slide_of_streaming_model_with_flipped_first_frames_equals_each_window() -> None:
    model, video = Counted().eval(), Noise()
    maps = collect(slide(model, video, range(10), InferenceSettings(first_frames="flip")))
    for frame in range(10):
        expected = by_window(model, video, frame, first="flip")
        torch.testing.assert_close(maps[frame], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("every", [1, 4, 8])
@pytest.mark.parametrize("stride", [1, 2, 3, "15fps"])  # the last: 25 / 15 = 1.667 frames
def test_slide_of_streaming_model_encodes_every_frame_at_most_once(stride: int | str, every: int) -> None:
    model, video = Counted().eval(), Noise()
    maps = collect(slide(model, video, range(0, FRAMES, every), InferenceSettings(stride=stride, batch_size=5)))
    step = step_of(stride, video.fps)
    parents = stream_parents(FRAMES, step)
    needed = {
        frame
        for requested in range(0, FRAMES, every)
        for frame in stream_window(requested, parents, length=model.reach).frames
    }
    assert sum(model.encoded) == len(needed)
    assert max(model.encoded) <= min(5, CPU_CHUNK)
    assert list(maps) == list(range(0, FRAMES, every))
    for frame, found in maps.items():
        torch.testing.assert_close(found, by_window(model, video, frame, step), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("stride", "batch_size", "calls"),
    [
        (1, 8, [4] * 10),
        (1, 3, [3] * 13 + [1]),
        (1, 1, [1] * 40),
        (2, 8, [1, 3, 4] + [4] * 8),  # two states alternate from the first frame's
    ],
)
def test_slide_of_streaming_model_calls_steps_with_chunks(stride: int, batch_size: int, calls: list[int]) -> None:
    model = Counted().eval()
    list(slide(model, Noise(), range(FRAMES), InferenceSettings(stride=stride, batch_size=batch_size)))
    assert model.encoded == calls


def test_plan_chunks_of_a_gpu_are_as_long_as_the_batch() -> None:
    windows = [stream_window(frame, stream_parents(80, 1), length=7) for frame in range(80)]
    plan = plan_chunks([windows[:32], windows[32:64], windows[64:]], 32)
    assert [[len(chunk.nodes) for chunk in batch.chunks] for batch in plan] == [[32], [32], [16]]


def test_slide_of_streaming_model_skips_gaps_and_restarts_after_long_ones() -> None:
    model = Counted().eval()
    assert model.reach == 7
    list(slide(model, Noise(), [20, 24, 39]))
    assert sum(model.encoded) == 7 + 4 + 7


@pytest.mark.parametrize("first", ["repeat", "flip"])
def test_slide_of_streaming_model_in_any_order_equals_each_window(first: str) -> None:
    model, video, frames = Counted().eval(), Noise(), [20, 18, 19, 2, 3, 30, 30, 1]
    settings = InferenceSettings(batch_size=3, first_frames=first)
    batches = list(slide(model, video, frames, settings))
    assert [frame for of_batch, _ in batches for frame in of_batch] == frames
    for frame, found in zip(frames, torch.cat([maps for _, maps in batches]), strict=True):
        torch.testing.assert_close(found, by_window(model, video, frame, first=first), atol=1e-5, rtol=0)


def test_plan_chunks_keeps_states_until_their_last_use() -> None:
    parents = stream_parents(FRAMES, 5 / 3)
    windows = [stream_window(frame, parents, length=7) for frame in range(FRAMES)]
    kept: dict[tuple[int, int], int] = {}
    for batch in plan_chunks([windows[start : start + 5] for start in range(0, FRAMES, 5)], 5):
        for chunk in batch.chunks:
            if chunk.before is not None:
                kept[chunk.before] -= 1
            kept[chunk.nodes[-1]] = chunk.uses
        assert sum(uses > 0 for uses in kept.values()) <= 1
    assert set(kept.values()) == {0}


def test_slide_of_streaming_model_on_some_frames_equals_all_frames() -> None:
    model, video = Counted().eval(), Noise()
    everything = collect(slide(model, video, range(FRAMES), InferenceSettings(stride=2)))
    part = collect(slide(model, video, [17, 18, 21, 30], InferenceSettings(stride=2, batch_size=2)))
    assert len(part) == 4
    for frame, found in part.items():
        torch.testing.assert_close(found, everything[frame], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("stride", "fps"), [("30fps", 50.0), ("25fps", 60.0), ("30fps", 24.0), (2, 25.0)])
def test_slide_at_fractional_step_equals_stream_of_edge(stride: int | str, fps: float, tmp_path: Path) -> None:
    """The rule of `stream_parents` is that of `Stream` in student/edge.py."""
    model, video = small_stream(), Noise(fps)
    export(model, tmp_path / "step.onnx", batches=(1,))
    stream = Stream(EdgeModel(tmp_path / "step.onnx", threads=1), stride, fps, cuts=None)
    expected = np.stack([stream(frame) for frame in video.pixels])
    settings = InferenceSettings(stride=stride, batch_size=7)
    for network in (model.network, load_model(tmp_path / "step.onnx").network):
        found = collect(slide(network, video, range(FRAMES), settings))
        np.testing.assert_allclose(peak(torch.stack([*found.values()])), expected, atol=1e-4)
