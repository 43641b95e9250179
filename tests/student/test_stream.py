"""The streaming student: both modes agree, memory is finite, and a state can be restarted."""

from functools import cache
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from distill.data.video.open import open_video
from distill.models.registry import create_model
from student.stream import VARIANTS, ClipMemory, Model, State

SAMPLE = Path(__file__).parent.parent / "data" / "dhf1k" / "video" / "002.AVI"


def ready(variant: str = "micro", **changes: object) -> Model:
    """A model in evaluation mode with batch statistics of real frames; its maps are far from the prior."""
    torch.manual_seed(0)
    model = Model(**VARIANTS[variant] | changes).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.decoder.head.weight.normal_(0, 0.2)
    by_clip(model, real_frames(model, 0, model.num_frames, every=780 // model.num_frames))
    return model.eval()


@cache
def read(size: tuple[int, int], start: int, count: int, every: int) -> Tensor:
    frames = open_video(SAMPLE).read([start + every * i for i in range(count)], size)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def real_frames(model: Model, start: int, count: int, every: int = 1) -> Tensor:
    """Return frames of a real video (count, 3, H, W) uint8."""
    return read(model.size, start, count, every)


@torch.no_grad()
def by_clip(model: Model, frames: Tensor) -> Tensor:
    """Return the maps (N, h, w) of a clip."""
    return model(frames[None].transpose(1, 2))[0]


@torch.no_grad()
def by_step(model: Model, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
    """Step through frames; return their maps (T, h, w) and the final state."""
    state, maps = state or model.initial_state(), []
    for frame in frames:
        out, state = model.step(frame[None], state)
        maps.append(out[0, 0])
    return torch.stack(maps), state


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5, rtol=0)


def test_map_sums_to_one() -> None:
    model = ready()
    maps = by_clip(model, real_frames(model, 0, 5))
    torch.testing.assert_close(maps.exp().sum((1, 2)), torch.ones(5))
    assert maps.std((1, 2)).min() > 0.1


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("micro", {}), ("micro", {"num_frames": 12, "lags": (4, 2, 3)}), ("tiny", {"num_frames": 20})],
)
def test_steps_through_a_clip_equal_clip_mode(variant: str, changes: dict) -> None:
    model = ready(variant, **changes)
    frames = real_frames(model, 200, model.num_frames)
    clip, (steps, _) = by_clip(model, frames), by_step(model, frames)
    assert (clip[1:] - clip[:-1]).abs().max() > 0.1  # the frames differ
    assert close(clip, steps)
    model.double()  # the difference is float32 rounding
    torch.testing.assert_close(by_clip(model, frames), by_step(model, frames)[0], atol=1e-6, rtol=0)


def test_initial_state_equals_repeated_first_frame() -> None:
    model = ready()
    frames = real_frames(model, 0, 5)
    still = frames[:1].repeat(model.reach + 5, 1, 1, 1)
    long, _ = by_step(model, torch.cat([still, frames[1:]]))
    assert close(by_step(model, frames)[0], long[-5:])
    assert close(long[:-4], long[:1])  # nothing moves


def test_window_of_reach_frames_equals_the_stream() -> None:
    model = ready(targets="last")
    assert model.num_frames == model.reach == 5
    frames = real_frames(model, 100, 12)
    stream, _ = by_step(model, frames)
    for end in (0, 1, 3, 11):  # a sliding window repeats the first frame before it
        window = [max(end - 4 + j, 0) for j in range(5)]
        assert close(by_clip(model, frames[window]), stream[end : end + 1])


def test_map_depends_only_on_the_frames_in_reach() -> None:
    model = ready(num_frames=9)
    frames = real_frames(model, 50, 9)
    maps = by_clip(model, frames)
    for frame in range(9):
        changed = frames.clone()
        changed[frame] = 255 - changed[frame]
        moved = (by_clip(model, changed) - maps).abs().amax((1, 2)) > 1e-5
        first = 0 if frame == 0 else frame  # causal; the first frame also fills the past
        assert moved.tolist() == [first <= t < first + model.reach for t in range(9)]


def test_targets_last_equals_last_of_all_with_fewer_steps() -> None:
    model, last = ready(num_frames=9), ready(num_frames=9, targets="last")
    last.load_state_dict(model.state_dict())
    frames = real_frames(model, 300, 9)
    assert close(by_clip(model, frames)[-1:], by_clip(last, frames))
    assert last.target_frames == (8,)
    assert [len(each) for each in ClipMemory((8, 4, 2, 1), 16, (15,)).frames] == [16, 8, 4, 2, 1]  # THTD-Net's
    assert [len(each) for each in ClipMemory((8, 4, 2, 1), 16, range(16)).frames] == [16] * 5


def test_clearing_started_restarts_one_video_of_the_batch() -> None:
    model = ready()
    one, other = real_frames(model, 0, 10), real_frames(model, 400, 10)
    state = model.initial_state(2)
    maps = []
    for t in range(10):
        if t == 6:
            state["started"][1] = 0
        with torch.no_grad():
            out, state = model.step(torch.stack([one[t], other[t]]), state)
        maps.append(out[:, 0])
    found = torch.stack(maps, 1)
    assert close(found[0], by_step(model, one)[0])
    assert close(found[1, :6], by_step(model, other[:6])[0])
    assert close(found[1, 6:], by_step(model, other[6:])[0])
    assert not close(found[1, 6:], by_step(model, other)[0][6:])


def test_step_does_not_modify_the_given_state() -> None:
    model = ready()
    frames = real_frames(model, 10, 4)
    _, state = by_step(model, frames[:3])
    before = {name: value.clone() for name, value in state.items()}
    first, _ = by_step(model, frames[3:], state)
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert torch.equal(first, by_step(model, frames[3:], state)[0])


@pytest.mark.parametrize("lengths", [(1, 1, 6), (2, 3, 3), (8,), (5, 3), (20,), (1, 19)])
@pytest.mark.parametrize("variant", ["micro", "tiny"])
def test_steps_of_chunks_equal_repeated_step(variant: str, lengths: tuple[int, ...]) -> None:
    """Two videos in one batch, chunks shorter and longer than the lags; the second restarts at the last chunk."""
    model = ready(variant, num_frames=5)
    total = sum(lengths)
    clip = torch.stack([real_frames(model, start, total).transpose(0, 1) for start in (0, 400)])  # (2, 3, T, H, W)
    state, kept, first = model.initial_state(2), model.initial_state(2), 0
    with torch.no_grad():
        for length in lengths:
            if first + length == total:
                state["started"][1] = kept["started"][1] = 0
            chunk = clip[:, :, first : first + length]
            maps, state = model.steps(chunk, state)
            expected = []
            for frame in chunk.unbind(2):
                one, kept = model.step(frame, kept)
                expected.append(one)
            assert maps.shape == (2, length, *model.map_size)
            torch.testing.assert_close(maps, torch.cat(expected, 1), atol=1e-5, rtol=0)
            assert list(state) == list(kept)
            for name, value in kept.items():
                torch.testing.assert_close(state[name], value, atol=1e-4, rtol=1e-4)
            first += length


def test_steps_does_not_keep_the_chunk_or_modify_the_given_state() -> None:
    model = ready()
    clip = real_frames(model, 0, 30).transpose(0, 1)[None]
    before = model.initial_state()
    with torch.no_grad():
        maps, state = model.steps(clip.float() / 255, before)
        torch.testing.assert_close(maps, model.steps(clip, before)[0], atol=1e-5, rtol=0)
    assert all(not value.any() for value in before.values())
    assert all(value.untyped_storage().nbytes() == 4 * value.numel() for value in state.values())


def test_state_has_the_shapes_of_state_shapes() -> None:
    model = Model()
    shapes = {name: tuple(value.shape) for name, value in model.initial_state(3).items()}
    assert shapes == {name: (3, *shape) for name, shape in model.state_shapes.items()}
    assert shapes["past0"] == (3, 8 * 128, 7, 12)
    small = ready()
    _, state = by_step(small, real_frames(small, 0, 1))
    assert {name: tuple(value.shape[1:]) for name, value in state.items()} == small.state_shapes
    assert list(state) == list(small.state_shapes)


def test_step_with_wrong_shapes_names_the_expected() -> None:
    model = ready()
    frame = torch.zeros(1, 3, 64, 96)
    with pytest.raises(ValueError, match=r"frame of shape \(1, 3, 64, 95\), expected \(B, 3, 64, 96\)"):
        model.step(frame[..., 1:], model.initial_state())
    with pytest.raises(ValueError, match=r"state started is \(2, 1, 1, 1\), expected \(1, 1, 1, 1\)"):
        model.step(frame, model.initial_state(2))
    with pytest.raises(ValueError, match=r"clip of shape \(1, 3, 0, 64, 96\), expected \(B, 3, T, 64, 96\)"):
        model.steps(frame[:, :, None][:, :, :0], model.initial_state())
    with pytest.raises(ValueError, match=r"state started is \(2, 1, 1, 1\), expected \(1, 1, 1, 1\)"):
        model.steps(frame[:, :, None], model.initial_state(2))
    state = model.initial_state()
    del state["past1"]
    with pytest.raises(ValueError, match="state past1 is missing"):
        model.step(frame, state)


class Dimensions(TorchDispatchMode):
    """Record the largest number of dimensions of any operation's output."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            self.most = max(self.most, each.ndim if isinstance(each, Tensor) else 0)
        return out


def test_step_uses_at_most_four_dimensions() -> None:
    model = ready()
    with Dimensions() as seen, torch.no_grad():
        model.step(torch.rand(2, 3, 64, 96), model.initial_state(2))
    assert seen.most == 4
    with Dimensions() as seen, torch.no_grad():
        model(torch.rand(1, 3, 5, 64, 96))
    assert seen.most == 5


class Step(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        maps, after = self.model.step(frame, dict(zip(self.model.state_shapes, state, strict=True)))
        return maps, *after.values()


def test_onnx_runtime_step_at_any_batch_agrees_with_pytorch(tmp_path: Path) -> None:
    model = ready()
    frames = real_frames(model, 0, 9).view(3, 3, 3, *model.size)  # three videos of three frames
    state = model.initial_state(2)
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        Step(model).eval(),
        (frames[:2, 0], *state.values()),
        dynamo=True,
        dynamic_shapes=(batch, (batch,) * len(state)),
        input_names=["frame", *state],
        output_names=["log", *(f"next_{name}" for name in state)],
        verbose=False,
    )
    path = tmp_path / "step.onnx"
    program.save(path)
    onnx.checker.check_model(path, full_check=True)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True).graph
    ranks = [len(value.type.tensor_type.shape.dim) for value in (*graph.value_info, *graph.input, *graph.output)]
    assert len(ranks) > 100
    assert max(ranks) == 4
    session = onnxruntime.InferenceSession(path)
    for size in (1, 2, 3):
        state = model.initial_state(size)
        kept = {name: value.numpy() for name, value in state.items()}
        for t in range(3):
            log, *after = session.run(None, {"frame": frames[:size, t].numpy(), **kept})
            kept = dict(zip(state, after, strict=True))
            with torch.no_grad():
                maps, state = model.step(frames[:size, t], state)
            torch.testing.assert_close(torch.from_numpy(log), maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("variant", "weights", "gmacs"), [("nano", 0.5e6, 0.18), ("small", 5.0e6, 0.8), ("base", 7e6, 1.5)]
)
def test_variants_stay_within_their_budgets(variant: str, weights: float, gmacs: float) -> None:
    with torch.device("meta"):
        model = Model(**VARIANTS[variant]).eval()
        frame, state = torch.zeros(1, 3, *model.size), model.initial_state()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.step(frame, state)
    assert sum(weight.numel() for weight in model.parameters()) <= weights
    assert 0.1 < counter.get_total_flops() / 2e9 <= gmacs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": "first"}, "targets 'first': expected all or last"),
        ({"lags": (1, 1)}, r"widths \(12, 8, 8\), lags \(1, 1\): expected one number for each scale in both"),
        ({"lags": (1, 0, 1)}, r"lags \(1, 0, 1\): expected one number for each scale in both, at least 1"),
        ({"widths": (8,) * 6, "lags": (1,) * 6}, r"6 widths for its 4 scales of strides \[4, 8, 16, 32\]"),
        ({"size": (64, 90)}, r"size \(64, 90\): .* multiples of 32, such as \(64, 96\)"),
    ],
)
def test_model_with_unsupported_arguments_raises(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Model(**VARIANTS["micro"] | changes)


def test_frozen_statistics_change_only_in_the_decoder() -> None:
    model = Model(**VARIANTS["micro"], frozen_statistics=True).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.rand(2, 3, 5, *model.size))
    moved = {name.split(".")[0] for name, value in model.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {"decoder"}
    assert model.encoder.bn1.weight.requires_grad


def test_initial_map_is_nearly_the_prior() -> None:
    torch.manual_seed(0)
    model = create_model("student/stream:micro").network.eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 5, 64, 96))
    prior = model.prior().flatten().log_softmax(0).view(model.map_size)
    assert (maps - prior).abs().max() < 0.2
    assert (prior == prior.max()).nonzero().tolist() == [[r, c] for r in (7, 8) for c in (11, 12)]
    torch.testing.assert_close(
        model.prior()[8, -1], torch.tensor(-0.5 * ((1 / 8 / 2 / 0.5) ** 2 + (23 / 24 / 0.5) ** 2))
    )
