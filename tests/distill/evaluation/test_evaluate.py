"""Tests of evaluate: which frames are scored, means, workers, and errors."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.bars import closed_bars
from helpers.fake_gaze import LONG, ONE, SIZE, gaze, noisy, video

from distill.data.clips import Video
from distill.data.sets import synthetic
from distill.data.video.damage import note_damage
from distill.errors import RunError, UserError
from distill.evaluation.baselines import BASELINES
from distill.evaluation.evaluate import evaluate
from distill.evaluation.frame_scorer import FrameScorer
from distill.evaluation.map_sources import MapSource, model_maps
from distill.evaluation.metrics import METRICS
from distill.evaluation.other_frames import draw_other_frames
from distill.evaluation.protocols import PROTOCOLS
from distill.evaluation.scores import Row, Scores
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.saliency import peak_map


def score(maps: MapSource, videos: list[Video], **options: Any) -> Scores:
    return evaluate(maps, videos, progress=False, **options)


def test_evaluate_truth_scores_best() -> None:
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
    assert pooled["nss"] > score(BASELINES["centre-prior"].maps, [ONE]).pooled["nss"]


def test_evaluate_video_scores_are_independent_of_other_videos() -> None:
    scores = score(noisy, [ONE, LONG])
    for one in (ONE, LONG):
        assert scores.by_video[one.name] == score(noisy, [one]).pooled


def test_evaluate_every_starts_at_first_frame_in_use() -> None:
    late = video("late", gaze(range(100)), range(11, 30))
    assert [row.frame for row in score(noisy, [late], every=8).rows] == [11, 19, 27]


def test_evaluate_skips_frames_without_fixations_and_videos_without_truth() -> None:
    some = video("one", {frame: points for frame, points in gaze(range(10)).items() if frame % 3}, range(12))
    scores = score(noisy, [some, video("silent", None, range(5))])
    assert scores.frames_without_fixations == 6
    assert [(row.video, row.frame) for row in scores.rows] == [("one", frame) for frame in (1, 2, 4, 5, 7, 8)]
    assert scores.videos_without_truth == ["silent"]
    assert "skipped: 6 frames without fixations\nskipped: no ground truth for silent" in scores.table()


def test_evaluate_constant_maps_are_reported_as_undefined() -> None:
    def sometimes_flat(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame, saliency in noisy(video, frames):
            yield frame, np.ones((9, 16)) if frame in (2, 3) else saliency

    scores = score(sometimes_flat, [ONE])
    assert scores.undefined == {"auc_judd": 0, "nss": 2, "cc": 2, "sim": 2, "kldiv": 0}
    assert "NSS is undefined on 2 of 10 frames" in scores.table()
    assert math.isfinite(scores.pooled["nss"])
    assert math.isnan(score(lambda v, f: ((k, np.ones((4, 4))) for k in f), [ONE]).per_video["cc"])


def test_evaluate_counts_damaged_frames(caplog: pytest.LogCaptureFixture) -> None:
    broken = replace(ONE, name="broken", path=Path("broken.mp4"))
    note_damage(broken.path, [3, 4], known=True)
    score(noisy, [ONE, broken])
    assert caplog.text.count("the decoder filled in missing parts") == 1
    assert "broken: read 2 damaged frames" in caplog.text


def test_evaluate_all_metrics_match_functions_and_depend_on_seed() -> None:
    every = tuple(METRICS)
    found = score(noisy, [ONE, LONG], metrics=every)
    others = draw_other_frames([ONE, LONG])
    assert ONE.truth is not None
    assert [row.frame for row in found.rows] == [*range(10), *range(30)]
    for (frame, saliency), row in zip(noisy(ONE, range(10)), found.rows, strict=False):
        truth = {
            "fixations": ONE.truth.fixation_map(frame, SIZE),
            "density": ONE.truth.density(frame, SIZE),
            "other_fixations": others.fixations(ONE, frame),
            "baseline": dict(BASELINES["centre-prior"].maps(ONE, [frame]))[frame],
        }
        expected = {name: metric.score(saliency, truth, seed=frame) for name, metric in METRICS.items()}
        assert row.values == pytest.approx(expected, abs=1e-9)
    assert found.rows == score(noisy, [ONE, LONG], metrics=every).rows
    moved = score(noisy, [ONE, LONG], metrics=every, seed=7)
    changed = {name for name in every if moved.pooled[name] != found.pooled[name]}
    assert {"auc_shuffled", "auc_borji"} <= changed <= {name for name in every if METRICS[name].random}


def test_info_gain_of_baseline_over_itself_is_zero() -> None:
    prior = score(BASELINES["centre-prior"].maps, [ONE, LONG], metrics=("info_gain",))
    assert prior.pooled["info_gain"] == pytest.approx(0, abs=1e-9)
    others = draw_other_frames([ONE, LONG])

    def mean_map(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((frame, others.mean_map(video)) for frame in frames)

    found = score(mean_map, [ONE, LONG], metrics=("info_gain",), over="other-frames")
    assert found.pooled["info_gain"] == pytest.approx(0, abs=1e-9)
    assert "mean map" in found.how["info_gain"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_determines_resize_and_variants(name: str) -> None:
    protocol = PROTOCOLS[name]
    found = score(noisy, [ONE], protocol=name)
    assert found.metrics == protocol.metrics
    assert found.average == protocol.average
    assert found.how["protocol"] == name
    assert found.how["blur"] == protocol.blur

    assert ONE.truth is not None
    for (frame, saliency), row in zip(noisy(ONE, range(10)), found.rows, strict=True):
        resized = protocol.resize(saliency, SIZE)
        fixations, density = ONE.truth.fixation_map(frame, SIZE), ONE.truth.density(frame, SIZE)
        expected = [
            protocol.definitions[m].function(resized, fixations if m == "nss" else density) for m in ("nss", "cc")
        ]
        assert [row.values["nss"], row.values["cc"]] == pytest.approx(expected, abs=1e-9)
    assert score(noisy, [ONE], protocol=name, metrics=("kldiv", "nss")).metrics == ("kldiv", "nss")


def test_protocol_with_frame_limit_draws_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(PROTOCOLS["official"], metrics=("nss",), average="pooled", most_frames=12)
    monkeypatch.setitem(PROTOCOLS, "few", few)
    found = score(noisy, [ONE, LONG], protocol="few")
    assert len({(row.video, row.frame) for row in found.rows}) == 12
    assert found.by_video.keys() == {"one", "longer"}
    assert "of these 12 drawn (seed 0)" in found.how["frames"]
    assert found.rows == score(noisy, [ONE, LONG], protocol="few").rows
    assert found.rows != score(noisy, [ONE, LONG], protocol="few", seed=1).rows
    assert len(score(noisy, [ONE], protocol="few").rows) == 10  # fewer than the limit


@pytest.mark.parametrize("parallel", [False, True])
def test_evaluate_with_workers_equals_one_process(monkeypatch: pytest.MonkeyPatch, parallel: bool) -> None:
    monkeypatch.setattr("distill.evaluation.evaluate.MIN_FRAMES_PER_WORKER", 64)
    long = video("long", gaze(range(100), seed=2), range(100))
    options = {"metrics": ("auc_shuffled", "nss", "cc"), "parallel": parallel}
    several = score(noisy, [ONE, long, LONG], workers=2, **options)
    assert several.rows == score(noisy, [ONE, long, LONG], **options).rows


def unreadable(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    raise UserError(f"{video.name}: unreadable")


def killed(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    os._exit(9)


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [(unreadable, UserError, "long: unreadable"), (killed, RunError, "try fewer workers")],
)
def test_evaluate_errors_in_workers_are_raised(
    monkeypatch: pytest.MonkeyPatch, maps: MapSource, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr("distill.evaluation.evaluate.MIN_FRAMES_PER_WORKER", 64)
    with pytest.raises(error, match=message):
        score(maps, [video("long", gaze(range(100)), range(100)), ONE, LONG], workers=2, parallel=True)


def test_evaluate_sorts_rows_of_unordered_source() -> None:
    def backwards(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield from noisy(video, list(frames)[::-1])

    assert score(backwards, [LONG]).rows == score(noisy, [LONG]).rows


def test_evaluate_prefixes_duplicate_names_with_data_set() -> None:
    scores = score(noisy, [ONE, replace(LONG, name="one", dataset="other")])
    assert list(scores.by_video) == ["fake/one", "other/one"]


class Brightness(torch.nn.Module):
    """Log-saliency from the brightness of the clip's last frame, plus a constant that must not matter."""

    num_frames, size, target_frames, map_size = 4, (24, 40), (3,), (12, 20)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        bright = clip[:, :, -1].float().mean(dim=1, keepdim=True) / 30  # (B, 3, T, H, W) -> (B, 1, H, W)
        return torch.nn.functional.avg_pool2d(bright, 2) - 500


def test_model_maps_equal_sliding_window() -> None:
    clip = synthetic.video("blob", 3)
    maps = dict(model_maps(Brightness(), InferenceSettings(batch_size=4))(clip, [0, 5, 9]))
    assert list(maps) == [0, 5, 9]
    for frames, log_maps in slide(Brightness(), clip, [0, 5, 9], InferenceSettings(batch_size=4)):
        for frame, log_map in zip(frames, log_maps.numpy(), strict=True):
            assert (maps[frame] == peak_map(log_map)).all()
            assert maps[frame].max() == 1


def test_brightness_model_beats_centre_prior() -> None:
    videos = [synthetic.video("a", 0), synthetic.video("b", 1)]
    model = score(model_maps(Brightness()), videos, every=6).per_video
    prior = score(BASELINES["centre-prior"].maps, videos, every=6).per_video
    assert model["nss"] > prior["nss"] + 0.5
    assert model["cc"] > prior["cc"]


def test_evaluate_progress_counts_frames_and_logs_speed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = closed_bars(monkeypatch)
    with caplog.at_level("INFO"):
        score(noisy, [ONE])
    assert capsys.readouterr().err == caplog.text == ""
    assert bars == []
    with caplog.at_level("INFO"):
        evaluate(noisy, [ONE], name="noise")
    assert bars == [(10, 10)]
    assert re.search(r"noise: 10 frames in \d+\.\d s, \d+\.\d per second, scored by 1 process", caplog.text)


def test_evaluate_computes_and_describes_only_requested_metrics() -> None:
    found = score(noisy, [ONE, LONG], metrics=("auc_shuffled", "nss"), every=2)
    assert found.pooled.keys() == {"auc_shuffled", "nss"}
    assert found.table().split("\n")[0].split() == ["maps", "sAUC", "NSS"]
    assert "10 random frames of other recordings" in found.how["auc_shuffled"]
    assert not {"auc_judd", "auc_borji", "info_gain"} & found.how.keys()
    assert found.how["frames"] == "one of every 2 frames in use, from the first"
    assert found.how["frames without fixations"] == "skipped and counted"


def with_value(value: float) -> MapSource:
    """Return a source whose map of frame 8 has a pixel of that value."""

    def maps(video: Video, frames: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for frame, saliency in noisy(video, frames):
            saliency[3, 3] = value if frame == 7 else 0
            yield frame, saliency

    return maps


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (with_value(math.nan), "one: the map of frame 8 contains NaN or infinity"),
        (with_value(math.inf), "one: the map of frame 8 contains NaN or infinity"),
        (lambda video, frames: noisy(video, list(frames)[1:]), "one: no map for frame 1; 1 frames have none"),
        (
            lambda video, frames: noisy(video, [0, 0]),
            "got a map for frame 1, which was not requested or came twice",
        ),
    ],
)
def test_evaluate_invalid_source_raises(maps: MapSource, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(maps, [ONE])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metrics": ("nss", "psnr")},
            "expected one or more of auc_judd, auc_shuffled, auc_borji, nss, cc, sim, kldiv, info_gain; got 'psnr'",
        ),
        ({"protocol": "mit300"}, "protocol: expected one of official, dhf1k, ntire2026, tinyhd; got 'mit300'"),
        ({"over": "nothing"}, "over: expected one of centre-prior, other-frames; got 'nothing'"),
        ({"metrics": ()}, "at least one"),
        ({"metrics": ("cc", "cc")}, "expected distinct names"),
        ({"every": 0}, "every: expected"),
        ({"videos": [video("silent", None, range(5))]}, "no ground truth in silent"),
        ({"videos": []}, "no ground truth in an empty list"),
        ({"videos": [video("blank", {}, range(5))]}, "no fixation in 5 frames of blank"),
        ({"videos": [ONE, ONE]}, "one: listed twice"),
    ],
)
def test_evaluate_invalid_arguments_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score(noisy, **{"videos": [ONE], **options})


def test_score_maps_frame_without_fixations_has_no_values() -> None:
    maps = [np.ones((4, 4)), np.arange(16.0).reshape(4, 4)]
    without, fixated = FrameScorer(("nss",)).score_maps("one", ONE, [50, 3], maps)
    assert without == Row("one", 50, {})
    assert fixated.values.keys() == {"nss"}
