"""Exported files, one of each mode for all tests of a process, and a video."""

from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from helpers.edge_models import REAL_VIDEO, FakeCapture, SmallModel, small_stream
from helpers.model_cases import loaded

from distill.data.video.open import open_video
from distill.data.video.writer import VideoWriter
from distill.runtimes.export import export
from student import edge


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in clip mode."""
    path = tmp_path_factory.mktemp("edge") / "student.onnx"
    export(loaded(SmallModel()), path, batches=(1,))
    return path


@pytest.fixture(scope="session")
def step_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in step mode: `edge_models.small_stream`, with a training stride of 1 in its notes."""
    path = tmp_path_factory.mktemp("edge") / "stream.onnx"
    export(small_stream(), path, notes={"stride": 1}, batches=(1,))
    return path


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 frames of the real video."""
    path = tmp_path_factory.mktemp("edge") / "short.mp4"
    with VideoWriter(path, (360, 640), 30) as writer:
        writer.write(open_video(REAL_VIDEO).read(range(40)))
    return path


@pytest.fixture
def fake_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(VideoCapture=FakeCapture, CAP_PROP_FPS=5)
    monkeypatch.setattr(edge, "_modules", {"cv2": fake, "av": av})
