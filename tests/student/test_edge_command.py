"""The runner as a command: alone in a process, interrupted, with truncated and invalid input."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import onnx
import pytest
from helpers.edge_models import REAL_VIDEO, frames, with_broken_weights, with_metadata
from helpers.waiting import wait_until
from PIL import Image

from distill.data.video.open import open_video
from student import edge


@pytest.fixture
def bare(tmp_path: Path, exported: Path, step_file: Path) -> Path:
    """A folder with copies of edge.py and the models, in which PyTorch and the project cannot be imported."""
    for name in ("torch", "distill", "teacher", "student", "onnx", "matplotlib", "scipy"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    (tmp_path / "edge.py").write_bytes(Path(edge.__file__).read_bytes())
    (tmp_path / "clip.onnx").write_bytes(exported.read_bytes())
    (tmp_path / "step.onnx").write_bytes(step_file.read_bytes())
    return tmp_path


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "edge.py", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def played(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("mode", ["clip", "step"])
def test_command_alone_on_real_video(bare: Path, short: Path, mode: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import torch"], cwd=bare, check=True, capture_output=True)
    done = command(bare, f"{mode}.onnx", short, "-o", "overlay.mp4", "--maps", "maps", "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("40 frames in ")
    assert "latency per frame p50 " in done.stdout
    assert "p99" in done.stdout
    assert "0 dropped; 0 scene cuts" in done.stdout
    assert [(frame.height, frame.width) for frame in played(bare / "overlay.mp4")] == [(360, 640)] * 40
    model = edge.EdgeModel(bare / f"{mode}.onnx", threads=1)
    stream = edge.Stream(model)
    for place, frame in enumerate(edge.open_video(short)[1]):
        saliency = np.load(bare / "maps" / f"{place:06d}.npy")
        assert (saliency.shape, saliency.dtype) == (model.map_size, np.float32)
        np.testing.assert_allclose(saliency, stream(frame), atol=1e-5)
    assert place == 39


def test_command_folder_of_odd_sized_images_writes_video(
    tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frames").mkdir()
    for index in range(12):
        Image.fromarray(np.full((33, 45, 3), 20 * index, np.uint8)).save(tmp_path / "frames" / f"f{index}.png")
    assert edge.main([str(exported), str(tmp_path / "frames"), "-o", str(tmp_path / "odd.mp4"), "--fps", "10"]) == 0
    assert "12 frames in" in capsys.readouterr().out
    assert [(frame.height, frame.width) for frame in played(tmp_path / "odd.mp4")] == [(32, 44)] * 12
    assert open_video(tmp_path / "odd.mp4").fps == 10


def test_writer_without_pyav_uses_opencv(tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", {"av": None})
    writer = edge.Writer(tmp_path / "o.mp4", (32, 48), 25)
    for place in (3, 4, 7):
        writer.write(np.full((32, 48, 3), 30 * place, np.uint8), place)
    writer.close()
    assert len(list(edge.open_video(tmp_path / "o.mp4")[1])) == 5


def test_writer_dropped_frames_keep_duration(tmp_path: Path) -> None:
    writer = edge.Writer(tmp_path / "o.mp4", (32, 48), 25)
    for place in (3, 4, 7, 12):
        writer.write(np.full((32, 48, 3), 10 * place, np.uint8), place)
    writer.close()
    assert [round(float(frame.pts * frame.time_base) * 25) for frame in played(tmp_path / "o.mp4")] == [0, 1, 4, 9]


def test_command_live_file_counts_dropped_frames(
    tmp_path: Path,
    step_file: Path,
    short: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = edge.EdgeModel.step

    def slow(self: edge.EdgeModel, *arguments: object) -> object:
        time.sleep(0.02)
        return step(self, *arguments)

    monkeypatch.setattr(edge.EdgeModel, "step", slow)
    arguments = [str(step_file), str(short), "--live", "--fps", "200", "-o", str(tmp_path / "o.mp4")]
    assert edge.main(arguments) == 0
    said = capsys.readouterr().out
    run, dropped = int(said.split(" frames")[0]), int(said.split(" dropped")[0].split()[-1])
    assert run + dropped == 40
    assert dropped > 0
    assert len(played(tmp_path / "o.mp4")) == run


@pytest.mark.parametrize("mode", ["clip", "step"])
def test_command_disconnected_camera_leaves_playable_overlay(
    fake_camera: None,
    tmp_path: Path,
    exported: Path,
    step_file: Path,
    mode: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = exported if mode == "clip" else step_file
    assert edge.main([str(path), "0", "-o", str(tmp_path / "o.mp4")]) == 2
    said = capsys.readouterr()
    assert said.err == "edge.py: 0: the camera sends no more frames; check that it is on and connected\n"
    assert len(played(tmp_path / "o.mp4")) == int(said.out.split(" frames")[0]) > 0


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_interrupted_by_signal_leaves_playable_overlay(bare: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "edge.py", "step.onnx", str(REAL_VIDEO), "-o", "o.mp4", "--maps", "maps", "--live"],
        cwd=bare,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: len(list(bare.glob("maps/*.npy"))) >= 4, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "edge.py: interrupted\n")
    run = int(out.split(" frames")[0])
    assert run - 1 <= len(played(bare / "o.mp4")) <= run


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("the video is broken")])
def test_command_failing_video_leaves_playable_overlay(
    tmp_path: Path,
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    def video() -> Iterator[np.ndarray]:
        yield from frames(6, (32, 48))
        raise error

    monkeypatch.setattr(edge, "open_video", lambda path: (25.0, video()))
    code = 2 if isinstance(error, ValueError) else 130
    assert edge.main([str(exported), "video", "-o", str(tmp_path / "o.mp4")]) == code
    assert "6 frames in" in capsys.readouterr().out
    assert len(played(tmp_path / "o.mp4")) == 6


def test_command_video_with_changing_resolution_keeps_first_size(tmp_path: Path, step_file: Path) -> None:
    content = b""
    for height, width in ((64, 96), (48, 64)):
        with av.open(str(tmp_path / "part.ts"), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for _ in range(6):
                image = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
                container.mux(stream.encode(image))
            container.mux(stream.encode(None))
        content += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "both.ts").write_bytes(content)
    shapes = [frame.shape for frame in edge.open_video(tmp_path / "both.ts")[1]]
    assert set(shapes) == {(64, 96, 3), (48, 64, 3)}
    assert edge.main([str(step_file), str(tmp_path / "both.ts"), "-o", str(tmp_path / "o.mp4")]) == 0
    assert [(frame.height, frame.width) for frame in played(tmp_path / "o.mp4")] == [(64, 96)] * len(shapes)


def test_command_truncated_video_is_reported(
    tmp_path: Path, exported: Path, short: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = short.read_bytes()  # its index comes first, so the file opens although it is truncated
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 6 // 10])
    assert edge.main([str(exported), str(tmp_path / "cut.mp4"), "-o", str(tmp_path / "o.mp4")]) == 2
    said = capsys.readouterr()
    written = len(played(tmp_path / "o.mp4"))
    assert 10 < written < 38
    assert said.err.endswith(
        f"cut.mp4: the video is truncated or damaged: {written} of its 40 frames can be decoded\n"
    )
    assert len(said.err.splitlines()) == 1
    assert f"{written} frames in" in said.out


def test_command_os_error_is_one_sentence(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edge, "open_video", lambda path: (25.0, iter(frames(3, (32, 48)))))

    class Full(edge.Writer):
        def close(self) -> None:
            super().close()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(edge, "Writer", Full)
    assert edge.main([str(exported), "video", "-o", str(tmp_path / "o.mp4")]) == 2
    assert capsys.readouterr().err == f"edge.py: {tmp_path / 'o.mp4'}: No space left on device\n"


def test_command_invalid_input_is_rejected(
    tmp_path: Path, exported: Path, step_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.mp4").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("no video")
    with av.open(str(tmp_path / "zero.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        container.start_encoding()
    (tmp_path / "bomb").mkdir()
    Image.new("L", (9000, 9000)).save(tmp_path / "bomb" / "1.png")
    broken = with_broken_weights(step_file, tmp_path / "broken.onnx")
    typed = with_metadata(step_file, tmp_path / "typed.onnx", size="64x96")
    (tmp_path / "thin").mkdir()
    Image.fromarray(np.zeros((32, 1, 3), np.uint8)).save(tmp_path / "thin" / "1.png")
    other = onnx.load(step_file)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    for arguments, message in (
        (("nowhere.onnx", REAL_VIDEO), "nowhere.onnx: no such file"),
        ((tmp_path / "other.onnx", REAL_VIDEO), 'other.onnx: has no "saldistill" metadata'),
        ((tmp_path / "text.avi", REAL_VIDEO), "ONNX Runtime cannot load it"),
        ((exported, "nowhere.mp4"), "nowhere.mp4: no such video file, folder or camera"),
        ((exported, tmp_path / "empty"), "the folder has no images"),
        ((exported, tmp_path / "text.avi"), "cannot be opened as a video"),
        ((exported, tmp_path / "zero.avi", "-o", tmp_path / "o.mp4"), "zero.avi: no frames found"),
        ((exported, tmp_path / "thin", "-o", tmp_path / "o.mp4"), "frames of 32x1 pixels are too small"),
        ((exported, REAL_VIDEO, "-o", tmp_path / "mine.mp4"), "mine.mp4: already exists"),
        ((exported, REAL_VIDEO, "--maps", tmp_path / "empty"), "empty: already exists"),
        ((exported, REAL_VIDEO, "-o", tmp_path / "nodir" / "x.mp4"), "does not exist; create it"),
        ((exported, REAL_VIDEO, "--csv", tmp_path / "mine.mp4"), "mine.mp4: already exists"),
        ((exported, REAL_VIDEO, "--csv", tmp_path / "nodir" / "x.csv"), "does not exist; create it"),
        ((exported, REAL_VIDEO, "-o", tmp_path / "mine.mp4" / "x.mp4"), "does not exist; create it"),
        ((exported, REAL_VIDEO, "-o", tmp_path / "o.strange"), "o.strange: cannot be written as a video"),
        ((exported, REAL_VIDEO, "--stride", 0), "stride: expected a positive number of frames"),
        ((exported, REAL_VIDEO, "--stride", 99999), "stride: expected a positive number of frames"),
        ((exported, REAL_VIDEO, "--stride", "٣"), "stride: expected a positive number of frames"),
        ((exported, REAL_VIDEO, "--stride", "0.000001fps"), "of past frames or states, over the limit of 2.1 GB"),
        ((exported, REAL_VIDEO, "--fps", "inf"), "--fps inf: expected a positive number up to 1000"),
        ((exported, REAL_VIDEO, "--fps", "nan"), "--fps nan: expected a positive number up to 1000"),
        ((exported, REAL_VIDEO, "--fps", "1e9"), "--fps 1e+09: expected a positive number up to 1000"),
        (
            (exported, REAL_VIDEO, "--threads", 99999999999),
            "--threads 1e+11: expected a positive number up to",
        ),
        ((exported, "99999999999999999999"), "99999999999999999999: no such video file, folder or camera"),
        ((exported, tmp_path / "bomb"), "1.png: frames of 9000x9000 pixels are over the limit of 67108864 pixels"),
        ((typed, REAL_VIDEO), "size: expected two integers from 1 to 8192; export the model again"),
        (
            (
                broken,
                REAL_VIDEO,
                *("-o", tmp_path / "o.mp4", "--maps", tmp_path / "maps"),
                "--csv",
                tmp_path / "t.csv",
            ),
            "frame 1: broken.onnx: the map contains NaN or infinity; its weights are damaged",
        ),
        ((exported, REAL_VIDEO, "--cuts", "often"), "--cuts often: expected a number such as 0.1, or off"),
        ((exported, REAL_VIDEO, "--threads", 0), "--threads 0: expected a positive number"),
        ((exported, REAL_VIDEO, "--fps", -5), "--fps -5: expected a positive number"),
    ):
        assert edge.main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1
    assert not (tmp_path / "maps").exists()
    assert (tmp_path / "mine.mp4").read_bytes() == b"mine"
    assert not (tmp_path / "o.mp4").exists()
    assert not (tmp_path / "t.csv").exists()


def test_window_without_display_is_rejected(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def named_window(*_: object) -> None:
        raise RuntimeError("The function is not implemented")

    headless = SimpleNamespace(namedWindow=named_window, WINDOW_NORMAL=0, error=RuntimeError)
    for module, display, message in (
        (None, ":0", "a window needs OpenCV (pip install opencv-python)"),
        (headless, "", "no display found for a window; write a file with -o instead"),
        (headless, ":0", "this OpenCV was built without windows"),
    ):
        monkeypatch.setattr(edge, "_modules", {"cv2": module, "av": av})
        monkeypatch.setenv("DISPLAY", display)
        assert edge.main([str(exported), str(REAL_VIDEO), "--show"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("way", ["key", "closed"])
def test_window_shows_overlay_until_closed(
    tmp_path: Path,
    exported: Path,
    short: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: str,
) -> None:
    shown: list[np.ndarray] = []
    gone: list[bool] = []
    window = SimpleNamespace(
        WINDOW_NORMAL=0,
        WND_PROP_VISIBLE=4,
        error=RuntimeError,
        namedWindow=lambda *_: None,
        imshow=lambda name, image: shown.append(image),
        waitKey=lambda _: ord("q") if way == "key" and len(shown) == 5 else -1,
        getWindowProperty=lambda *_: 0.0 if way == "closed" and len(shown) == 5 else 1.0,
        destroyAllWindows=lambda: gone.append(True),
    )
    monkeypatch.setattr(edge, "_modules", {"cv2": window, "av": av})
    monkeypatch.setenv("DISPLAY", ":0")
    assert edge.main([str(exported), str(short), "--show", "-o", str(tmp_path / "o.mp4")]) == 0
    assert [image.shape for image in shown] == [(360, 640, 3)] * 5
    assert gone == [True]
    said = capsys.readouterr()
    assert (said.err, said.out.split(" in ")[0]) == ("", "5 frames")
    assert len(played(tmp_path / "o.mp4")) == 5
