"""Data sets with damaged, oversized and misleading files: MATLAB bombs, wrong JSON, odd names, link loops."""

import json
import os
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.data_files import POINTS, SIZE, clip_file, frame_folder, picture_files, points_file
from PIL import Image
from scipy.io import savemat
from scipy.sparse import eye_array

from distill.data.annotation import read_mat, read_points
from distill.data.check import check
from distill.data.clip_reader import read_truth
from distill.data.clips import ClipSpec, Window
from distill.data.map_files import find_maps, frames_of
from distill.data.sets.dataset import same_name
from distill.data.sets.find import find_videos
from distill.data.sets.folder import find_media
from distill.data.sets.ntire import read_splits
from distill.data.video import names, probe_cache
from distill.data.video.names import MAX_DIGITS, natural, number_in, walk
from distill.data.video.probe import probe
from distill.errors import UserError
from distill.limits import MAX_PICTURE_PIXELS, MAX_POINTS_BYTES

DEEP = "[" * 200_000 + "]" * 200_000


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    return empty_cache


# ---------------------------------------------------------------- MATLAB files


def mark_as_hdf5(path: Path) -> None:
    """Write the header of MATLAB 7.3 into the user block."""
    content = bytearray(path.read_bytes())
    content[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(content)


def hdf5(**arguments: object):
    """Return a function that writes variable I to a version 7.3 file; without arguments, a group."""

    def write(path: Path) -> None:
        with h5py.File(path, "w", userblock_size=512) as file:
            if arguments:
                file.create_dataset("I", **arguments)
            else:
                file.create_group("I")
        mark_as_hdf5(path)

    return write


def hdf5_link(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["I"] = h5py.SoftLink("/I")
    mark_as_hdf5(path)


def compressed(shape: tuple[int, int], length: int):
    """Return a function that writes a compressed variable I of a shape, with a length of its own."""

    def write(path: Path) -> None:
        head = struct.pack("<IIIIIIiiHH4sII", 6, 8, 9, 0, 5, 8, *shape, 1, 1, b"I\0\0\0", 2, length)
        expander = zlib.compressobj(9)
        parts = [expander.compress(struct.pack("<II", 14, len(head) + length) + head)]
        parts += [expander.compress(bytes(2**20)) for _ in range(length // 2**20)] + [expander.flush()]
        content = b"".join(parts)
        header = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
        path.write_bytes(header + struct.pack("<II", 15, len(content)) + content)

    return write


def version_5(value: object):
    return lambda path: savemat(path, {"I": value})


NO_MAP = r"0001\.mat: expected variable I to be a 2-D array of numbers, the fixation map, but found "
TOO_LARGE = rf"0001\.mat: .* is over the limit of {MAX_PICTURE_PIXELS:,} \(set in distill/limits\.py\)"
WRONG_MATS = {
    "empty": (version_5(np.zeros((0, 0))), NO_MAP + r"double \(0, 0\)"),
    "no rows": (version_5(np.zeros((0, 5))), NO_MAP),
    "text": (version_5("some text"), NO_MAP + "char"),
    "cells": (version_5(np.array([1, "a"], dtype=object)), NO_MAP + "cell"),
    "structure": (version_5({"a": 1}), NO_MAP + "struct"),
    "sparse": (version_5(eye_array(4)), NO_MAP + "sparse"),
    "complex": (version_5(np.eye(4) * 1j), NO_MAP + "complex128"),
    "huge header": (compressed((100_000, 100_000), 2**20), TOO_LARGE),
    "huge content": (compressed((36, 64), 400 * 2**20), r"0001\.mat: bytes of a variable: .* is over the limit"),
    "HDF5 empty": (hdf5(data=np.zeros((0, 0))), NO_MAP),
    "HDF5 text": (hdf5(data=np.array([b"text"])), NO_MAP),
    "HDF5 complex": (hdf5(data=np.eye(4) * 1j), NO_MAP + "complex128"),
    "HDF5 group": (hdf5(), NO_MAP + "a group"),
    "HDF5 huge": (hdf5(shape=(200_000, 200_000), dtype="f8", chunks=(999, 999), compression="gzip"), TOO_LARGE),
    "HDF5 huge chunk": (
        hdf5(shape=(36, 64), dtype="f8", chunks=(9999, 9999), maxshape=(None, None), compression="gzip"),
        TOO_LARGE,
    ),
    "HDF5 link to itself": (hdf5_link, r"0001\.mat: cannot be read as a MATLAB file"),
    "folder": (os.mkdir, r"0001\.mat: cannot be read as a MATLAB file \(it is not a file\)"),
    "pipe": (os.mkfifo, r"0001\.mat: cannot be read as a MATLAB file \(it is not a file\)"),
    "link to itself": (lambda path: path.symlink_to(path.name), r"0001\.mat: .*Too many levels of symbolic links"),
}


@pytest.mark.parametrize("kind", WRONG_MATS)
def test_wrong_matlab_file_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    write, message = WRONG_MATS[kind]
    write(tmp_path / "0001.mat")
    with pytest.raises(UserError, match=message):
        read_mat(tmp_path / "0001.mat")


@pytest.mark.parametrize("kind", ["empty", "text", "huge header", "HDF5 empty"])
def test_frame_with_a_wrong_matlab_file_is_unlabelled_with_one_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    clip_file(tmp_path / "video/001.AVI")
    picture_files(tmp_path / "annotation/0001", fixations="mat")
    path = tmp_path / "annotation/0001/fixation/maps/0003.mat"
    path.unlink()
    write, _ = WRONG_MATS[kind]
    write(path.with_name("0001.mat").rename(path.with_name("first.mat")).with_name("0001.mat"))
    path.with_name("0001.mat").rename(path)
    path.with_name("first.mat").rename(path.with_name("0001.mat"))
    (video,) = find_videos("dhf1k", tmp_path)
    spec = ClipSpec(num_frames=6, size=(18, 32), target_frames=tuple(range(6)), map_size=(9, 16))
    for _ in range(2):
        truth = read_truth(Window(video, 5), spec)
        assert truth["labelled"].tolist() == [True, True, False, True, True, True]
        assert not truth["fixations"][2].any()
    assert caplog.text.count("0003.mat: ") == 1
    assert "; the file is ignored" in caplog.text
    assert check(tmp_path, progress=False).truths["001"].labelled == 5


# ---------------------------------------------------------------- JSON

NOT_POINTS = {
    "deep": DEEP,
    "cut off": "[[[1, 2",
    "object": "{}",
    "number": "3",
    "null": "null",
    "text as a coordinate": '[[["1", 2]]]',
    "truth value": "[[[true, 2]]]",
    "null as a frame": "[null]",
    "one coordinate": "[[[1]]]",
    "three coordinates": "[[[1, 2, 3]]]",
    "flat": "[[1, 2]]",
    "infinity": "[[[1e999, 2]]]",
    "not a number": "[[[NaN, 2]]]",
    "not Unicode": b"[[[1, 2]]]\xff",
    "empty": "",
}


@pytest.mark.parametrize("kind", NOT_POINTS)
def test_fixations_of_another_type_are_refused(tmp_path: Path, kind: str) -> None:
    content = NOT_POINTS[kind]
    path = tmp_path / "fixations.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(
        UserError, match=r"fixations\.json: .*; expected one list of \[row, column\] points per frame"
    ):
        read_points(path)


def test_fixations_of_any_length_per_frame_are_read(tmp_path: Path) -> None:
    points_file(tmp_path, [[], [[1, 2]], [], [[3.7, 4], [5, 6]], []])
    points = read_points(tmp_path / "fixations.json")
    assert [points.of(frame).tolist() for frame in range(5)] == [[], [[1, 2]], [], [[3, 4], [5, 6]], []]


def test_huge_fixations_are_refused_by_their_size(tmp_path: Path) -> None:
    with (tmp_path / "fixations.json").open("wb") as file:
        file.truncate(MAX_POINTS_BYTES + 1)
    with pytest.raises(UserError, match=rf"fixations\.json: bytes: .* is over the limit of {MAX_POINTS_BYTES:,}"):
        read_points(tmp_path / "fixations.json")


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        "[]",
        '"a"',
        "{",
        '{"public_test": "a.mp4"}',
        '{"train": [1]}',
        '{"train": {"a": 1}}',
        '{"train": null}',
    ],
)
def test_splits_of_another_type_are_refused(tmp_path: Path, content: str) -> None:
    clip_file(tmp_path / "Videos/a.mp4")
    (tmp_path / "TrainTestSplit.json").write_text(content)
    with pytest.raises(
        UserError, match=r'TrainTestSplit\.json: cannot be read as a split file .*; expected \{"train": '
    ):
        find_videos("ntire", tmp_path)


@pytest.mark.parametrize("name", ["../a.mp4", "/tmp/a.mp4", "", "x/../../a.mp4", "a\0.mp4", "a\n.mp4", "a" * 300])
def test_names_in_splits_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "TrainTestSplit.json").write_text(json.dumps({"train": ["ok.mp4", name]}))
    with pytest.raises(UserError, match=r"TrainTestSplit\.json: the name .* cannot become a path in Videos"):
        read_splits(tmp_path / "TrainTestSplit.json")


def test_many_names_in_splits_take_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of comparisons grows with the number of names, not with its square."""
    clip_file(tmp_path / "Videos/v7.mp4")
    compared = 0

    class Name(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    (tmp_path / "TrainTestSplit.json").write_text("{}")
    listed = {"train": [Name(f"v{n}") for n in range(3000)], "public_test": [], "private_test": [Name("v5")]}
    monkeypatch.setattr("distill.data.sets.ntire.read_splits", lambda path: listed)
    report = check(tmp_path, progress=False)
    assert len(report.scan.broken) == 2999
    assert [text for text in report.problems if "more than once" in text] == [
        f"{tmp_path}/TrainTestSplit.json: lists v5 more than once"
    ]
    assert compared < 100_000


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: DEEP,
        lambda text: text.replace('"answer": {', '"answer": {"deep": ' + DEEP + ", ", 1),
        lambda text: text.replace('"num_frames": 6', '"num_frames": "6"'),
        lambda text: text.replace('"num_frames": 6', '"num_frames": 6.5'),
        lambda text: text.replace('"size": [36, 64]', '"size": [36]'),
        lambda text: text.replace('"size": [36, 64]', '"size": "36x64"'),
        lambda text: text.replace('"fps": 30.0', '"fps": null'),
        lambda text: text.replace('"stamps": "', '"stamps": 5, "more": "'),
        lambda text: text.replace('"regular": true', '"regular": "yes"'),
        lambda text: text.replace('"remarks": []', '"remarks": "none"'),
        lambda text: text.replace('"thorough": false', '"thorough": "no"'),
        lambda text: text.replace('"broken": null', '"broken": 5'),
        lambda text: text.replace('"until": null', '"until": "never"'),
        lambda text: text.replace('"entries": {', '"entries": {"video b.mp4": [], '),
        lambda text: "\udcff" + text,
    ],
)
def test_damaged_cache_is_dropped_and_never_fatal(tmp_path: Path, cache: Path, monkeypatch, damage) -> None:
    path = clip_file(tmp_path / "a.mp4")
    intact = probe(path).to_dict()
    (file,) = cache.iterdir()
    before = file.read_text()
    damaged = damage(before)
    assert damaged != before
    file.write_bytes(damaged.encode(errors="surrogateescape"))
    monkeypatch.setattr(probe_cache.PROBE_CACHE, "_folders", {})
    assert probe(path).to_dict() == intact
    assert file.read_text() == before


# ---------------------------------------------------------------- names


def test_numbers_in_names_have_ascii_digits_only() -> None:
    assert [number_in(text) for text in ("7", "007", "0")] == [7, 7, 0]
    assert [number_in(text) for text in ("", "²", "٣", "1²", "-1", "+1", " 1", "1_0", "1.0", "9" * 5000)] == [
        None
    ] * 10
    assert number_in("9" * MAX_DIGITS) == 10**MAX_DIGITS - 1
    order = ["b٣", "b²", "a10b", "a10", "a2", "a1", "a", "9" * 5000, "10", "02", "1"]
    assert sorted(order, key=natural) == ["1", "02", "10", "9" * 5000, "a", "a1", "a2", "a10", "a10b", "b²", "b٣"]
    assert not same_name("²", "2")
    assert not same_name("٣", "3")
    assert same_name("003", "3")


@pytest.mark.parametrize("name", ["²", "٣", "frame²", "①", "1" * 200])
def test_odd_digits_in_names_of_frames_videos_and_maps(tmp_path: Path, name: str) -> None:
    frames = frame_folder(tmp_path / "annotation/0001/images")
    (frames / "0003.png").rename(frames / f"{name}.png")
    picture_files(tmp_path / "annotation/0001")
    clip_file(tmp_path / f"video/{name}.mp4")
    (tmp_path / "maps/001").mkdir(parents=True)
    for stem in ("0001", name):
        Image.new("L", SIZE[::-1], 9).save(tmp_path / f"maps/001/{stem}.png")
    assert {each.num_frames for each in find_videos("folder", tmp_path / "annotation/0001")} == {6}
    assert check(tmp_path, progress=False).table()
    assert frames_of(find_maps(tmp_path / "maps")["001"]) == [0]
    with pytest.raises(UserError, match="no video"):
        find_videos("dhf1k", tmp_path, videos=[name + "9"])


def test_names_that_are_not_valid_unicode_are_broken_videos(tmp_path: Path) -> None:
    clip_file(tmp_path / "a.mp4")
    for name in (b"b\xff.mp4", b"c\nd.mp4"):
        os.link(tmp_path / "a.mp4", os.fsencode(tmp_path) + b"/" + name)
    report = check(tmp_path, progress=False)
    assert [video.name for video in report.scan.videos] == ["a"]
    assert ["cannot become a path" in message for message in report.scan.broken.values()] == [True, True]


# ---------------------------------------------------------------- links


def test_links_that_lead_back_are_not_followed_without_end(tmp_path: Path) -> None:
    for place in ("one", "two/three"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / place / "0001.png")
    (tmp_path / "one/again").symlink_to("..")
    (tmp_path / "two/three/one").symlink_to("../../one")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "two/0001.png").symlink_to("0001.png")
    found = find_maps(tmp_path)
    assert set(found) == {"one", "two", "two/three", "two/three/one"}
    assert set(find_media(tmp_path)) == {"one", "two", "two/three", "two/three/one"}


def test_number_of_searched_folders_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_FOLDERS", 1000)
    for name in "abcdefghij":  # each links to all: 10! paths without a loop
        (tmp_path / name).mkdir()
        for other in "abcdefghij":
            (tmp_path / name / other).symlink_to(f"../{other}")
    with pytest.raises(UserError, match="folders below it: 1,001 is over the limit of 1,000"):
        list(walk(tmp_path))
    assert len(list(walk(tmp_path, links=False))) == 11


def test_data_set_with_link_loops_everywhere_is_read(tmp_path: Path) -> None:
    clip_file(tmp_path / "video/001.AVI")
    points_file(tmp_path / "annotation/0001", POINTS)
    for place in ("video/002.AVI", "video/loop", "annotation/0002", "annotation/0001/maps", "x"):
        (tmp_path / place).symlink_to(Path(place).name)
    (tmp_path / "video/up").symlink_to("..")
    for dataset in ("dhf1k", "folder"):
        assert [video.num_frames for video in find_videos(dataset, tmp_path)] == [6]
        assert check(tmp_path, dataset, progress=False).table()
    with pytest.raises(UserError, match="x: no such folder"):
        find_videos("dhf1k", tmp_path / "x")


def test_name_with_a_line_break_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    clip_file(tmp_path / "a.mp4").rename(tmp_path / "in" / "a\nb.mp4")
    with pytest.raises(UserError, match=r"the name 'a\\nb' cannot become a path") as raised:
        find_videos("folder", tmp_path / "in")
    assert "\n" not in str(raised.value)
