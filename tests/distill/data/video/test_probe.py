"""What a probe says of real and damaged files, and decoders that hang or crash at one."""

import importlib
import struct
import uuid
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from distill.data.sets.scan import look_at
from distill.data.video import guard, known, probe
from distill.data.video.decord_reader import DecordReader
from distill.data.video.examine import Probe, examine
from distill.data.video.open import open_video
from distill.data.video.pyav_reader import AvReader
from distill.data.video.writer import VideoWriter
from distill.errors import UserError

SIZE = (36, 64)


def write(path, count=48, fps=25.0):
    with VideoWriter(path, SIZE, fps) as writer:
        for number in range(count):
            writer.write(np.full((*SIZE, 3), 5 * number % 256, dtype=np.uint8))
    return path


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known.KNOWN, "_folders", {})


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    """Run some code on (path, decord) before the real decoder does, in the guarded process."""

    def put_before(code):
        name = f"decoder_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(
            "import ctypes, os, time\n"
            "from distill.data.video import examine as real\n\n"
            "def examine(path, decord, thorough):\n"
            f"    {code}\n"
            "    return real.examine(path, decord, thorough)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(probe, "examine", importlib.import_module(name).examine)
        monkeypatch.setattr(guard, "LIMIT", 0.5)

    return put_before


def test_a_file_that_hangs_every_decoder_is_named_and_the_others_are_read(tmp_path, decoder):
    decoder("if 'bad' in path: ctypes.PyDLL(None).sleep(60)  # and hold Python's lock")
    paths = [write(tmp_path / name) for name in ("a.mp4", "bad.mp4", "c.mp4")]
    first, bad, last = look_at(paths)
    assert first.num_frames == last.num_frames == 48
    assert (
        str(bad)
        == f"{paths[1]}: what reads it hung for 0.5 s and was ended; it may be damaged, convert it or leave it out"
    )
    with pytest.raises(UserError, match=r"bad\.mp4: what reads it hung"):
        open_video(paths[1])


@pytest.mark.parametrize("fate", ["time.sleep(60)", "os.abort()"])
def test_a_file_that_hangs_or_crashes_decord_is_read_by_pyav(tmp_path, decoder, fate):
    decoder(f"if decord: {fate}")
    reader = open_video(write(tmp_path / "a.mp4"))
    assert isinstance(reader, AvReader)
    assert reader.read([40])[0].mean() == pytest.approx(200, abs=3)


def test_a_file_on_which_decord_disagrees_is_read_by_pyav(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    assert isinstance(open_video(path), DecordReader)
    assert Probe.of(examine(str(path))).regular
    assert not Probe.of(examine(str(path), decord=False)).regular
    monkeypatch.setattr("distill.data.video.examine._decord_agrees", lambda *_: False)
    assert not Probe.of(examine(str(path))).regular


def test_a_probe_survives_being_written_down(tmp_path):
    found = Probe.of(examine(str(write(tmp_path / "a.mkv"))))
    again = Probe.of(found.plain())
    assert again.stamps.tolist() == found.stamps.tolist() == [40 * n for n in range(48)]
    assert again.keys.tolist() == found.keys.tolist()
    assert (again.size, again.fps, again.regular) == (SIZE, 25.0, found.regular)
    assert found.plain() == again.plain()


def test_what_is_remembered_of_a_file_survives_a_damaged_cache(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    probe.probe(path)
    (file,) = (tmp_path / "cache" / "known").iterdir()
    text = file.read_text()
    for wrong in ("!!", "AAAA"):
        file.write_text(text.replace('"stamps": "', f'"stamps": "{wrong}'))
        monkeypatch.setattr(known.KNOWN, "_folders", {})
        assert probe.probe(path).num_frames == 48


@pytest.mark.parametrize(
    ("fps", "remark"), [(23, "probably 23.976"), (29, "probably 29.97"), (30, None), (24, None)]
)
def test_rates_that_lost_their_decimals_are_doubted(tmp_path, fps, remark):
    found = probe.probe(write(tmp_path / "a.mp4", fps=fps))
    assert found.fps == fps
    assert [remark in said for said in found.remarks] == ([True] if remark else [])


def test_the_times_of_the_frames_are_believed_more_than_the_header(tmp_path):
    """FLV has a rate in its header, in this file 23, and a time in milliseconds for each frame."""
    path = tmp_path / "a.flv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv1", rate=Fraction(24000, 1001))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(96):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    at = content.find(b"framerate") + len(b"framerate") + 1
    assert struct.unpack_from(">d", content, at)[0] == pytest.approx(23.976, abs=0.001)
    struct.pack_into(">d", content, at, 23.0)
    path.write_bytes(content)
    found = probe.probe(path)
    assert found.fps == pytest.approx(24000 / 1001, rel=1e-3)
    assert any("its header says 23 frames a second" in said for said in found.remarks)


def test_a_picture_is_no_video_whatever_it_is_called(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "001.AVI")
    with pytest.raises(UserError, match=r"001\.AVI: there is no video in this file"):
        probe.probe(tmp_path / "001.AVI")


def test_a_frame_more_in_the_header_is_said(sample, tmp_path):
    content = bytearray((sample / "video/002.AVI").read_bytes())
    for chunk, field in ((b"avih", 24), (b"strh", 40)):
        struct.pack_into("<I", content, content.find(chunk) + field, 784)
    (tmp_path / "a.avi").write_bytes(content)
    found = probe.probe(tmp_path / "a.avi")
    assert found.num_frames == 783
    assert found.remarks == ("it should have 784 frames; 783 can be decoded and are used",)
    assert probe.probe(sample / "video/002.AVI").remarks == ()


def test_damage_in_the_middle_is_found_by_a_thorough_look(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "10"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(80):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), number, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][23]
    content = bytearray(path.read_bytes())
    content[position : position + size] = bytes(size)
    path.write_bytes(content)
    (quick,) = look_at([path])
    assert quick.num_frames == 80
    (thorough,) = look_at([path], thorough=True)
    assert isinstance(thorough, UserError)
    assert "a.mp4: frame 24 cannot be decoded; the file is damaged" in str(thorough)
    (remembered,) = look_at([path])
    assert str(remembered) == str(thorough)
