import resource
from pathlib import Path

import numpy as np
import pytest
from helpers.stores import flip_byte
from PIL import Image

from distill.cli.main import main
from distill.data.clips import ClipSpec
from distill.data.map_files import write_map_video
from distill.data.sets import synthetic
from distill.errors import UserError
from distill.targets.fingerprint import describe_video
from distill.targets.importer import import_maps
from distill.targets.store import TargetStore
from distill.targets.verify import verify_store
from distill.training.teachers import CachedTeacher


def levels(video: str, frame: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """Return a map (h, w) of grey levels from 1 to 255, a function of its key."""
    return np.random.default_rng([len(video), frame]).integers(1, 256, size).astype(np.uint8)


def write(folder: Path, videos: dict[str, list[int]], change=lambda values: values) -> Path:
    for video, frames in videos.items():
        (folder / video).mkdir(parents=True)
        for frame in frames:
            Image.fromarray(change(levels(video, frame))).save(folder / video / f"{frame + 1:04d}.png")
    return folder


def density(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return values / values.sum()


def imported(*folders: Path, out: Path, **settings) -> TargetStore:
    return import_maps(folders, out, **{"codec": "exact", "progress": False, **settings})


VIDEOS = {"one": [0, 1, 2, 3, 4], "other": [2, 5, 9]}


def test_import_of_images_stores_their_maps(tmp_path):
    store = imported(write(tmp_path / "maps", VIDEOS), out=tmp_path / "store")
    assert store.complete
    assert {video: list(frames) for video, frames in store.plan.videos.items()} == VIDEOS
    assert store.map_size == (6, 8)
    for video, frames in VIDEOS.items():
        for frame in frames:
            np.testing.assert_allclose(np.exp(store.read(video, frame)), levels(video, frame), rtol=1e-3)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.5 / 255), (10, 0.5 / 1023)])
def test_import_of_videos_keeps_their_bit_depth(tmp_path, bits, error):
    maps = [levels("v", frame) / 255 for frame in range(7)]
    write_map_video(tmp_path / "maps" / "v.mp4", maps, fps=25, bits=bits)
    store = imported(tmp_path / "maps", out=tmp_path / "store")
    assert list(store.plan.videos["v"]) == list(range(7))
    for frame, values in enumerate(maps):
        found = store.read("v", frame)
        np.testing.assert_allclose(np.exp(found - found.max()) * values.max(), values, atol=2 * error)


def test_import_of_black_pixels_is_finite(tmp_path):
    folder = tmp_path / "maps" / "v"
    folder.mkdir(parents=True)
    Image.fromarray(np.array([[0, 255], [51, 0]], np.uint8)).save(folder / "0003.png")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "0007.png")
    store = imported(tmp_path / "maps", out=tmp_path / "store")
    expected = np.log(np.array([[0.5, 255], [51, 0.5]]))
    np.testing.assert_allclose(store.read("v", 2), expected, atol=1e-3)
    assert np.ptp(store.read("v", 6)) == 0  # a black map is uniform
    assert not store.has("v", 3)


def test_import_with_map_size_resizes(tmp_path):
    folder = write(tmp_path / "maps", {"v": [0]}, lambda values: np.repeat(np.repeat(values, 4, 0), 4, 1))
    store = imported(folder, out=tmp_path / "store", map_size=(6, 8))
    assert store.map_size == (6, 8)
    found = np.exp(store.read("v", 0))
    assert np.corrcoef(found.ravel(), levels("v", 0).ravel())[0, 1] > 0.95
    assert found.mean() == pytest.approx(levels("v", 0).mean(), rel=0.05)


def test_import_of_two_sources_averages_densities_or_their_logarithms(tmp_path):
    """Maps are normalised to densities first: scaling a source does not change the mean."""
    first = write(tmp_path / "a", VIDEOS, lambda values: values // 2 + 1)
    second = write(tmp_path / "b", VIDEOS, lambda values: 256 - values.astype(np.uint16))
    p = density(levels("one", 3) // 2 + 1)
    q = density(256 - levels("one", 3).astype(np.float64))
    for mean, expected in {"linear": (p + q) / 2, "log": density(np.sqrt(p * q))}.items():
        store = imported(first, second, out=tmp_path / mean, mean=mean)
        found = density(np.exp(store.read("one", 3)))
        np.testing.assert_allclose(found, expected, rtol=2e-3)
        assert store.fingerprint["teacher"]["variant"] == f"{mean} mean of 2"
    assert store.check(imported(first, out=tmp_path / "one").fingerprint)
    with pytest.raises(UserError, match="expected one of linear, log, got 'median'"):
        imported(first, second, out=tmp_path / "median", mean="median")
    assert not (tmp_path / "median").exists()


def test_import_of_another_store_equals_its_images(tmp_path):
    pictures = write(tmp_path / "maps", VIDEOS)
    store = imported(pictures, out=tmp_path / "store")
    both = imported(store.path, pictures, out=tmp_path / "both", map_size=(3, 4))
    same = imported(pictures, out=tmp_path / "same", map_size=(3, 4))
    for frame in VIDEOS["other"]:
        np.testing.assert_allclose(
            density(np.exp(both.read("other", frame))), density(np.exp(same.read("other", frame))), rtol=1e-2
        )


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ({"one": VIDEOS["one"]}, r"b: no maps of other, which .*a has"),
        ({**VIDEOS, "three": [0]}, r"a: no maps of three, which .*b has"),
        ({**VIDEOS, "other": [2, 5]}, r"b: no map of other, frame 10, which .*a has"),
        (
            {**VIDEOS, "one": list(range(20))},
            r"a: no map of one, frame 6, 7, 8, 9, 10 and 10 more, which .*b has",
        ),
    ],
)
def test_import_of_sources_with_different_frames_raises(tmp_path, videos, message):
    with pytest.raises(UserError, match=message):
        imported(write(tmp_path / "a", VIDEOS), write(tmp_path / "b", videos), out=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "found no maps"),
        (lambda folder: write(folder, {"v": [0]}) and (folder / "v" / "0000.png").touch(), r"0000.*counted from 1"),
        (lambda folder: (folder / "v").mkdir(parents=True) or (folder / "v" / "x1.png").touch(), "counted from 1"),
        (lambda folder: (folder / "v").mkdir(parents=True) or (folder / "v" / "1.png").touch(), r"1\.png: "),
        (lambda folder: folder.mkdir() or (folder / "v.mp4").write_bytes(b"no video"), r"v\.mp4"),
    ],
)
def test_import_of_an_invalid_folder_raises(tmp_path, make, message):
    make(tmp_path / "maps")
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "maps", out=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_import_of_a_repaired_folder_succeeds(tmp_path):
    folder = write(tmp_path / "maps", {"v": list(range(12))})
    broken = folder / "v" / "0011.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"0011\.png"):
        imported(folder, out=tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    broken.write_bytes(whole)
    assert imported(folder, out=tmp_path / "store").complete
    with pytest.raises(UserError, match="a store already exists"):
        imported(folder, out=tmp_path / "store")
    (tmp_path / "empty").mkdir()
    assert imported(folder, out=tmp_path / "empty").complete


def test_import_on_a_full_disk_says_that_nothing_is_kept(tmp_path):
    folder = write(tmp_path / "maps", {"v": list(range(40))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(
            UserError, match=r"store: no space left to write \(File too large\); nothing of the import"
        ):
            imported(folder, out=tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["maps"]
    assert imported(folder, out=tmp_path / "store").complete


def test_verify_of_an_imported_store_compares_with_its_sources(tmp_path):
    folders = [write(tmp_path / name, VIDEOS) for name in ("a", "b")]
    store = imported(*folders, out=tmp_path / "store", codec="log8")
    report = verify_store(store.path, sample=8)
    assert report.ok
    assert len(report.errors) == 8
    assert 0 < report.kl_max < 1e-3
    Image.fromarray(levels("x", 9)).save(folders[1] / "other" / "0003.png")
    with pytest.raises(UserError, match=r"teacher\.weights was .* verify it with the teacher"):
        verify_store(store.path)
    assert verify_store(store.path, sample=0).ok


def test_imported_store_matches_any_videos_but_no_other_teacher(tmp_path):
    video = synthetic.video("blob0", 0)
    store = imported(write(tmp_path / "maps", {"blob0": list(range(48))}), out=tmp_path / "store")
    assert store.check({"videos": {"blob0": describe_video(video)}}) == []
    CachedTeacher(store, ClipSpec(1, store.map_size, (0,), store.map_size)).require([video])
    with pytest.raises(UserError, match=r"teacher\.name was \"imported\" and is now \"teacher/salfom\""):
        store.require({"teacher": {"name": "teacher/salfom"}, "videos": {}}, "")


def test_cache_import_and_verify_commands_report_a_flipped_byte(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = [str(write(tmp_path / name, VIDEOS)) for name in ("a", "b")]
    assert main(["cache", "import", *folders, "--mean", "log", "--size", "3x4", "-o", "store"]) == 0
    assert "8 of 8, 3x4" in capsys.readouterr().out
    assert main(["cache", "verify", "store"]) == 0
    assert "they match" in capsys.readouterr().out
    flip_byte(tmp_path / "store" / "shards" / "00000.shard", 300)
    assert main(["cache", "verify", "store"]) == 1
    assert "00000.shard" in capsys.readouterr().out
