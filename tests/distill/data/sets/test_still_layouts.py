"""The layouts of published sets of still images: names, splits, fixations, densities and broken files."""

import logging

import numpy as np
import pytest
from helpers.still_files import GAZE, cat2000, mit1003, nus_vip, picture, salicon, still_set
from scipy.io import loadmat, savemat

from distill.cli.main import main
from distill.data import mat_cells
from distill.data.check import check
from distill.data.sets import still_layouts
from distill.data.sets.find import find_videos, recognise
from distill.errors import UserError
from distill.fixations import density_from_points


@pytest.fixture(autouse=True)
def cache(empty_cache):
    return empty_cache


def points_of(video):
    assert video.truth is not None
    return sorted(video.truth.points(0).tolist())


def left_half(size):
    """Return the fakes' published density at half the size of the image."""
    values = np.zeros((size[0] // 2, size[1] // 2), dtype=np.float32)
    values[:, : size[1] // 4] = 1
    return values / values.sum()


LAYOUTS = {
    # root -> split -> names; names of the images with a published density; whether repeated points are kept
    "salicon": (
        salicon,
        {
            "train": ["train/a", "train/b"],
            "validation": ["val/c"],
            "all": ["test/d", "train/a", "train/b", "val/c"],
        },
        "ab",
        True,
    ),
    "mit1003": (mit1003, {"all": ["a", "b", "c"]}, "ab", False),
    "cat2000": (
        cat2000,
        {
            "train": ["trainSet/Action/a", "trainSet/Action/b", "trainSet/Art/c"],
            "test": ["testSet/Action/001"],
        },
        "abc",
        False,
    ),
    "nus_vip": (nus_vip, {"all": ["a", "b", "c"]}, "", True),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, tmp_path):
    write, splits, with_map, repeats = LAYOUTS[request.param]
    return write(tmp_path / request.param), splits, with_map, repeats


def test_layout_is_recognised_with_its_names_and_splits(layout):
    root, splits, _, _ = layout
    found = recognise(root)
    assert found is not None
    assert found.name == "stills"
    for split, names in splits.items():
        assert [video.name for video in find_videos("stills", root, split=split)] == names


def test_layout_has_the_fixations_as_published(layout):
    root, _, _, repeats = layout
    labelled = [video for video in find_videos("stills", root) if video.truth is not None]
    assert sorted(video.path.stem for video in labelled) == ["a", "b", "c"]
    for video in labelled:
        expected = sorted(GAZE[video.path.stem])
        assert points_of(video) == (expected if repeats else sorted({tuple(p): p for p in expected}.values()))
        assert video.truth is not None
        assert (video.truth.has(0), video.truth.has(1)) == (True, False)


def test_densities_are_the_published_maps_or_take_the_kernel(layout):
    root, _, with_map, _ = layout
    kernels = {"salicon": 19 / 640, "mit1003": 24 / 1024, "nus_vip": 24 / 1024, "cat2000": 38 / 1920}
    for video in find_videos("stills", root):
        if video.truth is None:
            continue
        size = video.size[0] // 2, video.size[1] // 2
        found = video.truth.density(0, size)
        if video.path.stem in with_map:
            assert np.abs(found - left_half(video.size)).max() < 0.15 * found.max()  # the edge is blurred
        else:
            sigma = kernels[root.name] * max(video.size)
            assert np.allclose(found, density_from_points(video.truth.points(0), video.size, size, sigma=sigma))


def test_report_of_a_layout_has_nothing_to_complain_about(layout, capsys):
    root, _, with_map, _ = layout
    report = check(root, progress=False)
    assert report.problems == []
    assert sum(truth.labelled for truth in report.truths.values()) == 3
    table = report.table()
    for count, kind in ((len(with_map), "with a published density"), (3 - len(with_map), "is computed")):
        assert not count or f"{count} images" in table or f"{count} image" in table, kind
    assert main(["data", "check", str(root)]) == 0
    assert "Nothing is missing or broken" in capsys.readouterr().out


def test_folder_of_sets_mixes_layouts(tmp_path):
    nus_vip(tmp_path / "OSIE")
    mit1003(tmp_path / "mit")
    still_set(tmp_path / "mine")
    (tmp_path / "notes").mkdir()
    names = [video.name for video in find_videos("stills", tmp_path)]
    assert names == [f"{name}/{each}" for name in ("OSIE", "mine", "mit") for each in "abc"]
    with pytest.raises(UserError, match=r"no split 'train' in this layout \(3 sets of still images: OSIE \(3\)"):
        find_videos("stills", tmp_path, split="train")


@pytest.mark.parametrize(("folder", "share"), [("OSIE", 24 / 800), ("saliency-in-crowd", 26 / 1024)])
def test_repository_of_a_known_set_takes_its_kernel_from_the_name(tmp_path, folder, share):
    nus_vip(tmp_path / folder)
    for root in (tmp_path / folder, tmp_path / folder / "data"):
        video = find_videos("stills", root)[0]
        assert video.truth is not None
        assert video.truth.sigma == pytest.approx(share * 64)


def test_wrong_root_inside_a_set_names_the_right_one(tmp_path):
    root = cat2000(tmp_path / "cat2000")
    with pytest.raises(UserError, match=r"did you mean .*trainSet\?"):
        find_videos("stills", root / "trainSet/Stimuli")


def test_published_numbers_are_compared_with_those_found(tmp_path):
    table = check(cat2000(tmp_path / "cat2000"), progress=False).table()
    rows = {line.split()[0]: line.split()[1:5] for line in table.splitlines() if line.startswith("  t")}
    assert rows["train"] == ["2000", "3", "3", "3"]
    assert rows["test"] == ["2000", "1", "1", "0"]


def test_set_of_test_images_alone_has_no_fixations(tmp_path):
    cat2000(tmp_path)
    with pytest.raises(UserError, match="testSet: has 1 image but no fixation on any; expected fixations under"):
        find_videos("stills", tmp_path / "testSet")


# ---------------------------------------------------------------- files of single images


def test_damaged_file_of_one_image_leaves_it_unlabelled(tmp_path, caplog):
    root = salicon(tmp_path)
    (root / "fixations/train/a.mat").write_bytes(b"damaged")
    (root / "maps/train/b.png").write_bytes(b"damaged")
    caplog.set_level(logging.WARNING, logger="distill")
    one, two = find_videos("stills", root, split="train")
    assert one.truth is not None
    assert two.truth is not None
    for _ in range(2):
        assert len(one.truth.points(0)) == 0
        assert two.truth.density(0, (8, 8)).sum() == pytest.approx(1, abs=1e-5)
    assert [text.count("the file is ignored") for text in caplog.messages] == [1, 1]
    problems = check(root, progress=False).problems
    assert len(problems) == 2
    assert "a.mat: cannot be read as a MATLAB file" in problems[0]
    assert problems[0].endswith("; the image is unlabelled")
    assert problems[1].endswith("; the density is computed from fixations")


def test_fixations_of_another_image_are_reported(tmp_path):
    root = cat2000(tmp_path) / "trainSet"
    savemat(root / "FIXATIONLOCS/Action/a.mat", {"fixLocs": np.ones((64, 36), dtype=np.uint8)})
    savemat(root / "FIXATIONLOCS/Action/b.mat", {"fixLocs": np.zeros((128, 72), dtype=np.uint8)})
    problems = check(root, progress=False).problems
    assert len(problems) == 3
    assert "a.mat: has fixations on 36 x 64 pixels, but the image has 64 x 36; expected the same" in problems[0]
    assert problems[1] == f"{root}/FIXATIONLOCS/Action: no fixation in 1 image (Action/b)"
    assert problems[2].endswith("Action: the size differs from that of 1 image (Action/b); fixations are rescaled")


def test_files_of_single_images_are_read_once_and_checks_are_cached(tmp_path, monkeypatch):
    root = salicon(tmp_path)
    check(root, progress=False)
    reads = []
    call = mat_cells.call_guarded
    monkeypatch.setattr(mat_cells, "call_guarded", lambda path, *rest: reads.append(path) or call(path, *rest))
    check(root, progress=False)
    assert not reads
    video = find_videos("stills", root, split="validation")[0]
    assert video.truth is not None
    assert not reads
    for _ in range(3):
        video.truth.density(0, (8, 8))
    assert len(reads) == 1


def test_fixations_in_a_mat_file_of_version_7_3_work_where_they_are_maps(tmp_path):
    import h5py

    root = cat2000(tmp_path) / "trainSet"
    path = root / "FIXATIONLOCS/Art/c.mat"
    values = loadmat(path)["fixLocs"]
    with h5py.File(path, "w", userblock_size=512) as file:
        file["fixLocs"] = values.T
    content = bytearray(path.read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(content)
    video = find_videos("stills", root, videos=["Art/c"])[0]
    assert points_of(video) == sorted(GAZE["c"])


# ---------------------------------------------------------------- NUS-VIP's cells


def test_single_image_with_a_single_subject_is_read(tmp_path):
    subject = {"fix_x": 3.4, "fix_y": 2.6, "fix_duration": 1.0}
    cells = np.empty((1, 1), dtype=object)
    inner = np.empty((1, 1), dtype=object)
    inner[0, 0] = subject
    cells[0, 0] = {"img": "a.jpg", "subjects": inner}
    savemat(tmp_path / "fixations.mat", {"fixations": cells})
    picture(tmp_path / "stimuli/a.jpg", (36, 64))
    (video,) = find_videos("stills", tmp_path)
    assert points_of(video) == [[2, 2]]  # rounded to (3, 3), counted from 1


def test_points_outside_and_images_that_are_missing_are_counted(tmp_path):
    root = nus_vip(tmp_path)
    (root / "data/stimuli/c.jpg").unlink()
    picture(root / "data/stimuli/a.jpg", (18, 32))  # smaller than when it was shown
    report = check(root, progress=False)
    assert [text.replace(f"{root}/", "") for text in report.problems] == [
        "data/eye/fixations.mat: 2 points outside 1 image (a), not used"
    ]
    assert list(report.scan.broken.values()) == [f"{root}/data/stimuli/c.jpg: missing, but listed in fixations.mat"]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"gaze": 1}, "has no variable fixations; expected cells of images"),
        ({"fixations": np.ones((3, 2))}, "variable fixations has another form; expected cells of images"),
        ({"fixations": {"img": 5, "subjects": 1}}, "variable fixations has another form"),
        ({"fixations": {"img": "a.jpg", "subjects": np.ones(3)}}, "variable fixations has another form"),
        (
            {"fixations": {"img": "a.jpg", "subjects": {"fix_x": [1.0, 2.0], "fix_y": [1.0]}}},
            "a.jpg: a subject has 2 fix_x and 1 fix_y; expected pairs",
        ),
        (
            {"fixations": {"img": "a.jpg", "subjects": {"fix_x": "here", "fix_y": "there"}}},
            "variable fixations has another form",
        ),
        (
            {"fixations": {"img": "a.jpg", "subjects": {"fix_x": np.nan, "fix_y": 1.0}}},
            "some coordinates are not finite",
        ),
        ({"fixations": {"img": "a.jpg", "subjects": np.zeros((0, 0))}}, "has 3 images but no fixation on any"),
    ],
)
def test_other_cells_are_one_sentence(tmp_path, variables, message):
    root = nus_vip(tmp_path)
    savemat(root / "data/eye/fixations.mat", variables)
    with pytest.raises(UserError, match=message) as caught:
        find_videos("stills", root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "gaze",
    [5, {"location": 1}, {"fixations": np.ones((3, 3))}, {"fixations": "here"}, {"fixations": [[1.0, np.inf]]}],
)
def test_other_gaze_is_one_sentence(tmp_path, gaze):
    root = salicon(tmp_path)
    savemat(root / "fixations/val/c.mat", {"gaze": gaze})
    (problem,) = check(root, progress=False).problems
    assert "c.mat: " in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["data/eye/fixations.mat", "data/eye"])
def test_unreadable_cells_are_one_sentence(tmp_path, name):
    root = nus_vip(tmp_path)
    path = root / "data/eye/fixations.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file" if name.endswith("mat") else b"short")
    with pytest.raises(
        UserError, match=r"fixations\.mat: (is a MATLAB 7.3 file; expected|cannot be read as a MATLAB)"
    ):
        find_videos("stills", root)


def test_cells_are_bounded_by_the_size_of_their_file(tmp_path, monkeypatch):
    root = nus_vip(tmp_path)
    monkeypatch.setattr(mat_cells, "MAX_POINTS_BYTES", 100)
    with pytest.raises(UserError, match=r"fixations\.mat: bytes: .* over the limit"):
        find_videos("stills", root)


def test_compressed_cells_are_read(tmp_path):
    assert points_of(find_videos("stills", nus_vip(tmp_path, do_compression=True))[1]) == GAZE["b"]


def test_each_layout_has_a_reader_that_takes_no_other(tmp_path):
    for name, write in {"a": still_set, "b": salicon, "c": mit1003, "e": nus_vip}.items():
        root = write(tmp_path / name)
        assert sum(has(root) for has in still_layouts.READERS) == 1
    assert sum(has(cat2000(tmp_path / "d") / "trainSet") for has in still_layouts.READERS) == 1
    assert not any(has(tmp_path) for has in still_layouts.READERS)


@pytest.mark.parametrize("write", [nus_vip, salicon, cat2000, still_set])
def test_damaged_bytes_end_in_one_sentence_or_are_harmless(tmp_path, write):
    root = write(tmp_path / "set")
    (path,) = [
        p for p in sorted(root.rglob("*")) if p.name in ("fixations.mat", "fixations.json") or p.name == "c.mat"
    ]
    intact, random = path.read_bytes(), np.random.default_rng(0)
    for attempt in range(40):
        content = bytearray(intact[: random.integers(len(intact))] if attempt % 3 == 0 else intact)
        for place in random.integers(0, max(1, len(content)), 4):
            content[place : place + 1] = bytes([random.integers(256)])
        path.write_bytes(content)
        messages = []
        try:
            for video in find_videos("stills", root):
                if video.truth is not None:
                    video.truth.points(0)
        except UserError as error:
            messages.append(str(error))
        assert not any("\n" in message for message in messages)
