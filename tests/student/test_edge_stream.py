"""Stream: maps equal to the toolkit's sliding window, strides, scene cuts and dropped frames."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.edge_models import REAL_VIDEO, SmallModel, frames, peak
from helpers.model_cases import loaded

from distill.data.video.open import open_video
from distill.data.windows import stream_parents
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.references import load_model
from distill.runtimes.export import export
from student import edge
from student.edge import Cuts, EdgeModel, Stream, step_of

OTHER_VIDEO = REAL_VIDEO.with_name("068.AVI")


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that predicts the third frame before the last."""
    path = tmp_path_factory.mktemp("edge") / "middle.onnx"
    export(loaded(SmallModel(target=4)), path, batches=(1,))
    return path


class Recorder:
    """A fake model in step mode: a frame's value is its number, and a state lists the numbers that it has seen.

    A map contains the last number in its state; 255 if there is none.
    """

    mode, num_frames, size, target_frames, fit = "step", 1, (1, 1), (0,), "stretch"
    metadata: dict[str, Any] = {"notes": {}}  # noqa: RUF012 - never changed
    state_shapes: dict[str, Any] = {"seen": ()}  # noqa: RUF012 - never changed

    def initial_state(self) -> dict[str, Any]:
        return {"seen": ()}

    def step(self, frame: np.ndarray, state: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
        before = state["seen"][-1] if state["seen"] else 255
        return np.full((1, 1, 1, 1), before), {"seen": (*state["seen"], int(frame[0, 0, 0, 0]))}


def number(value: int) -> np.ndarray:
    return np.full((1, 1, 3), value, np.uint8)


def continued_from(stream: Stream, numbers: list[int]) -> list[int]:
    """Send frames of these numbers through a stream of a `Recorder`; return the frame that each continued from."""
    return [int(stream(number(each), each)[0, 0]) for each in numbers]


@pytest.mark.parametrize("stride", [1, 2])
def test_stream_maps_equal_sliding_window(exported: Path, stride: int) -> None:
    stream, video = Stream(EdgeModel(exported), stride, cuts=None), frames(20)
    assert stream.delay == 0
    for _ in range(2):  # the second time after a reset
        for now in range(20):
            window = video[[max(now - (7 - j) * stride, 0) for j in range(8)]]
            expected = peak(SmallModel()(torch.from_numpy(window.transpose(3, 0, 1, 2)[None].copy())))
            np.testing.assert_allclose(stream(video[now]), expected[0, 0], atol=1e-5)
        stream.reset()


def test_stream_delayed_maps_match_their_frames(middle: Path) -> None:
    stream, video = Stream(EdgeModel(middle)), frames(10)
    assert stream.delay == 3
    shown: list[tuple[np.ndarray, np.ndarray, int]] = []
    figures = edge.run(stream, enumerate(video), lambda *each: shown.append(each))
    assert (figures.frames, len(figures.seconds), figures.resets) == (10, 13, 0)
    assert [place for _, _, place in shown] == list(range(10))
    for index, (frame, saliency, _) in enumerate(shown):
        assert np.array_equal(frame, video[index])
        window = video[np.clip(np.arange(index - 4, index + 4), 0, 9)]
        expected = peak(SmallModel()(torch.from_numpy(window.transpose(3, 0, 1, 2)[None].copy())))
        np.testing.assert_allclose(saliency, expected[0, 0], atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mode", ["clip", "step"])
def test_stream_on_real_video_equals_toolkit(exported: Path, step_file: Path, mode: str, stride: int) -> None:
    path = exported if mode == "clip" else step_file
    model, reader = EdgeModel(path, threads=1), open_video(REAL_VIDEO)
    log_saliency = torch.cat(
        [maps for _, maps in slide(load_model(path).network, reader, range(24), InferenceSettings(stride=stride))]
    )
    expected = peak(log_saliency)
    stream = Stream(model, stride)
    given_small = np.stack([stream(frame) for frame in reader.read(range(24), model.size)])
    np.testing.assert_allclose(given_small, expected, atol=1e-5)
    stream = Stream(model, stride)
    got = np.stack([stream(frame) for frame in reader.read(range(24))])
    assert np.abs(got - expected).mean() < 0.02  # the toolkit resizes before it goes to RGB
    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(got, expected, strict=True)) > 0.99
    assert stream.resets == 0


@pytest.mark.parametrize("mode", ["clip", "step"])
def test_stream_after_scene_cut_equals_new_video(exported: Path, step_file: Path, mode: str) -> None:
    path = exported if mode == "clip" else step_file
    model, other = EdgeModel(path, threads=1), open_video(OTHER_VIDEO)
    expected = peak(
        torch.cat(
            [maps for _, maps in slide(load_model(path).network, other, range(12), InferenceSettings(stride=2))]
        )
    )
    for cuts, resets in ((edge.CUT, 1), (None, 0)):
        stream = Stream(model, 2, cuts=cuts)
        for frame in open_video(REAL_VIDEO).read(range(15), model.size):
            stream(frame)
        got = np.stack([stream(frame) for frame in other.read(range(12), model.size)])
        assert stream.resets == resets
        assert np.allclose(got, expected, atol=1e-5) == bool(resets)


def test_metadata_suffices_to_run_file(step_file: Path) -> None:
    """Run the file as docs/reference/onnx-metadata.md describes: with ONNX Runtime and the metadata only."""
    session = onnxruntime.InferenceSession(str(step_file))
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["saldistill"])
    names = [each["input"] for each in metadata["state"]]
    outputs = [metadata["output"]["name"], *(each["output"] for each in metadata["state"])]
    state = [np.zeros([1, *each["shape"][1:]], each["type"]) for each in metadata["state"]]
    stream, video = Stream(EdgeModel(step_file), cuts=None), frames(9, tuple(metadata["size"]))
    for place, frame in enumerate(video):
        if place == 5:  # a cut: `started` is 0, and the rest of the state is ignored
            state = [np.zeros_like(state[0]), *(np.full_like(value, np.nan) for value in state[1:])]
            stream.reset()
        saliency, *state = session.run(
            outputs,
            {metadata["input"]["name"]: frame.transpose(2, 0, 1)[None], **dict(zip(names, state, strict=True))},
        )
        np.testing.assert_array_equal(saliency[0, 0], stream(frame))


def test_stream_states_alternate_from_first_frame() -> None:
    assert continued_from(Stream(Recorder(), 1, cuts=None), [*range(5)]) == [255, 0, 1, 2, 3]
    assert continued_from(Stream(Recorder(), 3, cuts=None), [*range(8)]) == [255, 0, 0, 0, 1, 2, 3, 4]


def test_stream_stride_defaults_to_file() -> None:
    model = Recorder()
    model.metadata = {"notes": {"stride": "25fps"}}
    assert Stream(model, fps=50).step == 2
    assert Stream(model, 4).step == 4
    with pytest.raises(ValueError, match="stride 25fps: a rate needs the frame rate"):
        Stream(model)


def test_stream_rate_is_kept_on_average() -> None:
    stream = Stream(Recorder(), "25fps", fps=60, cuts=None)  # 2.4 frames per step
    gaps = np.arange(1, 200) - continued_from(stream, [*range(200)])[1:]
    assert set(gaps[5:]) == {2, 3}
    (kept, *_) = sorted((state["seen"] for state in stream._states.values()), key=len)
    assert 2.35 < np.diff(kept[3:]).mean() < 2.45
    slow = Stream(Recorder(), "25fps", fps=15, cuts=None)
    assert continued_from(slow, [*range(6)]) == [255, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("fps", [10, 24, 25, 29.97, 30, 31, 40, 45, 50, 59.94, 60, 90, 144, 240])
@pytest.mark.parametrize("stride", ["25fps", "30fps", "12.5fps"])
def test_stream_continues_the_same_frames_as_the_toolkit(stride: str, fps: float) -> None:
    continued = continued_from(Stream(Recorder(), stride, fps, cuts=None), [*range(200)])
    assert stream_parents(200, step_of(stride, fps)) == [0, *continued[1:]]


def test_stream_parents_of_integer_step_are_that_many_frames_ago() -> None:
    for step in (0.4, 1, 2, 3, 7):
        assert stream_parents(30, step) == [max(frame - max(step, 1), 0) for frame in range(30)]


def test_stream_after_drop_uses_newest_due_state() -> None:
    assert continued_from(Stream(Recorder(), 2, cuts=None), [0, 1, 2, 3, 6, 9, 12, 13]) == [
        255,
        0,
        0,
        1,
        3,
        6,
        9,
        9,
    ]
    assert continued_from(Stream(Recorder(), 1, cuts=None), [0, 5, 6, 20]) == [255, 0, 5, 6]


def test_stream_after_drop_clip_repeats_previous_frame(exported: Path) -> None:
    model, video = EdgeModel(exported), frames(12)
    stream = Stream(model, cuts=None)
    for place in (0, 1, 2, 6, 7):
        got = stream(video[place], place)
    np.testing.assert_array_equal(got, model(video[[0, 1, 2, 2, 2, 2, 6, 7]].transpose(3, 0, 1, 2)[None])[0, 0])
    got = stream(video[11], 100)
    np.testing.assert_array_equal(got, model(video[[7] * 7 + [11]].transpose(3, 0, 1, 2)[None])[0, 0])


@pytest.mark.parametrize(
    ("stride", "fps", "step"), [(2, None, 2), ("2", 30, 2), ("25fps", 50, 2), ("12.5 fps", 30, 2.4)]
)
def test_step_of_number_or_rate(stride: int | str, fps: float | None, step: float) -> None:
    assert step_of(stride, fps) == step


@pytest.mark.parametrize("stride", [0, -1, "0", "1.5", "fast", "0fps", "fps", True])
def test_step_of_invalid_stride_is_rejected(stride: object) -> None:
    with pytest.raises(ValueError, match="stride: expected a positive number of frames or a rate such as 25fps"):
        step_of(stride, 30)


def test_cuts_respond_to_rise_of_difference() -> None:
    dark, light = np.zeros((3, 48, 80), np.uint8), np.full((3, 48, 80), 255, np.uint8)
    cuts = Cuts((48, 80))
    assert [cuts(image) for image in (dark, dark, light, light, dark)] == [False, False, True, False, True]
    grey = [np.full((3, 48, 80), level, np.uint8) for level in range(0, 256, 51)]
    cuts = Cuts((48, 80), 0.3)  # each differs by .2 from the one before
    assert not any(cuts(image) for image in grey)
    cuts = Cuts((48, 80), 0.1)  # only the first of the differences is a rise
    assert [cuts(image) for image in grey] == [False, True, False, False, False, False]


def test_cuts_of_real_videos(shared: Path) -> None:
    def found(path: Path, stop: int) -> list[int]:
        cuts, there = Cuts((64, 96)), []
        for place, frame in enumerate(edge.open_video(path)[1]):
            if place == stop:
                break
            if cuts(edge.resize(frame, (64, 96)).transpose(2, 0, 1)):
                there.append(place)
        return there

    assert found(shared / "data" / "unlabelled" / "bikes.mp4", 200) == [30, 76, 137, 187]
    assert found(OTHER_VIDEO, 250) == []  # a van drives past, close, at frame 228
