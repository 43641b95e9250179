"""The Python interface: `distill.load`, `Predictor`, and the entry points for torch.hub."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.places import REPOSITORY
from helpers.pretrained_models import make_pretrained, placeholder
from PIL import Image

import distill
from distill.cli.main import main
from distill.errors import UserError
from distill.inference import predictor
from distill.models import pretrained


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pretrained(tmp_path_factory.mktemp("pretrained"), {"stream-small": placeholder()})


@pytest.fixture
def shipped(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which an untrained `stream-small` is the pretrained model."""
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: made)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def frames(shipped: Path) -> np.ndarray:
    """Six frames, which are also images in the folder `video`."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 72, 3), dtype=np.uint8)
    (shipped / "video").mkdir()
    for number, frame in enumerate(pixels, 1):
        Image.fromarray(frame).save(shipped / f"video/{number:04d}.png")
    return pixels


def test_predict_returns_one_map_per_frame(frames: np.ndarray) -> None:
    model = distill.load("stream-small", device="cpu")
    assert repr(model) == "Predictor('stream-small': frames of 64x96, maps of 16x24)"
    maps = model.predict("video")
    assert (maps.shape, maps.dtype) == ((6, 16, 24), np.float32)
    assert np.array_equal(maps.max(axis=(1, 2)), np.ones(6))
    assert not np.array_equal(maps[0], maps[5])
    assert np.array_equal(model.predict(frames), maps)  # frames in memory give the same maps as files
    assert np.array_equal(np.stack(list(model.iterate("video"))), maps)
    assert model.predict(frames[0]).shape == (1, 16, 24)


def test_predict_at_the_size_of_the_video_equals_the_files_of_the_command(frames: np.ndarray) -> None:
    maps = distill.load(device="cpu").predict("video", size="video")
    assert main(["predict", "video", "--maps", "maps", "--device", "cpu"]) == 0
    files = [np.asarray(Image.open(path)) for path in sorted(Path("maps").glob("*.png"))]
    assert np.array_equal(np.stack(files), np.rint(maps * 255).astype(np.uint8))


@pytest.mark.parametrize("size", ["map", "video", (20, 30)])
def test_densities_sum_to_one_at_every_size(frames: np.ndarray, size: predictor.Size) -> None:
    maps = distill.load(device="cpu").predict(frames, size=size, values="density")
    assert maps.shape[1:] == {"map": (16, 24), "video": (40, 72)}.get(str(size), (20, 30))
    assert maps.sum(axis=(1, 2)) == pytest.approx(np.ones(6), abs=1e-5)
    assert maps.min() >= 0


@pytest.mark.parametrize(
    ("video", "options", "sentence"),
    [
        ("missing.mp4", {}, r"missing\.mp4: no such video"),
        (np.zeros((4, 8, 8)), {}, r"frames: expected uint8 RGB of shape \(n, height, width, 3\).* got float64"),
        (np.zeros((0, 8, 8, 3), np.uint8), {}, r"frames: expected .* got uint8 of shape \(0, 8, 8, 3\)"),
        ("video", {"values": "log"}, "values: expected one of peak, density, got 'log'"),
        ("video", {"size": "large"}, r"size: expected 'map', 'video' or \(height, width\), got 'large'"),
        ("video", {"size": (10**5, 10**5)}, r"video: 6 maps of 100000x100000 would take .* GiB, over the limit"),
    ],
)
def test_invalid_argument_is_one_sentence(frames: np.ndarray, video: object, options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        distill.load(device="cpu").predict(video, **options)
    assert "\n" not in str(error.value)


def test_importing_distill_imports_nothing_heavy() -> None:
    code = (
        "import distill, sys\n"
        "assert not [name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules]\n"
        "assert distill.load('stream-nano') and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = distill.nothing


def test_torch_hub_loads_network_and_predictor(frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(REPOSITORY)
    network = torch.hub.load(folder, "stream_nano", source="local", pretrained=False, size=(64, 96), num_frames=2)
    assert isinstance(network, torch.nn.Module)
    assert network.training
    model = torch.hub.load(folder, "predictor", "stream-small", "cpu", source="local")
    assert model.predict(frames).shape == (6, 16, 24)
    with pytest.raises(UserError, match="student/stream:small: there are no pretrained weights"):
        torch.hub.load(folder, "stream_small", source="local")  # the placeholder is a micro


# ------------------------------------------------------------------------------------ saldistill predict VIDEO


def test_predict_command_without_model_and_output_uses_both_defaults(
    frames: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "video", "--device", "cpu"]) == 0
    assert "6 frames" in capsys.readouterr().out
    assert Path("video-saliency.mp4").stat().st_size > 0
    assert main(["predict", "video", "--device", "cpu"]) == 2
    assert "video-saliency.mp4: the overlay video already exists" in capsys.readouterr().err


def test_predict_command_default_is_the_pretrained_model_even_if_a_folder_has_its_name(frames: np.ndarray) -> None:
    Path("stream-small").mkdir()
    assert main(["predict", "video", "--device", "cpu", "-o", "out.mp4"]) == 0


def test_predict_command_writes_a_folder_for_a_folder_of_videos(frames: np.ndarray) -> None:
    Path("videos").mkdir()
    Path("video").rename("videos/one")
    assert main(["predict", "stream-small", "videos", "--device", "cpu"]) == 0
    assert Path("videos-saliency/one.mp4").is_file()


@pytest.mark.parametrize("argument", ["stream-small", "student.onnx", "run", "student/stream:micro"])
def test_predict_command_with_a_model_only_asks_for_the_video(
    shipped: Path, capsys: pytest.CaptureFixture[str], argument: str
) -> None:
    (shipped / "run").mkdir()
    (shipped / "run" / "config.yaml").touch()
    assert main(["predict", argument]) == 2
    assert f"{argument}: is a model, and the video is missing; expected a video" in capsys.readouterr().err
