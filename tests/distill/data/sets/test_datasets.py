"""The registry of data sets, and DHF1K, plain folders and generated videos: layouts, splits and errors."""

import logging
import shutil

import numpy as np
import pytest
import torch
from helpers.data_files import POINTS, SIZE, clip_file, frame_folder, picture_files, points_file
from PIL import Image

from distill.data.clip_reader import read_clip
from distill.data.clips import ClipSpec, Window
from distill.data.sets.dataset import DataSet, Layout, files_named
from distill.data.sets.find import DATASETS, find_videos, recognise
from distill.data.truth import MapsTruth, PointsTruth, truth_of
from distill.data.video.open import open_video
from distill.errors import UserError


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="distill")
    return caplog


def names(videos):
    return [video.name for video in videos]


# ---------------------------------------------------------------- the registry


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=DATASETS)
def test_registered_data_set_is_consistent(dataset, sample, tmp_path):
    assert DATASETS[dataset.name] is dataset
    assert dataset.title
    assert dataset.expected
    assert "all" in dataset.splits
    assert set(dataset.labelled) | ({dataset.withheld} if dataset.withheld else set()) <= set(dataset.splits)
    (tmp_path / "papers").mkdir()
    assert recognise(tmp_path) is None
    if dataset.needs_root:
        with pytest.raises(UserError, match=r"expected .*; found papers/"):
            find_videos(dataset.name, tmp_path)
        with pytest.raises(UserError, match="no such"):
            find_videos(dataset.name, tmp_path / "missing")
    with pytest.raises(UserError, match=f"{dataset.name}: no split 'dev'; expected one of {dataset.splits[0]}"):
        find_videos(dataset.name, sample, split="dev")


def test_unknown_data_set_is_refused(sample):
    with pytest.raises(UserError, match=f"unknown data set 'dhf2k'; expected one of {', '.join(DATASETS)}"):
        find_videos("dhf2k", sample)


def test_new_data_set_needs_only_a_record(tmp_path, monkeypatch):
    def find(root):
        media = {path.stem: path for path in files_named(root / "clips", [".mp4"])}
        return Layout("videos in clips/", media=media, members={"all": list(media), "first": list(media)[:1]})

    toy = DataSet(
        "toy", "Toy", "clips/a.mp4", ("first", "all"), find, recognise=lambda root: (root / "clips").is_dir()
    )
    monkeypatch.setitem(DATASETS, "toy", toy)
    for name in ("a", "b"):
        clip_file(tmp_path / f"clips/{name}.mp4")
    assert recognise(tmp_path) is toy
    assert names(find_videos("toy", tmp_path, split="first")) == ["a"]
    assert names(find_videos("toy", tmp_path)) == ["a", "b"]
    with pytest.raises(UserError, match=r"expected toy, with clips/a\.mp4; found a\.mp4, b\.mp4; did you mean"):
        find_videos("toy", tmp_path / "clips")


# ---------------------------------------------------------------- the sample, and the published maps


def test_sample_has_one_labelled_video(sample, logged):
    first, second = find_videos("dhf1k", sample)
    assert "videos in video/" in logged.text
    assert (first.name, first.num_frames, first.fps, first.size) == ("002", 783, 30.0, (360, 640))
    assert (second.name, second.num_frames, second.truth) == ("068", 540, None)
    assert sum(len(first.truth.points(frame)) for frame in range(783)) == 8982
    assert first.truth.points(0)[0].tolist() == [266, 168]
    assert len(first.truth.points(783)) == 0


def test_sample_stays_small(sample):
    sizes = [path.stat().st_size for path in sample.rglob("*") if path.is_file()]
    assert sum(sizes) < 7e6
    assert max(sizes) < 4 * 2**20


def test_density_of_points_equals_the_published_map(sample, shared):
    """Published maps have 8 bits and a peak of 255."""
    published = truth_of(shared / "data" / "dhf1k-sample" / "annotation" / "0002", (360, 640))
    computed = find_videos("dhf1k", sample, videos=["002"])[0].truth
    assert isinstance(published, MapsTruth)
    assert isinstance(computed, PointsTruth)
    errors, correlations = [], []
    for frame in range(0, 783, 36):
        theirs, ours = (truth.density(frame, (360, 640)).astype(np.float64) for truth in (published, computed))
        errors.append(np.abs(theirs / theirs.max() - ours / ours.max()).max())
        correlations.append(np.corrcoef(theirs.ravel(), ours.ravel())[0, 1])
        assert np.array_equal(published.points(frame), np.unique(computed.points(frame), axis=0))
    assert len(errors) >= 20
    assert min(correlations) > 0.9999
    assert max(errors) < 0.02


# ---------------------------------------------------------------- DHF1K's layouts


@pytest.mark.parametrize(
    ("place", "title"),
    [
        ("video/{:03d}.AVI", "videos in video/"),
        ("video/{:04d}.mp4", "videos in video/"),
        ("{:03d}.AVI", "videos in the root folder"),
    ],
)
def test_dhf1k_splits_of_videos(tmp_path, logged, place, title):
    for number in (1, 601, 701, 1000):
        clip_file(tmp_path / place.format(number))
        if number < 701:
            points_file(tmp_path / "annotation" / f"{number:04d}")
    (tmp_path / place.format(7)).with_name("._001.AVI").touch()
    found = {split: names(find_videos("dhf1k", tmp_path, split=split)) for split in ("train", "test", "all")}
    assert found == {"train": ["001"], "test": ["701", "1000"], "all": ["001", "601", "701", "1000"]}
    assert title in logged.text
    validation = find_videos("dhf1k", tmp_path, split="validation")[0]
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
def test_dhf1k_layouts_of_extracted_frames(tmp_path, logged, images, truth):
    for number in (3, 600):
        frame_folder(tmp_path / images.format(number))
        picture_files(tmp_path / truth.format(number))
    assert recognise(tmp_path).name == "dhf1k"
    videos = find_videos("dhf1k", tmp_path, split="train")
    assert [(v.name, v.num_frames, v.size) for v in videos] == [("003", 6, SIZE), ("600", 6, SIZE)]
    assert images.split("{")[0].split("/")[0] in logged.text
    assert videos[0].truth.points(1).tolist() == [[18, 32]]
    clip = read_clip(Window(videos[0], 5), ClipSpec(2, SIZE, (1,), SIZE))
    assert clip[0, :, 0, 0].tolist() == [5, 6]  # frame 0005.png, then 0006.png


def test_dhf1k_videos_with_ground_truth_in_folders_of_splits(tmp_path):
    for number, half in ((1, "train"), (601, "val")):
        clip_file(tmp_path / f"video/{number:03d}.AVI")
        picture_files(tmp_path / f"{half}/{number:04d}")
    for split in ("train", "validation"):
        (video,) = find_videos("dhf1k", tmp_path, split=split)
        assert video.truth.points(1).tolist() == POINTS[1]


@pytest.mark.parametrize(("first", "expected"), [(0, POINTS[:4]), (1, POINTS[:4]), (3, POINTS[2:6])])
@pytest.mark.parametrize("kind", [picture_files, points_file])
def test_frames_and_maps_are_matched_by_number(tmp_path, kind, first, expected):
    """Frames counted from 0 start with the first map; an excerpt of a video keeps its numbers."""
    folder = tmp_path / "frames/0001"
    folder.mkdir(parents=True)
    for number in range(first, first + 4):
        Image.new("RGB", SIZE[::-1], (number,) * 3).save(folder / f"{number:04d}.png")
    kind(tmp_path / "annotation/0001")
    (video,) = find_videos("dhf1k", tmp_path)
    unique = [sorted({*map(tuple, points)}) for points in expected]
    assert [sorted({*map(tuple, video.truth.points(frame).tolist())}) for frame in range(4)] == unique


def test_missing_frame_is_an_error_only_with_maps(tmp_path):
    (frame_folder(tmp_path / "frames/0001") / "0003.png").unlink()
    picture_files(tmp_path / "annotation/0001")
    with pytest.raises(UserError, match=r"0004\.png: does not follow 0002\.png"):
        find_videos("dhf1k", tmp_path)
    assert find_videos("folder", tmp_path / "frames")[0].num_frames == 5


# ---------------------------------------------------------------- missing, broken or wrong


@pytest.fixture
def four(tmp_path):
    """Videos 1 to 4: 2 has no ground truth, 3 is truncated."""
    for number in (1, 2, 3, 4):
        clip_file(tmp_path / f"video/{number:03d}.AVI")
        if number != 2:
            points_file(tmp_path / f"annotation/{number:04d}")
    broken = tmp_path / "video/003.AVI"
    broken.write_bytes(broken.read_bytes()[:400])
    return tmp_path


def test_broken_and_unlabelled_videos_are_left_out_with_a_warning(four, logged):
    assert names(find_videos("dhf1k", four, split="train")) == ["001", "004"]
    assert "1 broken video left out" in logged.text
    assert "003.AVI" in logged.text
    assert "1 video without ground truth left out: 002" in logged.text
    assert names(find_videos("dhf1k", four)) == ["001", "002", "004"]


def test_videos_selected_by_name_are_used_or_refused(four):
    assert names(find_videos("dhf1k", four, split="train", videos=["2", "004"])) == ["002", "004"]
    assert names(find_videos("dhf1k", four, videos=["001.AVI"])) == ["001"]
    for selected, message in (
        (["001", "003"], r"003\.AVI.*cut off"),
        (["001", "009"], r"no video '009'.*4 in train"),
        ([], "the list is empty"),
    ):
        with pytest.raises(UserError, match=message):
            find_videos("dhf1k", four, videos=selected)


def test_target_frames_are_one_based_and_inclusive(four):
    for frames, expected in (((2, 4), range(1, 4)), ((5, 1000), range(4, 6))):
        (video,) = find_videos("dhf1k", four, videos=["001"], frames=frames)
        assert video.frames == expected
    for wrong, message in (((0, 3), "counted from 1"), ((4, 3), "first and last"), ((7, 9), "has 6 frames")):
        with pytest.raises(UserError, match=message):
            find_videos("dhf1k", four, videos=["001"], frames=wrong)


def test_labelled_split_without_ground_truth_names_a_remedy(tmp_path):
    clip_file(tmp_path / "video/001.AVI")
    with pytest.raises(UserError, match=r"1 have no ground truth .*by name"):
        find_videos("dhf1k", tmp_path, split="train")


def test_wrong_root_folder_names_the_right_one(four):
    assert len(find_videos("dhf1k", four / "video")) == 3  # videos in the root folder are a layout
    with pytest.raises(UserError, match="did you mean"):
        find_videos("dhf1k", four / "annotation")
    with pytest.raises(UserError, match="is a file"):
        find_videos("dhf1k", four / "video" / "001.AVI")


# ---------------------------------------------------------------- plain folders and generated videos


def test_folder_finds_videos_and_folders_of_frames(tmp_path, logged):
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
    assert "3 video files and 1 folders of frames" in logged.text
    assert names(find_videos("folder", file)) == ["my clip"]
    assert names(find_videos("folder", tmp_path / "day 1" / "frames 2")) == ["frames 2"]
    with pytest.raises(UserError, match="found nothing"):
        (tmp_path / "empty").mkdir()
        find_videos("folder", tmp_path / "empty")


def test_generated_videos_are_deterministic():
    first, again = (find_videos("synthetic", "", split="train")[0] for _ in range(2))
    assert first == again
    reader = open_video(first.path)
    assert (reader.num_frames, reader.size) == (first.num_frames, first.size)
    order = [7, 0, 7, 40]
    assert (reader.read(order, SIZE) == open_video(again.path).read(range(48), SIZE)[order]).all()
    assert not np.array_equal(reader.read([0]), reader.read([1]))
    assert torch.from_numpy(first.truth.density(3, SIZE)).sum().item() == pytest.approx(1, abs=1e-5)
    assert names(find_videos("synthetic", "", videos=["blob2"])) == ["blob2"]
    with pytest.raises(UserError, match="SEED-FRAMES"):
        open_video("synthetic:blob")
