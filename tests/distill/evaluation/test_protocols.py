"""Tests of the evaluation protocols: their metrics by hand, and their preprocessing."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from distill.evaluation import metrics
from distill.evaluation.imresize import imresize
from distill.evaluation.protocols import (
    PROTOCOLS,
    bilinear_min_max,
    ntire_auc_judd,
    ntire_cc,
    ntire_nss,
    ntire_sim,
    tinyhd_nss,
    tinyhd_picture,
    to_8_bits,
)
from distill.evaluation.scores import AVERAGES

RNG = np.random.default_rng(0)
MAP = RNG.random((30, 40))
DENSITY = imresize(RNG.random((6, 8)), (30, 40)) + 1


def points(*repeats: int) -> np.ndarray:
    """Return fixation counts of the first pixels of row 3."""
    fixations = np.zeros((30, 40), dtype=np.float32)
    fixations[3, : len(repeats)] = repeats
    return fixations


# the challenge's metrics


def test_ntire_nss_counts_repeats_with_ddof_0() -> None:
    scores = (MAP - MAP.mean()) / MAP.std(ddof=0)
    assert ntire_nss(MAP, points(1, 1)) == pytest.approx((scores[3, 0] + scores[3, 1]) / 2, rel=1e-6)
    assert ntire_nss(MAP, points(1, 3)) == pytest.approx((scores[3, 0] + 3 * scores[3, 1]) / 4, rel=1e-6)
    assert metrics.nss(MAP, points(1, 3)) == metrics.nss(MAP, points(1, 1))  # the official one asks where alone


def test_ntire_sim_normalises_by_sum_only() -> None:
    truth = DENSITY - DENSITY.min()
    expected = np.minimum(MAP / MAP.sum(), truth / truth.sum()).sum()
    assert ntire_sim(MAP, DENSITY) == pytest.approx(expected, rel=1e-6)
    assert ntire_sim(MAP + 1, DENSITY) != pytest.approx(ntire_sim(MAP, DENSITY), rel=1e-3)  # a floor costs
    assert metrics.sim(MAP + 1, DENSITY) == pytest.approx(metrics.sim(MAP, DENSITY))
    assert ntire_sim(truth, DENSITY) == pytest.approx(1, rel=1e-6)


def test_ntire_cc_is_pearson_correlation() -> None:
    assert ntire_cc(MAP, DENSITY) == pytest.approx(np.corrcoef(MAP.ravel(), DENSITY.ravel())[0, 1], rel=1e-6)


def judd_by_the_script(saliency: np.ndarray, fixations: np.ndarray) -> float:
    """The area under (false, true) positives at each fixation's value, one after the other, a list at a time."""
    thresholds = sorted(np.repeat(saliency.ravel(), fixations.astype(int).ravel()), reverse=True)
    curve = [(0.0, 0.0)]
    for i, threshold in enumerate(thresholds, 1):
        curve.append((((saliency >= threshold).sum() - i) / (saliency.size - 2), i / len(thresholds)))
    curve.append((1.0, 1.0))
    return sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1), (x2, y2) in pairwise(curve))


@pytest.mark.parametrize("levels", [4, 2**52])
@pytest.mark.parametrize("fixations", [points(1), points(2), points(1, 1, 1), points(1, 4, 2, 1)])
def test_ntire_auc_judd_matches_script(fixations: np.ndarray, levels: int) -> None:
    saliency = np.floor(MAP * levels) / levels
    assert ntire_auc_judd(saliency, fixations) == pytest.approx(judd_by_the_script(saliency, fixations), abs=1e-12)


def test_ntire_auc_judd_of_best_and_worst_fixation() -> None:
    saliency = np.arange(1200, dtype=float).reshape(30, 40)
    best, worst = np.zeros((30, 40)), np.zeros((30, 40))
    best[29, 39] = worst[0, 0] = 1
    assert ntire_auc_judd(saliency, best) == pytest.approx(1.0)
    # every pixel but the fixated one comes before it: the false positives pass 1, and the way back counts
    assert ntire_auc_judd(saliency, worst) == pytest.approx(0.5 * 1199 / 1198 + (1 - 1199 / 1198))


@pytest.mark.parametrize("score", [ntire_nss, ntire_auc_judd])
def test_ntire_metrics_without_fixation_are_nan(score: Callable[..., float]) -> None:
    assert np.isnan(score(MAP, points()))


@pytest.mark.parametrize(("score", "truth"), [(ntire_nss, points(1)), (ntire_cc, DENSITY), (ntire_sim, DENSITY)])
def test_ntire_metrics_of_constant_map_are_zero(score: Callable[..., float], truth: np.ndarray) -> None:
    assert score(bilinear_min_max(np.full((5, 5), 3.0), (30, 40)), truth) == 0


def test_tinyhd_nss_has_ddof_0() -> None:
    scores = (MAP - MAP.mean()) / MAP.std(ddof=0)
    assert tinyhd_nss(MAP, points(1, 2)) == pytest.approx(scores[3, :2].mean(), abs=1e-12)
    assert np.isnan(tinyhd_nss(np.ones((30, 40)), points(1)))


# preprocessing


def test_bilinear_min_max() -> None:
    ramp = np.array([[10.0, 30.0]])
    assert bilinear_min_max(ramp, (1, 2)).tolist() == [[0, 1]]
    assert bilinear_min_max(ramp, (1, 4)).tolist() == [[0, 0.25, 0.75, 1]]
    stripes = np.array([[0.0, 0.0, 0.0, 1.0] * 4])  # not antialiased: between the second and the third of each four
    assert bilinear_min_max(stripes, (1, 4)).tolist() == [[0] * 4]


def test_to_8_bits_matches_submission_files() -> None:
    picture = to_8_bits(np.array([[0.0, 0.1], [0.2, 0.4]]), (2, 2))
    assert picture.tolist() == [[0, 64], [128, 255]]
    written = RNG.integers(0, 200, (30, 40)).astype(np.uint8)
    assert to_8_bits(written, (30, 40)) is written  # its peak is below 255: it stays as it was submitted
    resized = to_8_bits(RNG.random((9, 9)) * 1e-6, (30, 40))
    assert (resized.min() >= 0, resized.max()) == (True, 255)
    assert not to_8_bits(np.zeros((9, 9)), (30, 40)).any()


def test_tinyhd_picture_blurs_only_resized_maps() -> None:
    dot = np.zeros((8, 8))
    dot[4, 4] = 5.0
    picture = tinyhd_picture(dot, (9, 9))
    assert (picture == np.rint(picture)).all()
    assert 0 <= picture.min() < picture.max() < 255
    assert tinyhd_picture(dot, (8, 8)) is dot


def test_tinyhd_blur_is_binomial_of_five() -> None:
    # nothing but the blur is left of a map of stripes that is resized to rows of its own
    bars = np.zeros((4, 9))
    bars[:, 4] = 1.0
    picture = tinyhd_picture(bars, (8, 9))
    assert picture[3].tolist() == [0, 0, *np.floor(255 * np.array([1, 4, 6, 4, 1]) / 16 + 0.5), 0, 0]


def test_tinyhd_picture_loses_values_below_one_level() -> None:
    faint = np.zeros((4, 4))
    faint[0, 0], faint[2, 2] = 1.0, 0.003  # below 1 / 255
    assert (tinyhd_picture(faint, (8, 8))[4:, 4:] == 0).all()


# the table of protocols


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocol_record_is_consistent(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert set(protocol.metrics) | set(protocol.variants) <= set(metrics.METRICS)
    for size in ((30, 40), (17, 23)):
        resized = protocol.resize(RNG.random((17, 23)), size)
        assert resized.shape == size
        assert np.isfinite(resized).all()


def test_protocol_averages_match_papers() -> None:
    averages = {name: protocol.average for name, protocol in PROTOCOLS.items()}
    assert averages == {"official": None, "dhf1k": "pooled", "ntire2026": "per_video", "tinyhd": "per_video"}
    assert {*averages.values()} == {*AVERAGES, None}
    assert PROTOCOLS["dhf1k"].most_frames == 50_000
