"""The runner's input: files, folders and cameras, rotation, truncation, and the newest frame of live sources."""

import contextlib
import functools
import http.server
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.edge_models import REAL_VIDEO, FakeCapture, frames
from helpers.video_files import cut_away
from PIL import Image

from distill.data.video.writer import VideoWriter
from student import edge


def test_open_video_folder_is_in_numeric_order(tmp_path: Path) -> None:
    for index in range(12):
        Image.fromarray(np.full((33, 45, 3), 20 * index, np.uint8)).save(tmp_path / f"f{index}.png")
    fps, video = edge.open_video(tmp_path)
    assert fps == 30
    assert [int(frame.mean()) for frame in video] == [20 * index for index in range(12)]


@pytest.mark.parametrize("missing", [(), ("av",)])
def test_open_video_grey_and_transparent_images_become_rgb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    if missing:
        pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", dict.fromkeys(missing))
    square = np.full((32, 48), 100, np.uint8)
    Image.fromarray(square).save(tmp_path / "1.png")
    Image.fromarray(np.dstack([square, square, square, square])).save(tmp_path / "2.png")
    Image.fromarray(np.dstack([square, square])).save(tmp_path / "3.png")
    Image.fromarray(square.astype(np.uint16) * 257).save(tmp_path / "4.png")
    seen = list(edge.open_video(tmp_path)[1])
    assert [frame.shape for frame in seen] == [(32, 48, 3)] * 4
    assert [frame.dtype for frame in seen] == [np.uint8] * 4
    for frame in seen:
        assert np.abs(frame.astype(int) - 100).max() <= 2


def test_open_video_damaged_image_is_rejected(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png: (cannot be opened|decoding failed)"):
        list(edge.open_video(tmp_path)[1])


def test_open_video_without_pyav_uses_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", {"av": None})
    for index in range(5):
        Image.fromarray(np.full((32, 48, 3), (200, 40 * index, 10), np.uint8)).save(tmp_path / f"{index}.png")
    _, video = edge.open_video(tmp_path)
    assert [tuple(frame[0, 0]) for frame in video] == [(200, 40 * index, 10) for index in range(5)]
    assert edge.open_video(REAL_VIDEO)[0] == 30


def test_open_video_without_libraries_names_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_modules", {"av": None, "cv2": None})
    with pytest.raises(ValueError, match=r"needs PyAV \(pip install av\) or OpenCV; neither is installed"):
        edge.open_video(REAL_VIDEO)
    with pytest.raises(ValueError, match=r"0: opening a camera needs OpenCV \(pip install opencv-python\), which"):
        edge.open_camera("0")
    with pytest.raises(ValueError, match=r"rtsp://x: opening a camera needs OpenCV .*, or PyAV"):
        edge.open_camera("rtsp://x")


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0, 32, 0), -1), ((-1, 0, 0, -1, 64, 32), 2), ((0, -1, 1, 0, 0, 64), 1)]
)
@pytest.mark.parametrize("missing", [(), ("av",)])
def test_open_video_applies_rotation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[str, ...],
    matrix: tuple[int, ...],
    turns: int,
) -> None:
    if missing:
        pytest.importorskip("cv2")
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32] = 255  # the top left quarter
    with VideoWriter(tmp_path / "phone.mp4", (32, 64), 25) as writer:
        for _ in range(4):
            writer.write(stored)
    content = bytearray((tmp_path / "phone.mp4").read_bytes())
    a, b, c, d, x, y = (value << 16 for value in matrix)  # the file's display matrix, as a phone writes it
    struct.pack_into(">9i", content, content.find(b"tkhd") + 44, a, b, 0, c, d, 0, x, y, 1 << 30)
    (tmp_path / "phone.mp4").write_bytes(content)

    monkeypatch.setattr(edge, "_modules", dict.fromkeys(missing))
    seen = list(edge.open_video(tmp_path / "phone.mp4")[1])
    assert len(seen) == 4
    for frame in seen:
        upright = np.rot90(stored, turns)
        assert frame.shape == upright.shape
        assert np.abs(frame.astype(int) - upright).mean() < 8


def test_open_video_repeated_avi_positions_are_not_missing(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "gaps.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuvj420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 10 * index, np.uint8), format="rgb24")
            frame.pts = index * 2  # every second slot is empty
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / "gaps.avi")) as container:
        assert container.streams.video[0].frames == 39
    assert len(list(edge.open_video(tmp_path / "gaps.avi")[1])) == 20


def test_open_video_discarded_frames_are_not_missing(tmp_path: Path, short: Path) -> None:
    trimmed = cut_away(short, tmp_path / "trimmed.mp4", 10)
    assert len(list(edge.open_video(trimmed)[1])) == 30


def test_is_camera_number_device_or_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [edge.is_camera(source) for source in ("0", "rtsp://host/1", "http://host/x", "/dev/null")] == [True] * 4
    (tmp_path / "7").mkdir()
    assert not any(edge.is_camera(source) for source in ("7", "./0", "video.mp4", "/dev/nowhere", str(tmp_path)))


@pytest.mark.parametrize(("source", "opened"), [("2", "2"), ("/dev/null", "'/dev/null'")])
def test_open_camera_disconnected_raises_after_last_frame(fake_camera: None, source: str, opened: str) -> None:
    fps, video = edge.open_camera(source)
    assert (fps, FakeCapture.opened) == (30, opened)
    seen = [next(video) for _ in range(6)]
    assert all(tuple(frame[0, 0]) == (3, 2, 1) for frame in seen)
    with pytest.raises(ValueError, match=rf"{source}: the camera sends no more frames"):
        next(video)


@pytest.mark.parametrize("missing", [(), ("av",)])
def test_open_camera_reads_address(monkeypatch: pytest.MonkeyPatch, short: Path, missing: tuple[str, ...]) -> None:
    if missing:
        pytest.importorskip("cv2")
    monkeypatch.setattr(edge, "_modules", dict.fromkeys(missing))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def copyfile(self, source: object, outputfile: object) -> None:
            with contextlib.suppress(OSError):  # the reader has seeked to another position
                super().copyfile(source, outputfile)  # type: ignore[arg-type]

    handler = functools.partial(Quiet, directory=str(short.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/{short.name}"
        fps, video = edge.open_camera(address)
        assert fps == 30
        assert next(video).shape == (360, 640, 3)
        with pytest.raises(ValueError, match="the camera sends no more frames"):
            assert len(list(video)) == 39
        with pytest.raises(ValueError, match=r"nowhere: cannot be opened as a video"):
            edge.open_camera(f"http://127.0.0.1:{server.server_address[1]}/nowhere")
        server.shutdown()


def test_live_yields_newest_frame_and_drops_others() -> None:
    go, ready, end = threading.Event(), threading.Event(), threading.Event()

    def camera() -> Iterator[np.ndarray]:
        pictures = frames(8)
        yield pictures[0]
        go.wait(10)
        yield from pictures[1:6]
        ready.set()  # the next frame is requested: frame 5 is now available
        end.wait(10)
        yield from pictures[6:]

    source = edge.live(camera())
    assert next(source)[0] == 0
    go.set()
    assert ready.wait(10)
    place, frame = next(source)
    assert place == 5
    assert np.array_equal(frame, frames(8)[5])
    end.set()
    assert [place for place, _ in source][-1] == 7  # the last frame is never dropped


def test_live_file_keeps_rate_and_slow_reader_misses_frames() -> None:
    began = edge.time.perf_counter()
    places = [place for place, _ in edge.live(frames(6), fps=50)]
    assert edge.time.perf_counter() - began >= 5 / 50
    assert places[-1] == 5
    assert places == sorted(set(places))


def test_live_raises_source_error_after_last_frame() -> None:
    def camera() -> Iterator[np.ndarray]:
        yield frames(1)[0]
        raise ValueError("unplugged")

    source = edge.live(camera())
    assert next(source)[0] == 0
    with pytest.raises(ValueError, match="unplugged"):
        next(source)


def test_live_silent_source_raises() -> None:
    silence = threading.Event()

    def camera() -> Iterator[np.ndarray]:
        yield frames(1)[0]
        silence.wait(10)

    source = edge.live(camera(), patience=0.05)
    assert next(source)[0] == 0
    with pytest.raises(ValueError, match=r"no frame arrived for 0\.05 seconds; check that the camera is connected"):
        next(source)
    silence.set()
