"""Cropped videos: the camera follows the map, and the file keeps sound, timestamps and colours."""

from pathlib import Path

import av
import numpy as np
import pytest
from helpers.models import Brightness
from helpers.video_files import moving_square, real_file, turn_upright

from distill.cli.main import main
from distill.data.video.canvas import Canvas
from distill.errors import UserError
from distill.evaluation.crop_scores import compare_crops, crop_table
from distill.inference.crop_window import largest_window
from distill.inference.reframe import CropPlan, _sharp_where_still, crop_canvas, plan_crop, write_crop


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    return empty_cache


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_reframe_follows_the_square_and_keeps_sound_and_timestamps(tmp_path: Path) -> None:
    stamps = [0, 40, 80, 130, 160, 200, 240, 280, 320, 400, 440, 480]
    video = real_file(tmp_path / "a.mp4", size=(96, 240), stamps=stamps, sound="aac")
    plan = plan_crop(Brightness(), video, 1.0, progress=False)
    assert plan.window.size == (96, 96)
    assert plan.starts.shape == (12,)
    done = write_crop(plan, tmp_path / "o.mp4", progress=False)
    assert str(done).startswith(f"{tmp_path / 'o.mp4'}: 96x96, 12 frames")
    frames = frames_of(tmp_path / "o.mp4")
    assert [(frame.height, frame.width) for frame in frames] == [(96, 96)] * 12
    assert [frame.time for frame in frames] == pytest.approx(np.array(stamps) / 1000)
    with av.open(str(tmp_path / "o.mp4")) as container:
        assert len(container.streams.audio) == 1
    for number in (0, 11):
        start = round(plan.starts[number] * 240)
        expected = moving_square(number, (96, 240))[:, start : start + 96].astype(int)
        assert np.abs(frames[number].to_ndarray(format="rgb24") - expected).mean() < 9
    camera, centre = compare_crops(plan)
    assert camera.probability > centre.probability


@pytest.mark.parametrize("aspect", [9 / 16, 1.0, 16 / 9, 3.0])
@pytest.mark.parametrize("size", [(49, 81), (81, 49), (48, 48)])
def test_reframe_any_shape_has_the_aspect_ratio(tmp_path: Path, size: tuple[int, int], aspect: float) -> None:
    video = real_file(tmp_path / "a.mkv", size=size, codec="ffv1", pix_fmt="yuv444p", frames=3)
    plan = plan_crop(Brightness(), video, aspect, progress=False)
    write_crop(plan, tmp_path / "o.mp4", progress=False)
    frames = frames_of(tmp_path / "o.mp4")
    height, width = frames[0].height, frames[0].width
    assert (height, width) == plan.window.size
    assert abs(width - aspect * height) < 2 * max(1, aspect)
    assert height <= size[0]
    assert width <= size[1]


def test_reframe_turned_video_is_cropped_upright(tmp_path: Path) -> None:
    video = turn_upright(real_file(tmp_path / "phone.mp4"), (0, 1, -1, 0, 48, 0))  # 48 wide, 80 high
    plan = plan_crop(Brightness(), video, 1.0, progress=False)
    assert (plan.window.frame, plan.window.size, plan.window.axis) == ((80, 48), (48, 48), 0)
    write_crop(plan, tmp_path / "o.mp4", progress=False)
    assert len(frames_of(tmp_path / "o.mp4")) == 12


def test_crop_canvas_at_an_even_pixel_keeps_the_pixels() -> None:
    frame = av.VideoFrame.from_ndarray(moving_square(3, (48, 80)), format="rgb24").reformat(format="yuv420p")
    window = largest_window((48, 80), 1.0)
    cropped = crop_canvas(Canvas.of_frame(frame), window, 10 / 80)
    planes = Canvas.of_frame(frame).planes
    assert np.array_equal(cropped.planes[0], planes[0][:, 10:58])
    assert np.array_equal(cropped.planes[1], planes[1][:, 5:29])


def test_path_stands_at_even_pixels_where_it_is_still() -> None:
    window = largest_window((360, 640), 9 / 16)
    moving = np.concatenate([np.full(20, 0.1007), np.linspace(0.1007, 0.3313, 30), np.full(20, 0.3313)])
    path = _sharp_where_still(moving, window)
    pixels = path * 640
    assert np.allclose(pixels[1:19] % 2, 0, atol=1e-9) or np.allclose(pixels[1:19] % 2, 2, atol=1e-9)
    assert np.abs(pixels - moving * 640).max() <= 1.0
    assert np.abs(np.diff(pixels, 2)).max() < 6  # no jump
    ends = _sharp_where_still(np.full(9, 1 - window.length), window)
    assert (ends + window.length <= 1).all()


def test_crop_table_has_gains_and_the_mean() -> None:
    window = largest_window((48, 80), 1.0)
    marginal = np.zeros((4, 80))
    marginal[:, 60] = 1.0
    plan = CropPlan(Path("a.mp4"), window, np.full(4, 0.4), marginal, ())
    table = crop_table({"a": compare_crops(plan), "b": compare_crops(plan)})
    assert [line.split() for line in table.splitlines()] == [
        ["kept,", "%", "predicted"],
        ["camera", "centre", "gain"],
        ["a", "100.0", "100.0", "+0.0"],
        ["b", "100.0", "100.0", "+0.0"],
        ["mean", "100.0", "100.0", "+0.0"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("a.mp4 9x16 -o o.mp4", "expected an aspect ratio WIDTH:HEIGHT, e.g. 9:16, got '9x16'"),
        ("a.mp4 0:16 -o o.mp4", "expected an aspect ratio"),
        ("a.mp4 1:40 -o o.mp4", "'1:40' is over the limit of 10:1"),
        ("a.mp4 9:16", "nothing to write: expected the name of the cropped video, -o OUT.mp4"),
        ("a.mp4 9:16 -o a.mp4", "a.mp4: the cropped video already exists"),
        ("a.mp4 9:16 -o o.gif", "o.gif: unsupported video format"),
        ("a.mp4 9:16 -o o.mp4 --split test", "--split and --videos select from a data set"),
        ("nowhere.mp4 9:16 -o o.mp4", "nowhere.mp4: no such video file"),
        ("i.png 9:16 -o o.mp4", "i.png: is a still image; expected a video"),
    ],
)
def test_reframe_with_invalid_input_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    video = real_file(tmp_path / "a.mp4", frames=2)
    content = video.read_bytes()
    frames_of(video)[0].to_image().save(tmp_path / "i.png")
    try:
        code = main(["reframe", *arguments.split(), "--model", "student/stream:micro"])
    except SystemExit as exit:  # argparse
        code = exit.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "i.png"]
    assert video.read_bytes() == content


def test_reframe_input_as_output_is_refused(tmp_path: Path) -> None:
    video = real_file(tmp_path / "a.mp4", frames=2)
    plan = plan_crop(Brightness(), video, 1.0, progress=False)
    with pytest.raises(UserError, match="is the input video"):
        write_crop(plan, video, overwrite=True, progress=False)
