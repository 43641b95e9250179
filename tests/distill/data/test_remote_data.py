"""Data sets at addresses: the same videos and ground truth as in a folder, from a bounded cache."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.object_storage import Storage, every, first, object_storage
from helpers.runs import config, losses

from distill import remote
from distill.data.check import check
from distill.data.clips import Video
from distill.data.remote_data import data_root, local, remote_file
from distill.data.sets.find import find_videos
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.targets.fingerprint import describe_video
from distill.training.train import train

ADDRESS = Storage.address("sets/dhf1k")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Storage]:
    with pytest.MonkeyPatch.context() as environment, object_storage(environment) as storage:
        yield storage


def upload(storage: Storage, folder: Path, name: str = "sets/dhf1k") -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.fixture
def storage(endpoint: Storage, sample: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """The sample of DHF1K in a bucket, and an empty cache."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)
    endpoint.empty()
    upload(endpoint, sample)
    endpoint.requests.clear()
    return endpoint


def assert_same(one: Video, other: Video) -> None:
    """Compare two videos and their ground truth, apart from where they are."""
    assert (one.name, one.num_frames, one.fps, one.size, one.dataset) == (
        other.name,
        other.num_frames,
        other.fps,
        other.size,
        other.dataset,
    )
    frames = [0, one.num_frames // 2, one.num_frames - 1]
    np.testing.assert_array_equal(
        open_video(one.path).read(frames, (24, 40)), open_video(other.path).read(frames, (24, 40))
    )
    assert (one.truth is None) == (other.truth is None)
    if one.truth is not None and other.truth is not None:
        for frame in frames:
            np.testing.assert_array_equal(one.truth.points(frame), other.truth.points(frame))
            np.testing.assert_array_equal(one.truth.density(frame, (9, 16)), other.truth.density(frame, (9, 16)))
    assert describe_video(one) == describe_video(other)
    assert describe_video(one, content=False) == describe_video(other, content=False)


def test_videos_of_an_address_are_those_of_the_folder(storage: Storage, sample: Path) -> None:
    remote_videos, videos = find_videos("dhf1k", ADDRESS), find_videos("dhf1k", sample)
    assert len(remote_videos) == len(videos) == 2
    for one, other in zip(remote_videos, videos, strict=True):
        assert_same(one, other)
    assert storage.gets(".AVI") == 2  # each once


def test_second_scan_fetches_no_video(storage: Storage, empty_cache: Path) -> None:
    find_videos("dhf1k", ADDRESS)
    shutil.rmtree(empty_cache.parent / "remote")  # only the inspections and the tree are left
    storage.requests.clear()
    find_videos("dhf1k", ADDRESS)
    assert storage.gets(".AVI") == 0


def test_video_that_changed_is_fetched_again(storage: Storage, sample: Path) -> None:
    (before,) = find_videos("dhf1k", ADDRESS, videos=["2"])
    storage.put("sets/dhf1k/video/002.AVI", (sample / "video/068.AVI").read_bytes())
    (after,) = find_videos("dhf1k", ADDRESS, videos=["2"])
    assert after.num_frames != before.num_frames or describe_video(after) != describe_video(before)
    storage.delete("sets/dhf1k/video/002.AVI")
    with pytest.raises(UserError, match="no video '2'"):
        find_videos("dhf1k", ADDRESS, videos=["2"])


def frames_folder(root: Path, sample: Path) -> Path:
    """Write frames and maps of a video in DHF1K's layout with one image per frame."""
    import cv2

    folder = root / "annotation/0002"
    for part in ("images", "maps", "fixation"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(1, 6):
        cv2.imwrite(str(folder / f"images/{number:04d}.png"), random.integers(0, 255, (36, 64, 3), np.uint8))
        cv2.imwrite(str(folder / f"maps/{number:04d}.png"), random.integers(0, 255, (36, 64), np.uint8))
        points = np.zeros((36, 64), np.uint8)
        points[number, 2 * number] = 255
        cv2.imwrite(str(folder / f"fixation/{number:04d}.png"), points)
    return root


def test_folders_of_images_are_fetched_as_one(storage: Storage, sample: Path, tmp_path: Path) -> None:
    folder = frames_folder(tmp_path / "frames", sample)
    upload(storage, folder, "sets/frames")
    (one,) = find_videos("dhf1k", Storage.address("sets/frames"))
    (other,) = find_videos("dhf1k", folder)
    assert_same(one, other)
    assert storage.gets(".png") == 15
    file = remote_file(one.path)
    assert file is not None
    assert file.is_folder


def test_folder_data_set_reads_videos_at_any_depth(storage: Storage, sample: Path) -> None:
    videos = find_videos("folder", Storage.address("sets"))
    assert [video.name for video in videos] == ["dhf1k/video/002", "dhf1k/video/068"]
    assert_same(videos[0], find_videos("folder", sample.parent, videos=["dhf1k/video/002"])[0])


def test_training_from_an_address_has_the_losses_of_the_folder(
    storage: Storage, sample: Path, tmp_path: Path
) -> None:
    def run(name: str, root: str | Path, workers: int) -> Path:
        source = {"dataset": "dhf1k", "root": str(root), "split": "train"}
        model = {"name": "student/thtdnet", "variant": "micro"}
        training = {"steps": 3, "batch_size": 2}
        data = {"train": [source], "workers": workers}
        return train(config(tmp_path / name, model=model, data=data, training=training))

    expected = losses(run("folder", sample, 0))
    storage.fault = every(3, "cut", ending="")
    assert losses(run("address", ADDRESS, 0)) == expected
    assert losses(run("workers", ADDRESS, 2)) == expected


def test_cache_that_holds_one_video_at_a_time_is_enough(
    storage: Storage, sample: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.file_cache.IN_USE", 0.0)
    sizes = [path.stat().st_size for path in (sample / "video").iterdir()]
    limit = max(sizes) + 20_000
    monkeypatch.setenv("SALDISTILL_CACHE_GIB", str(limit / 2**30))
    videos = find_videos("dhf1k", ADDRESS)
    for _ in range(2):
        for video in videos:
            assert open_video(video.path).read([0], (9, 16)).shape == (1, 9, 16, 3)
            cached = [path for path in (empty_cache.parent / "remote").rglob("*") if path.is_file()]
            assert sum(path.stat().st_size for path in cached) <= limit
    assert storage.gets(".AVI") >= 4


def test_data_check_of_an_address_reports_as_of_the_folder(storage: Storage, sample: Path) -> None:
    report, expected = check(ADDRESS, progress=False), check(sample, progress=False)
    assert report.as_dict()["dataset"] == expected.as_dict()["dataset"]
    assert len(report.scan.videos) == len(expected.scan.videos)


# ---------------------------------------------------------------- bad input


def test_damaged_video_at_an_address_is_named_once(storage: Storage, sample: Path) -> None:
    storage.put("sets/dhf1k/video/002.AVI", (sample / "video/002.AVI").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"^[^ ]*dhf1k/video/002.AVI: ") as error:
        find_videos("dhf1k", ADDRESS, videos=["2"])
    assert str(error.value).count("002.AVI") == 1


@pytest.mark.parametrize(
    ("dataset", "root", "sentence"),
    [
        (
            "ntire",
            "s3://bucket/sets",
            "s3://bucket/sets: ntire must be in a folder; of the data sets, dhf1k, folder",
        ),
        ("dhf1k", "s3://nowhere/sets", "s3://nowhere/sets: no such bucket; check the address"),
        ("dhf1k", "s3://bucket/none", "s3://bucket/none: no such file or folder; check the address"),
        ("dhf1k", "s3://bucket/other", r"expected dhf1k, with video/001.AVI or"),
    ],
)
def test_find_videos_at_a_wrong_address_raises(dataset: str, root: str, sentence: str, storage: Storage) -> None:
    storage.put("other/text.txt", b"mine")
    with pytest.raises(UserError, match=sentence):
        find_videos(dataset, root)


def test_video_that_cannot_be_fetched_raises_one_sentence(
    storage: Storage, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRIES", 1)
    (video,) = find_videos("dhf1k", ADDRESS, videos=["2"])
    shutil.rmtree(empty_cache.parent / "remote")
    storage.fault = first(1000, "503", ending=".AVI")
    with pytest.raises(UserError, match=r"s3://bucket/sets/dhf1k/video/002.AVI: cannot be downloaded"):
        open_video(video.path)


def test_names_that_leave_the_folder_raise(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    """A listing may claim anything."""
    listed = {"../../outside.avi": (3, "tag"), "inside.avi": (3, "tag")}
    monkeypatch.setattr(remote.RemoteFolder, "entries", lambda self: listed)
    tree = data_root("memory://evil")
    assert {path.name for path in empty_cache.parent.rglob("*.avi")} == {"inside.avi"}
    assert tree.name == "evil"
    listed["bad\nname.avi"] = (3, "tag")
    with pytest.raises(UserError, match=r"memory://evil: the name 'bad.*' cannot become a path"):
        data_root("memory://evil")


def test_local_leaves_other_paths_alone(tmp_path: Path, empty_cache: Path) -> None:
    for path in (tmp_path / "video.mp4", Path("relative.mp4"), empty_cache.parent / "known/x"):
        assert local(path) == path
