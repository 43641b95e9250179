"""The benchmark of readers: they read the same frames, the numbers are consistent, and mistakes are reported."""

import json
import sys

import numpy as np
import pytest
from helpers.memory_program import allocate
from helpers.places import REPOSITORY

from distill.benchmark import data as module
from distill.benchmark.data import HABIT, READERS, Clips, benchmark_data, extract
from distill.benchmark.process import memory_growth
from distill.cli.main import main
from distill.data.video.writer import VideoWriter
from distill.errors import UserError

SAMPLE = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Twenty frames of a bright bar that moves over a dark background."""
    frames = np.full((20, 48, 64, 3), 40, dtype=np.uint8)
    for number in range(20):
        frames[number, :, 3 * number : 3 * number + 6] = (220, 200, 60)
    path = tmp_path_factory.mktemp("reader") / "bar.mp4"
    with VideoWriter(path, (48, 64), 25) as writer:
        writer.write(frames)
    return path


@pytest.fixture
def small(monkeypatch):
    """A fast benchmark."""
    monkeypatch.setattr(module, "SIZES", ((24, 32),))
    monkeypatch.setattr(module, "BATCH_SIZE", 1)
    monkeypatch.setattr(module, "BATCHES", 1)
    monkeypatch.setattr("distill.benchmark.rows.ROUND_SECONDS", 0)


@pytest.mark.parametrize("size", [(48, 64), (24, 32)])
@pytest.mark.parametrize("name", [HABIT, "OpenCV"])
def test_readers_read_the_same_frames(moving, tmp_path, name, size):
    if name == "OpenCV":
        pytest.importorskip("cv2")
    extract(moving, tmp_path, 20, progress=False)
    assert len(list(tmp_path.iterdir())) == 20
    frames = range(3, 19)
    ours, other = (READERS[each](moving, tmp_path)(frames, size) for each in ("saldistill", name))
    assert ours.shape == other.shape == (16, *size, 3)
    assert other.dtype == np.uint8
    assert np.abs(ours.astype(int) - other).mean() < 4  # resizing differs
    assert np.abs(ours[1:].astype(int) - other[:-1]).mean() > 10  # shifted by one frame


def test_clips_are_deterministic_and_cover_video():
    one, other = (iter(Clips(SAMPLE, SAMPLE, 100)) for _ in range(2))
    drawn = [next(one) for _ in range(200)]
    assert drawn == [next(other) for _ in range(200)]
    assert {len(each) for each in drawn} == {16}
    assert min(each.start for each in drawn) < 5
    assert 95 < max(each.stop for each in drawn) <= 100
    assert next(iter(Clips(SAMPLE, SAMPLE, 16))) == range(16)


def test_data_numbers_are_consistent(moving, small):
    pytest.importorskip("cv2")
    table = benchmark_data(moving, rounds=1, memory=False, progress=False)
    assert [row["reader"] for row in table] == ["saldistill", HABIT, "OpenCV", *module.LOADERS]
    for row in table:
        assert row["frames_per_second"] == pytest.approx(16 * row["clips_per_second"])
        assert row["milliseconds"] == pytest.approx(1000 / row["clips_per_second"])
        assert row["ratio"] == pytest.approx(row["clips_per_second"] / table[1]["clips_per_second"])
        assert row["clips"] >= 1
    assert table[1]["ratio"] == 1
    assert (table.setting["frames"], table.setting["video_size"]) == (20, "48x64")


def test_data_reads_first_frames_of_long_video(moving, small, monkeypatch):
    monkeypatch.setattr(module, "FRAMES", 17)
    asked = []
    monkeypatch.setattr(module, "extract", lambda path, folder, number, progress: asked.append(number))
    monkeypatch.setattr(module, "READERS", {HABIT: lambda path, folder: lambda frames, size: asked.extend(frames)})
    monkeypatch.setattr(module, "LOADERS", {})
    table = benchmark_data(moving, rounds=2, memory=False, progress=False)
    assert asked[0] == 17
    assert max(asked[1:]) < 17
    assert table.setting["frames"] == 17


def test_loader_clips_come_from_used_frames():
    for name in module.LOADERS:
        dataset = Clips(SAMPLE, SAMPLE, 40).dataset((18, 32), name)
        ends = {dataset.window(number).end for number in range(200)}
        assert (min(ends), max(ends)) == (15, 39)
        assert (dataset[0]["clip"].shape, "box" in dataset[0]) == ((3, 16, 18, 32), name != "loader, 1 worker")


def test_loader_does_not_cache_frames(moving, monkeypatch):
    monkeypatch.setattr(module.clip_reader, "FRAME_CACHE", module.clip_reader.FrameCache())
    dataset = module.UncachedClips(Clips(moving, moving, 20).dataset((24, 32), "loader, 1 worker"))
    dataset[0], dataset[0]
    assert module.clip_reader.FRAME_CACHE._bytes == 0


def test_data_without_opencv_has_note(moving, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(module, "LOADERS", {})
    table = benchmark_data(moving, rounds=1, memory=False, progress=False)
    assert [row["reader"] for row in table] == ["saldistill", HABIT]
    assert "OpenCV is left out: it is not installed (pip install opencv-python-headless)" in str(table)


def test_memory_growth_counts_work_only():
    assert 60 < memory_growth(allocate, 64) < 80  # and none of the 100 MB that it had before
    with pytest.raises(RuntimeError, match=r"_measure_growth.* failed in a fresh process"):
        memory_growth(allocate, -1)


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ([], "expected one video file, got 0"),
        (["a.mp4", "b.mp4"], "expected one video file, got 2"),
        (["missing.mp4"], "missing.mp4: no such"),
        (["."], "is a folder"),
    ],
)
def test_data_command_invalid_video_is_rejected(subjects, message, capsys):
    assert main(["benchmark", "--of", "data", *subjects]) == 2
    assert message in capsys.readouterr().err


def test_data_video_shorter_than_clip_is_rejected(tmp_path):
    with VideoWriter(tmp_path / "short.mp4", (48, 64), 25) as writer:
        writer.write(np.zeros((15, 48, 64, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"short\.mp4: has 15 frames; expected a video of at least 16"):
        benchmark_data(tmp_path / "short.mp4")


def test_data_command_prints_table_and_writes_json(moving, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "memory_growth", lambda *case: 12.3)
    out = tmp_path / "reader.json"
    assert main(["benchmark", "--of", "data", str(moving), "--rounds", "1", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "frames/s" in printed
    assert "bar.mp4 (48x64), 20 frames" in printed
    written = json.loads(out.read_text())
    assert {row["memory_mb"] for row in written["rows"]} == {12.3}
