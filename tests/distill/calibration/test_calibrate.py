"""`saldistill calibrate` from data to file: what is written, and what is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers.calibration_data import stills_at
from helpers.quantized_files import stream, write
from helpers.still_files import still_set

from distill.calibration import calibrate as module
from distill.calibration.calibrate import MOTIONS, calibrate, motions_of, with_truth
from distill.calibration.graph import load_source
from distill.calibration.numbers import Calibration
from distill.calibration.samples import choose_frames, draw_videos
from distill.cli.main import main
from distill.data.fit import fit_box, unfit
from distill.data.sets.find import find_videos
from distill.errors import RunError, UserError
from distill.evaluation.references import score
from distill.inference.sliding_window import slide
from distill.leaderboard.leaks import check_leaks
from distill.models.onnx import load_onnx

CORNER = [(0.8, 0.8), (0.85, 0.75), (0.75, 0.85), (0.8, 0.75), (0.75, 0.75)]
"""Places that a centre prior far from the centre predicts."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(stream(), tmp_path_factory.mktemp("student") / "student.onnx")


def test_bias_of_the_data_is_learnt_and_scored_as_evaluate_does(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = stills_at(tmp_path / "corner", CORNER), tmp_path / "mine.onnx"
    assert main(["calibrate", str(student), "--on", data, "-o", str(out), "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["videos"] == report["frames"] == report["folds"] == 5
    assert report["motion"] == "the data are still images"
    assert report["max_error"] < 1e-4
    gain = report["gains"]["info_gain"]
    assert gain["interval"][0] > 0.5
    record = load_onnx(out).edge.metadata["calibration"]
    assert record["numbers"] == report["numbers"]
    assert record["videos"] == ["0", "1", "2", "3", "4"]
    assert record["gains"]["nss"]["change"] == pytest.approx(report["gains"]["nss"]["change"])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["corner", "mine.onnx"]
    videos = find_videos("stills", tmp_path / "corner")
    before, after = (
        score(str(path), videos, progress=False, metrics=["nss", "cc", "info_gain"])[0] for path in (student, out)
    )
    assert gain["before"] == pytest.approx(before.per_video["info_gain"], abs=1e-4)
    assert after.per_video["info_gain"] > gain["after"]  # without cross-validation
    assert check_leaks(str(student), videos).status == "unknown"
    assert check_leaks(str(out), videos).videos == ("0", "1", "2", "3", "4")  # a leaderboard says so
    assert main(["calibrate", str(out), "--on", data, "-o", str(tmp_path / "twice.onnx"), "-q"]) == 2
    assert "mine.onnx: is calibrated already" in capsys.readouterr().err


def test_report_names_numbers_and_intervals(student: Path, tmp_path: Path) -> None:
    data = stills_at(tmp_path / "corner", CORNER)
    reports = [
        calibrate(student, data, tmp_path / f"{name}.onnx", videos=4, seed=1, progress=False) for name in "ab"
    ]
    text = str(reports[0])
    assert "calibrated on 4 videos (4 frames) of stills:" in text
    assert "motion is not fitted: the data are still images" in text
    for word in ("temperature", "prior_place", "NSS", "CC", "IG", "95% interval", "cross-validated in 4 folds"):
        assert word in text
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()  # deterministic


def test_file_that_is_not_better_is_not_written(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    misled = Calibration(tilt=(-8.0, -8.0))  # away from the corner where the fixations are
    monkeypatch.setattr("distill.calibration.cross_validation.fit", lambda *_: misled)
    data, out = stills_at(tmp_path / "corner", CORNER), tmp_path / "mine.onnx"
    assert main(["calibrate", str(student), "--on", data, "-o", str(out), "-q"]) == 1
    error = capsys.readouterr().err
    assert "mine.onnx: not written, because calibration does not help in cross-validation on 5 videos" in error
    assert error.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["corner"]


def test_bad_input_is_one_sentence_and_leaves_no_file(student: Path, tmp_path: Path) -> None:
    two = stills_at(tmp_path / "two", CORNER[:2])
    good = stills_at(tmp_path / "good", CORNER)
    still_set(tmp_path / "sparse", {"a": [[3, 4]]})
    taken, new = tmp_path / "taken.onnx", tmp_path / "new.onnx"
    taken.write_bytes(b"mine")
    for data, path, options, message in (
        (two, new, {}, "2 recordings with fixations cannot be fitted and cross-validated; expected at least 3"),
        (good, new, {"videos": 1}, "1 recording with fixations cannot be fitted"),
        (f"stills:{tmp_path / 'sparse'}", new, {}, "1 recording with fixations cannot be fitted"),
        (good, taken, {}, "taken.onnx: the calibrated file already exists"),
        (good, tmp_path / "new.tflite", {}, "new.tflite: expected a file name ending in .onnx"),
        (str(tmp_path / "two"), new, {}, "expected DATA to be a CONFIG.yaml or DATASET:ROOT"),
    ):
        with pytest.raises(UserError) as caught:
            calibrate(student, data, path, progress=False, **options)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert taken.read_bytes() == b"mine"
    assert not new.exists()
    with pytest.raises(UserError, match="no video has fixations to calibrate on"):
        with_truth([], "folder:videos")


def test_interruption_and_wrong_maps_leave_no_file(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = stills_at(tmp_path / "corner", CORNER)

    def stop(path: Path) -> None:
        assert path.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "check_file", stop)
        with pytest.raises(KeyboardInterrupt):
            calibrate(student, data, tmp_path / "out.onnx", progress=False)
    monkeypatch.setattr(module, "append_calibration", lambda model, _: onnx.load(str(model.path)))
    with pytest.raises(RunError, match=r"out\.onnx: not written, because its maps differ by"):
        calibrate(student, data, tmp_path / "out.onnx", progress=False)
    assert [each.name for each in tmp_path.iterdir()] == ["corner"]


def test_letterboxed_frames_are_calibrated_on_the_whole_input(tmp_path: Path) -> None:
    model = stream()
    model.network.fit = "letterbox"
    student = write(model, tmp_path / "student.onnx")
    data = stills_at(tmp_path / "square", CORNER, size=(64, 64))  # in the middle 64 of 96 columns
    report = calibrate(student, data, tmp_path / "mine.onnx", progress=False)
    assert report.max_error < 1e-4
    videos = find_videos("stills", tmp_path / "square")
    before, after = (
        score(str(path), videos, progress=False, metrics=["info_gain"])[0] for path in (student, report.path)
    )
    assert report.gains.rows()["info_gain"]["before"] == pytest.approx(before.per_video["info_gain"], abs=1e-4)
    assert after.per_video["info_gain"] > before.per_video["info_gain"] + 0.5
    network = load_onnx(student)
    (whole,), (raw,) = (
        [maps for _, maps in slide(network, videos[0], [0], whole=whole)] for whole in (True, False)
    )
    box = torch.tensor([fit_box("letterbox", (64, 64), (64, 96))])
    torch.testing.assert_close(unfit(raw[None], box)[0], whole)
    assert float((raw.exp() - whole.exp()).abs().max()) > 0.01


def test_motion_is_offered_for_videos_of_a_streaming_student(student: Path, sample: Path, tmp_path: Path) -> None:
    model = load_source(student)
    videos = find_videos("dhf1k", sample, videos=["002"])
    assert motions_of(model, videos) == (MOTIONS, "")
    stills_at(tmp_path, CORNER)
    assert motions_of(model, find_videos("stills", tmp_path))[1] == "the data are still images"


def test_frames_are_spread_over_videos_and_have_fixations(sample: Path, tmp_path: Path) -> None:
    videos = find_videos("dhf1k", sample, videos=["002"])
    (chosen,) = choose_frames(videos, every=8, most=10)
    assert len(chosen.frames) <= 10
    assert np.diff(chosen.frames).min() >= 8
    assert all(chosen.truth is not None and chosen.truth.has(frame) for frame in chosen.frames)
    still_set(tmp_path, {"a": [[3, 4]], "b": [[1, 1]]})
    stills = find_videos("stills", tmp_path)
    assert [video.name for video in choose_frames(stills, every=8)] == ["a", "b"]


def test_draw_is_reproducible_and_takes_all_of_fewer(tmp_path: Path) -> None:
    stills_at(tmp_path, CORNER)
    videos = find_videos("stills", tmp_path)
    drawn = [[video.name for video in draw_videos(videos, 3, seed)] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(each) for each in drawn}) > 1
    assert draw_videos(videos, 50, 0) == draw_videos(videos, None, 0) == videos
