"""Hollywood-2 and UCF-Sports: numbering, length and ground truth of shots, shares, and the report."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from distill.data.check import check
from distill.data.clip_reader import read_clip, read_truth
from distill.data.clips import ClipSpec, Window
from distill.data.sets.find import find_videos
from distill.errors import UserError
from distill.fixations import density_from_points, fixation_map
from distill.training.config import RunConfig, TrainSource
from distill.training.setup import build_clips
from distill.training.sources import share_of, training_sources, videos_of_source

SIZE = (36, 64)
POINTS = [[[3, 4], [30, 60]], [[18, 32]], [[5, 50]], [[35, 63]]]


def write_shot(folder, prefix, *, first=1, digits=5, frames=4, maps=True, fixations="png", missing=()):
    """Write a shot whose frame n has grey level n and whose ground truth is POINTS."""
    for name in ("images", "maps", "fixation/maps"):
        (folder / name).mkdir(parents=True)
    for place in sorted(set(range(frames)) - set(missing)):
        name = f"{prefix}{first + place:0{digits}d}"
        Image.new("RGB", SIZE[::-1], (first + place,) * 3).save(folder / "images" / f"{name}.png")
        binary = (fixation_map(np.array(POINTS[place]), SIZE) > 0).astype(np.uint8)
        if fixations == "png":
            Image.fromarray(255 * binary).save(folder / "fixation" / f"{name}.png")
        else:
            savemat(folder / "fixation" / "maps" / f"{name}.mat", {"I": binary})
        if maps:
            grey = density_from_points(np.array(POINTS[place]), SIZE, sigma=20)
            Image.fromarray(np.rint(255 * grey / grey.max()).astype(np.uint8)).save(folder / "maps" / f"{name}.png")


@pytest.fixture
def hollywood(tmp_path):
    root = tmp_path / "hollywood"
    for number, (first, frames) in enumerate([(1, 4), (5, 3), (8, 1)], 1):
        folder = root / f"training/actioncliptrain00001_{number}"
        write_shot(folder, "actioncliptrain00001_", first=first, frames=frames)
    write_shot(root / "training/actioncliptrain00002_1", "actioncliptrain00002_", maps=False, fixations="mat")
    write_shot(root / "testing/actioncliptest00001_12", "actioncliptest00001_", first=99998)
    return root


@pytest.fixture
def ucf(tmp_path):
    root = tmp_path / "ucf"
    write_shot(root / "training/Diving-Side-005", "Diving-Side_005_", digits=3)
    write_shot(root / "testing/Golf-Swing-Back-001", "Golf-Swing-Back_001_", digits=3, fixations="mat")
    return root


# ---------------------------------------------------------------- shots


def test_hollywood_splits_and_recordings(hollywood, caplog):
    caplog.set_level(logging.INFO, logger="distill")
    train = find_videos("hollywood2", hollywood, split="train")
    assert "frames in training|testing/SHOT/images/; 4 videos, 4 with ground truth" in caplog.text
    recordings = ["actioncliptrain00001"] * 3 + ["actioncliptrain00002"]
    assert [v.recording for v in train] == recordings
    assert [v.name for v in train] == [f"{name}_{n}" for name, n in zip(recordings, (1, 2, 3, 1), strict=True)]
    assert [(v.num_frames, v.size) for v in train] == [(count, SIZE) for count in (4, 3, 1, 4)]
    assert [v.name for v in find_videos("hollywood2", hollywood, split="test")] == ["actioncliptest00001_12"]
    assert len(find_videos("hollywood2", hollywood)) == 5


def test_ucf_sports_splits_and_points(ucf):
    (train,) = find_videos("ucf_sports", ucf, split="train")
    (test,) = find_videos("ucf_sports", ucf, split="test")
    assert (train.name, test.name, test.recording) == ("Diving-Side-005", "Golf-Swing-Back-001", test.name)
    for video in (train, test):
        assert [video.truth.points(frame).tolist() for frame in range(4)] == POINTS


def test_shot_may_start_at_any_number_and_gain_a_digit(hollywood):
    """Frames 99998 to 100001."""
    (video,) = find_videos("hollywood2", hollywood, split="test")
    assert [video.truth.points(frame).tolist() for frame in range(4)] == POINTS
    assert [video.truth.has(frame) for frame in range(5)] == [True] * 4 + [False]
    second = find_videos("hollywood2", hollywood, split="train")[1]
    assert [second.truth.points(frame).tolist() for frame in range(3)] == POINTS[:3]
    assert read_clip(Window(second, 2), ClipSpec(3, SIZE, (2,), SIZE))[0, :, 0, 0].tolist() == [5, 6, 7]


def test_shot_shorter_than_the_clip_is_padded_on_the_left(hollywood):
    second, third = find_videos("hollywood2", hollywood, split="train")[1:3]
    spec = ClipSpec(16, SIZE, (15,), SIZE)
    assert read_clip(Window(second, 2), spec)[0, :, 0, 0].tolist() == [5] * 14 + [6, 7]
    assert read_clip(Window(third, 0), spec)[0, :, 0, 0].tolist() == [8] * 16
    truth = read_truth(Window(third, 0), spec)
    assert truth["labelled"].tolist() == [True]
    assert truth["fixations"].nonzero().tolist() == [[0, *point] for point in POINTS[0]]


@pytest.mark.parametrize(("maps", "fixations"), [(True, "png"), (False, "png"), (False, "mat")])
def test_densities_have_the_data_sets_gaussian_with_and_without_maps(tmp_path, maps, fixations):
    write_shot(tmp_path / "training/Diving-Side-005", "Diving-Side_005_", digits=3, maps=maps, fixations=fixations)
    (video,) = find_videos("ucf_sports", tmp_path)
    for frame, points in enumerate(POINTS):
        expected = density_from_points(np.array(points), SIZE, sigma=20)
        assert np.abs(video.truth.density(frame, SIZE) - expected).max() < 0.01 * expected.max()
    assert not np.allclose(expected, density_from_points(np.array(points), SIZE), atol=1e-4)


def test_missing_frame_breaks_its_shot(ucf, caplog):
    write_shot(ucf / "training/Run-Side-001", "Run-Side_001_", digits=3, missing=(2,))
    assert [v.name for v in find_videos("ucf_sports", ucf, split="train")] == ["Diving-Side-005"]
    assert "Run-Side_001_004.png: does not follow Run-Side_001_002.png" in caplog.text
    with pytest.raises(UserError, match=r"does not follow Run-Side_001_002\.png"):
        find_videos("ucf_sports", ucf, videos=["Run-Side-001"])


def test_shots_without_ground_truth_or_frames_are_left_out(ucf, caplog):
    write_shot(ucf / "training/Run-Side-001", "Run-Side_001_", digits=3)
    for name in ("maps", "fixation"):
        (ucf / "training/Run-Side-001" / name).rename(ucf / name)
    (ucf / "training/Run-Side-002/images").mkdir(parents=True)
    assert [v.name for v in find_videos("ucf_sports", ucf, split="train")] == ["Diving-Side-005"]
    assert "without ground truth left out: Run-Side-001" in caplog.text
    assert "no frame in this folder" in caplog.text


@pytest.mark.parametrize(("root", "dataset", "count"), [("hollywood", "hollywood2", 5), ("ucf", "ucf_sports", 2)])
def test_both_layouts_are_recognised(request, root, dataset, count):
    report = check(request.getfixturevalue(root), progress=False)
    assert (report.scan.dataset.name, len(report.scan.videos)) == (dataset, count)
    assert report.labelled(report.scan.videos) == sum(video.num_frames for video in report.scan.videos)
    assert not report.problems


def test_root_of_the_other_data_set_is_refused(hollywood):
    with pytest.raises(UserError, match=r"expected ucf_sports.*found testing/, training/"):
        find_videos("ucf_sports", hollywood)
    with pytest.raises(UserError, match="did you mean"):
        find_videos("hollywood2", hollywood / "training")


def test_check_counts_published_and_short_shots(hollywood):
    table = check(hollywood, progress=False).table()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in table.splitlines() if line.startswith("  t")}
    assert rows["train"] == "2699 4 4 4 12 12"  # published, found, usable, labelled, frames, fixated
    assert rows["test"] == "3558 1 1 1 4 4"
    assert "5 videos with fewer than 16 frames; the first frame is repeated" in table


def test_missing_images_are_reported_by_frame(hollywood):
    folder = hollywood / "training/actioncliptrain00001_2"
    (folder / "maps/actioncliptrain00001_00006.png").unlink()
    (folder / "fixation/actioncliptrain00001_00007.png").rename(folder / "fixation/actioncliptrain00001_00001.png")
    assert [text.removeprefix(f"{folder}/") for text in check(hollywood, progress=False).problems] == [
        "maps: no file for frame 2",
        "fixation: no file for frame 3",
        "fixation: past the end of the video or misnamed, not used: actioncliptrain00001_00001.png",
    ]


# ---------------------------------------------------------------- shares, and clips longer than a shot


def shots(count):
    """Return the shots of `count` recordings; recording n was cut into n % 3 + 1 shots."""
    video = find_videos("synthetic", "")[0]
    return [
        replace(video, name=f"film{n:03d}_{shot}", recording=f"film{n:03d}")
        for n in range(count)
        for shot in range(n % 3 + 1)
    ]


def recordings(videos):
    return {video.recording for video in videos}


def test_adjacent_shares_partition_the_recordings():
    videos = shots(60)
    train, held_out = (share_of(videos, share, seed=0) for share in ((0, 0.9), (0.9, 1)))
    assert (len(recordings(train)), len(recordings(held_out))) == (54, 6)
    assert not recordings(train) & recordings(held_out)
    assert sorted(video.name for video in train + held_out) == [video.name for video in videos]
    assert [video.name for video in train] == sorted(video.name for video in train)  # keeps the order
    assert share_of(videos, (0, 1), seed=0) == videos


def test_share_depends_only_on_its_seed():
    videos = shots(60)
    held_out = share_of(videos, (0.9, 1), seed=0)
    assert share_of(videos[::-1], (0.9, 1), seed=0) == held_out[::-1]
    assert share_of(videos, (0.9, 1), seed=1) != held_out
    fewer = [video for video in videos if video.recording != "film030"]  # missing on some machine
    again = recordings(share_of(fewer, (0.9, 1), seed=0))
    assert len((recordings(held_out) - {"film030"}) ^ again) <= 1


def test_share_applies_to_the_selected_videos(hollywood):
    source = {"dataset": "hollywood2", "root": str(hollywood), "split": "train"}
    train, held_out = (videos_of_source(TrainSource(**source, share=share)) for share in ((0, 0.5), (0.5, 1)))
    assert sorted(len(part) for part in (train, held_out)) == [1, 3]
    with pytest.raises(UserError, match=r"share \[0\.9, 0\.95\] of 4 videos selects none"):
        videos_of_source(TrainSource(**source, share=(0.9, 0.95)))


def test_shots_shorter_than_a_clip_are_counted(hollywood, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="distill")
    config = RunConfig.model_validate(
        {
            "out": str(tmp_path),
            "model": {"name": "teacher/salfom", "variant": "micro"},
            "data": {"train": [{"dataset": "hollywood2", "root": str(hollywood), "split": "train"}]},
            "losses": [{"name": "cc"}],
            "training": {"steps": 1},
        }
    )
    spec = ClipSpec(4, SIZE, (3,), SIZE)
    clips = build_clips(config, training_sources(config.data), spec)
    assert "2 of 4 training videos are shorter than a clip (4 frames)" in caplog.text
    assert {clips[i]["clip"].shape for i in range(8)} == {(3, 4, *SIZE)}
    assert all(clips[i]["labelled"].all() for i in range(8))
    caplog.clear()
    build_clips(config, training_sources(config.data), replace(spec, num_frames=1, target_frames=(0,)))
    assert "shorter than a clip" not in caplog.text
