"""Data sets as people have them on disk: layouts, splits, ground truth in every form, and the traps."""

import logging
import shutil

import numpy as np
import pytest
import torch
from helpers.data_files import POINTS, SIZE, clip_file, frame_folder, picture_files, points_file
from PIL import Image

from distill.data.clips import ClipSpec as Spec
from distill.data.clips import Window, read_clip
from distill.data.sets.find import DATASETS, find_videos
from distill.data.truth import MapsTruth, PointsTruth, truth_of
from distill.data.video.open import open_video
from distill.errors import UserError


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="distill")
    return caplog


# ---------------------------------------------------------------- the sample, and the shipped maps


def test_the_sample(sample, said):
    first, second = find_videos("dhf1k", sample)
    assert "videos in video/" in said.text
    assert (first.name, first.num_frames, first.fps, first.size) == ("002", 783, 30.0, (360, 640))
    assert (second.name, second.num_frames, second.truth) == ("068", 540, None)
    assert first.truth is not None
    assert sum(len(first.truth.points(frame)) for frame in range(783)) == 8982
    assert first.truth.points(0)[0].tolist() == [266, 168]
    assert len(first.truth.points(783)) == 0


def test_sample_stays_small(sample):
    sizes = [path.stat().st_size for path in sample.rglob("*") if path.is_file()]
    assert sum(sizes) < 7e6
    assert max(sizes) < 4 * 2**20


def test_density_of_the_points_is_the_shipped_map(sample, shared):
    """Stored maps are 8-bit and divided by their peak."""
    shipped = truth_of(shared / "data" / "dhf1k-sample" / "annotation" / "0002", (360, 640))
    built = find_videos("dhf1k", sample, videos=["002"])[0].truth
    assert isinstance(shipped, MapsTruth)
    assert isinstance(built, PointsTruth)
    errors, correlations = [], []
    for frame in range(0, 783, 36):
        theirs, ours = (truth.density(frame, (360, 640)).astype(np.float64) for truth in (shipped, built))
        errors.append(np.abs(theirs / theirs.max() - ours / ours.max()).max())
        correlations.append(np.corrcoef(theirs.ravel(), ours.ravel())[0, 1])
        assert np.array_equal(shipped.points(frame), np.unique(built.points(frame), axis=0))
    assert len(errors) >= 20
    assert min(correlations) > 0.9999
    assert max(errors) < 0.02


# ---------------------------------------------------------------- DHF1K's layouts


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("video/{:03d}.AVI", "videos in video/"),
        ("video/{:04d}.mp4", "videos in video/"),
        ("{:03d}.AVI", "videos in the folder itself"),
    ],
)
def test_dhf1k_videos(tmp_path, said, place, says):
    for number in (1, 601, 701, 1000):
        clip_file(tmp_path / place.format(number))
        if number < 701:
            points_file(tmp_path / "annotation" / f"{number:04d}")
    (tmp_path / place.format(7)).with_name("._001.AVI").touch()
    names = {
        split: [v.name for v in find_videos("dhf1k", tmp_path, split=split)] for split in ("train", "test", "all")
    }
    assert names == {"train": ["001"], "test": ["701", "1000"], "all": ["001", "601", "701", "1000"]}
    assert says in said.text
    validation = find_videos("dhf1k", tmp_path, split="validation")[0]
    assert validation.truth is not None
    assert validation.truth.points(1).tolist() == [[18, 32]]


@pytest.mark.parametrize(
    ("images", "truth"),
    [
        ("annotation/{:04d}/images", "annotation/{:04d}"),
        ("video/{:04d}", "annotation/{:04d}"),
        ("video/{:03d}", "annotation/{:04d}"),
        ("video/{:03d}/images", "annotation/{:04d}"),
        ("frames/{:04d}", "annotation/{:04d}"),
        ("frames/{:03d}/images", "annotation/{:03d}"),
        ("{:04d}/images", "{:04d}"),
        ("train/{:04d}/images", "train/{:04d}"),
        ("val/{:03d}/images", "val/{:03d}"),
    ],
)
def test_dhf1k_extracted_frames(tmp_path, said, images, truth):
    for number in (3, 600):
        frame_folder(tmp_path / images.format(number))
        picture_files(tmp_path / truth.format(number))
    videos = find_videos("dhf1k", tmp_path, split="train")
    assert [(v.name, v.num_frames, v.size) for v in videos] == [("003", 6, SIZE), ("600", 6, SIZE)]
    assert images.split("{")[0].split("/")[0] in said.text
    assert videos[0].truth is not None
    assert videos[0].truth.points(1).tolist() == [[18, 32]]
    clip = read_clip(Window(videos[0], 5), Spec(2, SIZE, (1,), SIZE))
    assert clip[0, :, 0, 0].tolist() == [5, 6]  # frame 0005.png, then 0006.png


def test_dhf1k_videos_with_ground_truth_by_split(tmp_path):
    for number, half in ((1, "train"), (601, "val")):
        clip_file(tmp_path / f"video/{number:03d}.AVI")
        picture_files(tmp_path / f"{half}/{number:04d}")
    for split in ("train", "validation"):
        (video,) = find_videos("dhf1k", tmp_path, split=split)
        assert video.truth.points(1).tolist() == POINTS[1]


@pytest.mark.parametrize(("first", "expected"), [(0, POINTS[:4]), (1, POINTS[:4]), (3, POINTS[2:6])])
@pytest.mark.parametrize("kind", [picture_files, points_file])
def test_frames_and_maps_meet_by_their_numbers(tmp_path, kind, first, expected):
    """Frames counted from 0 begin with the first map; a part of a video keeps its numbers."""
    folder = tmp_path / "frames/0001"
    folder.mkdir(parents=True)
    for number in range(first, first + 4):
        Image.new("RGB", SIZE[::-1], (number,) * 3).save(folder / f"{number:04d}.png")
    kind(tmp_path / "annotation/0001")
    (video,) = find_videos("dhf1k", tmp_path)
    unique = [sorted({*map(tuple, points)}) for points in expected]
    assert [sorted({*map(tuple, video.truth.points(frame).tolist())}) for frame in range(4)] == unique


def test_a_missing_frame_does_not_shift_the_maps(tmp_path):
    (frame_folder(tmp_path / "frames/0001") / "0003.png").unlink()
    picture_files(tmp_path / "annotation/0001")
    with pytest.raises(UserError, match=r"0004\.png: the frames .* does not follow on 0002\.png"):
        find_videos("dhf1k", tmp_path)
    assert find_videos("folder", tmp_path / "frames")[0].num_frames == 5  # without maps it does no harm


# ---------------------------------------------------------------- what is missing, broken or wrong


@pytest.fixture
def four(tmp_path):
    for number in (1, 2, 3, 4):
        clip_file(tmp_path / f"video/{number:03d}.AVI")
        if number != 2:
            points_file(tmp_path / f"annotation/{number:04d}")
    broken = tmp_path / "video/003.AVI"
    broken.write_bytes(broken.read_bytes()[:400])
    return tmp_path


def test_broken_and_unannotated_are_left_out_and_counted(four, said):
    assert [v.name for v in find_videos("dhf1k", four, split="train")] == ["001", "004"]
    assert "1 broken video left out" in said.text
    assert "003.AVI" in said.text
    assert "1 video without ground truth left out: 002" in said.text
    assert [v.name for v in find_videos("dhf1k", four)] == ["001", "002", "004"]


def test_named_videos(four):
    assert [v.name for v in find_videos("dhf1k", four, split="train", videos=["2", "004"])] == ["002", "004"]
    assert [v.name for v in find_videos("dhf1k", four, videos=["001.AVI"])] == ["001"]
    with pytest.raises(UserError, match=r"003\.AVI.*cut off"):
        find_videos("dhf1k", four, videos=["001", "003"])
    with pytest.raises(UserError, match=r"no video '009'.*4 in train"):
        find_videos("dhf1k", four, videos=["001", "009"])
    with pytest.raises(UserError, match="list of videos is empty"):
        find_videos("dhf1k", four, videos=[])


def test_frames_are_counted_from_one_and_inclusive(four):
    (video,) = find_videos("dhf1k", four, videos=["001"], frames=(2, 4))
    assert video.frames == range(1, 4)
    (video,) = find_videos("dhf1k", four, videos=["001"], frames=(5, 1000))
    assert video.frames == range(4, 6)
    for wrong, says in (((0, 3), "counted from 1"), ((4, 3), "first and last"), ((7, 9), "ends at frame 6")):
        with pytest.raises(UserError, match=says):
            find_videos("dhf1k", four, videos=["001"], frames=wrong)


def test_all_unannotated_says_what_to_do(tmp_path):
    clip_file(tmp_path / "video/001.AVI")
    with pytest.raises(UserError, match=r"1 have no ground truth .*by name"):
        find_videos("dhf1k", tmp_path, split="train")


def test_wrong_root(four, tmp_path):
    other = tmp_path / "elsewhere"
    (other / "papers").mkdir(parents=True)
    for dataset in ("dhf1k", "hollywood2", "ucf_sports", "ntire"):
        with pytest.raises(UserError, match=r"expected .*; found papers/"):
            find_videos(dataset, other)
    for root, meant in ((four / "video", None), (four / "annotation", four)):
        if meant is None:
            assert len(find_videos("dhf1k", root)) == 3  # the videos themselves are a layout
        else:
            with pytest.raises(UserError, match="did you mean"):
                find_videos("dhf1k", root)
    for dataset in ("dhf1k", "ntire", "folder"):
        with pytest.raises(UserError, match="there is no such"):
            find_videos(dataset, tmp_path / "missing")
    with pytest.raises(UserError, match="this is a file"):
        find_videos("dhf1k", four / "video" / "001.AVI")


def test_unknown_data_set_and_split(sample):
    with pytest.raises(
        UserError, match="'dhf2k'; there are dhf1k, hollywood2, ucf_sports, ntire, folder, synthetic"
    ):
        find_videos("dhf2k", sample)
    for dataset in DATASETS:
        root = sample / "video" if dataset == "folder" else sample
        with pytest.raises(UserError, match="no split 'dev'"):
            find_videos(dataset, root, split="dev")


# ---------------------------------------------------------------- NTIRE, folder, synthetic


def test_folder(tmp_path, said):
    file = clip_file(tmp_path / "my clip.mp4")
    shutil.copy(file, tmp_path / "my clip.mov")
    clip_file(tmp_path / "day 1" / "b.mp4")
    frame_folder(tmp_path / "day 1" / "frames 2", name="shot {}.jpg", count=11)
    (tmp_path / ".hidden").mkdir()
    shutil.copy(file, tmp_path / ".hidden" / "c.mp4")
    (tmp_path / "notes.txt").touch()
    videos = find_videos("folder", tmp_path)
    assert {v.name: v.num_frames for v in videos} == {
        "day 1/b": 6, "day 1/frames 2": 11, "my clip": 6, "my clip.mp4": 6
    }  # fmt: skip
    assert all(v.truth is None for v in videos)
    assert "3 video files and 1 folders of frames" in said.text
    assert [v.name for v in find_videos("folder", file)] == ["my clip"]
    assert [v.name for v in find_videos("folder", tmp_path / "day 1" / "frames 2")] == ["frames 2"]
    with pytest.raises(UserError, match="found nothing"):
        (tmp_path / "empty").mkdir()
        find_videos("folder", tmp_path / "empty")


def test_synthetic():
    first, again = (find_videos("synthetic", "", split="train")[0] for _ in range(2))
    assert first == again
    reader = open_video(first.path)
    assert (reader.num_frames, reader.size) == (first.num_frames, first.size)
    order = [7, 0, 7, 40]
    assert (reader.read(order, SIZE) == open_video(again.path).read(range(48), SIZE)[order]).all()
    assert not np.array_equal(reader.read([0]), reader.read([1]))
    assert first.truth is not None
    assert torch.from_numpy(first.truth.density(3, SIZE)).sum().item() == pytest.approx(1, abs=1e-5)
    assert len(find_videos("synthetic", "", videos=["blob2"])) == 1
    with pytest.raises(UserError, match="SEED-FRAMES"):
        open_video("synthetic:blob")
