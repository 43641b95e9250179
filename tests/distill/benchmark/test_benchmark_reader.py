"""The benchmark of readers: all read the same frames, the table's numbers fit together, and mistakes are named."""

import json
import sys

import numpy as np
import pytest
from helpers.memory_program import allocate
from helpers.places import REPOSITORY

from distill.benchmark import reader as module
from distill.benchmark.memory import growth
from distill.benchmark.reader import HABIT, READERS, benchmark, dataset_of, extract, random_clips
from distill.cli.main import main
from distill.data.clips import Video
from distill.data.video.open import open_size
from distill.data.video.writer import VideoWriter
from distill.errors import UserError

SAMPLE = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Twenty frames of a bright bar that wanders over a dark picture."""
    frames = np.full((20, 48, 64, 3), 40, dtype=np.uint8)
    for number in range(20):
        frames[number, :, 3 * number : 3 * number + 6] = (220, 200, 60)
    path = tmp_path_factory.mktemp("reader") / "bar.mp4"
    with VideoWriter(path, (48, 64), 25) as writer:
        writer.write(frames)
    return path


@pytest.fixture
def small(monkeypatch):
    """A benchmark of a moment."""
    monkeypatch.setattr(module, "SIZES", ((24, 32),))
    monkeypatch.setattr(module, "BATCH_SIZE", 1)
    monkeypatch.setattr(module, "BATCHES", 1)
    monkeypatch.setattr("distill.benchmark.rows.ROUND_SECONDS", 0)


@pytest.mark.parametrize("size", [(48, 64), (24, 32)])
@pytest.mark.parametrize("name", [HABIT, "OpenCV"])
def test_every_reader_reads_the_same_frames(moving, tmp_path, name, size):
    if name == "OpenCV":
        pytest.importorskip("cv2")
    extract(moving, tmp_path, 20, progress=False)
    assert len(list(tmp_path.iterdir())) == 20
    frames = range(3, 19)
    ours, other = (READERS[each](moving, tmp_path)(frames, size) for each in ("saldistill", name))
    assert ours.shape == other.shape == (16, *size, 3)
    assert other.dtype == np.uint8
    assert np.abs(ours.astype(int) - other).mean() < 4  # the scalers differ
    assert np.abs(ours[1:].astype(int) - other[:-1]).mean() > 10  # the frame before is another


def test_all_readers_are_asked_for_the_same_clips():
    one, other = random_clips(100), random_clips(100)
    drawn = [next(one) for _ in range(200)]
    assert drawn == [next(other) for _ in range(200)]
    assert {len(each) for each in drawn} == {16}
    assert min(each.start for each in drawn) < 5
    assert 95 < max(each.stop for each in drawn) <= 100
    assert next(random_clips(16)) == range(16)


def test_the_numbers_of_a_row_fit_together(moving, small):
    pytest.importorskip("cv2")
    table = benchmark(moving, rounds=1, memory=False, progress=False)
    assert [row["reader"] for row in table] == ["saldistill", HABIT, "OpenCV", *module.LOADERS]
    for row in table:
        assert row["frames_per_second"] == pytest.approx(16 * row["clips_per_second"])
        assert row["milliseconds"] == pytest.approx(1000 / row["clips_per_second"])
        assert row["ratio"] == pytest.approx(row["clips_per_second"] / table[1]["clips_per_second"])
        assert row["clips"] >= 1
    assert table[1]["ratio"] == 1
    assert (table.setting["frames"], table.setting["video_size"]) == (20, "48x64")


def test_a_long_video_is_cut(moving, small, monkeypatch):
    monkeypatch.setattr(module, "FRAMES", 17)
    asked = []
    monkeypatch.setattr(module, "extract", lambda path, folder, number, progress: asked.append(number))
    monkeypatch.setattr(module, "READERS", {HABIT: lambda path, folder: lambda frames, size: asked.extend(frames)})
    monkeypatch.setattr(module, "LOADERS", {})
    table = benchmark(moving, rounds=2, memory=False, progress=False)
    assert asked[0] == 17
    assert max(asked[1:]) < 17
    assert table.setting["frames"] == 17


def test_a_loader_s_clips_come_from_the_used_frames():
    num_frames, fps, size = open_size(SAMPLE)
    video = Video("002", SAMPLE, num_frames, fps, size, range(15, 40), None, "folder")
    for name in module.LOADERS:
        dataset = dataset_of(video, (18, 32), name)
        ends = {dataset.window(number).end for number in range(200)}
        assert (min(ends), max(ends)) == (15, 39)
        assert (dataset[0]["clip"].shape, "box" in dataset[0]) == ((3, 16, 18, 32), name != "loader, 1 worker")


def test_the_loader_decodes_anew(moving, monkeypatch):
    monkeypatch.setattr(module.clip_reader, "FRAME_CACHE", module.clip_reader.FrameCache())
    num_frames, fps, size = open_size(moving)
    video = Video("bar", moving, num_frames, fps, size, range(15, 20), None, "folder")
    dataset = module.Unremembered(dataset_of(video, (24, 32), "loader, 1 worker"))
    dataset[0], dataset[0]
    assert module.clip_reader.FRAME_CACHE._bytes == 0


def test_opencv_may_be_missing(moving, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setattr(module, "LOADERS", {})
    table = benchmark(moving, rounds=1, memory=False, progress=False)
    assert [row["reader"] for row in table] == ["saldistill", HABIT]
    assert "OpenCV is left out: it is not installed (pip install opencv-python-headless)" in str(table)


def test_memory_is_of_the_work_alone():
    assert 60 < growth(allocate, 64) < 80  # and none of the 100 MB that it had before
    with pytest.raises(RuntimeError, match="no such amount"):
        growth(allocate, -1)


@pytest.mark.parametrize(
    ("subjects", "says"),
    [
        ([], "expected one video file, got 0"),
        (["a.mp4", "b.mp4"], "expected one video file, got 2"),
        (["missing.mp4"], "missing.mp4: no such"),
        (["."], "is a folder"),
    ],
)
def test_mistakes_are_one_sentence(subjects, says, capsys):
    assert main(["benchmark", "--of", "data", *subjects]) == 2
    assert says in capsys.readouterr().err


def test_a_video_shorter_than_a_clip_is_refused(tmp_path):
    with VideoWriter(tmp_path / "short.mp4", (48, 64), 25) as writer:
        writer.write(np.zeros((15, 48, 64, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"short\.mp4: has 15 frames; expected a video of at least 16"):
        benchmark(tmp_path / "short.mp4")


def test_the_command_prints_a_table_and_writes_json(moving, small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "growth", lambda *case: 12.3)
    out = tmp_path / "reader.json"
    assert main(["benchmark", "--of", "data", str(moving), "--rounds", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "frames/s" in printed
    assert "bar.mp4 (48x64), 20 frames" in printed
    written = json.loads(out.read_text())
    assert {row["memory_mb"] for row in written["rows"]} == {12.3}
