"""`data check`: missing and broken files, counts, the cache and the command."""

import logging
import shutil

import numpy as np
import pytest
from helpers.data_files import POINTS, SIZE, clip_file, frame_folder, picture_files, points_file
from PIL import Image
from scipy.io import savemat

from distill.cli.main import main
from distill.data.check import check
from distill.data.sets.find import find_videos
from distill.data.video.probe_cache import PROBE_CACHE
from distill.errors import UserError


@pytest.fixture(autouse=True)
def cache(empty_cache):
    return empty_cache


@pytest.fixture
def one(tmp_path):
    """Video 001 with ground truth as images."""
    clip_file(tmp_path / "video/001.AVI")
    picture_files(tmp_path / "annotation/0001")
    return tmp_path


def problems(root, **arguments):
    """Return the problems that a check reports, without the root and without the one on missing videos."""
    missing, *others = (text.replace(f"{root}/", "") for text in check(root, progress=False, **arguments).problems)
    assert missing == "599 videos of train missing: 2-600"
    return others


def cut(path, count):
    path.write_bytes(path.read_bytes()[:-count])


# ---------------------------------------------------------------- the report


def test_report_on_the_sample(sample):
    report = check(sample, progress=False)
    table = report.table()
    assert report.scan.dataset.name == "dhf1k"
    assert {name: truth.labelled for name, truth in report.truths.items()} == {"002": 783}
    for text in (
        "videos in video/",
        "2 usable (1 with ground truth), 0 broken",
        "1323 (783 with fixations)",
        "640x360 (2)",
        "30 (2)",
        "783 frames in fixations.json",
        "598 videos of train missing: 1, 3-67, 69-600",
        "no ground truth for 1 video: 068",
    ):
        assert text in table
    (row,) = [" ".join(line.split()) for line in table.splitlines() if line.startswith("  train")]
    assert row == "train 600 2 2 1 783 783"  # published, found, usable, labelled, frames, fixated
    report.require_usable()


@pytest.fixture
def broken(tmp_path):
    """Videos 1 to 9 with all kinds of broken, missing and unusual files."""
    video, note = tmp_path / "video", tmp_path / "annotation"
    for number in (1, 2, 5, 8, 9):
        clip_file(video / f"{number:03d}.AVI")
    whole = (video / "001.AVI").read_bytes()
    (video / "003.AVI").write_bytes(whole[: len(whole) // 2])
    (video / "004.AVI").write_text("not a video\n" * 20)
    (video / "006.AVI").touch()
    clip_file(video / "007.AVI", fps=23)
    (video / "0002.mp4").write_bytes(whole)
    (video / "my holiday.AVI").write_bytes(whole)
    picture_files(note / "0001")
    points_file(note / "0002", [*POINTS[:4], [], [[36, 0], [5, 64], [1, 1]], *[[[1, 1]]] * 3])
    points_file(note / "0005", POINTS[:2])
    (note / "0008").mkdir()
    (note / "0008" / "fixations.json").write_text("[[[1, 2]], [[")
    (note / "0020" / "maps").mkdir(parents=True)
    return tmp_path


def test_everything_wrong_is_reported(broken):
    report = check(broken, progress=False)
    table = report.table()
    assert set(report.scan.broken) == {"003", "004", "006", "008"}
    assert {name: truth.labelled for name, truth in report.truths.items()} == {"001": 6, "002": 5, "005": 2}
    for text in (
        "Broken, left out (4)",
        "003.AVI: no complete frame",
        "004.AVI: cannot be decoded",
        "006.AVI: the file is empty",
        "annotation/0008/fixations.json: cannot be read as a list of fixations",
        "002.AVI: not used, because 0002.mp4 has the same number",
        "my holiday.AVI: not used, because its name is not a number",
        "007.AVI: 23 fps is probably 23.976",
        "ground truth without a video in 1 folder: 20",
        "annotation/0002/fixations.json: 3 frames past the end of the video, not used",
        "annotation/0002/fixations.json: no fixation in frame 5",
        "annotation/0002/fixations.json: 2 points outside the 64 x 36 frame, in frame 6, not used",
        "annotation/0005/fixations.json: fixations for 2 of 6 frames",
        "no ground truth for 2 videos: 007, 009",
        "5 videos with fewer than 16 frames",
    ):
        assert text in table


def test_broken_videos_are_left_out_of_a_run(broken, caplog):
    caplog.set_level(logging.INFO, logger="distill")
    assert [video.name for video in find_videos("dhf1k", broken, split="train")] == ["001", "002", "005"]
    assert "4 broken videos left out" in caplog.text
    for name in ("003.AVI", "004.AVI", "006.AVI", "0008/fixations.json"):
        assert f"{name}: " in caplog.text
    with pytest.raises(UserError, match=r"0008/fixations\.json: cannot be read"):
        find_videos("dhf1k", broken, videos=["008"])


@pytest.mark.parametrize("wrong", [[[[1, 2, 3]]], {"a": 1}, [[["a", "b"]]], [[[float("nan"), 1]]]])
def test_malformed_points_break_their_video(tmp_path, wrong):
    clip_file(tmp_path / "video/002.AVI")
    points_file(tmp_path / "annotation/0002", wrong)
    assert "annotation/0002/fixations.json: " in check(tmp_path, progress=False).scan.broken["002"]


def test_every_image_and_matlab_file_is_inspected(one):
    maps, mats = one / "annotation/0001/maps", one / "annotation/0001/fixation/maps"
    assert problems(one) == []
    cut(maps / "0001.png", 60)
    (maps / "0002.png").write_text("not an image")
    (maps / "0003.png").write_bytes(b"")
    (maps / "0004.png").unlink()
    Image.new("L", (32, 18), 9).save(maps / "0005.png")
    for name in ("0007.png", "thumbs.png", "._0001.png"):  # macOS leaves the last one behind
        shutil.copy(maps / "0006.png", maps / name)
    for number in range(1, 6):
        savemat(mats / f"{number:04d}.mat", {"I": np.eye(*SIZE)})
    cut(mats / "0001.mat", 40)
    (mats / "0002.mat").write_bytes(b"MATLAB 7.3 MAT-file and nothing else")
    savemat(mats / "0003.mat", {"J": np.eye(*SIZE)})
    found = problems(one)
    expected = [
        "maps: no file for frame 4",
        "maps: past the end of the video or misnamed, not used: 0007.png, thumbs.png",
        "maps/0001.png: cannot be read as an image",
        "maps/0002.png: cannot be read as an image (not an image file)",
        "maps/0003.png: cannot be read as an image (the file is empty)",
        "maps: 32 x 18 pixels in frame 5, but the video has 64 x 36; rescaled",
        "fixation/maps: no file for frame 6",
        "fixation/maps/0001.mat: cannot be read as a MATLAB file",
        "fixation/maps/0002.mat: cannot be read as a MATLAB file",
        "fixation/maps/0003.mat: expected variable I to be a 2-D array of numbers, the fixation map, but",
    ]
    for start in expected:
        assert [text.startswith(f"annotation/0001/{start}") for text in found].count(True) == 1, start
    assert len(found) == len(expected)
    (video,) = check(one, progress=False).scan.videos
    for frame in range(6):  # reading continues nevertheless
        assert video.truth.points(frame).tolist() == POINTS[frame] or frame == 2
        assert video.truth.density(frame, SIZE).sum() == pytest.approx(1, abs=1e-5)


def test_thorough_check_finds_damage_inside_files_and_empty_maps(one):
    place = one / "annotation/0001"
    content = bytearray((place / "maps/0002.png").read_bytes())
    content[content.find(b"IDAT") + 4] ^= 255  # the first byte of the compressed pixels
    (place / "maps/0002.png").write_bytes(content)
    for name in ("maps/0003.png", "fixation/0004.png"):
        Image.new("L", SIZE[::-1]).save(place / name)
    assert problems(one) == []
    damaged, *empty = problems(one, thorough=True)
    assert damaged.startswith("annotation/0001/maps/0002.png: cannot be read as an image")
    assert empty == [
        "annotation/0001/maps: an empty map in frame 3",
        "annotation/0001/fixation: no fixation in frame 4",
    ]
    report = check(one, thorough=True, progress=False)
    assert report.truths["001"].labelled == 5
    assert "every frame and image" in report.table()


def test_maps_without_fixations_are_unlabelled(one):
    shutil.rmtree(one / "annotation/0001/fixation")
    assert problems(one) == ["annotation/0001: no fixations, so no frame is labelled"]
    (one / "annotation/0001/maps").rename(one / "annotation/0001/fixation")
    report = check(one, progress=False)
    assert report.truths["001"].labelled == 6
    assert "1 videos without maps (densities are computed from fixations)" in report.table()


def test_files_are_named_relative_to_the_given_root(tmp_path, monkeypatch):
    clip_file(tmp_path / "data/video/001.AVI", fps=23)
    points_file(tmp_path / "data/annotation/0001", POINTS[:2])
    (tmp_path / "data/video/002.AVI").touch()
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path / "data", "data"):
        report = check(root, progress=False)
        assert [text.partition("video/")[0] for text in report.scan.broken.values()] == [f"{root}/"]
        assert [text.partition(":")[0] for text in report.problems[1:]] == [
            f"{root}/video/001.AVI",
            f"{root}/annotation/0001/fixations.json",
        ]


def test_formats_of_ground_truth_are_counted(tmp_path):
    for number, arguments in ((1, {}), (2, {"channels": True}), (3, {"fixations": "mat"})):
        clip_file(tmp_path / f"video/{number:03d}.AVI")
        picture_files(tmp_path / f"annotation/{number:04d}", **arguments)
    table = check(tmp_path, progress=False).table()
    for form in (
        "12 maps/*.png",
        "6 maps/*.png (3 channels)",
        "12 fixation/*.png",
        "6 fixation/maps/*.mat (MATLAB 5)",
    ):
        assert form in table


def test_damaged_frames_break_their_video_and_are_named(tmp_path):
    for number in (1, 2):
        frames = frame_folder(tmp_path / f"annotation/{number:04d}/images")
        picture_files(tmp_path / f"annotation/{number:04d}")
    for number in (2, 5):
        cut(frames / f"{number:04d}.png", 25)
    Image.new("RGB", (32, 18)).save(frames / "0004.png")
    (why,) = check(tmp_path, progress=False).scan.broken.values()
    assert "annotation/0002/images: 3 of 6 frames are broken: 0002.png: " in why
    assert "0005.png: cannot be read as an image" in why
    assert "0004.png: has 32 x 18 pixels, the others 64 x 36" in why
    assert [video.name for video in find_videos("dhf1k", tmp_path)] == ["001"]


def test_many_videos_are_listed_only_on_request(tmp_path):
    clip_file(tmp_path / "a.mp4")
    for number in range(60):
        (tmp_path / f"link {number}.mp4").symlink_to(tmp_path / "a.mp4")
    report = check(tmp_path, progress=False)
    assert "link 7" not in report.table()
    assert "link 7" in report.table(every_video=True)
    assert "61 usable" in report.table()


def test_plain_folders_and_generated_videos_are_reported(shared, sample, tmp_path):
    assert check(shared / "data" / "unlabelled", progress=False).scan.dataset.name == "folder"
    assert check(sample, "folder", progress=False).scan.dataset.name == "folder"
    assert check(tmp_path, "synthetic", progress=False).truths["blob0"].labelled == 48


# ---------------------------------------------------------------- the cache


def test_second_check_opens_no_file(broken, guarded_calls, monkeypatch):
    first = check(broken, progress=False).table()
    assert sum(guarded_calls) == 9 + 3 + 1  # videos, points, images
    guarded_calls.clear()
    monkeypatch.setattr(PROBE_CACHE, "_folders", {})
    assert check(broken, progress=False).table() == first
    assert guarded_calls == []


def test_changed_files_are_inspected_again(tmp_path, guarded_calls):
    frame_folder(tmp_path / "train/001/images")
    picture_files(tmp_path / "train/001")
    assert problems(tmp_path) == []
    guarded_calls.clear()
    picture = tmp_path / "train/001/maps/0003.png"
    content = picture.read_bytes()
    cut(picture, 60)  # in place: the folder does not change
    assert "maps/0003.png: cannot be read as an image" in problems(tmp_path)[0]
    picture.write_bytes(content)
    assert problems(tmp_path) == []
    assert guarded_calls == [1, 1]
    frame = tmp_path / "train/001/images/0003.png"
    content = frame.read_bytes()
    cut(frame, 60)
    assert len(check(tmp_path, progress=False).scan.broken) == 1
    with pytest.raises(UserError, match=r"0003\.png"):
        find_videos("dhf1k", tmp_path)
    frame.write_bytes(content)
    assert len(find_videos("dhf1k", tmp_path)) == 1  # the repaired video is used again


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}"], "no data set found"),
        (["{}/missing"], "no such folder"),
        (["{}", "--dataset", "coco"], "unknown data set 'coco'"),
    ],
)
def test_command_on_a_wrong_folder_exits_with_2(tmp_path, capsys, arguments, message):
    assert main(["data", "check", *(each.format(tmp_path) for each in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_command_without_a_usable_video_prints_the_report_and_exits_with_2(tmp_path, capsys):
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "001.AVI").write_text("not a video")
    assert main(["data", "check", str(tmp_path)]) == 2
    out, errors = capsys.readouterr()
    assert "001.AVI: cannot be decoded" in out
    assert "no usable video of dhf1k; 1 video broken" in errors


def test_command_prints_the_report(sample, capsys):
    assert main(["data", "check", str(sample), "--thorough"]) == 0
    assert "every frame and image" in capsys.readouterr().out
