"""Still images as videos of one frame: layouts, ground truth, the report, and what is wrong with sets."""

import json
import logging

import numpy as np
import pytest
from helpers.places import REPOSITORY
from helpers.still_files import GAZE, STILLS, picture, still_set
from helpers.stores import TinyTeacher, build_small
from PIL import Image

from distill.data import still_fixations
from distill.data.check import check
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import FRAME_CACHE, read_clip, read_truth
from distill.data.clips import ClipSpec, Window
from distill.data.sets.find import find_videos, recognise, recognise_any
from distill.data.video import image_folder
from distill.data.video.open import open_size, open_video
from distill.errors import UserError
from distill.evaluation.baselines import centre_prior
from distill.evaluation.evaluate import evaluate
from distill.evaluation.observers import evaluate_observers
from distill.evaluation.references import score
from distill.fixations import density_from_points
from distill.inference.sliding_window import slide
from distill.reports.scores import report_scores
from distill.training.sources import share_of

SPEC = ClipSpec(num_frames=4, size=(24, 40), target_frames=(1, 3), map_size=(12, 20), stride=2)


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, logger="distill")
    return caplog


@pytest.fixture(autouse=True)
def cache(empty_cache):
    return empty_cache


@pytest.fixture
def frames(monkeypatch):
    """Return the list of files that are decoded from now on."""
    decoded = []

    def read(path):
        decoded.append(path.name)
        return read_image(path)

    read_image = image_folder.read_image
    monkeypatch.setattr(image_folder, "read_image", read)
    monkeypatch.setattr(FRAME_CACHE, "_process", 0)  # forgets what earlier tests decoded
    monkeypatch.setattr(FRAME_CACHE, "whole_videos", False)
    return decoded


# ---------------------------------------------------------------- a still as a video


def test_still_is_a_video_of_one_frame(tmp_path):
    path = picture(tmp_path / "a.JPG", (30, 50), format="JPEG")
    reader = open_video(path)
    assert (reader.num_frames, reader.fps, reader.size) == (1, 30.0, (30, 50))
    assert open_size(path) == (1, 30.0, (30, 50))
    assert reader.read([0, 0]).shape == (2, 30, 50, 3)
    with pytest.raises(IndexError):
        reader.read([1])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"])
def test_still_is_read_and_scaled_as_a_folder_of_one_frame(tmp_path, suffix):
    path = picture(tmp_path / f"folder/1{suffix}", (31, 47))
    assert np.array_equal(open_video(path).read([0], (16, 24)), open_video(path.parent).read([0], (16, 24)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_still_of_any_mode_is_read_as_rgb(tmp_path, mode):
    levels = np.tile(np.arange(0, 240, 16, dtype=np.uint8), (10, 1))
    image = (
        Image.fromarray(levels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(levels).convert(mode)
    )
    image.save(tmp_path / "a.png")
    assert np.array_equal(open_video(tmp_path / "a.png").read([0])[0], np.repeat(levels[..., None], 3, 2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_is_turned_by_its_exif_orientation(tmp_path, orientation):
    stored = Image.fromarray(np.kron([[10, 90, 200], [240, 150, 40]], np.ones((8, 8))).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    pixels = np.asarray(stored)
    displayed = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: pixels.T[:, ::-1],
        7: pixels.T[::-1, ::-1],
        8: pixels.T[::-1],
    }[orientation]
    reader = open_video(tmp_path / "a.jpg")
    assert reader.size == displayed.shape
    assert np.abs(reader.read([0])[0, ..., 0].astype(int) - displayed).max() <= 3
    (tmp_path / "a.jpg").rename(picture(tmp_path / "frames/1.jpg", (8, 8)))
    assert np.array_equal(open_video(tmp_path / "frames").read([0]), pixels_of(tmp_path / "frames/1.jpg"))


def pixels_of(path):
    """Return the pixels of a still."""
    return open_video(path).read([0])


def test_damaged_exif_is_ignored_as_viewers_do(tmp_path):
    path = picture(tmp_path / "a.jpg", (16, 24), exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    assert open_video(path).read([0]).shape == (1, 16, 24, 3)


def test_image_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"a\.jpg: cannot be read as an image \(not an image file\); it may be damaged"
    ):
        open_video(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"b\.jpg: no such video file, image or folder"):
        open_video(tmp_path / "b.jpg")


# ---------------------------------------------------------------- sets


def test_one_set_and_a_folder_of_sets(tmp_path, logged):
    still_set(tmp_path / "pets")
    still_set(tmp_path / "birds")
    (tmp_path / ".hidden").mkdir()
    assert [video.name for video in find_videos("stills", tmp_path / "pets")] == ["a", "b", "c"]
    videos = find_videos("stills", tmp_path)
    assert [video.name for video in videos] == [f"{name}/{each}" for name in ("birds", "pets") for each in "abc"]
    assert [video.size for video in videos[:3]] == list(STILLS.values())
    assert all((video.num_frames, video.frames, video.recording) == (1, range(1), video.name) for video in videos)
    assert "2 sets of still images: birds (3), pets (3); 6 images, 6 with ground truth" in logged.text
    assert len(logged.messages) == 2  # one for each call
    for root in (tmp_path, tmp_path / "pets"):
        found = recognise(root)
        assert found is not None
        assert found.name == "stills"


def test_images_are_selected_by_name(tmp_path):
    still_set(tmp_path / "pets")
    assert [video.name for video in find_videos("stills", tmp_path, videos=["pets/c", "pets/a.png"])] == [
        "pets/a",
        "pets/c",
    ]
    with pytest.raises(UserError, match=r"no image 'pets/d'"):
        find_videos("stills", tmp_path, videos=["pets/d"])
    with pytest.raises(
        UserError,
        match=r"no split 'test' in this layout \(1 set of still images: pets \(3\)\); expected one of all",
    ):
        find_videos("stills", tmp_path, split="test")


def test_images_with_the_same_stem_keep_their_suffix(tmp_path):
    still_set(tmp_path, **{"a.jpg": {"size": [36, 64], "fixations": [[5, 6]]}})
    picture(tmp_path / "images/a.jpg", (36, 64))
    videos = {video.name: video for video in find_videos("stills", tmp_path)}
    assert [path.name for path in sorted((tmp_path / "images").iterdir())] == ["a.jpg", "a.png", "b.png", "c.png"]
    assert {name: video.path.name for name, video in videos.items()} == {
        "a": "a.jpg",
        "a.png": "a.png",
        "b": "b.png",
        "c": "c.png",
    }


def test_shares_are_disjoint_and_complete_by_image(tmp_path):
    still_set(tmp_path / "pets")
    still_set(tmp_path / "birds")
    videos = find_videos("stills", tmp_path)
    one, two = (share_of(videos, share, seed=3) for share in ((0, 0.5), (0.5, 1)))
    assert (len(one), len(two)) == (3, 3)
    assert sorted([*one, *two], key=lambda video: video.name) == videos


# ---------------------------------------------------------------- ground truth


def test_truth_has_the_recorded_points_and_repeats_count(tmp_path):
    video = find_videos("stills", still_set(tmp_path))[0]
    assert video.truth is not None
    assert video.truth.points(0).tolist() == GAZE["a"]
    assert video.truth.fixation_map(0, (36, 64))[30, 60] == 2
    assert (video.truth.has(0), video.truth.has(1), len(video.truth.points(1))) == (True, False, 0)


@pytest.mark.parametrize(
    ("folder", "share"), [("osie", 24 / 800), ("Crowd", 26 / 1024), ("scene", 8 / 256), ("mine", 24 / 1024)]
)
def test_densities_take_the_published_kernel_of_a_known_set(tmp_path, folder, share):
    still_set(tmp_path / folder)
    for root in (tmp_path, tmp_path / folder):
        for video in find_videos("stills", root):
            points, sigma = np.array(GAZE[video.path.stem]), share * max(video.size)
            expected = density_from_points(points, video.size, (18, 32), sigma=sigma)
            assert video.truth is not None
            assert np.array_equal(video.truth.density(0, (18, 32)), expected)


def test_kernel_follows_the_name_of_a_link(tmp_path):
    """Data often lies on another disk under another name."""
    still_set(tmp_path / "disk1")
    (tmp_path / "osie").symlink_to(tmp_path / "disk1")
    (tmp_path / "mine").symlink_to(tmp_path / "osie")
    for name in ("osie", "mine"):
        video = find_videos("stills", tmp_path / name)[0]
        assert video.truth is not None
        assert video.truth.sigma == pytest.approx((24 / 800 if name == "osie" else 24 / 1024) * max(video.size))


def test_set_may_state_its_own_kernel(tmp_path):
    still_set(tmp_path, a={"size": [72, 128], "fixations": [[8, 8]], "sigma": 10})
    video = find_videos("stills", tmp_path, videos=["a"])[0]
    assert video.truth is not None
    assert video.truth.sigma == 5  # in pixels of the image, which has half the size


def test_fixations_of_another_size_are_rescaled_or_refused(tmp_path):
    still_set(
        tmp_path, a={"size": [360, 640], "fixations": [[355, 9]]}, b={"size": [36, 64], "fixations": [[1, 1]]}
    )
    video = find_videos("stills", tmp_path)[0]
    assert video.truth is not None
    assert video.truth.points(0).tolist() == [[35, 0]]
    with pytest.raises(
        UserError, match=r"json: b: has fixations on 64 x 36 pixels, but the image has 36 x 64; exp"
    ):
        find_videos("stills", tmp_path, videos=["b"])
    assert f"{tmp_path}/fixations.json: the size differs from that of 1 image (a); fixations are rescaled" in (
        check(tmp_path, progress=False).problems
    )


def test_json_is_read_once_per_process(tmp_path, monkeypatch):
    reads = []

    def read_json(path, *arguments, **options):
        reads.append(path)
        return real(path, *arguments, **options)

    real = still_fixations.read_json
    monkeypatch.setattr(still_fixations, "read_json", read_json)
    still_set(tmp_path)
    for video in find_videos("stills", tmp_path):
        assert video.truth is not None
        video.truth.density(0, (9, 16))
    check(tmp_path, progress=False)
    assert len(reads) == 1


# ---------------------------------------------------------------- clips, training and evaluation


def test_clip_repeats_the_still_and_labels_every_map(tmp_path):
    video = find_videos("stills", still_set(tmp_path))[0]
    clip, truth = read_clip(Window(video, 0), SPEC), read_truth(Window(video, 0), SPEC)
    assert clip.shape == (3, 4, 24, 40)
    assert all(bool((clip[:, t] == clip[:, 0]).all()) for t in range(4))
    assert truth["labelled"].tolist() == [True, True]
    assert bool((truth["density"][0] == truth["density"][1]).all())


@pytest.mark.parametrize("in_memory", [False, True])
def test_epochs_decode_each_still_once(tmp_path, frames, in_memory):
    videos = find_videos("stills", still_set(tmp_path))
    clips = ClipDataset([ClipSource(videos, 2)], SPEC, seed=0, flip=True, in_memory=in_memory)
    for index in range(3 * len(clips)):
        clips[index]
    assert sorted(frames) == ["a.png", "b.png", "c.png"]


def test_finding_a_set_decodes_nothing(tmp_path, frames):
    find_videos("stills", still_set(tmp_path))
    assert not frames


def test_stills_mix_with_videos_by_ratio(tmp_path):
    stills, videos = (
        find_videos("stills", still_set(tmp_path)),
        find_videos("synthetic", "synthetic", split="train"),
    )
    clips = ClipDataset([ClipSource(videos), ClipSource(stills, ratio=1.5)], SPEC, seed=0, flip=False)
    names = [clips[index]["video"] for index in range(len(clips))]
    assert len(names) == 4 + 6
    assert {name: names.count(name) for name in "abc"} == dict.fromkeys("abc", 2)


def test_evaluation_takes_other_images_as_negatives(tmp_path):
    still_set(tmp_path)
    videos = find_videos("stills", tmp_path)
    scores = evaluate(centre_prior, videos, metrics=["nss", "auc_shuffled"], progress=False)
    assert [row.video for row in scores.rows] == ["a", "b", "c"]
    assert all(np.isfinite(list(row.values.values())).all() for row in scores.rows)
    assert len(set(scores.recordings.values())) == 3
    assert evaluate_observers(videos, metrics=["nss"], progress=False).frames_without_fixations == 1  # one point


def test_target_store_has_the_maps_of_stills(tmp_path):
    still_set(tmp_path / "pets")
    videos = find_videos("stills", tmp_path)
    model = TinyTeacher()
    store = build_small(tmp_path / "store", videos, model, codec="exact", views=("plain", "flipped"))
    assert store.complete
    for video in videos:
        ((_, maps),) = slide(model, video, [0])
        np.testing.assert_allclose(store.read(video.name, 0), maps[0].numpy(), atol=1e-3, rtol=0)


def test_report_of_scores_has_pictures_but_no_curves(tmp_path):
    videos = find_videos("stills", still_set(tmp_path / "set"))
    results = [score("centre-prior", videos, metrics=["nss"], progress=False)]
    page = report_scores(tmp_path / "report.html", results, videos, progress=False).read_text()
    assert "over time" not in page
    assert page.count("<img") >= 3


# ---------------------------------------------------------------- reports and errors


def test_report_counts_images_and_points_outside(tmp_path):
    still_set(
        tmp_path,
        b={"size": [64, 36], "fixations": [[64, 0], [0, 36], [-1, 5], [5, 6]]},
        c={"size": [48, 48], "fixations": []},
        gone={"size": [9, 9], "fixations": [[1, 1]]},
    )
    picture(tmp_path / "images/d.png", (9, 16))
    Image.new("RGBA", (16, 9)).save(tmp_path / "images/e.png")
    (tmp_path / "images/f.jpg").write_bytes(b"damaged")
    report = check(tmp_path, progress=False)
    table = report.table()
    for text in (
        "stills (still images with gaze), still images in images/, fixations in fixations.json",
        "5 usable (3 with ground truth), 2 broken",
        "5 (2 with fixations)",
        "5 images; each is a video of one frame",
        "images/gone: missing, but listed in fixations.json",
        "images/f.jpg: cannot be read as an image",
        "fixations.json: no fixation in 1 image (c)",
        "fixations.json: 3 points outside 1 image (b), not used",
        "images: 1 image converted to 8-bit RGB (RGBA, alpha is ignored): e.png",
        "no ground truth for 2 images: d, e",
    ):
        assert text in table, text
    assert "frame rates" not in table
    assert "fewer than" not in table


def test_report_on_the_shared_stills(shared):
    root = shared / "data" / "stills"
    if not root.is_dir():
        pytest.skip("no stills")
    report = check(root, progress=False)
    assert report.scan.dataset.name == "stills"
    assert len(report.scan.videos) == 1700
    assert not report.problems
    assert sum(len(video.truth.points(0)) for video in report.scan.videos if video.truth is not None) == 268_560


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"fixations\.json: cannot be read as fixations of still images .*; expected \{\"NAME\": \{\"size\""),
        ('{"a": [[1, 2]]}', r"fixations\.json: cannot be read as fixations of still images \(a: "),
        ('{"a": {"size": [0, 5], "fixations": []}}', r"\(a\.size\.0: .*greater than 0, got 0\)"),
        (
            '{"a": {"size": [36, 64], "fixations": [[1, NaN]]}}',
            r"fixations\.json: a: some coordinates are not finite",
        ),
        (
            '{"a": {"size": [36, 64], "fixations": []}}',
            "has 3 images but no fixation on any; expected",
        ),
        (
            '{"z": {"size": [36, 64], "fixations": [[1, 1]]}}',
            "has 3 images but no fixation on any; expected",
        ),
    ],
)
def test_unusable_fixations_are_one_sentence(tmp_path, content, message):
    still_set(tmp_path)
    (tmp_path / "fixations.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        find_videos("stills", tmp_path)
    assert "\n" not in str(caught.value)


def test_images_without_fixations_are_no_set(tmp_path):
    still_set(tmp_path / "pets")
    (tmp_path / "pets/fixations.json").unlink()
    with pytest.raises(
        UserError, match=r"images: no fixations next to this folder; expected stills, with images/ and"
    ):
        find_videos("stills", tmp_path / "pets")
    still_set(tmp_path / "birds")
    with pytest.raises(UserError, match=r"did you mean .*birds\?"):
        find_videos("stills", tmp_path / "birds/images")
    with pytest.raises(UserError, match="no such folder"):
        find_videos("stills", tmp_path / "nowhere")


def test_sample_of_videos_is_not_taken_for_stills():
    assert recognise_any(REPOSITORY / "tests/data/dhf1k").name == "dhf1k"


def test_names_from_the_json_become_no_path(tmp_path):
    still_set(tmp_path, **{"../../etc/passwd": {"size": [1, 1], "fixations": [[0, 0]]}})
    assert json.loads((tmp_path / "fixations.json").read_text())["../../etc/passwd"]
    assert [video.name for video in find_videos("stills", tmp_path)] == ["a", "b", "c"]
