"""Tests of the baselines."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.fake_gaze import ONE

from distill.data.sets import synthetic
from distill.data.sets.find import find_videos
from distill.evaluation import baselines
from distill.evaluation.baselines import BASELINES, centre_gaussian, centre_prior, frame_difference
from distill.evaluation.evaluate import evaluate


def test_centre_prior_has_documented_sigma() -> None:
    ((frame, prior),) = centre_prior(replace(ONE, size=(100, 200)), [4])
    assert frame == 4
    assert prior.shape == (100, 200)
    assert prior.argmax() in {49 * 200 + 99, 49 * 200 + 100, 50 * 200 + 99, 50 * 200 + 100}
    for line in (prior[:, 100], prior[50]):
        side = len(line)
        deviation = np.sqrt(np.average((np.arange(side) - (side - 1) / 2) ** 2, weights=line))
        assert deviation == pytest.approx(0.16 * side, rel=0.02)  # the frame cuts it off at 3.1 sigma


class Frames:
    """A reader of given pixels: (frames, h, w) grey or (frames, h, w, 3) colours."""

    def __init__(self, levels: np.ndarray) -> None:
        self.pixels = levels if levels.ndim == 4 else np.repeat(levels[..., None], 3, axis=3)

    def read(self, frames: Sequence[int]) -> np.ndarray:
        return self.pixels[list(frames)]


def difference_of(monkeypatch: pytest.MonkeyPatch, levels: np.ndarray, frame: int) -> np.ndarray:
    monkeypatch.setattr(baselines, "open_video", lambda path: Frames(levels))
    ((asked, saliency),) = frame_difference(replace(ONE, size=levels.shape[1:3]), [frame])
    assert asked == frame
    return saliency


@pytest.mark.parametrize(
    ("grey", "frame", "difference"),
    [
        ([90, 90, 90, 90], 3, 0),
        ([0, 200], 0, 0),  # frames before the first repeat it
        ([0, 200], 1, 200),
    ],
)
def test_frame_difference_of_even_frames_is_step_times_centre_gaussian(
    monkeypatch: pytest.MonkeyPatch, grey: list[int], frame: int, difference: int
) -> None:
    levels = np.broadcast_to(np.array(grey, dtype=np.uint8)[:, None, None], (len(grey), 36, 64))
    found = difference_of(monkeypatch, levels, frame)
    assert found == pytest.approx((difference + 1e-3) * centre_gaussian((36, 64), 0.25))


def test_frame_difference_matches_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two dots that come or go, each is a Gaussian of 12 px at a width of 640, as high as its step."""
    levels = np.zeros((4, 160, 320), dtype=np.uint8)
    levels[1, 60, 100], levels[3, 60, 200] = 100, 50  # frame 3 against frame 1
    seen = difference_of(monkeypatch, levels, 3) / centre_gaussian((160, 320), 0.25)
    rows, columns = np.mgrid[:160, :320]

    def dot(row: int, column: int) -> np.ndarray:
        return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * 6**2)) / (2 * np.pi * 6**2)

    # the blur is cut off at four sigma, in each direction
    assert seen == pytest.approx(100 * dot(60, 100) + 50 * dot(60, 200) + 1e-3, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize(("colour", "grey"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((9, 9, 0), 8)])
def test_frame_difference_rounds_luma(monkeypatch: pytest.MonkeyPatch, colour: tuple[int, ...], grey: int) -> None:
    pixels = np.zeros((3, 36, 64, 3), dtype=np.uint8)
    pixels[2] = colour
    seen = difference_of(monkeypatch, pixels, 2) / centre_gaussian((36, 64), 0.25)
    assert seen == pytest.approx(np.full((36, 64), grey + 1e-3))


def test_frame_difference_beats_centre_prior_when_gaze_follows_motion() -> None:
    videos = [synthetic.video("a", 0), synthetic.video("b", 1)]
    moving, centre = (
        evaluate(BASELINES[name].maps, videos, every=7, metrics=("nss",), progress=False).per_video["nss"]
        for name in ("frame-difference", "centre-prior")
    )
    assert moving > centre


REFERENCE = {
    "centre-prior": {"nss": 1.46, "cc": 0.350, "sim": 0.303, "auc_judd": 0.842},
    "frame-difference": {"nss": 1.70, "cc": 0.340, "sim": 0.283, "auc_judd": 0.828},
}
"""Scores of an independent implementation on ten videos of Xu et al. (TIP 2017), every 8th frame."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCE)
def test_baselines_match_independent_scores(shared: Path, name: str) -> None:
    videos = find_videos("ntire", shared / "data" / "hevc-gaze", split="public_test")
    found = evaluate(BASELINES[name].maps, videos, every=8, progress=False).per_video
    for metric, value in REFERENCE[name].items():
        assert found[metric] == pytest.approx(value, abs=0.0051 if metric == "nss" else 0.00051)
