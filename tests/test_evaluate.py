"""Scoring map sources on videos: which frames count, how means are taken, what is written."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill import metrics
from distill.data import synthetic
from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluate import (
    BASELINES,
    PUBLISHED,
    MapSource,
    Scores,
    centre_prior,
    evaluate,
    model_maps,
    score_frame,
)
from distill.saliency import density_from_points, fixation_map, peak_map
from distill.sliding import slide

SIZE = (36, 64)


class FakeTruth:
    """Gaze in given frames, nobody's in the others."""

    def __init__(self, points: dict[int, list[tuple[int, int]]]) -> None:
        self.gaze = points

    def points(self, frame: int) -> np.ndarray:
        return np.array(self.gaze.get(frame, []), dtype=np.int64).reshape(-1, 2)

    def density(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        return density_from_points(self.points(frame), SIZE, map_size)

    def fixation_map(self, frame: int, map_size: tuple[int, int]) -> np.ndarray:
        return fixation_map(self.points(frame), SIZE, map_size)

    def has(self, frame: int) -> bool:
        return frame in self.gaze

    def complaints(self, num_frames: int) -> Iterator[str]:
        return iter(())


def video(name: str, gaze: dict[int, list[tuple[int, int]]] | None, frames: range, dataset: str = "fake") -> Video:
    truth = None if gaze is None else FakeTruth(gaze)
    return Video(name, Path(name), 100, 30.0, SIZE, frames, truth, dataset)


def gaze(frames: range, seed: int = 0) -> dict[int, list[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    return {frame: [(int(r), int(c)) for r, c in rng.integers((5, 10), (30, 50), (6, 2))] for frame in frames}


def noisy(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Maps of another size than the video's, a function of video and frame."""
    for frame in frames:
        yield frame, np.random.default_rng([len(video.name), frame]).random((9, 16))


def score(maps: MapSource, videos: list[Video], **options: Any) -> Scores:
    return evaluate(maps, videos, progress=False, **options)


ONE = video("one", gaze(range(10)), range(10))
LONG = video("longer", gaze(range(30), seed=1), range(30))


def test_the_truth_itself_scores_best() -> None:
    def truth(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        assert video.truth is not None
        for frame in frames:
            density = video.truth.density(frame, video.size)
            yield frame, density / density.max()

    pooled = score(truth, [ONE]).pooled
    assert pooled["cc"] == pytest.approx(1)
    assert pooled["sim"] == pytest.approx(1)
    assert pooled["kldiv"] == pytest.approx(0, abs=1e-9)
    assert pooled["auc_judd"] > 0.95
    assert pooled["nss"] > score(BASELINES["centre-prior"], [ONE]).pooled["nss"]


def test_rows_are_the_metrics_of_single_frames() -> None:
    scores = score(noisy, [ONE])
    assert [row.frame for row in scores.rows] == list(range(10))
    assert ONE.truth is not None
    for (frame, saliency), row in zip(noisy(ONE, range(10)), scores.rows, strict=True):
        fixations, density = ONE.truth.fixation_map(frame, SIZE), ONE.truth.density(frame, SIZE)
        assert row.values == {
            "auc_judd": metrics.auc_judd(saliency, fixations, seed=frame),
            "nss": metrics.nss(saliency, fixations),
            "cc": metrics.cc(saliency, density),
            "sim": metrics.sim(saliency, density),
            "kldiv": metrics.kldiv(saliency, density),
        }


def test_pooled_and_per_video_means_differ_as_they_should() -> None:
    scores = score(noisy, [ONE, LONG])
    short, long = (score(noisy, [one]).pooled for one in (ONE, LONG))
    for metric in PUBLISHED:
        assert scores.by_video["one"][metric] == short[metric]
        assert scores.per_video[metric] == pytest.approx((short[metric] + long[metric]) / 2)
        assert scores.pooled[metric] == pytest.approx((10 * short[metric] + 30 * long[metric]) / 40)
    assert scores.pooled["nss"] != pytest.approx(scores.per_video["nss"], abs=1e-6)


def test_every_takes_frames_from_the_first_in_use() -> None:
    late = video("late", gaze(range(100)), range(11, 30))
    assert [row.frame for row in score(noisy, [late], every=8).rows] == [11, 19, 27]


def test_frames_without_fixations_are_left_out_and_counted() -> None:
    some = video("one", {frame: points for frame, points in gaze(range(10)).items() if frame % 3}, range(12))
    scores = score(noisy, [some])
    assert scores.frames_without_fixations == 6
    assert [row.frame for row in scores.rows] == [1, 2, 4, 5, 7, 8]
    assert "left out: 6 frames without a fixation" in scores.table()
    assert scores.pooled["nss"] == pytest.approx(np.mean([row.values["nss"] for row in scores.rows]))


def test_videos_without_truth_are_left_out_and_named() -> None:
    scores = score(noisy, [ONE, video("silent", None, range(5))])
    assert scores.videos_without_truth == ["silent"]
    assert "left out, without ground truth: silent" in scores.table()
    assert list(scores.by_video) == ["one"]


def test_constant_maps_are_undefined_and_said_to_be() -> None:
    def sometimes_flat(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame, saliency in noisy(video, frames):
            yield frame, np.ones((9, 16)) if frame in (2, 3) else saliency

    scores = score(sometimes_flat, [ONE])
    assert scores.undefined == {"auc_judd": 0, "nss": 2, "cc": 2, "sim": 2, "kldiv": 0}
    assert "NSS is undefined on 2 of 10 frames" in scores.table()
    assert math.isfinite(scores.pooled["nss"])
    assert math.isnan(score(lambda v, f: ((k, np.ones((4, 4))) for k in f), [ONE]).per_video["cc"])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_threads_changes_nothing(workers: int) -> None:
    assert score(noisy, [ONE, LONG], workers=workers).rows == score(noisy, [ONE, LONG], workers=2).rows


def test_rows_are_in_order_whatever_the_source_does() -> None:
    def backwards(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield from noisy(video, list(frames)[::-1])

    assert score(backwards, [LONG]).rows == score(noisy, [LONG]).rows


def test_videos_of_one_name_are_told_apart_by_data_set() -> None:
    scores = score(noisy, [ONE, replace(LONG, name="one", dataset="other")])
    assert list(scores.by_video) == ["fake/one", "other/one"]


def test_only_the_asked_metrics_are_computed() -> None:
    scores = score(noisy, [ONE], metrics=("nss", "auc_borji"))
    assert scores.pooled.keys() == {"nss", "auc_borji"}
    assert "AUC-B" in scores.table()
    assert "KL" not in scores.table()


# baselines and models


def test_centre_prior_is_the_stated_gaussian() -> None:
    ((frame, prior),) = centre_prior(replace(ONE, size=(100, 200)), [4])
    assert frame == 4
    assert prior.shape == (100, 200)
    assert prior.argmax() in {49 * 200 + 99, 49 * 200 + 100, 50 * 200 + 99, 50 * 200 + 100}
    along = prior[:, 100] / prior[:, 100].sum()
    across = prior[50] / prior[50].sum()
    # the frame ends at 3.1 sigma: a little of the Gaussian is cut off
    assert np.sqrt((along * (np.arange(100) - 49.5) ** 2).sum()) == pytest.approx(16, rel=0.02)
    assert np.sqrt((across * (np.arange(200) - 99.5) ** 2).sum()) == pytest.approx(32, rel=0.02)


class Brightness(torch.nn.Module):
    """Log-saliency from the brightness of the clip's last frame, plus a constant that must not matter."""

    num_frames, size, target_frames, map_size = 4, (24, 40), (3,), (12, 20)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        bright = clip[:, :, -1].float().mean(dim=1, keepdim=True) / 30  # (B, 3, T, H, W) -> (B, 1, H, W)
        return torch.nn.functional.avg_pool2d(bright, 2) - 500


def test_a_models_maps_are_those_of_the_sliding_window() -> None:
    clip = synthetic.video("blob", 3)
    maps = dict(model_maps(Brightness(), batch_size=4)(clip, [0, 5, 9]))
    assert list(maps) == [0, 5, 9]
    for frames, log_maps in slide(Brightness(), clip, [0, 5, 9], batch_size=4):
        for frame, log_map in zip(frames, log_maps.numpy(), strict=True):
            assert (maps[frame] == peak_map(log_map)).all()
            assert maps[frame].max() == 1


def test_a_model_that_looks_beats_the_centre_prior() -> None:
    videos = [synthetic.video("a", 0), synthetic.video("b", 1)]
    model = score(model_maps(Brightness()), videos, every=6).per_video
    prior = score(BASELINES["centre-prior"], videos, every=6).per_video
    assert model["nss"] > prior["nss"] + 0.5
    assert model["cc"] > prior["cc"]


# what is written


def test_saved_files_say_what_was_found_and_how(tmp_path: Path) -> None:
    def sometimes_flat(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame, saliency in noisy(video, frames):
            yield frame, np.ones((9, 16)) if frame == 2 else saliency

    scores = score(sometimes_flat, [ONE, LONG], name="noise", every=2)
    scores.save(tmp_path / "new" / "folder")
    summary = json.loads((tmp_path / "new" / "folder" / "scores.json").read_text())
    assert summary["name"] == "noise"
    assert summary["pooled"] == scores.pooled
    assert summary["per_video"] == scores.per_video
    assert summary["videos"] == scores.by_video
    assert summary["frames"] == 20
    assert summary["undefined"]["nss"] == 2
    assert "bicubic" in summary["how"]["resize"]
    assert summary["how"]["blur"] == "none"
    assert "seed" in summary["how"]["auc_judd"]
    assert summary["how"]["frames"] == "one of every 2 frames in use, from the first"
    with (tmp_path / "new" / "folder" / "scores.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["frame"] for line in lines[:3]] == ["1", "3", "5"]
    for line, row in zip(lines, scores.rows, strict=True):
        for metric in PUBLISHED:
            written = float(line[metric] or "nan")
            assert written == row.values[metric] or (math.isnan(written) and math.isnan(row.values[metric]))


def test_an_undefined_mean_is_null_in_json(tmp_path: Path) -> None:
    score(lambda v, f: ((k, np.ones((4, 4))) for k in f), [ONE]).save(tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["pooled"]["nss"] is None
    assert "NaN" not in (tmp_path / "scores.json").read_text()


@pytest.mark.parametrize("name", ["scores.json", "scores.csv"])
def test_scores_are_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=name):
        score(noisy, [ONE]).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_the_table_is_aligned_and_complete() -> None:
    lines = score(noisy, [ONE, LONG], name="noise").table().splitlines()
    assert lines[0].split() == ["noise", "AUC-J", "NSS", "CC", "SIM", "KL"]
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "one",
        "longer",
        "mean over 2 videos",
        "pooled over 40 frames",
    ]
    assert len({len(line) for line in lines}) == 1


def test_progress_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(noisy, [ONE], name="noise")
    assert "noise: 100%" in capsys.readouterr().err
    score(noisy, [ONE])
    assert capsys.readouterr().err == ""


# mistakes


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_map_is_an_error_and_not_left_out(value: float) -> None:
    def broken(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame, saliency in noisy(video, frames):
            saliency[3, 3] = value if frame == 7 else 0
            yield frame, saliency

    with pytest.raises(UserError, match="one: the map of frame 8 holds NaN or infinity"):
        score(broken, [ONE])


def test_a_source_that_leaves_out_frames_is_an_error() -> None:
    with pytest.raises(UserError, match=r"one: no map for frame 1 \(1 frames without one\)"):
        score(lambda video, frames: noisy(video, list(frames)[1:]), [ONE])
    with pytest.raises(UserError, match="a map came for frame 1, which was not asked for, or twice"):
        score(lambda video, frames: noisy(video, [0, 0]), [ONE])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metrics": ("nss", "psnr")},
            "metrics: expected some of auc_judd, auc_borji, nss, cc, sim, kldiv; got 'psnr'",
        ),
        ({"metrics": ("info_gain",)}, "got 'info_gain'"),
        ({"metrics": ()}, "at least one"),
        ({"metrics": ("cc", "cc")}, "expected different names"),
        ({"every": 0}, "every: expected"),
    ],
)
def test_bad_settings_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(noisy, [ONE], **options)


def test_nothing_to_score_against_is_an_error() -> None:
    with pytest.raises(UserError, match="no ground truth in silent"):
        score(noisy, [video("silent", None, range(5))])
    with pytest.raises(UserError, match="no ground truth in an empty list"):
        score(noisy, [])
    with pytest.raises(UserError, match="no fixation in 5 frames of blank"):
        score(noisy, [video("blank", {}, range(5))])
    with pytest.raises(UserError, match="one stands there twice"):
        score(noisy, [ONE, ONE])


def test_score_frame_of_a_frame_without_gaze() -> None:
    assert score_frame(np.ones((4, 4)), ONE, 50) is None
