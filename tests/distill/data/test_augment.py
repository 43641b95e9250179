"""Augmentation: crops and colours, and their consistency between clip, ground truth and teacher map."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from distill import saliency
from distill.data import augment
from distill.data.augment import Box, Colour, Crop, Jitter, crop_frames, crop_maps, recolour
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import read_clip, read_truth
from distill.data.clips import ClipSpec, Window
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.data.truth import PointsTruth
from distill.data.video.open import open_video
from distill.errors import UserError

SPEC = ClipSpec(num_frames=4, size=(36, 64), target_frames=(3,), map_size=(18, 32))
FULL = {"crop": Crop((0.3, 1.0), 1.3), "colour": Jitter(0.3, 0.3, 0.3)}


@pytest.fixture
def videos():
    return [synthetic.video(f"blob{seed}", seed) for seed in range(3)]


def clips(videos, *, flip=True, seed=0, **more):
    return ClipDataset([ClipSource(videos, 4)], SPEC, seed=seed, flip=flip, **more)


def random():
    return np.random.default_rng(0)


# ---------------------------------------------------------------- boxes


@pytest.mark.parametrize("area", [0.1, 0.25, 0.5, 1.0])
def test_boxes_keep_the_aspect_ratio_and_have_the_requested_area(area):
    draw = random()
    for _ in range(50):
        box = Crop((area, area)).draw(draw, (360, 640))
        assert box.height * box.width / (360 * 640) == pytest.approx(area, rel=0.02)
        assert box.width / box.height == pytest.approx(640 / 360, rel=0.02)
        assert 0 <= box.top <= 360 - box.height
        assert 0 <= box.left <= 640 - box.width
    assert Crop((1.0, 1.0), 2.0).draw(random(), (360, 640)) == Box(0, 0, 360, 640)


def test_stretched_boxes_reach_both_limits():
    draw = random()
    boxes = [Crop((0.2, 0.6), 1.5).draw(draw, (300, 300)) for _ in range(500)]
    shapes = np.array([box.width / box.height for box in boxes])
    areas = np.array([box.width * box.height for box in boxes]) / 300**2
    assert 1 / 1.53 < shapes.min() < 1 / 1.4
    assert 1.4 < shapes.max() < 1.53
    assert 0.19 < areas.min() < 0.23
    assert 0.57 < areas.max() < 0.61
    assert abs(np.log(shapes).mean()) < 0.05


def test_boxes_cover_the_frame_and_fit_into_the_smallest_frames():
    draw = random()
    tops = [Crop((0.25, 0.25)).draw(draw, (36, 64)).top for _ in range(300)]
    assert (min(tops), max(tops)) == (0, 18)
    for size in ((1, 1), (1, 9), (7, 2)):
        box = Crop((0.01, 0.02), 3).draw(random(), size)
        assert box.height >= 1 <= box.width
        assert box.top + box.height <= size[0]
        assert box.left + box.width <= size[1]


def test_mirrored_box():
    box = Box(2, 3, 5, 7)
    assert box.shares((10, 20)) == pytest.approx((0.2, 0.15, 0.5, 0.35))
    assert box.shares((10, 20), flipped=True) == pytest.approx((0.2, 0.5, 0.5, 0.35))
    picture = np.arange(200).reshape(10, 20)
    assert (augment.flip(box.of(picture)) == Box(2, 10, 5, 7).of(augment.flip(picture))).all()


@pytest.mark.parametrize(("area", "stretch"), [((0, 1), 1), ((0.6, 0.5), 1), ((0.5, 1.1), 1), ((0.5, 1), 0.9)])
def test_invalid_crop_is_refused(area, stretch):
    with pytest.raises(UserError, match="expected an area"):
        Crop(area, stretch)


# ---------------------------------------------------------------- pixels


def test_crop_of_the_models_size_is_not_resampled():
    frames = random().integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    assert (crop_frames(frames, Box(4, 5, 8, 12), (8, 12)) == frames[:, 4:12, 5:17]).all()


def test_crop_is_resampled_once_from_the_video(videos):
    video, box = videos[0], Box(10, 20, 40, 70)
    clip = read_clip(Window(video, 20, box=box), SPEC)
    own = open_video(video.path).read(SPEC.frames(20, video.fps))
    for frame, image in zip(own, clip.permute(1, 2, 3, 0).numpy(), strict=True):
        expected = Image.fromarray(frame[10:50, 20:90]).resize((64, 36), Image.Resampling.BICUBIC)
        assert np.abs(image.astype(int) - np.asarray(expected)).max() <= 2


def test_neutral_colours_leave_the_clip_unchanged():
    clip = random().integers(0, 256, (3, 2, 5, 6), dtype=np.uint8)
    assert (recolour(clip, Colour(1, 1, 1)) == clip).all()
    assert recolour(clip, Colour(1, 1, 1)).dtype == np.uint8
    grey = np.repeat(clip[:1], 3, axis=0)
    assert (recolour(grey, Colour(1, 1, 0.3)) == grey).all()  # grey has no saturation


@pytest.mark.parametrize(
    ("pixels", "colour", "expected"),
    [
        ([0, 10, 100, 200], Colour(1.5, 1, 1), [0, 15, 150, 255]),
        ([0, 10, 100, 200], Colour(0, 1, 1), [0, 0, 0, 0]),
        ([100, 120, 140, 200], Colour(1, 0.5, 1), [120, 130, 140, 170]),  # around the mean of the clip, 140
        ([100, 120, 140, 200], Colour(1, 0, 1), [140, 140, 140, 140]),
        ([100, 120, 140, 200], Colour(0.5, 0, 1), [70, 70, 70, 70]),  # brightness is applied first
        ([(200, 0, 0)], Colour(1, 1, 0), [(60, 60, 60)]),  # the luma of the pixel
        ([(200, 0, 0)], Colour(1, 1, 0.5), [(130, 30, 30)]),
    ],
)
def test_recolour_applies_brightness_contrast_and_saturation(pixels, colour, expected):
    clip, result = (
        np.broadcast_to(np.array(values, dtype=np.uint8).reshape(len(values), -1), (len(values), 3)).T[
            ..., None, None
        ]
        for values in (pixels, expected)
    )  # (3, T, 1, 1): one pixel per frame
    assert (recolour(clip, colour) == result).all()


def test_jitter_covers_its_range():
    draw = random()
    drawn = [Jitter(0.1, 0.5, 0).draw(draw) for _ in range(300)]
    brightness, contrast = ([getattr(each, name) for each in drawn] for name in ("brightness", "contrast"))
    assert 0.9 <= min(brightness) < 0.92
    assert 1.08 < max(brightness) <= 1.1
    assert 0.5 <= min(contrast) < 0.55
    assert {each.saturation for each in drawn} == {1.0}


# ---------------------------------------------------------------- ground truth


def with_points(tmp_path, video, points):
    (tmp_path / "fixations.json").write_text(str([points] * video.num_frames))
    return replace(video, truth=PointsTruth(tmp_path / "fixations.json", video.size))


def test_fixations_are_cropped_with_the_frame(tmp_path, videos):
    video = with_points(tmp_path, videos[0], [[10, 20], [10, 20], [49, 89], [9, 20], [50, 60], [30, 90]])
    found = read_truth(Window(video, 20, box=Box(10, 20, 40, 70)), replace(SPEC, map_size=(40, 70)))
    expected = torch.zeros(40, 70)
    expected[0, 0], expected[39, 69] = 2, 1
    assert torch.equal(found["fixations"][0], expected)
    small = read_truth(Window(video, 20, box=Box(10, 20, 40, 70)), replace(SPEC, map_size=(4, 7)))
    assert (small["fixations"][0, 0, 0], small["fixations"][0, 3, 6], small["fixations"].sum()) == (2, 1, 3)


def test_density_of_a_crop_is_the_crop_of_the_density(videos):
    video, box = videos[0], Box(10, 20, 40, 70)
    whole = video.truth.density(20, video.size)
    found = read_truth(Window(video, 20, box=box), replace(SPEC, map_size=(40, 70)))["density"][0]
    np.testing.assert_allclose(found, box.of(whole) / box.of(whole).sum(), rtol=1e-5)
    half = read_truth(Window(video, 20, box=box), replace(SPEC, map_size=(20, 35)))["density"][0]
    assert half.sum() == pytest.approx(1, abs=1e-5)
    by_two = torch.nn.functional.avg_pool2d(found[None, None], 2)[0, 0]
    assert torch.corrcoef(torch.stack([half.flatten(), by_two.flatten()]))[0, 1] > 0.999


def test_crop_without_a_fixation_is_unlabelled(tmp_path, videos):
    video = with_points(tmp_path, videos[0], [[10, 20]])
    inside, outside = (
        read_truth(Window(video, 20, box=box), SPEC) for box in (Box(0, 0, 36, 64), Box(20, 30, 36, 64))
    )
    assert inside["labelled"].tolist() == [True]
    assert outside["labelled"].tolist() == [False]
    assert outside["density"].abs().sum() == outside["fixations"].sum() == 0


def test_density_follows_the_blob_through_every_augmentation(videos):
    """The brightest place of the clip's last frame, the densest of the truth, and the fixations are one place."""
    dataset = clips(videos, crop=Crop((0.5, 1.0), 1.3), colour=Jitter(0.1, 0.1, 0.3))
    judged = 0
    for number in range(24):
        sample = dataset[number]
        if not sample["labelled"][0] or sample["fixations"].sum() < synthetic.OBSERVERS:
            continue  # the blob crosses the border of the crop
        bright = sample["clip"][:, -1].float().sum(dim=0)
        peak = np.unravel_index(int(bright.argmax()), bright.shape)
        looked = np.unravel_index(int(sample["density"][0].argmax()), (18, 32))
        assert np.hypot(peak[0] / 36 - looked[0] / 18, peak[1] / 64 - looked[1] / 32) < 0.2
        rows, columns = np.nonzero(sample["fixations"][0].numpy())
        assert np.hypot(rows.mean() / 18 - looked[0] / 18, columns.mean() / 32 - looked[1] / 32) < 0.2
        judged += 1
    assert judged > 8


# ---------------------------------------------------------------- teacher maps


def test_teacher_map_is_cropped_like_the_ground_truth(videos):
    """The ground truth as teacher map, cropped, equals the ground truth of the cropped clip."""
    video, size = videos[0], (72, 128)
    spec = replace(SPEC, map_size=size)
    for box in (Box(10, 20, 40, 70), Box(0, 0, 36, 128), Box(4, 8, 36, 64)):
        for flipped in (False, True):
            truth = read_truth(Window(video, 20, flipped, box), spec)["density"]  # (1, 72, 128)
            assert truth.any()
            whole = read_truth(Window(video, 20, flipped), spec)["density"]
            shares = torch.tensor(box.shares(video.size, flipped=flipped))
            cut = saliency.density(crop_maps(whole.clamp_min(1e-30).log()[None], shares[None]))[0]
            assert cut.shape == truth.shape
            assert (cut - truth).abs().sum() < 0.02
            assert (cut - whole).abs().sum() > 0.2


def test_crop_aligned_with_the_pixels_keeps_their_values():
    maps = torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    cut = crop_maps(
        maps, torch.tensor([[3, 3, 3, 3]]) / 9
    )  # 3 of 9 pixels per side: every third output pixel is aligned
    met, expected = cut[..., 1::3, 1::3], maps[..., 3:6, 3:6]
    torch.testing.assert_close(met - met[..., :1, :1], expected - expected[..., :1, :1], atol=1e-5, rtol=0)
    whole = crop_maps(maps, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    torch.testing.assert_close(saliency.density(whole), saliency.density(maps), atol=1e-6, rtol=0)


def test_maps_of_a_batch_have_separate_boxes():
    maps = torch.randn(3, 2, 8, 9, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([[0, 0, 0.5, 0.5], [0.25, 0.1, 0.5, 0.9], [0, 0, 1, 1]])
    together = crop_maps(maps, shares)
    for number in range(3):
        alone = crop_maps(maps[number : number + 1], shares[number : number + 1])
        assert torch.equal(together[number : number + 1], alone)


def test_cropped_map_is_finite():
    steep = torch.linspace(0, -1e4, 48).reshape(1, 1, 6, 8)
    for maps in (steep, torch.zeros(1, 1, 6, 8), steep * 0 - 1e6):
        cut = crop_maps(maps, torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
        assert torch.isfinite(cut).all()
        assert saliency.density(cut).sum() == pytest.approx(1, abs=1e-5)
    assert not crop_maps(torch.zeros(1, 1, 6, 8), torch.tensor([[0.2, 0.2, 0.5, 0.5]])).std()


# ---------------------------------------------------------------- the data set


def test_crop_and_colour_change_neither_frames_nor_mirroring(videos):
    plain, full = clips(videos), clips(videos, **FULL)
    for number in range(30):
        one, other = plain.window(number), full.window(number)
        assert (one.video.name, one.end, one.flipped) == (other.video.name, other.end, other.flipped)
        assert one.box is one.colour is None
        assert other.box is not None
        assert other.colour is not None
    assert "box" not in plain[0]
    boxes = {full.window(number).box for number in range(30)}
    assert len(boxes) == 30
    assert boxes != {clips(videos, seed=1, **FULL).window(number).box for number in range(30)}


def test_window_of_the_teacher_is_not_cropped_or_recoloured(videos):
    window = clips(videos, **FULL).window(3)
    assert window.for_teacher() == Window(window.video, window.end, window.flipped)


def test_box_of_a_sample_is_that_of_its_clip(videos):
    dataset = clips(videos, **FULL)
    for number in range(8):
        window, sample = dataset.window(number), dataset[number]
        assert sample["box"].dtype == torch.float32
        top, left, height, width = (sample["box"] * torch.tensor([72.0, 128, 72, 128])).round().int().tolist()
        part = Window(window.video, window.end, False, Box(top, left, height, width), window.colour)
        if not window.flipped:
            assert torch.equal(sample["clip"], read_clip(part, SPEC))
        else:
            assert left == 128 - window.box.left - window.box.width


@pytest.mark.parametrize("workers", [1, 2])
def test_augmentation_does_not_depend_on_the_number_of_workers(videos, workers):
    batches = [[3, 1], [7, 20], [0, 11]]
    alone, there = (list(make_loader(clips(videos, **FULL), batches, workers=number)) for number in (0, workers))
    for one, other in zip(alone, there, strict=True):
        for key, value in one.items():
            same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
            assert same, key
