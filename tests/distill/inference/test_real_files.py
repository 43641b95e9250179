"""Overlays of files as cameras, phones and editors write them: sound, timestamps, rotation, colours, odd sizes."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.model_cases import loaded
from helpers.models import Brightness
from helpers.video_files import moving_square, real_file, turn_upright
from PIL import Image

from distill.data.video.frames import open_frames
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.inference.outputs import OutputSettings
from distill.inference.overlay import DrawSettings
from distill.inference.predict import predict

PLAIN = OutputSettings(draw=DrawSettings(opacity=0.0))
"""Draws nothing, so that the overlay is the re-encoded source."""

FULL, LIMITED = 2, 1


@pytest.fixture(autouse=True)
def cache(empty_cache: Path) -> Path:
    return empty_cache


def run(source: Path, out: Path, outputs: OutputSettings = PLAIN, **options: object) -> Path:
    predict(loaded(Brightness()), source, out=out, outputs=outputs, progress=False, **options)
    return out


def frames_of(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def seconds_of(path: Path) -> list[float]:
    return [frame.time for frame in frames_of(path)]


def packets_of_sound(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.size]


def rgb(frames: list[av.VideoFrame]) -> np.ndarray:
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(int)


# --------------------------------------------------------------------------------------------- sound and timing


@pytest.mark.parametrize(
    ("source", "sound", "target"),
    [
        ("a.mp4", "aac", "o.mp4"),
        ("a.mov", "pcm_s16le", "o.mov"),
        ("a.mkv", "libopus", "o.mp4"),
        ("a.avi", "libmp3lame", "o.mp4"),
        ("a.ts", "aac", "o.mkv"),
    ],
)
def test_overlay_copies_the_sound_in_sync(tmp_path: Path, source: str, sound: str, target: str) -> None:
    codec = "mpeg4" if source.endswith(".avi") else "libx264"
    video = real_file(tmp_path / source, frames=30, codec=codec, sound=sound)
    out = run(video, tmp_path / target)
    before, after = packets_of_sound(video), packets_of_sound(out)
    header = 7 if source.endswith(".ts") else 0  # ADTS, which other containers do without
    assert [content[header:] for _, content in before] == [content for _, content in after]
    delay = seconds_of(video)[0] - before[0][0]
    assert seconds_of(out)[0] - after[0][0] == pytest.approx(delay, abs=0.002)
    assert len(frames_of(out)) == 30


def test_overlay_without_sound_has_no_audio_stream(tmp_path: Path) -> None:
    video = real_file(tmp_path / "a.mp4", sound="aac")
    out = run(video, tmp_path / "o.mp4", OutputSettings(sound=False))
    with av.open(str(out)) as container:
        assert not container.streams.audio


def test_overlay_in_a_format_that_cannot_hold_the_sound_is_refused(tmp_path: Path) -> None:
    video = real_file(tmp_path / "a.avi", codec="mpeg4", sound="adpcm_ms")
    with pytest.raises(
        UserError, match=r"o\.mp4: \.mp4 cannot hold the sound of .*a\.avi .*\.mkv, or .*--no-sound"
    ):
        run(video, tmp_path / "o.mp4")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".mp4", ".avi")) == ["a.avi"]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_overlay_keeps_the_timestamps_of_a_variable_frame_rate(tmp_path: Path, name: str) -> None:
    stamps = [0, 40, 45, 160, 161, 400, 440, 480, 900, 933, 966, 1000]
    video = real_file(tmp_path / name, stamps=stamps)
    assert np.allclose(seconds_of(run(video, tmp_path / "o.mp4")), np.array(stamps) / 1000, atol=0.0006)


def test_overlay_of_a_video_that_starts_late_starts_at_zero(tmp_path: Path) -> None:
    video = real_file(tmp_path / "a.mp4", stamps=[2000 + 40 * number for number in range(12)])
    assert seconds_of(video)[0] == pytest.approx(2.0)
    seconds = seconds_of(run(video, tmp_path / "o.mp4"))
    assert np.allclose(seconds, np.arange(12) / 25, atol=0.002)


# --------------------------------------------------------------------------------------------- shape and rotation


@pytest.mark.parametrize(
    ("matrix", "turns"), [((0, 1, -1, 0, 48, 0), 3), ((-1, 0, 0, -1, 80, 48), 2), ((0, -1, 1, 0, 0, 80), 1)]
)
def test_overlay_of_a_turned_video_is_upright(tmp_path: Path, matrix: tuple[int, ...], turns: int) -> None:
    video = turn_upright(real_file(tmp_path / "phone.mp4"), matrix)
    out = run(video, tmp_path / "o.mp4")
    expected = np.stack([np.rot90(moving_square(n, (48, 80)), turns) for n in range(12)])
    found = rgb(frames_of(out))
    assert found.shape == expected.shape
    assert frames_of(out)[0].rotation == 0
    assert np.abs(found - expected).mean() < 6


@pytest.mark.parametrize("size", [(33, 51), (64, 48), (48, 48), (32, 320), (320, 32), (2, 2)])
def test_overlay_of_any_shape_keeps_the_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    video = real_file(tmp_path / "a.mkv", size=size, codec="ffv1", pix_fmt="yuv444p")
    found = rgb(frames_of(run(video, tmp_path / "o.mp4")))
    expected = np.stack([moving_square(number, size) for number in range(12)])
    assert found.shape[1:3] == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert np.abs(found[:, : size[0], : size[1]] - expected).mean() < (8 if min(size) > 2 else 60)


@pytest.mark.parametrize("frames", [1, 2])
def test_overlay_of_a_very_short_video(tmp_path: Path, frames: int) -> None:
    assert len(frames_of(run(real_file(tmp_path / "a.mp4", frames=frames), tmp_path / "o.mp4"))) == frames


def test_overlay_of_an_interlaced_video_has_every_frame(tmp_path: Path) -> None:
    video = real_file(tmp_path / "a.mp4", size=(64, 80), options={"x264-params": "tff=1"}, frames=13)
    assert frames_of(video)[0].interlaced_frame
    found = rgb(frames_of(run(video, tmp_path / "o.mp4")))
    assert np.abs(found - rgb(frames_of(video))).mean() < 3


# --------------------------------------------------------------------------------------------- colours


@pytest.mark.parametrize("color_range", [FULL, LIMITED])
@pytest.mark.parametrize(("matrix", "primaries"), [(1, 1), (5, 6), (9, 9)])
def test_overlay_keeps_range_matrix_and_pixels(
    tmp_path: Path, color_range: int, matrix: int, primaries: int
) -> None:
    tags = {"color_range": color_range, "colorspace": matrix, "color_primaries": primaries}
    video = real_file(tmp_path / "a.mp4", tags=tags)
    before, after = frames_of(video), frames_of(run(video, tmp_path / "o.mp4"))
    for name, value in tags.items():
        assert getattr(after[0], name) == value, name
    planes = [np.stack([f.to_ndarray() for f in each]).astype(int) for each in (before, after)]
    assert np.abs(planes[0] - planes[1]).mean() < 3  # the loss of the encoder


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("ten.mp4", "libx264", "yuv420p10le"),
        ("ten422.mov", "prores_ks", "yuv422p10le"),
        ("grey.mkv", "ffv1", "gray"),
        ("grey10.mp4", "libx264", "gray10le"),
        ("alpha.mov", "qtrle", "argb"),
        ("alpha.mkv", "ffv1", "yuva420p"),
        ("rgb.mkv", "ffv1", "bgr0"),
        ("jpeg.avi", "mjpeg", "yuvj420p"),
        ("444.mp4", "libx264", "yuv444p"),
    ],
)
def test_overlay_of_any_pixel_format_looks_the_same(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    video = real_file(tmp_path / name, codec=codec, pix_fmt=pix_fmt)
    after = frames_of(run(video, tmp_path / "o.mp4"))
    assert after[0].format.name in ("yuv420p", "yuvj420p")
    found, expected = rgb(after), open_video(video).read(range(12)).astype(int)
    assert np.abs(found - expected).mean() < 7
    assert abs(found.mean() - expected.mean()) < 1.5  # a wrong range would shift it by 8 or more


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_converted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, transfer: int, name: str
) -> None:
    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": LIMITED}
    video = real_file(tmp_path / "a.mp4", pix_fmt="yuv420p10le", tags=tags)
    with caplog.at_level(logging.INFO):
        after = frames_of(run(video, tmp_path / "o.mp4"))
    assert f"a.mp4: HDR ({name})" in caplog.text
    assert (after[0].color_trc, after[0].color_primaries, after[0].colorspace) == (1, 1, 1)
    plain = rgb(frames_of(real_file(tmp_path / "plain.mp4")))
    found = rgb(after)
    assert found.max() > 245  # white
    assert np.abs(found - plain).mean() > 5  # the transfer differs


# --------------------------------------------------------------------------------------------- drawing and images


@pytest.mark.parametrize("style", ["heat", "contour", "side-by-side"])
def test_styles_draw_where_the_map_is_high(tmp_path: Path, style: str) -> None:
    size = (96, 160)
    video = real_file(tmp_path / "a.mp4", size=size, options={"qp": "1"})
    plain = rgb(frames_of(run(video, tmp_path / "plain.mp4")))
    drawn = rgb(frames_of(run(video, tmp_path / "o.mp4", OutputSettings(draw=DrawSettings(style=style)))))
    if style == "side-by-side":
        assert drawn.shape[2] == 2 * size[1]
        assert np.abs(drawn[:, :, : size[1]] - plain).mean() < 2
        heat = drawn[:, :, size[1] :].mean(-1)
        left = [(3 * number) % (size[1] - 24) for number in range(12)]
        for number in range(12):
            inside = heat[number, 28:44, left[number] + 6 : left[number] + 18].mean()
            assert inside > 2 * heat[number].mean()
        return
    changed = np.abs(drawn - plain).mean(-1) > 20
    assert changed.any()
    assert changed[:, :10, :10].mean() < 0.2  # the gradient's dark corner


def test_folder_and_image_give_the_same_picture_as_the_video(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.fromarray(moving_square(number, (48, 80))).save(tmp_path / "frames" / f"{number}.png")
    video = rgb(frames_of(run(tmp_path / "frames", tmp_path / "o.mp4")))
    expected = np.stack([moving_square(number, (48, 80)) for number in range(3)])
    assert np.abs(video - expected).mean() < 7
    run(tmp_path / "frames" / "1.png", tmp_path / "o.png")
    with Image.open(tmp_path / "o.png") as image:
        assert np.array_equal(np.asarray(image), moving_square(1, (48, 80)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_frames_for_the_network_equal_those_of_evaluation(tmp_path: Path, name: str) -> None:
    """Prediction reads with PyAV and evaluation mostly with decord; maps must not depend on it."""
    video = real_file(tmp_path / name, size=(90, 160), codec="mpeg4" if name.endswith("avi") else "libx264")
    frames, reader = open_frames(video), open_video(video)
    for size in ((24, 40), (90, 160), (64, 48)):
        ours = np.stack([frames.pixels(frames.frame(number), size) for number in range(12)])
        assert np.array_equal(ours, reader.read(range(12), size))
