"""Golden vectors: two scenes in PyTorch, a kit on disk, and the replay in ONNX Runtime."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_cases import loaded
from helpers.quantized_files import ClipModel, stream, write

from distill.data.fit import read_placed
from distill.data.video.open import open_video
from distill.deploy.golden_vectors import (
    FIRST,
    SECOND,
    GoldenVectors,
    check_same_model,
    compute_vectors,
    read_kit,
    write_kit,
)
from distill.deploy.replay import replay
from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.onnx import load_onnx
from distill.runtimes.export import graph_of
from distill.runtimes.onnx_check import peak_maps
from distill.shipped import shipped_path

VIDEO = "@sample/video/068.AVI"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return stream()


@pytest.fixture(scope="module")
def file(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(model, tmp_path_factory.mktemp("golden") / "step.onnx")


@pytest.fixture(scope="module")
def vectors(model: LoadedModel, file: Path) -> GoldenVectors:
    metadata = load_onnx(file).edge.metadata
    return compute_vectors(graph_of(model, metadata), metadata, model.network)


def test_vectors_have_reset_and_dropped_frame_of_real_video(vectors: GoldenVectors) -> None:
    assert vectors.maps.shape == (24, 1, 16, 24)
    assert [call for call in range(24) if vectors.resets(call)] == [0, FIRST]
    gaps = np.diff(vectors.numbers)
    assert sorted(gaps[gaps != 1].tolist())[0] == 2  # the dropped frame
    assert len(gaps[gaps > 2]) == 1  # the second scene
    expected = read_placed(open_video(shipped_path(VIDEO)), vectors.numbers, "stretch", (64, 96))
    np.testing.assert_array_equal(vectors.frames, expected.numpy())


def test_vectors_equal_steps_of_the_network(vectors: GoldenVectors, model: LoadedModel) -> None:
    network: Any = model.network
    state, steps = network.initial_state(), []
    with torch.inference_mode():
        for call in range(FIRST + SECOND):
            if call == FIRST:
                state = network.initial_state()
            log_saliency, state = network.step(torch.from_numpy(vectors.frames[call : call + 1]), state)
            steps.append((log_saliency - log_saliency.amax()).exp())
            for name, value in state.items():
                np.testing.assert_allclose(vectors.states[name][call], value[0], atol=1e-6)
    np.testing.assert_allclose(vectors.maps, torch.cat(steps), atol=1e-6)
    assert np.abs(vectors.maps[FIRST - 1] - vectors.maps[FIRST]).max() > 0.01


def test_vectors_of_clip_mode_pad_with_first_frame_of_scene(tmp_path: Path) -> None:
    model = loaded(ClipModel())
    path = write(model, tmp_path / "clip.onnx")
    metadata = load_onnx(path).edge.metadata
    vectors = compute_vectors(graph_of(model, metadata), metadata, model.network)
    assert vectors.calls[0].tolist() == [1, 0, 0, 0, 0]
    assert vectors.calls[2].tolist() == [0, 0, 0, 1, 2]
    assert vectors.calls[FIRST].tolist() == [1, *[FIRST] * 4]
    assert vectors.inputs(2).shape == (1, 3, 4, 16, 24)
    assert vectors.states == {}
    found = replay(load_onnx(path, threads=1).edge, vectors)
    assert found.max_error < 1e-4
    assert found.state_error is None


def test_replay_in_onnx_runtime_reproduces_maps_and_states(vectors: GoldenVectors, file: Path) -> None:
    found = replay(load_onnx(file, threads=1).edge, vectors)
    assert found.max_error < 1e-4
    assert found.lowest_cc > 0.9999
    assert found.state_error is not None
    assert found.state_error < 1e-4
    assert len(found.seconds) == 24
    assert found.problem("fp32") is None


def test_replay_with_state_that_is_not_reset_fails(vectors: GoldenVectors, file: Path) -> None:
    edge = load_onnx(file, threads=1).edge
    kept = GoldenVectors(**{**vars(vectors), "calls": vectors.calls * np.array([0, 1], np.int32)})
    kept.calls[0, 0] = 1
    found = replay(edge, kept)
    assert found.max_error > 0.01
    assert "max error" in str(found.problem("fp32"))


def test_replay_judges_int8_by_mean_correlation(vectors: GoldenVectors, file: Path) -> None:
    found = replay(load_onnx(file, threads=1).edge, vectors)
    assert type(found)(0.3, 0.995, 0.9, None, []).problem("int8") is None
    assert "CC 0.9800, at least 0.99" in str(type(found)(0.3, 0.98, 0.97, None, []).problem("int8"))
    assert type(found)(float("nan"), 1.0, 1.0, None, []).problem("int8") is not None


def test_kit_round_trip_and_raw_binaries(vectors: GoldenVectors, tmp_path: Path) -> None:
    write_kit(vectors, tmp_path / "kit")
    found = read_kit(tmp_path / "kit")
    for name, array in vectors.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    index = json.loads((tmp_path / "kit" / "index.json").read_text())
    entry = index["arrays"]["maps"]
    raw = np.fromfile(tmp_path / "kit" / entry["file"], dtype="<f4").reshape(entry["shape"])
    np.testing.assert_array_equal(raw, vectors.maps)
    with np.load(tmp_path / "kit" / "vectors.npz") as arrays:
        assert set(arrays) == set(vectors.arrays)
    assert index["tolerances"]["fp32"] == {"max_error": 1e-3, "min_cc": 0.9999}


def test_kit_is_not_overwritten(vectors: GoldenVectors, tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="kit: the kit already exists"):
        write_kit(vectors, tmp_path / "kit")
    assert (tmp_path / "kit" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kit: (kit / "index.json").unlink(), "is not a kit; expected a folder"),
        (lambda kit: (kit / "index.json").write_text("{"), "is damaged; write the kit again"),
        (lambda kit: (kit / "index.json").write_text('{"format": 9}'), "format 9; expected 1"),
        (lambda kit: (kit / "maps.bin").write_bytes(b"0" * 8), "maps.bin: its checksum differs"),
        (lambda kit: (kit / "maps.bin").unlink(), "is damaged; write the kit again"),
    ],
)
def test_damaged_kit_is_rejected(vectors: GoldenVectors, tmp_path: Path, change: Any, message: str) -> None:
    write_kit(vectors, tmp_path / "kit")
    change(tmp_path / "kit")
    with pytest.raises(UserError, match=message) as caught:
        read_kit(tmp_path / "kit")
    assert "\n" not in str(caught.value)


def test_kit_of_another_model_is_rejected(vectors: GoldenVectors) -> None:
    check_same_model(vectors, vectors.metadata, Path("a.onnx"))
    for change in ({"weights_sha256": "0"}, {"size": [1, 2]}):
        with pytest.raises(UserError, match=r"a\.onnx: the kit belongs to another model"):
            check_same_model(vectors, {**vectors.metadata, **change}, Path("a.onnx"))


def test_short_video_is_rejected(vectors: GoldenVectors, model: LoadedModel, tmp_path: Path) -> None:
    from distill.data.video.writer import VideoWriter

    with VideoWriter(tmp_path / "short.mp4", (64, 96), 25.0) as writer:
        writer.write(np.zeros((6, 64, 96, 3), np.uint8))
    with pytest.raises(UserError, match="6 frames; golden vectors need a video of at least 25 frames"):
        compute_vectors(graph_of(model, vectors.metadata), vectors.metadata, model.network, tmp_path / "short.mp4")


def test_peak_maps_of_each_output_value_are_equal() -> None:
    log = np.log(np.random.default_rng(0).uniform(0.1, 0.9, (2, 1, 3, 4)))
    expected = np.exp(log) / np.exp(log).max(axis=(-2, -1), keepdims=True)
    for maps, values in ((log, "log"), (np.exp(log), "sigmoid"), (expected, "peak")):
        np.testing.assert_allclose(peak_maps(maps, values), expected, rtol=1e-12)
