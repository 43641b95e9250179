"""Export in step mode: frame and state in, map and next state out, equal to the network over a sequence."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.places import REPOSITORY
from torch import nn

from distill.cli.main import main
from distill.errors import UserError
from distill.models.cost import gflops_per_map
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel, OnnxStepModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.runtimes.export import ExportReport, export
from distill.runtimes.onnx_check import compare_with_network, graph_maps, verification_steps
from distill.runtimes.onnx_graph import StepGraph

REAL_VIDEO = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"


def streaming() -> LoadedModel:
    """Return the smallest streaming student, with a random head: an initial head returns nearly the prior."""
    torch.manual_seed(0)
    model = create_model("student/stream:micro")
    torch.nn.init.normal_(model.network.eval().decoder.head.weight)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    path = tmp_path_factory.mktemp("step") / "s.onnx"
    return path, export(streaming(), path, frames=REAL_VIDEO)


def frames(count: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, batch, 3, 64, 96), dtype=torch.uint8, generator=generator)


def test_export_streaming_network_uses_step_mode(exported: tuple[Path, ExportReport]) -> None:
    path, report = exported
    metadata = report.metadata
    assert metadata == json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["saldistill"])
    assert (metadata["format"], metadata["mode"], metadata["precision"]) == (2, "step", "fp32")
    assert (metadata["frames"], metadata["target_frames"], metadata["reach"]) == (1, [0], 5)
    assert metadata["input"]["name"] == "frame"
    assert metadata["input"]["shape"] == ["batch", 3, 64, 96]
    assert metadata["output"]["shape"] == ["batch", 1, 16, 24]
    shapes = {"started": (1, 1, 1), "past0": (24, 2, 3), "past1": (8, 4, 6), "past2": (8, 8, 12)}
    assert metadata["state"] == [
        {"input": name, "output": f"next_{name}", "type": "float32", "shape": ["batch", *shape], "initial": 0}
        for name, shape in shapes.items()
    ]
    assert metadata["gflops_per_map"] == pytest.approx(gflops_per_map(streaming()))
    session = onnxruntime.InferenceSession(path)
    given = {each.name: (each.type, each.shape) for each in session.get_inputs()}
    assert list(given) == ["frame", *shapes]
    assert given["frame"] == ("tensor(uint8)", ["batch", 3, 64, 96])
    assert all(given[name] == ("tensor(float)", ["batch", *shape]) for name, shape in shapes.items())
    assert [each.name for each in session.get_outputs()] == ["saliency", *(f"next_{name}" for name in shapes)]


def test_export_step_mode_is_compared_over_sequence_with_reset(exported: tuple[Path, ExportReport]) -> None:
    _, report = exported
    assert [check.batch for check in report.checks] == [1, 2, 3]
    assert all(check.max_error < 1e-4 and check.cc > 0.99999 for check in report.checks)
    assert "20 steps through real frames of 002.AVI, state reset after 10, batch 3: max error" in str(report)
    assert "step mode, frames of 64x96, a map depends on 5 frames" in str(report)


@pytest.mark.parametrize("reach", [1, 5, 16, 40])
def test_verification_steps_exceed_reach(reach: int) -> None:
    steps, reset = verification_steps(reach)
    assert steps >= 20
    assert steps > reset > reach


def test_graph_maps_step_mode_resets_state_once() -> None:
    """Each map of this graph is the number of frames since the reset."""
    metadata = {"mode": "step", "reach": 5, "state": [{"shape": ["batch", 1, 1, 1]}]}

    def counting(frame: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
        return [state + 1, state + 1]

    maps = graph_maps(counting, np.zeros((2, 3, 20, 4, 4), np.uint8), metadata)
    assert maps.shape == (2, 20, 1, 1)
    np.testing.assert_array_equal(maps[1, :, 0, 0], [*range(1, 11), *range(1, 11)])


def test_step_graph_has_at_most_four_dimensions(exported: tuple[Path, ExportReport]) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported[0]), data_prop=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    made = {name for node in graph.node for name in node.output}
    assert made <= {value.name for value in values}  # inference has reached every one
    assert max(len(value.type.tensor_type.shape.dim) for value in values) == 4
    assert max(len(tensor.dims) for tensor in graph.initializer) <= 4


def test_step_graph_has_no_redundant_operators(exported: tuple[Path, ExportReport]) -> None:
    """Normalisation and padding are folded into convolutions, and pixels are scaled by one product and one sum."""
    graph = onnx.load(exported[0]).graph
    kinds = [node.op_type for node in graph.node]
    assert not {"BatchNormalization", "Pad", "Div", "Loop", "If", "Transpose"} & set(kinds)
    assert kinds.count("Cast") == 1  # of the pixels
    assert kinds.count("Expand") == 1  # of `next_started`
    assert not {"LogSoftmax", "Reshape", "GatherND"} & set(kinds)
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert "decoder.reduce.0.time.1/Relu" in names  # names of modules
    assert b".py" not in exported[0].read_bytes()


def test_exported_step_equals_network(exported: tuple[Path, ExportReport]) -> None:
    model, file = streaming().network, load_model(exported[0]).network
    assert isinstance(file, OnnxStepModel)
    assert (file.num_frames, file.target_frames, file.reach) == (5, (4,), 5)
    assert (file.size, file.map_size) == ((64, 96), (16, 24))
    state, kept = model.initial_state(2), file.initial_state(2)
    assert {name: value.shape for name, value in kept.items()} == {n: v.shape for n, v in state.items()}
    for t, frame in enumerate(frames(9, batch=2)):
        if t == 6:  # a cut in the second video, marked in the state
            state["started"][1], kept["started"][1] = 0, 0
        with torch.no_grad():
            expected, state = model.step(frame, state)
        maps, kept = file.step(frame, kept)
        assert maps.shape == (2, 1, 16, 24)
        torch.testing.assert_close(maps, expected - expected.amax((-2, -1), keepdim=True), rtol=0, atol=1e-4)


def test_exported_steps_equal_repeated_step(exported: tuple[Path, ExportReport]) -> None:
    file = load_model(exported[0]).network
    clip = frames(5, batch=2).permute(1, 2, 0, 3, 4)  # (2, 3, 5, 64, 96)
    maps, after = file.steps(clip, file.initial_state(2))
    state, expected = file.initial_state(2), []
    for frame in clip.unbind(2):
        one, state = file.step(frame, state)
        expected.append(one)
    assert torch.equal(maps, torch.cat(expected, 1))
    assert all(torch.equal(after[name], value) for name, value in state.items())
    with pytest.raises(UserError, match=r"s\.onnx: expected clips of at least one frame, got \(2, 3, 0, 64, 96\)"):
        file.steps(clip[:, :, :0], file.initial_state(2))


def test_exported_step_file_on_clip_equals_network(exported: tuple[Path, ExportReport]) -> None:
    model, file = streaming().network, load_model(exported[0]).network
    clip = frames(5, batch=2).permute(1, 2, 0, 3, 4)  # (2, 3, 5, 64, 96)
    with torch.inference_mode():
        expected = model(clip)[:, -1:]
    torch.testing.assert_close(file(clip), expected - expected.amax((-2, -1), keepdim=True), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"s\.onnx: expected clips of 5 frames, got \(2, 3, 4, 64, 96\)"):
        file(clip[:, :, :4])


def test_export_streaming_student_in_clip_mode(tmp_path: Path) -> None:
    model, path = streaming(), tmp_path / "s.onnx"
    report = export(model, path, mode="clip", values="log", input_type="float32", batches=(1,))
    assert [check.batch for check in report.checks] == [1]
    assert (report.metadata["mode"], report.metadata["frames"], report.metadata["reach"]) == ("clip", 5, 5)
    assert report.metadata["target_frames"] == [0, 1, 2, 3, 4]
    assert report.metadata["state"] == []
    assert report.metadata["input"]["range"] == [0.0, 1.0]
    assert type(load_model(path).network) is OnnxModel
    clip = frames(5).permute(1, 2, 0, 3, 4).numpy() / np.float32(255)
    [found] = onnxruntime.InferenceSession(path).run(None, {"clip": clip})
    with torch.inference_mode():
        np.testing.assert_allclose(found, model.network(torch.from_numpy(clip)).numpy(), atol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum((-2, -1)), 1, rtol=1e-5)  # a density's logarithm


def test_comparison_of_densities_is_relative_to_peak(exported: tuple[Path, ExportReport]) -> None:
    """A density's values are far below 1, so that absolute errors of a wrong map are small."""
    path, report = exported
    graph = StepGraph(streaming().network, values="peak").eval()
    metadata = report.metadata | {"output": {"values": "sigmoid"}}
    clips = frames(12).permute(1, 2, 0, 3, 4)
    [check] = compare_with_network(scaled(graph, 1.0), path, clips, metadata, (1,))
    assert check.max_error < 1e-4
    with pytest.raises(UserError, match=r"differs from PyTorch at batch 1: max error 9\.9e-01"):
        list(compare_with_network(scaled(graph, 100.0), path, clips, metadata, (1,)))


def scaled(graph: StepGraph, factor: float) -> nn.Module:
    """Return the graph with its maps multiplied by a factor."""

    class Scaled(nn.Module):
        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            saliency, *state = graph(*inputs)
            return saliency * factor, *state

    return Scaled()


def test_comparison_with_lost_state_fails(exported: tuple[Path, ExportReport]) -> None:
    path, report = exported
    graph = StepGraph(streaming().network, values="peak").eval()

    class Forgetful(nn.Module):
        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            saliency, started, past0, past1, past2 = graph(*inputs)
            return saliency, started, past0, past1 * 0, past2

    clips = frames(12).permute(1, 2, 0, 3, 4)
    assert [check.batch for check in compare_with_network(graph, path, clips, report.metadata, (1,))] == [1]
    with pytest.raises(UserError, match=r"s\.onnx: the exported graph differs from PyTorch at batch 1"):
        list(compare_with_network(Forgetful(), path, clips, report.metadata, (1,)))


def test_gflops_of_streaming_student_counts_one_step() -> None:
    every, last = (create_model("student/stream:micro", targets=targets) for targets in ("all", "last"))
    step = gflops_per_map(every)
    assert step == gflops_per_map(every, mode="step") == gflops_per_map(last)
    assert gflops_per_map(every, mode="clip") == pytest.approx(step)  # each frame once, one map per frame
    assert gflops_per_map(last, mode="clip") > 3 * step  # five frames for one map


def test_export_command_passes_licence_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict = {}

    def export(model: LoadedModel, out: str, **options: Any) -> Any:
        asked.update(options, out=out)
        return SimpleNamespace(as_dict=dict)

    monkeypatch.setattr("distill.deploy.export_format.export", export)
    monkeypatch.setattr(
        "distill.deploy.export_format.load_model", lambda path: replace(streaming(), reference=path)
    )
    (tmp_path / "config.yaml").write_text("steps: 1\n")
    words = [
        "export",
        str(tmp_path),
        "-o",
        "s.onnx",
        "--mode",
        "step",
        "--licence",
        "CC-BY-4.0",
        "--on",
        "video.mp4",
    ]
    assert main(words) == 0
    assert (asked["mode"], asked["licence"], str(asked["frames"]), asked["values"]) == (
        "step",
        "CC-BY-4.0",
        "video.mp4",
        "peak",
    )
    assert len(asked["notes"]["run"]["config_sha256"]) == 64
