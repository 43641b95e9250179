"""Hashes of pictures: exact thresholds, edited copies that are found, and other videos that are not."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.video_files import encode, write_grey
from PIL import Image, ImageEnhance, ImageOps

from distill.data import picture_hashes
from distill.data.picture_hashes import (
    MAX_BITS,
    HashSet,
    VideoHashes,
    hash_picture,
    hash_videos,
    near_duplicates,
    pack,
    sampled,
    unpack,
)
from distill.data.video.open import open_video
from distill.errors import UserError


def hashed(path: Path) -> VideoHashes:
    (result,) = hash_videos([path])
    assert isinstance(result, VideoHashes)
    return result


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=20)
    return Image.open(buffer)


def cropped(image: Image.Image) -> Image.Image:
    """Cut 1.5% off each side."""
    dx, dy = round(0.015 * image.width), round(0.015 * image.height)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": compressed,
    "small": lambda image: image.resize((image.width // 4, image.height // 4)),
    "stretched": lambda image: image.resize((200, 200)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "grey": lambda image: image.convert("L"),
    "cropped": cropped,
}


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    """Frames of the two sample videos, 4 seconds apart."""
    folder = Path(__file__).parents[2] / "data" / "dhf1k" / "video"
    readers = [open_video(folder / name) for name in ("002.AVI", "068.AVI")]
    return [Image.fromarray(reader.read([frame])[0]) for reader in readers for frame in (60, 180, 300, 420)]


@pytest.mark.parametrize(
    ("bits", "expected"), [((12, 14), True), ((13, 0), False), ((0, 15), False), ((0, 0), True)]
)
def test_near_duplicates_differ_in_at_most_the_stated_bits(bits: tuple[int, int], expected: bool) -> None:
    assert MAX_BITS == (12, 14)
    one = np.random.default_rng(0).integers(0, 2**64, (1, 2), dtype=np.uint64)
    other = one ^ np.array([[(1 << bits[0]) - 1, (1 << bits[1]) - 1]], dtype=np.uint64)
    assert near_duplicates(one, other).tolist() == [expected]


def test_comparison_in_blocks_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 2**64, (50, 2), dtype=np.uint64)
    others = np.concatenate([random.integers(0, 2**64, (20, 2), dtype=np.uint64), pictures[::7] ^ np.uint64(5)])
    monkeypatch.setattr(picture_hashes, "BLOCK", 60)
    assert np.flatnonzero(near_duplicates(pictures, others)).tolist() == list(range(0, 50, 7))
    nothing = np.zeros((0, 2), dtype=np.uint64)
    assert not near_duplicates(pictures, nothing).any()
    assert near_duplicates(nothing, others).shape == (0,)


def test_packed_hashes_are_read_back() -> None:
    pictures = np.array([[1, 2**64 - 1], [2**63, 0]], dtype=np.uint64)
    assert len(pack(pictures)) == 32
    np.testing.assert_array_equal(unpack(pack(pictures)), pictures)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_picture_is_a_near_duplicate_of_its_original_only(frames: list[Image.Image], edit: str) -> None:
    originals = np.stack([hash_picture(frame) for frame in frames])
    scenes = [0, 0, 0, 0, 1, 2, 3, 4]  # the first video is one scene
    for frame, scene in zip(frames, scenes, strict=True):
        copy = hash_picture(EDITS[edit](frame))[None]
        matches = {
            scenes[place] for place in range(len(frames)) if near_duplicates(copy, originals[place, None])[0]
        }
        assert scene in matches
        assert scene == 0 or 0 not in matches


def test_sampled_frames_are_the_same_moments_at_any_frame_rate() -> None:
    assert sampled(1, 30) == [0]
    assert sampled(2, 30) == [0, 1]
    assert sampled(30, 30) == [5, 15, 25]  # at least three
    assert sampled(300, 30) == list(range(7, 300, 15))
    moments = [np.array(sampled(10 * rate, rate)) / rate for rate in (15, 25, 60)]
    assert all(len(each) == 20 for each in moments)
    assert max(np.abs(each - moments[0]).max() for each in moments) <= 1 / 15


@pytest.mark.parametrize("mirrored", [False, True])
def test_copy_of_a_video_is_found_by_its_pictures(sample: Path, tmp_path: Path, mirrored: bool) -> None:
    reader = open_video(sample / "video" / "068.AVI")
    images = reader.read(range(37, 300, 2), (160, 288))  # trimmed, at half the frame rate, smaller
    if mirrored:
        images = images[:, :, ::-1]
    copy = hashed(encode(tmp_path / "x.mp4", list(images), codec="libx264", rate=15, options={"crf": "32"}))
    original, other = hashed(sample / "video" / "068.AVI"), hashed(sample / "video" / "002.AVI")
    assert copy.content != original.content
    assert HashSet.of([original]).holds(copy)
    assert HashSet.of([copy]).holds(original)
    assert not HashSet.of([other]).holds(copy)
    assert near_duplicates(copy.mirrored if mirrored else copy.pictures, original.pictures).mean() > 0.3


def test_flat_frames_have_no_hash_and_match_nothing(tmp_path: Path) -> None:
    black = hashed(write_grey(tmp_path / "black.mp4", [0] * 30, (48, 80), 10))
    card = hashed(write_grey(tmp_path / "card.mp4", [0] * 29 + [3], (48, 80), 10))
    assert black.pictures.shape == card.mirrored.shape == (0, 2)
    assert not HashSet.of([black]).holds(card)
    assert HashSet.of([card, black]).holds(black)  # by its content


def test_renamed_file_and_folder_of_frames_are_found_by_content(
    frames: list[Image.Image], sample: Path, tmp_path: Path
) -> None:
    shutil.copy(sample / "video" / "068.AVI", tmp_path / "renamed.avi")
    assert hashed(tmp_path / "renamed.avi").content == hashed(sample / "video" / "068.AVI").content
    for folder, name in (("a", "{:04d}.png"), ("b", "frame{:02d}.png")):
        (tmp_path / folder).mkdir()
        for number, frame in enumerate(frames[:3]):
            frame.save(tmp_path / folder / name.format(number))
    one, other = hashed(tmp_path / "a"), hashed(tmp_path / "b")
    assert one.content == other.content
    assert len(one.pictures) == 3
    ImageOps.mirror(frames[0]).save(tmp_path / "b" / "frame00.png")
    assert hashed(tmp_path / "b").content != one.content


def test_generated_video_is_identified_by_its_name() -> None:
    names = ["synthetic:1-24x48x80", "synthetic:2-24x48x80"]
    one, other = hash_videos([Path(name) for name in names])
    assert isinstance(one, VideoHashes)
    assert isinstance(other, VideoHashes)
    assert HashSet.of([one]).holds(one)
    assert not HashSet.of([one]).holds(other)


def test_hashes_are_cached_until_the_file_changes(
    frames: list[Image.Image], tmp_path: Path, empty_cache: Path, guarded_calls: list[int]
) -> None:
    path = tmp_path / "a.png"
    frames[0].save(path)
    first = hashed(path)
    assert sum(guarded_calls) == 1
    assert hashed(path).content == first.content
    assert sum(guarded_calls) == 1
    frames[5].save(path)
    assert hashed(path).content != first.content
    assert sum(guarded_calls) == 2


def test_broken_file_is_an_error_in_its_place(frames: list[Image.Image], tmp_path: Path) -> None:
    frames[0].save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    whole, broken = hash_videos([tmp_path / "a.png", tmp_path / "b.png"])
    assert isinstance(whole, VideoHashes)
    assert isinstance(broken, UserError)
    assert str(tmp_path / "b.png") in str(broken)


@pytest.mark.slow
def test_different_pictures_of_real_data_are_no_near_duplicates(shared: Path) -> None:
    """All pairs of 1700 stills, of stills and frames of 32 videos, and of videos, mirrored or not."""
    data = shared / "data"
    stills = sorted((data / "stills").glob("*/images/*"))
    videos = sorted(path for path in data.glob("**/*") if path.suffix.lower() in (".mp4", ".avi"))
    assert (len(stills), len(videos)) == (1700, 32)
    hashes = {
        path.stem: hashed for path, hashed in zip([*stills, *videos], hash_videos([*stills, *videos]), strict=True)
    }
    found = set()
    for name in (path.stem for path in stills):
        shown = HashSet.of([hashes[path.stem] for path in [*stills, *videos] if path.stem != name])
        if shown.holds(hashes[name]):
            found.add(name)
    assert found == {"osie-1279", "osie-1374"}  # the same photograph, twice in the data set
    pairs = {
        (one.stem, other.stem)
        for place, one in enumerate(videos)
        for other in videos[place + 1 :]
        if HashSet.of([hashes[one.stem]]).holds(hashes[other.stem])
    }
    assert pairs == {("BasketballDrill", "BasketballDrillText"), ("RaceHorsesC", "RaceHorsesD")}  # the same scenes
