"""scripts/soak.py: many frames through the runner, with constant memory and equal maps in every round."""

import csv
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.edge_models import REAL_VIDEO

from distill.data.video.open import open_video
from student import edge


@pytest.fixture(scope="module")
def soaking() -> Iterator[ModuleType]:
    path = Path(__file__).parents[2] / "scripts" / "soak.py"
    spec = importlib.util.spec_from_file_location("soak", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules["soak"] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    del sys.modules["soak"]


@pytest.fixture
def small_video(tmp_path: Path) -> Path:
    writer = edge.Writer(tmp_path / "small.mp4", (64, 96), 30)
    for place, frame in enumerate(open_video(REAL_VIDEO).read(range(45), (64, 96))):
        writer.write(frame, place)
    writer.close()
    return tmp_path / "small.mp4"


def test_soak_of_1000_frames_passes_and_writes_report(
    soaking: ModuleType, tmp_path: Path, step_file: Path, small_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(step_file), str(small_video), "-o", str(tmp_path / "out"), "--frames", "1000"]
    assert soaking.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("1000 frames in 23 rounds and ")
    assert "maps of 0 frames differ from the first round" in said
    with (tmp_path / "out" / "soak.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["frames"]) for line in lines] == [*range(100, 1001, 100)]
    assert all(
        float(line["resident_mb"]) > 10 and float(line["p99_ms"]) >= float(line["p50_ms"]) > 0 for line in lines
    )
    page = (tmp_path / "out" / "soak.html").read_text()
    assert "Resident memory" in page
    assert "Latency" in page
    assert soaking.main(arguments) == 2  # nothing is overwritten
    assert "already exists" in capsys.readouterr().err


def test_soak_detects_state_kept_between_rounds(
    soaking: ModuleType, step_file: Path, small_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge.Stream, "reset", lambda self: None)
    found = soaking.soak(edge.Stream(edge.EdgeModel(step_file, 1), cuts=None), small_video, 200, every=10)
    assert found.rounds == 5
    assert 4 <= found.differing <= 4 * 5  # only the frames within the reach of each seam
    assert not found.passed


def test_soak_detects_growing_memory(soaking: ModuleType) -> None:
    def found(resident: np.ndarray) -> bool:
        rows = [soaking.Row(100 * (n + 1), 1.0, float(value), 1.0, 1.0) for n, value in enumerate(resident)]
        return bool(soaking.Soak(rows, 3, 0).passed)

    assert found(np.full(200, 100.0))
    assert found(np.concatenate([np.linspace(50, 100, 20), np.full(180, 100.0)]))
    assert not found(np.linspace(100, 120, 200))


def test_soak_invalid_input_is_rejected(
    soaking: ModuleType, tmp_path: Path, step_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, video, more, message in (
        ("nowhere.onnx", REAL_VIDEO, (), "nowhere.onnx: no such file"),
        (step_file, "nowhere.mp4", (), "nowhere.mp4: no such video file"),
        (step_file, REAL_VIDEO, ("--frames", "10"), "--frames 10: expected at least 1000"),
    ):
        assert soaking.main([str(model), str(video), "-o", str(tmp_path / "out"), *more]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
