"""The sliding window of a streaming model: maps equal those of full windows, computed one step per frame."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.data.windows import window_of
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.stride import step_of
from student.stream import Model, State

FRAMES = 40


class Noise:
    """A video of seeded noise at the model's size."""

    def __init__(self) -> None:
        self.num_frames, self.size, self.fps = FRAMES, (64, 96), 25.0
        self.pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, 64, 96, 3), dtype=np.uint8)

    def read(self, frames: Sequence[int], size: tuple[int, int]) -> np.ndarray:
        assert size == self.size
        return self.pixels[list(frames)]


class Counted(Model):
    """A streaming student that counts its steps; T differs from its reach."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            num_frames=3, size=(64, 96), backbone="test_efficientnet", widths=(12, 8, 8), lags=(3, 2, 1)
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
        nn.init.normal_(self.decoder.head.weight, std=2.0)
        self.steps = 0

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        self.steps += 1
        return super().step(frame, state)


def collect(batches: Iterator[tuple[list[int], Tensor]]) -> dict[int, Tensor]:
    return {frame: one for frames, maps in batches for frame, one in zip(frames, maps, strict=True)}


def by_window(
    model: Counted, video: Noise, frame: int, stride: float = 1, *, flipped: bool = False, first: str = "repeat"
) -> Tensor:
    """Return the map (h, w) of one frame by stepping through its window from the initial state."""
    window = window_of(frame, FRAMES, (model.reach - 1,), length=model.reach, stride=stride, first_frames=first)
    state = model.initial_state()
    with torch.no_grad():
        for source in window.frames:
            image = torch.from_numpy(video.pixels[source].copy()).permute(2, 0, 1)[None]
            maps, state = Model.step(model, image.flip(-1) if flipped else image, state)
    return maps[0, 0]


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


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_slide_of_streaming_model_takes_one_step_per_frame(stride: int) -> None:
    model = Counted().eval()
    list(slide(model, Noise(), range(FRAMES), InferenceSettings(stride=stride)))
    assert model.steps == FRAMES  # all alternating states continue from the first frame's


def test_slide_of_streaming_model_steps_through_gaps_and_restarts_after_long_ones() -> None:
    model = Counted().eval()
    assert model.reach == 7
    list(slide(model, Noise(), [20, 24, 39]))
    assert model.steps == 7 + 4 + 7


def test_slide_of_streaming_model_on_some_frames_is_bit_identical() -> None:
    model, video = Counted().eval(), Noise()
    everything = collect(slide(model, video, range(FRAMES), InferenceSettings(stride=2)))
    part = collect(slide(model, video, [17, 18, 21, 30], InferenceSettings(stride=2, batch_size=2)))
    assert len(part) == 4
    assert all(torch.equal(part[frame], everything[frame]) for frame in part)
