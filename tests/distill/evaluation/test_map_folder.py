"""Tests of folders of external saliency maps as map sources."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_gaze import LONG, ONE, noisy
from PIL import Image

from distill.data.map_files import write_map_video
from distill.data.video.names import MAX_DIGITS
from distill.errors import UserError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_folder import MapFolder


def grey(frame: int) -> np.ndarray:
    """The picture of a frame's map (16, 32): a bright square that wanders."""
    values = np.full((16, 32), 16, dtype=np.uint8)
    values[4:8, 2 + frame : 8 + frame] = 235
    return values


def write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    for frame in range(10):
        write(tmp_path / "one" / f"{frame + 1:04d}.png", grey(frame))
    return tmp_path


def test_map_folder_reads_images_by_frame(maps: Path) -> None:
    found = dict(MapFolder(maps)(ONE, [0, 9, 4]))
    assert list(found) == [0, 9, 4]
    for frame, saliency in found.items():
        assert (saliency == grey(frame)).all()


def test_map_folder_reads_16_bit_and_colour_images(tmp_path: Path) -> None:
    write(tmp_path / "one" / "1.png", grey(0).astype(np.uint16) * 256 + 7)
    write(tmp_path / "one" / "2.png", np.stack([grey(1), grey(1), grey(1)], axis=2))
    deep, coloured = (saliency for _, saliency in MapFolder(tmp_path)(ONE, [0, 1]))
    assert (deep == grey(0).astype(float) * 256 + 7).all()
    assert (coloured == grey(1)).all()


@pytest.mark.parametrize("bits", [8, 10])
def test_map_folder_reads_videos(tmp_path: Path, bits: int) -> None:
    write_map_video(tmp_path / "one.mp4", [grey(frame) / 255 for frame in range(20)], fps=30, bits=bits)
    folder = MapFolder(tmp_path)
    assert not folder.parallel
    found = dict(folder(ONE, [0, 9, 17]))
    for frame, saliency in found.items():
        assert saliency / (2**bits - 1) == pytest.approx(grey(frame) / 255, abs=0.6 / (2**bits - 1))


@pytest.mark.parametrize(("folder", "name"), [("0002", "002"), ("2", "002"), ("a b", "a b"), ("x/y", "x/y")])
def test_map_folder_matches_video_names(tmp_path: Path, folder: str, name: str) -> None:
    write(tmp_path / folder / "0001.png", grey(0))
    assert [frame for frame, _ in MapFolder(tmp_path)(replace(ONE, name=name), [0])] == [0]


def test_map_folder_scores_like_any_source(maps: Path) -> None:
    folder = MapFolder(maps)
    assert folder.parallel
    folder.check([ONE], every=3)
    found, given, other = (
        evaluate(source, [ONE], every=3, metrics=("nss", "cc"), progress=False).rows
        for source in (folder, lambda video, frames: ((k, grey(k)) for k in frames), noisy)
    )
    assert found == given != other


def test_map_folder_check_reports_missing_maps(maps: Path) -> None:
    (maps / "one" / "0004.png").unlink()
    (maps / "one" / "0010.png").unlink()
    folder = MapFolder(maps)
    with pytest.raises(UserError, match=r"one: no map of frame 4 .2 of 10 are missing.; expected 0001\.png"):
        folder.check([ONE])
    folder.check([ONE], every=2)
    with pytest.raises(UserError, match="no map of frame 4"):
        list(folder(ONE, [0, 3]))
    with pytest.raises(UserError, match=r"no maps of video longer, only of one; expected longer/0001\.png"):
        folder.check([LONG])


def test_map_folder_video_of_different_length_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_map_video(tmp_path / "one.mp4", [grey(0) / 255] * 10, fps=30)
    folder = MapFolder(tmp_path)
    folder.check([ONE])
    assert "10 maps for a video of 100 frames" in caplog.text
    with pytest.raises(UserError, match=r"one\.mp4: no map of frame 11 .2 of 12 are missing."):
        folder.check([replace(ONE, frames=range(12))])


def test_map_folder_invalid_files_raise(tmp_path: Path, maps: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        MapFolder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither a run folder nor predicted maps; .* found nothing"):
        MapFolder(tmp_path / "empty")
    write(maps / "one" / "1.png", grey(0))
    with pytest.raises(UserError, match="is a map of the same frame"):
        list(MapFolder(maps)(ONE, [0]))
    (maps / "one" / "1.png").unlink()
    (maps / "one" / "0001.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"0001\.png: cannot be read as an image"):
        list(MapFolder(maps)(ONE, [0]))


@pytest.mark.parametrize("digits", [18, 40])
def test_number_of_a_map_is_bounded(tmp_path: Path, digits: int) -> None:
    write(tmp_path / "one" / "0001.png", grey(0))
    write(tmp_path / "one" / f"{'1' * digits}.png", grey(0))
    if digits > MAX_DIGITS:  # no number
        assert len(list(MapFolder(tmp_path)(ONE, [0]))) == 1
    else:
        with pytest.raises(UserError, match=r"number of a frame: .* is over the limit of"):
            list(MapFolder(tmp_path)(ONE, [0]))
