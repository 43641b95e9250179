"""CUDA graphs at batch size 1 and merged window attention on a GPU, compared with the plain computation."""

from typing import Any

import pytest
import torch
from helpers.devices import CUDA, DEVICES, cases

from distill.data.clips import Video
from distill.data.sets import synthetic
from distill.inference import sliding_window
from distill.inference.cuda_graph import WARM_UP, GraphedCalls
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.references import load_model
from distill.models.registry import create_model
from teacher.decoder import attend

MODELS = ("teacher/salfom:micro", "stream-nano")


def network_of(name: str, device: str) -> Any:
    torch.manual_seed(1)
    model = load_model(name) if name == "stream-nano" else create_model(name)
    return model.network.to(torch.device(device)).eval()


def video() -> Video:
    return synthetic.video("one", 1, (20, 72, 128))


def maps_at_batch_1(network: Any, device: str, precision: str) -> torch.Tensor:
    settings = InferenceSettings(device=device, precision=precision, batch_size=1)
    return torch.cat([maps for _, maps in slide(network, video(), range(3, 20), settings)])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("device", "name"), cases(MODELS[1:], MODELS))
def test_graphed_maps_equal_eager_ones(
    device: str, name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of(name, device)
    graphed = maps_at_batch_1(network, device, precision)
    monkeypatch.setattr(sliding_window, "graphed", lambda function, device: function)
    monkeypatch.setattr("distill.inference.streaming.graphed", lambda function, device: function)
    torch.testing.assert_close(graphed, maps_at_batch_1(network, device, precision), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", [CUDA])
def test_calls_are_really_recorded_on_a_gpu(device: str) -> None:
    network = network_of("stream-nano", device)
    names = list(network.state_shapes)

    def step(frame: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps, after = network.step(frame, dict(zip(names, state, strict=True)))
        return maps, *(after[name] for name in names)

    calls = GraphedCalls(step)
    frames = torch.randint(0, 256, (WARM_UP + 3, 1, 3, *network.size), dtype=torch.uint8, device=device)
    state, plain_state = (tuple(network.initial_state().values()) for _ in range(2))
    with torch.inference_mode():
        for frame in frames:
            (found, *state), (plain, *plain_state) = calls(frame, *state), step(frame, *plain_state)
            torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    (recording,) = calls.recordings.values()
    assert recording is not step  # it would be if recording had failed


@pytest.mark.parametrize("windowed_bias", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_merged_attention_equals_attention_per_window(device: str, windowed_bias: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 4, 2, 8, 16, device=device)
    bias = torch.randn(*((4,) if windowed_bias else ()), 2, 8, 8, device=device)
    expected = attend(q, k, v, bias, merge=False)
    torch.testing.assert_close(attend(q, k, v, bias, merge=True), expected, rtol=1e-5, atol=1e-5)
