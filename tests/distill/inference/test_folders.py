"""Prediction of a folder of videos: results, skipped videos, and processes that share the work."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_cases import loaded
from helpers.places import REPOSITORY
from helpers.waiting import wait_until
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from distill.cli.main import main
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.inference.folders import RECORD, is_folder_of_videos, predict_folder
from distill.inference.predict import predict
from distill.inference.settings import InferenceSettings


class SmallModel(nn.Module):
    """A small network that counts its calls and can be interrupted after a number of them."""

    num_frames, size, target_frames, map_size = 3, (12, 16), (2,), (12, 16)

    def __init__(self, seed: int = 0, stop_after: int | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.mix = nn.Parameter(torch.randn(9, generator=generator))
        self.stop_after, self.calls = stop_after, 0

    def forward(self, clip: Tensor) -> Tensor:
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after:
            raise KeyboardInterrupt
        return F.logsigmoid(torch.einsum("bcthw,ct->bhw", clip.float() / 255, self.mix.view(3, 3))[:, None])


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Return a folder with two files, one of them in a subfolder, and a folder of frames: 7, 9 and 5 frames."""
    root = tmp_path / "videos"
    random = np.random.default_rng(0)
    for name, count in (("b.mp4", 7), ("deep/a.mp4", 9)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(root / name, (36, 48), 25.0) as writer:
            writer.write(random.integers(0, 256, (count, 36, 48, 3), dtype=np.uint8))
    (root / "frames").mkdir()
    for index in range(5):
        pixels = random.integers(0, 256, (36, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "frames" / f"{index}.png")
    return root


FRAMES = {"b": 7, "deep/a": 9, "frames": 5}


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def expected_tree() -> list[str]:
    maps = [f"maps/{name}/{i + 1:04d}.png" for name, count in FRAMES.items() for i in range(count)]
    return sorted([*maps, *(f"out/{name}.mp4" for name in FRAMES), f"maps/{RECORD}", f"out/{RECORD}"])


def run(model: nn.Module, videos: Path, **changes: object) -> object:
    results = {"out": videos.parent / "out", "maps": videos.parent / "maps"}
    settings = {key: changes.pop(key) for key in ("batch_size", "first_frames") if key in changes}
    results |= {"progress": False, **changes}
    return predict_folder(loaded(model), videos, InferenceSettings(**settings), **results)


def test_predict_folder_equals_predict_of_each_video(videos: Path, tmp_path: Path) -> None:
    model = SmallModel()
    done = run(model, videos, batch_size=4, first_frames="flip")
    assert sorted(done.made) == sorted(FRAMES)
    assert (done.frames, done.skipped, done.elsewhere, done.failed) == (21, [], [], {})
    assert [path for path in tree(tmp_path) if not path.startswith("videos/")] == expected_tree()
    predict(
        loaded(model),
        videos / "deep/a.mp4",
        InferenceSettings(first_frames="flip"),
        maps=tmp_path / "alone",
        progress=False,
    )
    for made in sorted((tmp_path / "alone").iterdir()):
        assert made.read_bytes() == (tmp_path / "maps/deep/a" / made.name).read_bytes()
    record = json.loads((tmp_path / "maps" / RECORD).read_text())
    assert record["model"] == "SmallModel"
    assert record["first_frames"] == "flip"


def test_predict_folder_with_existing_results_skips_and_logs_them(
    videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(SmallModel(), videos)
    (tmp_path / "out/b.mp4").write_bytes(b"kept")
    for made in (tmp_path / "maps/frames").iterdir():
        made.unlink()
    (tmp_path / "out/deep/a.mp4").unlink()
    model = SmallModel()
    with caplog.at_level("INFO", logger="distill"):
        done = run(model, videos)
    assert done.skipped == ["b"]
    assert sorted(done.made) == ["deep/a", "frames"]
    assert "b: skipped, its results exist" in caplog.text
    assert "1 skipped (results exist)" in str(done)
    assert (tmp_path / "out/b.mp4").read_bytes() == b"kept"
    assert [path for path in tree(tmp_path) if not path.startswith("videos/")] == expected_tree()


def test_predict_folder_after_interruption_resumes_without_partial_results(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(
            SmallModel(stop_after=5), videos, batch_size=3
        )  # 7 frames take three batches: stops in the second video
    assert [path for path in tree(tmp_path) if not path.startswith("videos/")] == sorted(
        [f"maps/{RECORD}", f"out/{RECORD}", "out/b.mp4", *(f"maps/b/{i:04d}.png" for i in range(1, 8))]
    )
    model = SmallModel()
    done = run(model, videos, batch_size=3)
    assert done.skipped == ["b"]
    assert model.calls == 3 + 2
    assert [path for path in tree(tmp_path) if not path.startswith("videos/")] == expected_tree()


def test_predict_folder_leaves_locked_video_to_other_process(videos: Path, tmp_path: Path) -> None:
    lock = tmp_path / "maps/.b.lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run(SmallModel(), videos)
        assert done.elsewhere == ["b"]
        assert sorted(done.made) == ["deep/a", "frames"]
        assert "1 in progress in other processes" in str(done)
    assert run(SmallModel(), videos).made == ["b"]  # the lock was released, although its file remains
    assert [path for path in tree(tmp_path) if not path.startswith("videos/")] == expected_tree()


def test_predict_folder_with_results_of_other_model_or_settings_is_refused(videos: Path, tmp_path: Path) -> None:
    run(SmallModel(), videos, out=None)
    with pytest.raises(UserError, match="maps: contains results of SmallModel with weights"):
        run(SmallModel(seed=1), videos, out=None)
    with pytest.raises(
        UserError, match="with first_frames 'repeat'; this run uses SmallModel with first_frames 'flip'"
    ):
        run(SmallModel(), videos, out=None, first_frames="flip")


@pytest.mark.parametrize(
    "content",
    [b"", b"[" * 200_000, b"[]", b"\xff", b"\xef\xbb\xbf{}", b"9" * 5000, b"null", b'{"model": 3}', b'{"a": 1}'],
)
def test_predict_folder_with_damaged_record_is_refused(videos: Path, tmp_path: Path, content: bytes) -> None:
    run(SmallModel(), videos, out=None)
    (tmp_path / "maps" / RECORD).write_bytes(content)
    with pytest.raises(UserError, match=r"predicted_by\.json: cannot be read as the record of a model") as caught:
        run(SmallModel(), videos, out=None)
    assert "choose another folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "maps" / RECORD).read_bytes() == content


def test_predict_folder_with_broken_video_processes_the_others(videos: Path, tmp_path: Path) -> None:
    (videos / "a_broken.mp4").write_bytes(b"no video")
    with pytest.raises(
        UserError, match=r"1 of 4 videos could not be predicted: a_broken; first error: .*a_broken\.mp4"
    ):
        run(SmallModel(), videos)
    assert [path for path in tree(tmp_path) if not path.startswith("videos/")] == expected_tree()


def test_predict_folder_with_invalid_input_is_refused(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for source, settings, message in (
        (videos, {"out": None, "maps": None}, "nothing to write"),
        (videos, {"out": tmp_path / "o.mp4"}, r"o\.mp4: expected the name of a folder"),
        (videos, {"out": tmp_path / "file"}, "file: expected the name of a folder"),
        (videos, {"maps": videos / "maps"}, "maps: is inside the folder of videos"),
        (tmp_path / "empty", {}, "empty: no video in this folder"),
    ):
        with pytest.raises(UserError, match=message):
            predict_folder(
                loaded(SmallModel()),
                source,
                **{"out": tmp_path / "o", "maps": tmp_path / "m", **settings},
                progress=False,
            )
    (videos / "deep/frames.mp4").write_bytes((videos / "b.mp4").read_bytes())
    (videos / "frames/inner.mp4").write_bytes((videos / "b.mp4").read_bytes())
    with pytest.raises(UserError, match="results of 'frames/inner' would be inside those of 'frames'"):
        run(SmallModel(), videos)
    assert not (tmp_path / "out").exists()


def test_is_folder_of_videos_distinguishes_video_from_folder(videos: Path, tmp_path: Path) -> None:
    assert is_folder_of_videos(videos)
    assert not is_folder_of_videos(videos / "frames")
    assert not is_folder_of_videos(videos / "b.mp4")
    assert not is_folder_of_videos(tmp_path / "nowhere")
    (videos / "cover.png").write_bytes((videos / "frames/0.png").read_bytes())
    with pytest.raises(UserError, match=r"contains both 1 image and videos, e\.g\. b\.mp4"):
        is_folder_of_videos(videos)


def command(videos: Path, weights: str) -> list[str]:
    out, maps = (str(videos.parent / name) for name in ("out", "maps"))
    return ["predict", weights, str(videos), "-o", out, "--maps", maps, "--device", "cpu"]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    from distill.models.registry import create_model
    from distill.models.weight_files import save_model

    path = tmp_path / "micro.safetensors"
    save_model(create_model("student/thtdnet:micro"), path)
    return str(path)


def processes(videos: Path, weights: str, count: int) -> list[subprocess.Popen]:
    return [
        subprocess.Popen(
            [sys.executable, "-m", "distill.cli.main", *command(videos, weights)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=REPOSITORY,
        )
        for _ in range(count)
    ]


def test_predict_command_in_two_processes_shares_the_work(videos: Path, weights: str, tmp_path: Path) -> None:
    for index in range(9):
        (videos / f"c{index}.mp4").write_bytes((videos / "b.mp4").read_bytes())
    running = processes(videos, weights, 2)
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    made = [int(out.split()[0]) for out, _ in outputs]
    assert sum(made) == 12  # each video once
    skipped = sum(err.count("skipped, its results exist") for _, err in outputs)
    elsewhere = sum("in progress in other" in out for out, _ in outputs)
    assert skipped + elsewhere >= 1
    names = {*FRAMES, *(f"c{index}" for index in range(9))}
    assert {path.removesuffix(".mp4") for path in tree(tmp_path / "out")} == {*names, RECORD}
    for index in range(9):
        assert len(list((tmp_path / f"maps/c{index}").iterdir())) == 7


def test_predict_command_on_sigterm_says_how_to_resume(videos: Path, weights: str, tmp_path: Path) -> None:
    source = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"
    (videos / "c_long.avi").symlink_to(source)  # takes seconds, and comes second
    (process,) = processes(videos, weights, 1)
    wait_until(lambda: list((tmp_path / "maps").glob(".c_long.*.tmp/*.png")), process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert "1 video processed; run the same command again to resume" in errors
    assert errors.rstrip().endswith("saldistill: terminated")
    assert "Traceback" not in errors
    assert tree(tmp_path / "out") == ["b.mp4", RECORD]
    assert not [path for folder in ("out", "maps") for path in (tmp_path / folder).rglob(".*")]


def test_predict_command_after_kill_resumes(videos: Path, weights: str, tmp_path: Path) -> None:
    source = REPOSITORY / "tests" / "data" / "dhf1k" / "video" / "002.AVI"
    (videos / "a_long.avi").symlink_to(source)  # takes seconds, and comes first
    (process,) = processes(videos, weights, 1)
    wait_until(lambda: list((tmp_path / "maps").glob(".a_long.*.tmp/*.png")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "maps/a_long").exists()
    assert list((tmp_path / "maps").glob(".a_long.*"))  # partial results and lock file of the killed process
    (videos / "a_long.avi").unlink()
    (videos / "a_long.mp4").write_bytes((videos / "b.mp4").read_bytes())
    assert main(command(videos, weights)) == 0
    assert len(list((tmp_path / "maps/a_long").iterdir())) == 7
    assert not [path for folder in ("out", "maps") for path in (tmp_path / folder).rglob(".*")]
    assert main([*command(videos, weights), "--overwrite"]) == 2
