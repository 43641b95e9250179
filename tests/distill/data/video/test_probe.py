"""Probes of intact and damaged video files, and of files that make a decoder hang or crash."""

import importlib
import struct
import uuid
from fractions import Fraction

import av
import numpy as np
import pytest
from helpers.video_files import encode, set_avi_length, write_grey
from PIL import Image

from distill.data.sets.dataset import inspect_videos
from distill.data.video import guard, probe
from distill.data.video.decord_reader import DecordReader
from distill.data.video.open import open_video
from distill.data.video.probe import Probe, examine
from distill.data.video.probe_cache import PROBE_CACHE
from distill.data.video.pyav_reader import AvReader
from distill.errors import UserError

SIZE = (36, 64)


def write(path, count=48, fps=25.0):
    return write_grey(path, [5 * number % 256 for number in range(count)], SIZE, fps)


@pytest.fixture(autouse=True)
def cache(empty_cache):
    return empty_cache


@pytest.fixture
def decoder(tmp_path, monkeypatch):
    """Run code on (path, decord) before the real decoder, in the guarded subprocess."""

    def run_before(code):
        name = f"decoder_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(
            "import ctypes, os, time\n"
            "from distill.data.video import probe\n\n"
            "def examine(path, decord, thorough):\n"
            f"    {code}\n"
            "    return probe.examine(path, decord, thorough)\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(probe, "examine", importlib.import_module(name).examine)
        monkeypatch.setattr(guard, "TIMEOUT", 0.5)

    return run_before


def test_file_that_hangs_every_decoder_is_named_and_the_others_are_read(tmp_path, decoder):
    decoder("if 'bad' in path: ctypes.PyDLL(None).sleep(60)  # holds the GIL")
    paths = [write(tmp_path / name) for name in ("a.mp4", "bad.mp4", "c.mp4")]
    first, bad, last = inspect_videos(paths)
    assert first.num_frames == last.num_frames == 48
    hung = "the decoder hung for 0.5 s and was killed; the file may be damaged, convert it or leave it out"
    assert str(bad) == f"{paths[1]}: {hung}"
    with pytest.raises(UserError, match=r"bad\.mp4: the decoder hung"):
        open_video(paths[1])


@pytest.mark.parametrize("failure", ["time.sleep(60)", "os.abort()"])
def test_file_that_makes_decord_hang_or_crash_is_read_by_pyav(tmp_path, decoder, failure):
    decoder(f"if decord: {failure}")
    reader = open_video(write(tmp_path / "a.mp4"))
    assert isinstance(reader, AvReader)
    assert reader.read([40])[0].mean() == pytest.approx(200, abs=3)


def test_file_on_which_decord_disagrees_is_not_regular(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4")
    assert isinstance(open_video(path), DecordReader)
    assert Probe.from_dict(examine(str(path))).regular
    assert not Probe.from_dict(examine(str(path), decord=False)).regular
    monkeypatch.setattr(probe, "decord_agrees", lambda *_, **__: False)
    assert not Probe.from_dict(examine(str(path))).regular


def test_probe_survives_conversion_to_json(tmp_path):
    found = Probe.from_dict(examine(str(write(tmp_path / "a.mkv"))))
    again = Probe.from_dict(found.to_dict())
    assert again.stamps.tolist() == found.stamps.tolist() == [40 * n for n in range(48)]
    assert again.keys.tolist() == found.keys.tolist()
    assert (again.size, again.fps, again.regular) == (SIZE, 25.0, found.regular)
    assert found.to_dict() == again.to_dict()


@pytest.mark.parametrize("damage", ["!!", "AAAA"])
def test_damaged_timestamps_in_the_cache_are_ignored(tmp_path, cache, monkeypatch, damage):
    path = write(tmp_path / "a.mp4")
    probe.probe(path)
    (file,) = cache.iterdir()
    file.write_text(file.read_text().replace('"stamps": "', f'"stamps": "{damage}'))
    monkeypatch.setattr(PROBE_CACHE, "_folders", {})
    assert probe.probe(path).num_frames == 48


@pytest.mark.parametrize(
    ("fps", "remark"), [(23, "probably 23.976"), (29, "probably 29.97"), (30, None), (24, None)]
)
def test_rounded_down_frame_rates_are_remarked_on(tmp_path, fps, remark):
    found = probe.probe(write(tmp_path / "a.mp4", fps=fps))
    assert found.fps == fps
    assert [remark in text for text in found.remarks] == ([True] if remark else [])


def test_timestamps_take_precedence_over_the_frame_rate_of_the_header(tmp_path):
    """FLV has a rate in its header and a timestamp in milliseconds for each frame."""
    images = [np.full((48, 64, 3), number, dtype=np.uint8) for number in range(96)]
    path = encode(tmp_path / "a.flv", images, codec="flv1", rate=Fraction(24000, 1001))
    content = bytearray(path.read_bytes())
    at = content.find(b"framerate") + len(b"framerate") + 1
    assert struct.unpack_from(">d", content, at)[0] == pytest.approx(23.976, abs=0.001)
    struct.pack_into(">d", content, at, 23.0)
    path.write_bytes(content)
    found = probe.probe(path)
    assert found.fps == pytest.approx(24000 / 1001, rel=1e-3)
    assert any("23 fps in the header" in text for text in found.remarks)


def test_image_with_the_name_of_a_video_is_refused(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "001.AVI")
    with pytest.raises(UserError, match=r"001\.AVI: no video stream in this file"):
        probe.probe(tmp_path / "001.AVI")


def test_header_with_one_frame_too_many_is_remarked_on(sample, tmp_path):
    found = probe.probe(set_avi_length(sample / "video/002.AVI", tmp_path / "a.avi", 784))
    assert found.num_frames == 783
    assert found.remarks == ("expected 784 frames, but 783 can be decoded and are used",)
    assert probe.probe(sample / "video/002.AVI").remarks == ()


def test_thorough_inspection_finds_damage_inside_a_file(tmp_path):
    images = [np.full((*SIZE, 3), number, dtype=np.uint8) for number in range(80)]
    path = encode(tmp_path / "a.mp4", images, codec="mpeg4", rate=25, options={"g": "10"})
    with av.open(str(path)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][23]
    content = bytearray(path.read_bytes())
    content[position : position + size] = bytes(size)
    path.write_bytes(content)
    (quick,) = inspect_videos([path])
    assert quick.num_frames == 80
    (thorough,) = inspect_videos([path], thorough=True)
    assert isinstance(thorough, UserError)
    assert "a.mp4: frame 24 cannot be decoded; the file is damaged" in str(thorough)
    (cached,) = inspect_videos([path])
    assert str(cached) == str(thorough)
