"""The verbs that read an exported file, with metadata and weights that are wrong."""

from pathlib import Path

import pytest
from helpers.edge_models import small_stream, with_broken_weights, with_metadata

from distill.cli import main
from distill.data.video import synthetic
from distill.data.video.writer import VideoWriter
from distill.runtimes.export import export

WRONG = [
    {"frames": "1"},
    {"size": {}},
    {"size": [64, 10**30]},
    {"target_frames": []},
    {"target_frames": True},
    {"reach": None},
    {"state": [{}]},
    {"input": "uint8"},
    {"output": 1},
    {"notes": 7},
    {"notes": {"stride": True}},
    {"notes": {"stride": "0.0000001fps"}},
    {"format": "x" * 5000},
    {"weights": "many"},
    {"precision": 16},
    {"gflops_per_map": [1]},
]


@pytest.fixture(scope="module")
def step_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "stream.onnx"
    export(small_stream(), path, notes={"stride": 1}, batches=(1,))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "short.mp4"
    with VideoWriter(path, (36, 64), 30) as writer:
        writer.write(synthetic.SyntheticReader("synthetic:1-12x36x64").read(range(12)))
    return path


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the one line that a command prints with exit code 2."""
    assert main.main([str(word) for word in words]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("saldistill: ")]
    assert len(line) < 500
    return line


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: str(changes)[:30])
def test_metadata_of_wrong_types_are_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, step_file: Path, video: Path, changes: dict[str, object]
) -> None:
    path = with_metadata(step_file, tmp_path / "bad.onnx", **changes)
    out = tmp_path / "out.mp4"
    for words in (
        ["predict", path, video, "-o", out],
        ["evaluate", path, "synthetic:", "--split", "test", "--every", "24"],
        ["quantize", path, "--on", video, "-o", tmp_path / "small.onnx"],
    ):
        line = refusal(capsys, *words)
        assert "bad.onnx: " in line or "stride" in line, words
    if "notes" not in changes or changes["notes"] == 7:  # a benchmark needs no stride
        assert "bad.onnx: " in refusal(capsys, "benchmark", path, "--rounds", 1)
    assert [each.name for each in tmp_path.iterdir()] == ["bad.onnx"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_with_nan_or_infinity_are_one_sentence_with_the_frame(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, step_file: Path, video: Path, value: float
) -> None:
    path = with_broken_weights(step_file, tmp_path / "bad.onnx", value)
    line = refusal(capsys, "predict", path, video, "-o", tmp_path / "out.mp4", "--maps", tmp_path / "maps")
    assert "frame 1: the model's map contains NaN or infinity" in line
    line = refusal(capsys, "evaluate", path, "synthetic:", "--split", "test", "-o", tmp_path / "scores")
    assert "saldistill: blob" in line
    assert ": frame 1: the model's map contains NaN or infinity" in line
    assert [each.name for each in tmp_path.iterdir() if not each.name.startswith(".")] == ["bad.onnx"]
