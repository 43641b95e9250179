"""The stride: selection of frames by distance or by time, in training, inference and on the command line."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.video_files import write_grey
from torch import nn

from distill.cli.main import parse
from distill.data.clips import ClipSpec, Video
from distill.data.video.open import open_video
from distill.data.windows import ClipFrames, window_of
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.stride import offsets, read_stride, step_of


def test_whole_strides_are_evenly_spaced():
    for stride in (1, 2, 3):
        assert offsets(5, step_of(stride, 29.97)) == tuple(range(-4 * stride, 1, stride))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (30, (-6, -5, -4, -3, -2, -1, 0)),
        (29.97, (-6, -5, -4, -3, -2, -1, 0)),
        (60, (-12, -10, -8, -6, -4, -2, 0)),
        (25, (-5, -4, -3, -2, -2, -1, 0)),  # every sixth tick repeats a frame
        (23.976, (-5, -4, -3, -2, -2, -1, 0)),
        (45, (-9, -7, -6, -4, -3, -1, 0)),
        (15, (-3, -2, -2, -1, -1, 0, 0)),
    ],
)
def test_rate_selects_the_nearest_frames_in_time(fps, expected):
    assert offsets(7, step_of("30fps", fps)) == expected


@pytest.mark.parametrize("fps", [8, 23.976, 24, 25, 29.97, 48, 50, 59.94, 60, 120])
def test_frames_are_at_most_half_a_frame_from_their_ticks(fps):
    places = np.array(offsets(64, step_of("30fps", fps)))
    ticks = (np.arange(64) - 63) / 30
    assert (np.abs(places / fps - ticks) <= 0.5 / fps + 1e-9).all()
    assert places[-1] == 0
    assert (np.diff(places) >= 0).all()


def test_longer_clip_only_adds_earlier_frames():
    for fps in (23.976, 25, 60):
        step = step_of("30fps", fps)
        assert offsets(32, step)[-16:] == offsets(16, step)


@pytest.mark.parametrize(
    ("written", "read"), [(2, 2), ("2", 2), ("30fps", "30fps"), ("30 fps", "30fps"), ("23.976fps", "23.976fps")]
)
def test_stride_is_read_into_canonical_form(written, read):
    assert read_stride(written) == read
    assert read_stride(read) == read


@pytest.mark.parametrize("wrong", [0, -1, 1.5, 2.0, True, "", "0fps", "fps", None, "30 frames", "0"])
def test_invalid_stride_is_refused(wrong):
    with pytest.raises(UserError, match="expected a positive number of frames, or a rate such as 30fps"):
        read_stride(wrong)
    with pytest.raises(UserError, match="stride: expected"):
        step_of(wrong, 25)


def test_clip_spec_and_sliding_window_select_the_same_frames():
    for fps in (15, 23.976, 25, 45, 60):
        for targets in ((15,), (7,), (4, 15)):
            spec = ClipSpec(16, (8, 8), targets, (8, 8), "30fps")
            for end in (60, 61, 77):
                frame = spec.targets(end, fps)[-1]
                window = window_of(frame, 200, targets[-1:], length=16, stride=step_of("30fps", fps))
                assert list(window.frames) == spec.frames(end, fps)
    assert spec.span(60) == 31


def test_sliding_window_at_a_rate():
    half = step_of("30fps", 15)
    assert window_of(10, 100, (4,), length=5, stride=half).frames == (8, 9, 9, 10, 10)
    assert window_of(1, 100, (4,), length=5, stride=half).frames == (0, 0, 0, 1, 1)  # the first frame is repeated
    # unevenly spaced targets: each frame is predicted as the last target
    three = window_of(10, 100, (1, 2, 4), length=5, stride=step_of("30fps", 45))
    assert three == ClipFrames((4, 6, 7, 9, 10), 2)
    # evenly spaced targets: predicted in blocks, as with a stride in frames
    both = [window_of(10, 100, (0, 1, 2, 3), length=4, stride=each) for each in (step_of("30fps", 60), 2)]
    assert both == [ClipFrames((8, 10, 12, 14), 1)] * 2
    reflected = window_of(2, 100, (4,), length=5, stride=step_of("30fps", 45), first_frames="flip")
    assert reflected.frames == (8, 6, 5, 3, 2)


class FramesSeen(nn.Module):
    """A network whose map has the brightness of each frame of the clip."""

    num_frames, size, target_frames, map_size = 4, (16, 16), (3,), (1, 4)

    def forward(self, clip):
        return clip.float().mean(dim=(1, 3, 4))[:, None, None]  # (B, 1, 1, T)


@pytest.mark.parametrize(("fps", "frames"), [(25, (6, 6, 7, 8)), (60, (2, 4, 6, 8)), (15, (7, 7, 8, 8))])
def test_frame_rate_of_the_video_file_is_used(tmp_path, fps, frames):
    grey = np.arange(12) * 20
    reader = open_video(write_grey(tmp_path / "grey.mp4", grey, (16, 16), fps))
    ((_, maps),) = slide(FramesSeen(), reader, [8], InferenceSettings(stride="30fps"))
    torch.testing.assert_close(maps[0, 0], torch.tensor(grey[list(frames)]).float(), atol=3, rtol=0)
    assert ClipSpec.of(FramesSeen(), "30fps").frames(8, reader.fps) == list(frames)


def test_frame_rate_of_the_data_set_takes_precedence_over_the_readers(monkeypatch):
    """A folder of frames has no frame rate, but its data set may know it."""
    reads = []

    def read(frames, size):
        reads.extend(frames)
        return np.zeros((len(frames), *size, 3), np.uint8)

    reader = SimpleNamespace(num_frames=20, fps=30.0, size=(16, 16), read=read)
    monkeypatch.setattr("distill.inference.sliding_window.open_video", lambda path: reader)
    video = Video("a", "a", 20, 60.0, (16, 16), range(20), None, "folder")
    list(slide(FramesSeen(), video, [8], InferenceSettings(stride="30fps")))
    assert reads == ClipSpec.of(FramesSeen(), "30fps").frames(8, video.fps) == [2, 4, 6, 8]


def test_command_line_and_weights_carry_both_kinds():
    from distill.models.loaded import stride_of

    for text, stride in (("2", 2), ("30fps", "30fps")):
        assert parse(["predict", "a", "b", "--stride", text]).stride == stride
        assert stride_of({"stride": stride}) == stride
    assert stride_of({}) == 1
    with pytest.raises(SystemExit):
        parse(["predict", "a", "b", "--stride", "30 frames"])
