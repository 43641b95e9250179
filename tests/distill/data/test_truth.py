"""Ground truth from points, images, MATLAB files and videos, and damaged files."""

import pickle

import h5py
import numpy as np
import pytest
from helpers.data_files import POINTS, SIZE, frame_folder, grey_video, picture_files, points_file, ramps
from PIL import Image
from scipy.io import savemat

from distill.data.annotation import read_mat, read_picture, read_points
from distill.data.sets.find import find_videos
from distill.data.truth import MapsTruth, PointsTruth, read_grey, truth_of
from distill.errors import UserError
from distill.fixations import density_from_points


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("fixations", ["png", "mat"])
def test_images_and_points_give_the_same_ground_truth(tmp_path, channels, fixations):
    points_file(tmp_path / "points")
    picture_files(tmp_path / "pictures", channels=channels, fixations=fixations)
    points, pictures = (truth_of(tmp_path / name, SIZE) for name in ("points", "pictures"))
    for frame in range(6):
        assert pictures.has(frame)
        assert np.array_equal(pictures.points(frame), np.unique(points.points(frame), axis=0))
        for size in (SIZE, (18, 32), (9, 16)):
            ours, theirs = points.density(frame, size), pictures.density(frame, size)
            assert theirs.shape == size
            assert theirs.dtype == np.float32
            assert theirs.sum() == pytest.approx(1, abs=1e-5)
            if size == SIZE:  # in a small map, the mean of a cell differs from its centre
                assert np.abs(ours - theirs).max() < 0.01 * ours.max()
    assert not pictures.has(6)
    assert not pictures.density(6, SIZE).any()
    assert points.fixation_map(2, (18, 32))[9, 16] == 2  # repeats count


def test_broken_file_is_named(tmp_path):
    for name, content in (("a.mat", b"no mat"), ("a.png", b"no png")):
        (tmp_path / name).write_bytes(content)
    savemat(tmp_path / "other.mat", {"J": np.zeros(SIZE)})
    for read, name in ((read_mat, "a.mat"), (read_mat, "other.mat"), (read_picture, "a.png")):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    for content in ('{"a": 1}', "[[[1, 2, 3]]]", "[3]", "nothing"):
        (tmp_path / "fixations.json").write_text(content)
        truth = PointsTruth(tmp_path / "fixations.json", SIZE)
        with pytest.raises(UserError, match=r"fixations\.json"):
            truth.points(0)


def test_annotation_is_rescaled_to_the_size_of_the_frames(tmp_path):
    frame_folder(tmp_path / "frames" / "0001", size=(18, 32))
    picture_files(tmp_path / "annotation" / "0001")
    video = find_videos("dhf1k", tmp_path)[0]
    assert video.truth.points(1).tolist() == [[9, 16]]
    row, column = np.unravel_index(video.truth.density(1, (18, 32)).argmax(), (18, 32))
    assert row in (8, 9)
    assert column in (15, 16)


def test_published_map_takes_precedence_over_points(tmp_path):
    picture_files(tmp_path)
    Image.fromarray(np.eye(36, 64, dtype=np.uint8) * 255).save(tmp_path / "maps" / "0001.png")
    truth = truth_of(tmp_path, SIZE)
    assert np.allclose(truth.density(0, SIZE), np.eye(36, 64) / 36)
    (tmp_path / "maps" / "0001.png").unlink()
    assert np.allclose(truth.density(0, SIZE), density_from_points(np.array(POINTS[0]), SIZE))


# ---------------------------------------------------------------- points


def test_points_are_read_unchanged(tmp_path):
    points_file(tmp_path, [[[1, 2], [1, 2], [-3, 70000]], [], [[0.6, 2.9], [-0.5, 1]]])
    points = read_points(tmp_path / "fixations.json")
    assert len(points) == 3
    assert [points.of(frame).tolist() for frame in (0, 1, 2, 3, -1)] == [
        [[1, 2], [1, 2], [-3, 70000]],
        [],
        [[0, 2], [-1, 1]],  # rounded down; -0.5 is outside
        [],
        [],
    ]
    assert points.of(1).shape == (0, 2)
    assert PointsTruth(tmp_path / "fixations.json", SIZE).points(0).tolist() == [[1, 2], [1, 2]]


def test_points_start_at_the_first_frame(tmp_path):
    points_file(tmp_path)
    truth = PointsTruth(tmp_path / "fixations.json", SIZE, first=3)
    assert truth.points(0).tolist() == POINTS[2]
    assert [truth.has(frame) for frame in (0, 3, 4)] == [True, True, False]


def test_changed_file_is_read_again(tmp_path):
    points_file(tmp_path, [[[1, 1]]])
    truth = PointsTruth(tmp_path / "fixations.json", SIZE)
    assert truth.points(0).tolist() == [[1, 1]]
    (tmp_path / "fixations.json").unlink()
    points_file(tmp_path, [[[2, 2]], []])
    assert truth.points(0).tolist() == [[2, 2]]


def test_ground_truth_is_small_when_pickled(tmp_path):
    points_file(tmp_path, POINTS * 100)
    for truth in (PointsTruth(tmp_path / "fixations.json", SIZE), MapsTruth(tmp_path, SIZE)):
        truth.points(0)
        assert len(pickle.dumps(truth)) < 1000
        assert pickle.loads(pickle.dumps(truth)) == truth


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_binary_image_of_any_mode(tmp_path, mode):
    for folder in ("maps", "fixation"):
        (tmp_path / folder).mkdir()
    binary = np.zeros(SIZE, dtype=np.uint16 if mode == "I;16" else np.uint8)
    binary[18, 32] = binary[3, 60] = 60000 if mode == "I;16" else 255
    picture = Image.fromarray(binary)
    (picture if mode == "I;16" else picture.convert(mode)).save(tmp_path / "fixation/0001.png")
    assert MapsTruth(tmp_path, SIZE).points(0).tolist() == [[3, 60], [18, 32]]


def test_damaged_image_is_reported_once_and_ignored(tmp_path, caplog):
    picture_files(tmp_path)
    truth = MapsTruth(tmp_path, SIZE)
    (tmp_path / "maps/0001.png").write_text("not an image")
    (tmp_path / "fixation/0002.png").write_text("not an image")
    built = density_from_points(np.array(POINTS[0]), SIZE)
    for _ in range(3):
        assert np.allclose(truth.density(0, SIZE), built)
        assert truth.points(1).shape == (0, 2)
        assert not truth.fixation_map(1, SIZE).any()
    assert caplog.text.count("maps/0001.png: ") == 1
    assert caplog.text.count("fixation/0002.png: ") == 1
    assert "the file is ignored" in caplog.text


def test_matlab_file_replaces_a_damaged_image(tmp_path, caplog):
    picture_files(tmp_path)
    savemat(tmp_path / "fixation/maps/0002.mat", {"I": np.eye(*SIZE)})
    (tmp_path / "fixation/0002.png").write_text("not an image")
    assert len(MapsTruth(tmp_path, SIZE).points(1)) == 36
    assert "0002.png" in caplog.text


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.float64])
def test_both_versions_of_matlab_files(tmp_path, version, kind):
    values = np.zeros(SIZE, dtype=kind)
    values[3, 60] = 1
    path = tmp_path / "0001.mat"
    if version == "5":
        savemat(path, {"I": values})
    else:
        with h5py.File(path, "w", userblock_size=512) as file:
            file["I"] = values.T
        content = bytearray(path.read_bytes())
        content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
        path.write_bytes(content)
    found = read_mat(path)
    assert found.dtype == np.float32
    assert np.argwhere(found).tolist() == [[3, 60]]
    whole = path.read_bytes()
    for length in (0, 10, 130, len(whole) // 2, len(whole) - 60):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"0001\.mat: cannot be read as a MATLAB file"):
            read_mat(path)


@pytest.mark.parametrize("values", [np.zeros((2, 3, 4)), np.array(["text"])])
def test_matlab_file_without_a_map_is_refused(tmp_path, values):
    savemat(tmp_path / "a.mat", {"I": values})
    with pytest.raises(UserError, match=r"a\.mat: expected variable I to be a 2-D array"):
        read_mat(tmp_path / "a.mat")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("pixels", "step"), [("yuv420p10le", 1 / 800), ("yuv420p", 1 / 200)])
def test_grey_video_is_read_at_its_bit_depth_and_range(tmp_path, pixels, step, full):
    maps = ramps(5)
    path = grey_video(tmp_path / "a b.mp4", maps, pixels=pixels, full=full)
    for frame in (4, 0, 3, 0):
        values = read_grey(path, frame)
        assert values.dtype == np.float32
        assert np.abs(values / values.max() - maps[frame]).max() < step
    assert read_grey(path, 5) is None


def test_densities_come_from_the_video_of_maps_if_it_has_them(tmp_path, caplog):
    points_file(tmp_path)
    maps = ramps(4)
    truth = PointsTruth(tmp_path / "fixations.json", SIZE, maps=grey_video(tmp_path / "maps.mp4", maps))
    for frame in range(4):
        assert np.abs(truth.density(frame, SIZE) - maps[frame] / maps[frame].sum()).max() < 1e-5
        assert truth.density(frame, (18, 32)).sum() == pytest.approx(1, abs=1e-5)
        assert truth.points(frame).tolist() == POINTS[frame]
    assert np.allclose(truth.density(4, SIZE), density_from_points(np.array(POINTS[4]), SIZE))
    assert caplog.text == ""
    (tmp_path / "broken.mp4").write_text("no video")
    truth = PointsTruth(tmp_path / "fixations.json", SIZE, maps=tmp_path / "broken.mp4")
    assert np.allclose(truth.density(0, SIZE), density_from_points(np.array(POINTS[0]), SIZE))
    assert "broken.mp4: cannot be decoded" in caplog.text
