"""Virtual camera: clips with motion from stills, with ground truth and teacher maps that move along."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill import saliency
from distill.data.augment import WHOLE, Box, Camera, Crop, Jitter, Move, crop_maps, crop_values, rounded, show_part
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import read_clip, read_truth
from distill.data.clips import ClipSpec, Video, Window
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.data.truth import Truth
from distill.errors import UserError
from distill.training.teachers import crop_features_like_clips

SPEC = ClipSpec(num_frames=5, size=(48, 64), target_frames=(0, 2, 4), map_size=(24, 32), stride=2)
FAST = Camera(zoom=(0.5, 0.9), speed=1.5, zoom_speed=2.0)
DOT = (70, 90)


@dataclass(frozen=True)
class DotTruth(Truth):
    """Five fixations of the dot."""

    size: tuple[int, int] = (120, 160)
    sigma: float | None = 4.0

    def points(self, frame: int) -> np.ndarray:
        return np.array([DOT] * 5)


@pytest.fixture
def still(tmp_path: Path) -> Video:
    """A dark still of 120 x 160 pixels with a bright dot where everybody looked."""
    rows, columns = np.mgrid[:120, :160]
    dot = np.exp(-0.5 * ((rows - DOT[0]) ** 2 + (columns - DOT[1]) ** 2) / 4**2)
    image = np.repeat((20 + 220 * dot)[..., None], 3, axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "still.png")
    return Video("still", tmp_path / "still.png", 1, 30.0, (120, 160), range(1), DotTruth(), "stills")


def clips(videos: list[Video], spec: ClipSpec = SPEC, **more: object) -> ClipDataset:
    return ClipDataset([ClipSource(videos, 8)], spec, seed=0, flip=True, **more)  # type: ignore[arg-type]


def place_of_peak(values: torch.Tensor) -> np.ndarray:
    """Return (row, column) of the maximum of a map (h, w), relative to its size."""
    place = np.unravel_index(int(values.argmax()), values.shape)
    return (np.array(place) + 0.5) / values.shape


# ---------------------------------------------------------------- moves


def test_move_is_linear_and_mirrors() -> None:
    move = Move((0.0, 0.2, 0.5, 0.5), (0.4, 0.0, 0.6, 0.6), span=8)
    assert move.at(0) == pytest.approx((0.4, 0.0, 0.6, 0.6))
    assert move.at(-8) == pytest.approx((0.0, 0.2, 0.5, 0.5))
    assert move.at(-4) == pytest.approx((0.2, 0.1, 0.55, 0.55))
    assert move.at(-4, flipped=True) == pytest.approx((0.2, 0.35, 0.55, 0.55))


def test_drawn_moves_stay_inside_the_frame_and_below_their_speed() -> None:
    random = np.random.default_rng(0)
    sides, distances, factors = [], [], []
    for _ in range(500):
        move = FAST.draw(random, span=15, fps=30.0)
        assert move is not None
        for offset in (-15, -7, 0):
            top, left, height, width = move.at(offset)
            assert height == pytest.approx(width)
            assert min(top, left) >= -1e-9
            assert max(top + height, left + width) <= 1 + 1e-9
        sides += [move.first[2], move.last[2]]
        centres = [np.array(part[:2]) + np.array(part[2:]) / 2 for part in (move.first, move.last)]
        distances.append(np.linalg.norm(centres[1] - centres[0]))
        factors.append(move.last[2] / move.first[2])
    assert 0.5 <= min(sides) < 0.51
    assert 0.89 < max(sides) <= 0.9
    assert max(factors) <= 2**0.5 + 1e-9
    assert max(factors) > 1.3
    assert np.quantile(distances, 0.9) > 0.3


def test_zero_speed_and_no_zoom_show_the_whole_still() -> None:
    move = Camera(zoom=(1.0, 1.0), speed=0.0, zoom_speed=1.0).draw(np.random.default_rng(0), 8, 30.0)
    assert move is not None
    assert move.first == move.last == pytest.approx(WHOLE)


def test_probability_is_the_share_of_clips_with_a_move() -> None:
    random = np.random.default_rng(0)
    moves = [Camera(probability=0.3).draw(random, 8, 30.0) for _ in range(500)]
    assert np.mean([move is not None for move in moves]) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize(
    "arguments",
    [{"zoom": (0.0, 1.0)}, {"zoom": (0.8, 0.7)}, {"zoom": (0.5, 1.1)}, {"speed": -1.0}, {"zoom_speed": 0.5}],
)
def test_invalid_camera_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UserError, match="expected"):
        Camera(**arguments)  # type: ignore[arg-type]


def test_rounded_part_covers_it_and_fits() -> None:
    assert rounded((0.1, 0.2, 0.5, 0.4), (100, 200)) == Box(10, 40, 50, 80)
    assert rounded(WHOLE, (37, 53)) == Box(0, 0, 37, 53)
    assert rounded((0.999, 0.999, 0.001, 0.001), (10, 10)) == Box(9, 9, 1, 1)


def test_whole_part_is_the_plain_resize() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(frame).resize((30, 20), Image.Resampling.BICUBIC))
    assert (show_part(frame, WHOLE, (20, 30)) == expected).all()
    assert (show_part(frame, (0.25, 0.5, 0.5, 0.5), (20, 30)) == frame[10:30, 30:60]).all()


# ---------------------------------------------------------------- clips


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_ground_truth_stays_on_the_dot(still: Video, fit: str) -> None:
    """In all target frames, the brightest place, the density's peak and the fixations are one moving place."""
    dataset = clips([still], replace(SPEC, fit=fit, size=(48, 96 if fit == "letterbox" else 64)), camera=FAST)
    judged, moved = 0, []
    for number in range(len(dataset)):
        window, sample = dataset.window(number), dataset[number]
        assert window.move is not None
        places = []
        for n, frame in enumerate((0, 2, 4)):
            top, left, height, width = window.move.at(SPEC.offsets(30.0)[n])
            dot = (np.array(DOT) + 0.5) / still.size
            inside = ((dot - (top, left)) / (height, width) - 0.5).tolist()
            if max(map(abs, inside)) > 0.5:
                assert not sample["labelled"][n]
                continue
            if max(map(abs, inside)) > 0.4:
                continue  # the peak is at the border
            shown = sample["clip"][:, frame, :, 16:80] if fit == "letterbox" else sample["clip"][:, frame]
            bright = place_of_peak(shown.float().sum(0))
            peak = place_of_peak(sample["density"][n])
            (row,), (column,) = np.nonzero(sample["fixations"][n].numpy())
            assert np.abs(bright - peak).max() < 0.05
            assert np.abs(np.array([(row + 0.5) / 24, (column + 0.5) / 32]) - bright).max() < 0.05
            assert sample["density"][n].sum() == pytest.approx(1, abs=1e-5)
            places.append(peak)
            judged += 1
        if len(places) == 3:
            moved.append(np.abs(places[0] - places[2]).max())
    assert judged > 8
    assert max(moved) > 0.08


def test_map_of_a_teacher_moves_like_the_ground_truth(still: Video) -> None:
    dataset, spec = clips([still], replace(SPEC, map_size=(60, 80)), camera=FAST), replace(SPEC, map_size=(60, 80))
    compared = 0
    for number in range(len(dataset)):
        window, sample = dataset.window(number), dataset[number]
        assert sample["box"].shape == (3, 4)
        whole = read_truth(Window(still, 0, window.flipped), spec)["density"]  # (3, h, w), as a teacher has it
        cut = saliency.density(crop_maps(whole.clamp_min(1e-30).log()[None], sample["box"][None]))[0]
        for n in np.flatnonzero(sample["labelled"].numpy()):
            difference = (cut[n] - sample["density"][n]).abs().sum()
            compared += 1
            assert difference < 0.15
    assert compared > 8


def test_camera_changes_nothing_else(still: Video) -> None:
    videos = [still, synthetic.video("blob", 1)]
    more = {"crop": Crop((0.3, 1.0)), "colour": Jitter(0.3, 0.3, 0.3)}
    plain, moving = clips(videos, **more), clips(videos, camera=FAST, **more)
    for number in range(len(plain)):
        one, other = plain.window(number), moving.window(number)
        assert (one.video.name, one.end, one.flipped, one.colour) == (
            other.video.name,
            other.end,
            other.flipped,
            other.colour,
        )
        if one.video.name == "blob":
            assert one == other
            assert torch.equal(plain[number]["clip"], moving[number]["clip"])
            assert torch.equal(moving[number]["box"], plain[number]["box"].expand(3, 4))
        else:
            assert other.box is None
            assert other.move is not None
            assert one.move is None
    assert moving.window(3) == clips(videos, camera=FAST, **more).window(3)


def test_videos_move_only_on_request() -> None:
    video = synthetic.video("blob", 1)
    assert clips([video], camera=FAST).window(0).move is None
    assert torch.equal(clips([video], camera=FAST)[0]["box"], torch.tensor([WHOLE] * 3))
    window = clips([video], camera=replace(FAST, videos=True)).window(0)
    assert window.move is not None
    assert read_clip(window, SPEC).shape == (3, 5, 48, 64)
    assert window.for_teacher() == Window(video, window.end, window.flipped)


@pytest.mark.parametrize("workers", [1])
def test_moves_do_not_depend_on_the_number_of_workers(still: Video, workers: int) -> None:
    dataset = clips([still, synthetic.video("blob", 1)], camera=FAST)
    alone, there = (list(make_loader(dataset, [[0, 5], [9, 2]], workers=number)) for number in (0, workers))
    for one, other in zip(alone, there, strict=True):
        assert torch.equal(one["clip"], other["clip"])
        assert torch.equal(one["box"], other["box"])
        assert one["box"].shape == (2, 3, 4)


def test_clip_of_one_frame_has_the_last_part(still: Video) -> None:
    spec = ClipSpec(1, (48, 64), (0,), (24, 32))
    window = clips([still], spec, camera=FAST).window(0)
    assert window.move is not None
    frame = np.asarray(Image.open(still.path))
    clip = read_clip(replace(window, flipped=False), spec)
    assert (clip[:, 0].permute(1, 2, 0).numpy() == show_part(frame, window.move.last, (48, 64))).all()


# ---------------------------------------------------------------- teachers


def test_one_box_for_each_map_equals_maps_on_their_own() -> None:
    maps = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    boxes = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) / 2
    together = crop_maps(maps, boxes)
    for n in range(3):
        torch.testing.assert_close(together[:, n : n + 1], crop_maps(maps[:, n : n + 1], boxes[:, n]))


def test_features_follow_the_camera() -> None:
    features = torch.randn(2, 4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    boxes = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(1)) / 2
    found = crop_features_like_clips(features, boxes)
    for step, box in enumerate((boxes[:, 0], boxes.mean(1), boxes[:, 1])):
        torch.testing.assert_close(found[:, :, step], crop_values(features[:, :, step], box))
    flat = crop_features_like_clips(features[:, :, 0], boxes)
    torch.testing.assert_close(flat, crop_values(features[:, :, 0], boxes.mean(1)))
