"""`data check`: everything that is missing or broken, file by file, and an error when nothing is usable."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from distill.data.check import check
from distill.errors import UserError


def test_the_sample(sample):
    report = check(sample, progress=False)
    table = report.table()
    assert report.scan.dataset == "dhf1k"
    assert report.labelled == {"002": 783}
    for words in (
        "videos in video/",
        "2 (1 with ground truth, 1 without)",
        "1323 (783 with fixations)",
        "640x360 (2)",
    ):
        assert words in table
    assert "no ground truth for 1 videos: 068" in table


def test_everything_wrong_is_listed(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "broken")
    root = tmp_path / "broken"
    whole = (root / "video" / "068.AVI").read_bytes()
    (root / "video" / "068.AVI").write_bytes(whole[: len(whole) // 2])
    (root / "video" / "069.AVI").write_text("not a video")
    points = json.loads((root / "annotation/0002/fixations.json").read_text())
    points[4] = []
    points[9].append([360, 10])
    points += [[[1, 1]]] * 3
    (root / "annotation/0002/fixations.json").write_text(json.dumps(points))
    report = check(root, progress=False)
    table = report.table()
    assert set(report.scan.broken) == {"068", "069"}
    assert report.labelled == {"002": 782}
    for words in (
        "068.AVI: the file is cut off",
        "069.AVI: cannot be decoded",
        "no fixation in frame 5",
        "3 frames past the end",
        "1 points lie outside the 640 x 360 frame",
    ):
        assert words in table


def test_missing_pictures_are_listed(tmp_path):
    for name in ("images", "maps", "fixation"):
        (tmp_path / "annotation/0001" / name).mkdir(parents=True)
        for number in range(1, 6):
            picture = Image.fromarray(np.full((36, 64), number, dtype=np.uint8))
            picture.save(tmp_path / f"annotation/0001/{name}/{number:04d}.png")
    assert "Nothing is missing or broken." in check(tmp_path, progress=False).table()
    (tmp_path / "annotation/0001/maps/0002.png").unlink()
    (tmp_path / "annotation/0001/fixation/0004.png").rename(tmp_path / "annotation/0001/fixation/0009.png")
    report = check(tmp_path, progress=False)
    assert [complaint.split("0001/")[1] for complaint in report.complaints] == [
        "maps: no picture for frame 2",
        "fixation: no picture for frame 4",
        "fixation: 1 pictures past the end of the video or misnamed are not used",
    ]
    assert report.labelled == {"001": 4}


def test_broken_ground_truth_does_not_stop_the_report(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "broken")
    (tmp_path / "broken/annotation/0002/fixations.json").write_text("[[")
    report = check(tmp_path / "broken", progress=False)
    assert report.labelled == {"002": 0}
    assert "fixations.json: cannot be read as JSON" in report.table()


def test_layouts_are_recognised(shared, sample, tmp_path):
    assert check(shared / "data" / "hevc-gaze", progress=False).scan.dataset == "ntire"
    assert check(shared / "data" / "unlabelled", progress=False).scan.dataset == "folder"
    assert check(sample, "folder", progress=False).scan.dataset == "folder"


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no data set is recognised here.*found nothing"):
        check(tmp_path, progress=False)
    with pytest.raises(UserError, match="no such folder"):
        check(tmp_path / "missing", progress=False)
    with pytest.raises(UserError, match="no data set 'coco'"):
        check(tmp_path, "coco", progress=False)
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "001.AVI").write_text("not a video")
    with pytest.raises(UserError, match=r"nothing usable.*001\.AVI: cannot be decoded"):
        check(tmp_path, progress=False)
