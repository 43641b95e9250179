"""Damaged frames that a decoder conceals: found by the thorough inspection, and counted when they are read."""

import logging
from pathlib import Path

import numpy as np
import pytest
from helpers.video_files import damage_packets, encode

from distill.cli.main import main
from distill.data.check import check
from distill.data.sets.dataset import inspect_videos
from distill.data.sets.find import find_videos
from distill.data.video import damage
from distill.data.video.decord_reader import DecordReader
from distill.data.video.open import open_video
from distill.data.video.probe import examine, probe
from distill.data.video.pyav_reader import AvReader
from distill.errors import UserError
from distill.limits import MAX_PICTURE_PIXELS

FRAMES = 60
KEYS = 20
"""Frames of the test's videos, and distance of their key frames."""


@pytest.fixture(autouse=True)
def cache(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(damage, "_read", damage._read.copy())
    damage._read.clear()
    return empty_cache


def images() -> list[np.ndarray]:
    """A pattern that moves, so that damage spreads."""
    blocks = np.random.default_rng(0).integers(0, 255, (12, 20, 3)).astype(np.uint8)
    pattern = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return [np.roll(pattern, (3 * frame, 5 * frame), axis=(0, 1)) for frame in range(FRAMES)]


def video(path: Path, codec: str) -> Path:
    options = {"g": f"{KEYS}", "bf": "0"} | ({"sc_threshold": "0"} if codec == "libx264" else {})
    return encode(path, images(), codec=codec, rate=30, options=options)


@pytest.fixture(params=["libx264", "mpeg4"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name = {"libx264": "a.mp4", "mpeg4": "a.avi"}[request.param]
    (tmp_path / "data").mkdir()
    return video(tmp_path / "data" / name, request.param)


def test_intact_video_has_no_damage(path: Path) -> None:
    (found,) = inspect_videos([path], thorough=True)
    assert found.damaged == ()
    assert found.remarks == ()
    assert "Nothing is missing or broken" in check(path.parent, thorough=True, progress=False).table()


def test_thorough_check_names_frames_that_the_decoder_conceals(path: Path) -> None:
    intact = open_video(path).read(range(FRAMES))
    damage_packets(path, [25])
    (quick,) = inspect_videos([path])
    assert quick.damaged == ()
    (found,) = inspect_videos([path], thorough=True)
    garbled = np.flatnonzero(np.abs(open_video(path).read(range(FRAMES)).astype(int) - intact).max((1, 2, 3)) > 60)
    assert len(garbled) > 3
    assert set(garbled.tolist()) <= set(found.damaged) <= set(range(KEYS, 2 * KEYS))
    first = found.damaged[0] + 1
    (text,) = check(path.parent, thorough=True, progress=False).problems
    assert text.startswith(f"{path}: frames {first}-40 ({41 - first}) damaged or built on a damaged frame (")
    assert "decoder error" in text
    assert text.endswith("; the decoder fills in missing parts")
    assert probe(path).damaged == found.damaged  # the cached result serves later runs


def test_runs_report_known_damage_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage_packets(path, [25])
    (found,) = inspect_videos([path], thorough=True)
    (read,) = find_videos("folder", path.parent)
    count = len(found.damaged)
    assert (
        caplog.text.count(f"1 video with damaged frames in use, which the decoder fills in: a ({count} frames)")
        == 1
    )
    reader = open_video(read.path)
    reader.read(range(KEYS))
    assert damage.damaged_frames_read(path) == 0
    for _ in range(2):
        reader.read(range(FRAMES))
    assert damage.damaged_frames_read(path) == count
    assert caplog.text.count("damaged") == 1


def test_pyav_reports_damage_that_was_not_known(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage_packets(path, [25])
    reader = AvReader(path, probe(path))
    for _ in range(2):
        reader.read(range(FRAMES))
    assert damage.damaged_frames_read(path) >= 1
    assert caplog.text.count(f"{path}: frame ") == 1
    assert "is damaged, and the decoder fills in missing parts; saldistill data check --thorough" in caplog.text


def test_predict_counts_damaged_frames(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    damage_packets(path, [25])
    (found,) = inspect_videos([path], thorough=True)
    assert isinstance(open_video(path), DecordReader)
    assert main(["predict", "student/thtdnet:tiny", str(path), "--maps", str(tmp_path / "maps")]) == 0
    assert f"{path}: {len(found.damaged)} of {FRAMES} frames damaged; the decoder filled in" in caplog.text


def test_video_with_too_large_frames_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"pixels of a frame: .* is over the limit of {MAX_PICTURE_PIXELS:,}"):
        open_video("synthetic:0-1x100000x100000")
    monkeypatch.setattr("distill.data.video.probe.MAX_PICTURE_PIXELS", 96 * 160 - 1)
    with pytest.raises(UserError, match=r"a\.mp4: pixels of a frame: 15,360 is over the limit of 15,359"):
        examine(str(video(tmp_path / "a.mp4", "libx264")))


@pytest.mark.parametrize("name", ["0-1x1x" + "1" * 5000, "²-1x1x1", "a", "1-2x3"])
def test_malformed_generated_video_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="malformed name of a generated video"):
        open_video(f"synthetic:{name}")
