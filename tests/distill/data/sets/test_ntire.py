"""The AIM 2024 and NTIRE 2026 challenges: splits, fixations, densities and missing files."""

import json
import logging

import numpy as np
import pytest
from helpers.data_files import POINTS, SIZE, clip_file, grey_video, points_file, ramps

from distill.data.check import check
from distill.data.sets.find import find_videos
from distill.errors import UserError


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="distill")
    return caplog


def test_splits_of_the_hevc_gaze_sample(shared):
    root = shared / "data" / "hevc-gaze"
    train, test = (find_videos("ntire", root, split=split) for split in ("train", "public_test"))
    assert (len(train), len(test)) == (18, 10)
    assert not {video.name for video in train} & {video.name for video in test}
    assert sum(video.num_frames for video in train + test) == 7281
    for video in train + test:
        assert video.truth is not None
        assert 15 < len(video.truth.points(video.num_frames // 2)) < 40
    with pytest.raises(UserError, match=r"no usable video.*0 in private_test"):
        find_videos("ntire", root, split="private_test")


@pytest.fixture
def challenge(tmp_path):
    splits = {"train": ["a b.mp4", "gone.mp4", "bare.mp4"], "public_test": ["c.mp4"]}
    (tmp_path / "TrainTestSplit.json").write_text(json.dumps(splits))
    for name in ("a b", "bare", "c"):
        clip_file(tmp_path / "Videos" / f"{name}.mp4")
    points_file(tmp_path / "FixationsTrain/Train/a b", [*POINTS, [[1, 1]], [[2, 2]]])
    points_file(tmp_path / "FixationsTest/Test/c", [[[36, 0], [0, 64], [-1, 5], [5, 6]], []])
    return tmp_path


def test_splits_and_fixations_of_a_challenge_folder(challenge, logged):
    (video,) = find_videos("ntire", challenge, split="train")
    assert video.name == "a b"
    assert "Videos/gone.mp4: missing, but listed in TrainTestSplit.json" in logged.text
    assert "without ground truth left out: bare" in logged.text
    assert video.truth is not None
    assert len(video.truth.points(2)) == 3
    (video,) = find_videos("ntire", challenge, split="public_test")
    assert video.truth is not None
    assert video.truth.points(0).tolist() == [[5, 6]]  # points outside the frame are ignored
    assert not video.truth.density(1, SIZE).any()
    assert not video.truth.has(1)
    assert len(find_videos("ntire", challenge)) == 3
    (challenge / "TrainTestSplit.json").write_text("{")
    with pytest.raises(
        UserError, match=r"TrainTestSplit\.json: cannot be read as a split file .*; expected \{\"train\": \[\"NAME"
    ):
        find_videos("ntire", challenge)


def test_published_densities_are_used(challenge):
    maps = ramps(6)
    grey_video(challenge / "SaliencyTrain/Train/a b.mp4", maps)
    (video,) = find_videos("ntire", challenge, split="train")
    for frame in range(6):
        assert np.abs(video.truth.density(frame, SIZE) - maps[frame] / maps[frame].sum()).max() < 1e-5
    (video,) = find_videos("ntire", challenge, split="public_test")
    assert video.truth.maps is None


def test_check_reports_missing_and_unusual_files(challenge):
    splits = json.loads((challenge / "TrainTestSplit.json").read_text())
    splits["public_test"].append("a b.mp4")
    (challenge / "TrainTestSplit.json").write_text(json.dumps(splits))
    clip_file(challenge / "Videos/stray.mp4")
    points_file(challenge / "FixationsTest/Test/lost")
    grey_video(challenge / "SaliencyTrain/Train/a b.mp4", [m[:18, :32] for m in ramps(4)])
    report = check(challenge, progress=False)
    assert report.scan.dataset.name == "ntire"
    assert set(report.scan.broken) == {"gone"}
    for text in (
        "Videos/gone.mp4: missing, but listed in TrainTestSplit.json",
        "Videos/stray.mp4: not in any split of TrainTestSplit.json",
        "TrainTestSplit.json: lists a b more than once",
        "FixationsTest/Test/lost/fixations.json: fixations without a video",
        "SaliencyTrain/Train/a b.mp4: has 4 of 6 frames",
        "SaliencyTrain/Train/a b.mp4: has 32 x 18 pixels and its video 64 x 36",
        "FixationsTrain/Train/a b/fixations.json: 2 frames past the end",
        "FixationsTest/Test/c/fixations.json: fixations for 2 of 6 frames",
        "FixationsTest/Test/c/fixations.json: 3 points outside the 64 x 36 frame, in frame 1, not used",
        "no ground truth for 2 videos: bare, stray",
    ):
        assert text in report.table()
    rows = {line.split()[0]: line.split()[1:] for line in report.table().splitlines() if "train " in line}
    assert rows["train"] == ["3", "2", "2", "1", "6", "6"]  # published, found, usable, labelled, frames, fixated


def test_folder_without_the_split_file_is_a_plain_folder(challenge):
    (challenge / "TrainTestSplit.json").unlink()
    with pytest.raises(UserError, match=r"expected ntire, with Videos/<name>\.mp4 and TrainTestSplit\.json"):
        find_videos("ntire", challenge)
    report = check(challenge, progress=False)
    assert report.scan.dataset.name == "folder"
    assert "has parts of ntire, which requires Videos/<name>.mp4 and TrainTestSplit.json" in report.table()
