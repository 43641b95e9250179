"""Tests of the shares of probability and of fixations that a crop keeps."""

import numpy as np
import pytest
from helpers.fake_gaze import FakeTruth

from distill.evaluation.crop_scores import Kept, kept_by
from distill.inference.crop_window import CropWindow

WINDOW = CropWindow((36, 64), (36, 20), axis=1)
STARTS = np.array([0.0, 10 / 64, 10.5 / 64])
MARGINAL = np.eye(64)[[5, 10, 10]]
"""All probability in one column per frame: kept, kept, and half of the column kept."""


def test_kept_probability_and_fixations_are_means_over_frames() -> None:
    truth = FakeTruth({0: [(0, 0), (35, 19), (3, 20), (3, 63)], 2: [(0, 10), (0, 9), (0, 30)]})
    kept = kept_by(WINDOW, STARTS, MARGINAL, truth)
    assert kept.probability == pytest.approx((1 + 1 + 0.5) / 3)
    assert kept.fixations == pytest.approx((2 / 4 + 1 / 3) / 2)  # column 30's centre is the end of frame 2


def test_kept_shares_count_the_given_frames_only() -> None:
    truth = FakeTruth({0: [(0, 0)], 1: [(0, 0)]})
    assert kept_by(WINDOW, STARTS, MARGINAL, truth, frames=[1, 2]) == Kept(pytest.approx(0.75), 0.0)


def test_kept_fixations_are_none_without_fixations() -> None:
    assert kept_by(WINDOW, STARTS, MARGINAL) == Kept(pytest.approx(2.5 / 3), None)
    assert kept_by(WINDOW, STARTS, MARGINAL, FakeTruth({})).fixations is None


def test_kept_fixations_of_a_window_that_moves_vertically_use_the_rows() -> None:
    window = CropWindow((36, 64), (18, 64), axis=0)
    truth = FakeTruth({0: [(17, 63), (18, 0), (35, 0)]})
    assert kept_by(window, np.array([0.0]), np.full((1, 36), 1 / 36), truth).fixations == pytest.approx(1 / 3)
