"""Tests of benchmark submissions: file names and formats, resuming, and the final check."""

import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from helpers.bars import closed_bars
from helpers.fake_gaze import FakeTruth
from PIL import Image

from distill.cli import main
from distill.data.clips import Video
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_folder import MapFolder
from distill.evaluation.metrics import METRICS
from distill.evaluation.protocols import bilinear_min_max
from distill.evaluation.submission import SUBMISSION_FORMATS, Submission, submit
from distill.fixations import density_from_points

BY = {"model": "made-up", "weights": "1234"}


class Maps:
    """A source of smooth maps a quarter of the video's size, with a wide faint part; it can stop at a frame."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.stop_at, self.asked = stop_at, list[str]()

    def __call__(self, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        self.asked.append(video.name)
        height, width = video.size
        for frame in frames:
            if (video.name, frame) == self.stop_at:
                raise KeyboardInterrupt
            centre = np.array([[10 + frame, 20 + len(video.name)]])
            narrow, wide = (
                density_from_points(centre, video.size, (height // 4, width // 4), sigma=sigma) for sigma in (6, 25)
            )
            yield frame, 0.3 * narrow / narrow.max() + 0.02 * wide / wide.max()


def video_of(name: str, num_frames: int = 6, size: tuple[int, int] = (45, 63)) -> Video:
    truth = FakeTruth({frame: [(8 + frame, 20), (20, 30 + frame), (30, 50)] for frame in range(2)})
    truth.size = size
    return Video(name, Path("nowhere"), num_frames, 23.976, size, range(2), truth, "made-up")


VIDEOS = [video_of("701"), video_of("702", 4, (36, 64)), video_of("1000", 3)]


def write(out: Path, maps: Maps | None = None, videos: Sequence[Video] = VIDEOS, **changes: object) -> Submission:
    settings = {"to": "dhf1k", "made_by": BY, "progress": False, **changes}
    return submit(maps or Maps(), videos, out, **settings)  # type: ignore[arg-type]


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def levels(path: Path) -> list[np.ndarray]:
    """Decode a video as the challenge's script does: 16-bit colour pictures, of which it takes the mean."""
    with av.open(str(path)) as container:
        return [
            frame.reformat(format="rgb48le").to_ndarray().astype(float).mean(axis=2)
            for frame in container.decode(video=0)
        ]


def test_dhf1k_submission_has_a_png_per_frame(tmp_path: Path) -> None:
    done = write(tmp_path / "ours")
    assert tree(tmp_path / "ours") == sorted(
        f"{name}/{frame:04d}.png"
        for name, count in (("0701", 6), ("0702", 4), ("1000", 3))
        for frame in range(1, count + 1)
    )
    assert (done.outcome.made, done.outcome.frames, done.problems) == (["701", "702", "1000"], 13, [])
    assert "ours: complete; 3 videos, 13 frames, each at its video's size" in str(done)
    with Image.open(tmp_path / "ours/0702/0001.png") as image:
        assert (image.mode, image.size) == ("L", (64, 36))
        assert image.getextrema()[1] == 255


def test_ntire_submission_has_a_10_bit_video_per_video(tmp_path: Path) -> None:
    done = write(tmp_path / "ours", to="ntire")
    assert tree(tmp_path / "ours") == ["1000.mp4", "701.mp4", "702.mp4"]
    assert done.problems == []
    with av.open(str(tmp_path / "ours/701.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.height, stream.codec_context.width) == (45, 63)  # odd sizes stay as they are
        assert stream.format.components[0].bits == 10
        assert float(stream.average_rate) == pytest.approx(23.976, abs=1e-3)
    for video in VIDEOS:
        maps = dict(Maps()(video, range(video.num_frames)))
        found = levels(tmp_path / f"ours/{video.name}.mp4")
        assert len(found) == video.num_frames
        for frame, decoded in enumerate(found):
            whole = bilinear_min_max(maps[frame], video.size)
            assert METRICS["cc"].function(decoded, whole) > 1 - 5e-5
            assert np.abs(decoded / 65535 - whole).max() < 0.02
            assert 1 - np.minimum(decoded / decoded.sum(), whole / whole.sum()).sum() < 0.01  # the faint parts too


@pytest.mark.parametrize(
    ("to", "tolerances"),
    [
        ("dhf1k", dict.fromkeys(("nss", "cc", "sim", "kldiv", "auc_judd"), 0.0)),
        ("ntire", {"nss": 0.01, "cc": 1e-3, "sim": 0.01, "auc_judd": 0.01}),
    ],
)
def test_submission_scores_as_evaluated(tmp_path: Path, to: str, tolerances: dict[str, float]) -> None:
    write(tmp_path / "ours", to=to)
    options = {"protocol": SUBMISSION_FORMATS[to].protocol, "metrics": tuple(tolerances), "progress": False}
    before, sent = (evaluate(maps, VIDEOS, **options) for maps in (Maps(), MapFolder(tmp_path / "ours")))
    for metric, tolerance in tolerances.items():
        assert sent.per_video[metric] == pytest.approx(before.per_video[metric], abs=tolerance, rel=0)


@pytest.mark.parametrize("to", SUBMISSION_FORMATS)
def test_interrupted_submission_resumes_without_partial_files(tmp_path: Path, to: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "ours", Maps(stop_at=("702", 2)), to=to)
    first = SUBMISSION_FORMATS[to].place("701")
    assert [path.name for path in (tmp_path / "ours").iterdir()] == [first]
    maps = Maps()
    done = write(tmp_path / "ours", maps, to=to)
    assert maps.asked == ["702", "1000"]
    assert done.outcome.skipped == ["701"]
    assert done.problems == []


def test_settings_are_recorded_and_others_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "ours")
    assert json.loads((tmp_path / "ours.json").read_text()) == {**BY, "to": "dhf1k"}
    for change in ({"made_by": {**BY, "weights": "5678"}}, {"to": "ntire"}):
        with pytest.raises(UserError, match="ours: contains results of made-up with"):
            write(tmp_path / "ours", **change)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/0701.txt").write_text("mine")
    with pytest.raises(UserError, match="theirs: a folder that is not a submission already exists"):
        write(tmp_path / "theirs")
    assert tree(tmp_path / "theirs") == ["0701.txt"]


def test_check_lists_all_problems_of_images(tmp_path: Path) -> None:
    write(tmp_path / "ours")
    (tmp_path / "ours/0701/0003.png").unlink()
    (tmp_path / "ours/0701/0007.png").write_bytes(b"")
    Image.new("L", (10, 10)).save(tmp_path / "ours/0702/0002.png")
    (tmp_path / "ours/1000/0001.png").write_bytes(b"no picture")
    (tmp_path / "ours/notes.txt").write_text("mine")
    done = write(tmp_path / "ours", expected=["701", "702", "703", "704", "1000"])
    text = "\n".join(done.problems)
    for complaint in (
        "0701: 1 of 6 maps missing, e.g. 0003.png",
        "0701: 1 file not part of the submission, e.g. 0007.png",
        "0002.png: is 10 x 10, the video 64 x 36",
        "1000/0001.png: cannot be read as an image",
        "2 videos of the benchmark missing: 703-704",
        "notes.txt: not part of the submission",
    ):
        assert complaint in text
    assert len(done.problems) == 6
    assert "complete" not in str(done)


def test_check_lists_problems_of_videos(tmp_path: Path) -> None:
    write(tmp_path / "ours", to="ntire")
    with VideoWriter(tmp_path / "other.mp4", (36, 48), 25.0) as writer:
        writer.write(np.zeros((5, 36, 48, 3), dtype=np.uint8))
    (tmp_path / "other.mp4").replace(tmp_path / "ours/701.mp4")
    (tmp_path / "ours/702.mp4").write_bytes(b"no video")
    text = "\n".join(write(tmp_path / "ours", to="ntire").problems)
    assert "701.mp4: has 5 maps, the video 6 frames" in text
    assert "701.mp4: is 48 x 36, the video 63 x 45" in text
    assert "702.mp4: " in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda pairs: [(k, np.full_like(values, np.nan)) for k, values in pairs],
            "the map of frame 1 contains NaN or infinity",
        ),
        (
            lambda pairs: [(k, np.full_like(values, np.inf)) for k, values in pairs],
            "the map of frame 1 contains NaN or infinity",
        ),
        (lambda pairs: pairs[:-1], "no map for frame 4; 1 frames have none"),
        (lambda pairs: pairs[::-1], "the map of frame 4 is out of order"),
    ],
)
def test_invalid_maps_break_only_their_video(tmp_path: Path, change: Callable[..., Any], message: str) -> None:
    def broken(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        pairs = list(Maps()(video, frames))
        yield from change(pairs) if video.name == "702" else pairs

    done = submit(broken, VIDEOS, tmp_path / "ours", to="dhf1k", made_by=BY, progress=False)
    assert list(done.outcome.failed) == ["702"]
    assert done.outcome.made == ["701", "1000"]
    (problem,) = done.problems
    assert problem.startswith(f"702: not written: 702: {message}")


def test_video_locked_by_another_process_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    with (tmp_path / "ours/.0702.lock").open("w") as file:
        (tmp_path / "ours.json").write_text(json.dumps({**BY, "to": "dhf1k"}))
        fcntl.flock(file, fcntl.LOCK_EX)
        done = write(tmp_path / "ours")
    assert done.outcome.elsewhere == ["702"]
    assert done.problems == []
    assert "not complete yet" in str(done)
    assert write(tmp_path / "ours").problems == []


@pytest.mark.parametrize(
    ("names", "to", "message"),
    [
        (["701"], "mit", "to: expected one of dhf1k, ntire; got 'mit'"),
        (["deep/701"], "dhf1k", "deep/701: is in a subfolder"),
        (["701", "0701"], "dhf1k", "0701: listed twice"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path: Path, names: list[str], to: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write(tmp_path / "ours", videos=[video_of(name) for name in names], to=to)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"[" * 200_000, b"[]", b"\xff", b"9" * 5000, b"null", b'{"weights": "x"}']
)
def test_damaged_record_is_refused(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "ours")
    (tmp_path / "ours.json").write_bytes(content)
    with pytest.raises(UserError, match=r"ours\.json: cannot be read as the record of a model") as caught:
        write(tmp_path / "ours")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "ours.json").read_bytes() == content


def test_progress_bar_of_a_shared_submission_ends_at_its_total(tmp_path: Path, monkeypatch) -> None:
    class Shared(Maps):
        """At its first call, another process writes the other videos."""

        def __call__(self, video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            if not self.asked:
                write(tmp_path / "ours", videos=VIDEOS[1:])
            return super().__call__(video, frames)

    bars = closed_bars(monkeypatch)
    write(tmp_path / "ours", Shared(), progress=True)
    assert bars[0] == (13, 13)


def test_names_of_the_challenge_are_those_of_a_split_or_of_all(tmp_path: Path) -> None:
    splits = {"train": ["a.mp4"], "public_test": ["b.mp4", "c.mp4"], "private_test": []}
    (tmp_path / "TrainTestSplit.json").write_text(json.dumps(splits))
    published = SUBMISSION_FORMATS["ntire"].published
    assert published(tmp_path, "public_test") == ["b", "c"]
    assert published(tmp_path, "all") == ["a", "b", "c"]


@pytest.mark.parametrize("to", SUBMISSION_FORMATS)
def test_constant_maps_are_written(tmp_path: Path, to: str) -> None:
    def constant(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame in frames:
            yield frame, np.full((4, 6), float(frame))

    done = submit(constant, VIDEOS[:1], tmp_path / "ours", to=to, made_by=BY, progress=False)
    assert done.problems == []


def test_command_writes_the_scored_split(tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "DHF1K"
    (root / "video").mkdir(parents=True)
    with VideoWriter(root / "video/701.mp4", (36, 64), 30.0) as writer:
        writer.write(np.zeros((3, 36, 64, 3), dtype=np.uint8))
    (root / "video/002.mp4").write_bytes((root / "video/701.mp4").read_bytes())
    command = ["submit", "centre-prior", f"dhf1k:{root}", "--to", "dhf1k", "-o", str(tmp_path / "ours")]
    assert main.main(command) == 2  # of 300 videos one is there
    text = capsys.readouterr()
    assert "299 videos of the benchmark missing: 702-1000" in text.out
    assert "ours: the submission is invalid; fix the problems listed above" in text.err
    assert tree(tmp_path / "ours") == ["0701/0001.png", "0701/0002.png", "0701/0003.png"]
    assert main.main([*command[:-1], str(tmp_path / "one"), "--videos", "2"]) == 0
    assert tree(tmp_path / "one") == ["0002/0001.png", "0002/0002.png", "0002/0003.png"]
    assert main.main(["submit", "frame-difference", *command[2:]]) == 2
    assert "contains results of centre-prior" in capsys.readouterr().err


def test_submission_may_resume_in_another_runtime(
    tmp_path: Path, graphs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "DHF1K", tmp_path / "ours"
    (root / "video").mkdir(parents=True)
    with VideoWriter(root / "video/701.mp4", (36, 64), 30.0) as writer:
        writer.write(np.zeros((3, 36, 64, 3), dtype=np.uint8))
    (root / "video/702.mp4").write_bytes((root / "video/701.mp4").read_bytes())
    command = ["submit", "student/stream:micro", f"dhf1k:{root}", "--to", "dhf1k", "-o", str(out)]
    command += ["--videos", "701,702", "--device", "cpu", "--runtime"]
    assert main.main([*command, "onnx"]) == 0
    assert json.loads((tmp_path / "ours.json").read_text())["runtime"] == "ONNX Runtime"
    printed = capsys.readouterr().out
    assert re.search(r"2 videos processed \(6 frames, [0-9.]+ per second in ONNX Runtime\)", printed)
    (out / "0702" / "0002.png").rename(tmp_path / "0002.png")
    shutil.rmtree(out / "0702")
    assert main.main([*command, "pytorch"]) == 0
    assert "1 video processed (3 frames" in capsys.readouterr().out
    pictures = [np.asarray(Image.open(path), dtype=int) for path in (out / "0702/0002.png", tmp_path / "0002.png")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
