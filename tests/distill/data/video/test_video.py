"""Video readers and the writer: frame accuracy, agreement between readers, and errors for bad files."""

import gc
import os
import signal
import struct
import sys
import time
import warnings
from types import SimpleNamespace

import av
import numpy as np
import pytest
from helpers.places import REPOSITORY
from helpers.video_files import cut_away, set_avi_length
from PIL import Image

from distill.data.video.decord_reader import DecordReader, load_decord
from distill.data.video.image_folder import FolderReader
from distill.data.video.names import natural
from distill.data.video.open import open_size, open_video, open_with_decord
from distill.data.video.probe import probe
from distill.data.video.pyav_reader import AvReader
from distill.data.video.writer import VideoWriter
from distill.errors import UserError

SAMPLE = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"
SMALL = (36, 64)


def numbered_frames(count, size=(48, 64)):
    """Frames that encode their number: bit k is the brightness of the k-th of eight columns."""
    frames = np.zeros((count, *size, 3), dtype=np.uint8)
    for number in range(count):
        for bit in range(8):
            frames[number, :, bit * size[1] // 8 : (bit + 1) * size[1] // 8] = 255 * (number >> bit & 1)
    return frames


def numbers_in(pixels):
    columns = np.array_split(pixels.mean(axis=(1, 3)), 8, axis=1)  # 8 x (n, width / 8)
    return sum((column.mean(axis=1) > 127).astype(int) << bit for bit, column in enumerate(columns)).tolist()


def write(path, frames, fps=25.0):
    with VideoWriter(path, frames.shape[1:3], fps) as writer:
        writer.write(frames)
    return path


MATRICES = {90: (0, 1, -1, 0, 64, 0), 180: (-1, 0, 0, -1, 128, 64), 270: (0, -1, 1, 0, 0, 128)}
"""Degrees clockwise -> a, b, c, d, x, y of an MP4's display matrix for a stored picture of 64 x 128 (H, W)."""


def rotated(path, frames, degrees):
    """Write a video (64, 128) with a display matrix, as a phone does."""
    content = bytearray(write(path, frames).read_bytes())
    at = content.find(b"tkhd") + 44
    a, b, c, d, x, y = (value << 16 for value in MATRICES[degrees])
    assert struct.unpack_from(">9i", content, at) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, at, a, b, 0, c, d, 0, x, y, 1 << 30)
    path.write_bytes(content)
    return path


def corners(pixels):
    """Return the colours of a picture's quarters: top left, top right, bottom left, bottom right."""
    height, width = pixels.shape[:2]
    quarters = [pixels[y * height // 4, x * width // 4] > 127 for y in (1, 3) for x in (1, 3)]
    names = {(1, 0, 0): "red", (0, 1, 0): "green", (0, 0, 1): "blue", (0, 0, 0): "black"}
    return [names[tuple(quarter.astype(int))] for quarter in quarters]


def coloured(count):
    """Frames whose quarters are red, green / blue, black."""
    frames = np.zeros((count, 64, 128, 3), dtype=np.uint8)
    frames[:, :32, :64, 0] = frames[:, :32, 64:, 1] = frames[:, 32:, :64, 2] = 255
    return frames


def remux(source, target):
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        avi = target.suffix == ".avi"
        filters = av.BitStreamFilterContext("h264_mp4toannexb", before.streams.video[0], stream) if avi else None
        for packet in before.demux(video=0):
            if packet.dts is None:
                continue
            for part in filters.filter(packet) if filters else [packet]:
                part.stream = stream
                after.mux(part)
    return target


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "numbered clip.mp4", numbered_frames(200))


def test_written_video_is_read_back_frame_by_frame(numbered):
    reader = open_video(numbered)
    assert isinstance(reader, DecordReader)
    assert (reader.num_frames, reader.fps, reader.size) == (200, 25.0, (48, 64))
    assert numbers_in(reader.read(range(200))) == list(range(200))


@pytest.mark.parametrize("order", [[199, 0, 57, 57, 3], [12], [], list(range(90, 60, -1))])
@pytest.mark.parametrize("size", [None, (24, 40)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_frames_are_read_in_any_order_and_size_from_any_container(numbered, tmp_path, suffix, size, order):
    path = numbered if suffix == ".mp4" else remux(numbered, tmp_path / f"numbered{suffix}")
    pixels = open_video(path).read(order, size)
    assert pixels.shape == (len(order), *(size or (48, 64)), 3)
    assert pixels.dtype == np.uint8
    assert numbers_in(pixels) == order


def test_random_access_equals_sequential_access_on_dhf1k():
    reader = open_video(SAMPLE)
    sequential = np.concatenate([reader.read(range(k, k + 50), SMALL) for k in range(0, 200, 50)])
    order = np.random.default_rng(0).integers(200, size=40)
    assert (reader.read(order.tolist(), SMALL) == sequential[order]).all()
    assert (np.concatenate([reader.read([int(k)], SMALL) for k in order]) == sequential[order]).all()


def test_decord_and_pyav_read_the_same_frames():
    frames = [0, 11, 12, 13, 400, 781, 782, 5]
    found = probe(SAMPLE)
    decord, pyav = open_with_decord(SAMPLE, found), AvReader(SAMPLE, found)
    assert found.num_frames == 783
    assert (decord.read(frames) == pyav.read(frames)).all()
    scaled = np.abs(decord.read(frames, SMALL).astype(int) - pyav.read(frames, SMALL))
    assert scaled.mean() < 1  # the two scalers round differently; another frame differs by more than 5
    assert np.abs(decord.read([0], SMALL).astype(int) - pyav.read([60], SMALL)).mean() > 5


@pytest.mark.parametrize(
    ("degrees", "turn", "quarters"),
    [
        (90, 3, ["blue", "red", "black", "green"]),
        (180, 2, ["black", "blue", "green", "red"]),
        (270, 1, ["green", "black", "red", "blue"]),
    ],
)
def test_rotated_video_is_read_upright(tmp_path, degrees, turn, quarters):
    path = rotated(tmp_path / "phone.mp4", coloured(8), degrees)
    size = (64, 128) if degrees == 180 else (128, 64)
    found = probe(path)
    assert (found.size, found.turn) == (size, turn)
    assert open_size(path) == (8, 25.0, size)
    assert isinstance(open_video(path), DecordReader)
    for requested in (None, (96, 64), (24, 40)):
        both = [reader(path, found).read([5, 0, 5], requested) for reader in (open_with_decord, AvReader)]
        for pixels in both:
            assert pixels.shape == (3, *(requested or size), 3)
            assert corners(pixels[0]) == corners(pixels[1]) == quarters
        assert np.abs(both[0].astype(int) - both[1]).mean() < (0.01 if requested is None else 3)
    with VideoWriter(tmp_path / "out.mp4", found.size, found.fps) as writer:
        writer.write(open_video(path).read(range(3)))
    assert corners(open_video(tmp_path / "out.mp4").read([2])[0]) == quarters


def test_frames_trimmed_by_an_editor_are_neither_read_nor_missing(numbered, tmp_path):
    reader = open_video(cut_away(numbered, tmp_path / "trimmed.mp4", 20))
    assert reader.num_frames == 180
    assert numbers_in(reader.read([0, 179, 60, 12])) == [20, 199, 80, 32]


FAKE_DECORD = """
import sys
from types import SimpleNamespace
seen = sys.modules.get("nvidia", "not hidden")
if {for_gpus} and seen is None:
    raise ImportError("libcudart.so: cannot open")
logging = SimpleNamespace(QUIET=-8, set_level=lambda level: None)
"""


@pytest.mark.parametrize("for_gpus", [False, True])
@pytest.mark.parametrize("before", [{}, {"nvidia": SimpleNamespace()}], ids=["fresh", "loaded"])
def test_decord_finds_cuda_libraries_only_if_it_needs_them(tmp_path, monkeypatch, before, for_gpus):
    (tmp_path / "decord.py").write_text(FAKE_DECORD.format(for_gpus=for_gpus))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("decord", "nvidia"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name, module in before.items():
        monkeypatch.setitem(sys.modules, name, module)
    decord = load_decord.__wrapped__()
    assert decord.seen == (before.get("nvidia", "not hidden") if for_gpus else None)
    assert {name: sys.modules[name] for name in ("nvidia",) if name in sys.modules} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_garbage_collection_of_a_reader_in_a_fork_does_not_hang():
    gc.freeze()  # excludes garbage of other tests
    reader = open_video(SAMPLE)
    reader.read([40, 3], SMALL)
    kept = [reader]
    kept.append(kept)  # a cycle, so that only the garbage collector frees the reader
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # from Python 3.12 on, about forks of threaded processes
        child = os.fork()
    if child == 0:
        del reader, kept
        gc.collect()
        os._exit(7)
    gc.unfreeze()
    until = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended[1]) == 7
    assert (reader.read([3], SMALL) == open_video(SAMPLE).read([3], SMALL)).all()


@pytest.mark.parametrize("wrong", [200, -1])
def test_index_outside_the_video_raises_an_index_error(numbered, wrong):
    with pytest.raises(IndexError, match="200 frames"):
        open_video(numbered).read([wrong])


def test_folder_of_frames_is_read_in_natural_order(tmp_path):
    folder = tmp_path / "my frames"
    folder.mkdir()
    for number, image in enumerate(numbered_frames(12)):
        Image.fromarray(image).save(folder / f"frame {number}.png")  # frame 10 before frame 2 in plain order
    (folder / "notes.txt").write_text("not a frame")
    (folder / "._frame 3.png").write_text("left behind by macOS")
    reader = open_video(folder)
    assert isinstance(reader, FolderReader)
    assert (reader.num_frames, reader.size) == (12, (48, 64))
    assert numbers_in(reader.read([11, 2, 2, 10], (24, 40))) == [11, 2, 2, 10]
    names = ["10.png", "a2.png", "2.png", "0001.png", "a10.png"]
    assert sorted(names, key=natural) == ["0001.png", "2.png", "10.png", "a2.png", "a10.png"]


def test_broken_frames_of_a_folder_are_named(tmp_path):
    Image.fromarray(numbered_frames(1)[0]).save(tmp_path / "1.png")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "2.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "3.png").write_text("not an image")
    Image.new("RGB", (64, 50)).save(tmp_path / "4.png")
    reader = open_video(tmp_path)
    for frame, message in ((1, r"2\.png"), (2, r"3\.png"), (3, r"4\.png.*64 x 50.*64 x 48")):
        with pytest.raises(UserError, match=message):
            reader.read([frame])


def test_frames_are_read_although_the_header_has_one_too_many(tmp_path):
    reader = open_video(set_avi_length(SAMPLE, tmp_path / "784 in header.avi", 784))
    assert reader.num_frames == 783
    assert (reader.read([782, 30]) == open_video(SAMPLE).read([782, 30])).all()


def test_last_frame_that_does_not_decode_is_not_counted(numbered, tmp_path):
    with av.open(str(numbered)) as container:
        packets = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    content = bytearray(numbered.read_bytes())
    position, size, _ = max(packets, key=lambda packet: packet[2])
    content[position : position + size] = bytes(size)
    path = tmp_path / "last frame broken.mp4"
    path.write_bytes(content)
    reader = open_video(path)
    assert 197 <= reader.num_frames <= 199
    assert numbers_in(reader.read(range(190))) == list(range(190))
    assert len(reader.read([reader.num_frames - 1])) == 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_truncated_file_is_refused(numbered, tmp_path, suffix, share):
    whole = SAMPLE if suffix == ".avi" else numbered if suffix == ".mp4" else remux(numbered, tmp_path / "a.mkv")
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(UserError, match=rf"cut{suffix}: .*cut off"):
        open_video(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.mp4", "cannot be decoded as a video"),
        ("text.txt", "no video stream in this file"),
        ("empty.mp4", "the file is empty"),
        ("empty folder", "found nothing"),
        ("no frames", "found readme.txt"),
        ("missing.mp4", "no such video"),
    ],
)
def test_file_that_is_not_a_video_is_refused(tmp_path, name, message):
    for text in ("text.mp4", "text.txt"):
        (tmp_path / text).write_text("this is not a video\n" * 100)
    for folder in ("empty folder", "no frames"):
        (tmp_path / folder).mkdir()
    for empty in ("empty.mp4", "no frames/readme.txt"):
        (tmp_path / empty).touch()
    with pytest.raises(UserError, match=message) as raised:
        open_video(tmp_path / name)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_changed_file_is_probed_again(numbered, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(numbered.read_bytes())
    assert open_video(path).num_frames == 200
    path.unlink()
    write(path, numbered_frames(20))
    assert open_video(path).num_frames == 20


def test_written_video_plays_in_browsers(tmp_path):
    path = write(tmp_path / "odd.mp4", numbered_frames(5, size=(47, 63)), fps=29.97)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.height, stream.width) == (48, 64)
        assert float(stream.average_rate) == pytest.approx(29.97, abs=1e-3)
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # playback starts before the download ends
    assert numbers_in(open_video(path).read(range(5))) == list(range(5))


def test_failed_writer_leaves_no_file(tmp_path):
    path = tmp_path / "out.mp4"
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path, (48, 64), 25) as writer:
        writer.write(numbered_frames(3))
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"out\.gif.*\.mp4"):
        VideoWriter(tmp_path / "out.gif", (48, 64), 25)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_writer_given_the_same_frames_writes_the_same_bytes(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((600, 300), Image.Resampling.BICUBIC)
    frames = np.stack([np.asarray(picture.crop((2 * i, i, 480 + 2 * i, 270 + i))) for i in range(30)])
    written = set()
    for number in range(3):
        path = tmp_path / f"{number}{suffix}"
        with VideoWriter(path, (270, 480), 25) as writer:
            writer.write(frames)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_writer_uses_the_first_available_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"libvpx-vp9"})
    path = write(tmp_path / "vp9.mp4", numbered_frames(3))
    with av.open(str(path)) as container:
        assert "vp9" in container.streams.video[0].codec_context.name
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    with pytest.raises(UserError, match="libx264"):
        VideoWriter(tmp_path / "out.mp4", (48, 64), 25)
