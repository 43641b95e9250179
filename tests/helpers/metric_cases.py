"""A small frame with every kind of ground truth, and both ways to score it, for the tests of the metrics."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill.evaluation.metrics import METRICS, score_frames

Frame = dict[str, np.ndarray]
Score = Callable[..., float]

SIZE = (36, 64)
RNG = np.random.default_rng(7)


def gaussian(size: tuple[int, int], row: float, column: float, sigma: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / sigma**2)


def binary(size: tuple[int, int], points: list[tuple[int, int]]) -> np.ndarray:
    fixations = np.zeros(size)
    for point in points:
        fixations[point] = 1
    return fixations


POINTS = [(10, 20), (12, 22), (11, 30), (20, 40), (25, 33), (18, 31)]
FRAME: Frame = {
    "fixations": binary(SIZE, POINTS),
    "density": gaussian(SIZE, 12, 22, 4) + 0.5 * gaussian(SIZE, 22, 36, 5),
    "other_fixations": binary(SIZE, [(int(r), int(c)) for r, c in RNG.integers(0, (36, 64), (40, 2))]),
    "baseline": gaussian(SIZE, 18, 32, 12),
}
SALIENCY = gaussian(SIZE, 14, 25, 7) + 0.05 * RNG.random(SIZE)
EIGHT_BIT = np.round(SALIENCY / SALIENCY.max() * 20).astype(np.uint8)  # with many ties

ALL = tuple(METRICS)
FIXATIONS = tuple(name for name in ALL if "fixations" in METRICS[name].truth)
RANDOM = {name for name in ALL if METRICS[name].random}
DENSITY = tuple(name for name in ALL if "density" in METRICS[name].truth)


def one_by_one(name: str, saliency: Any, frame: Frame = FRAME, *, seed: int = 0) -> float:
    """Score a map with the single-frame function."""
    return METRICS[name].score(saliency, frame, seed=seed)


def batched(name: str, saliency: Any, frame: Frame = FRAME, *, seed: int = 0) -> float:
    """Score a map as a video of one frame."""
    truth = {kind: [values] for kind, values in frame.items()}
    return float(score_frames([name], [saliency], truth, seeds=[seed])[name][0])


PATHS = {"one by one": one_by_one, "batched": batched}

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden" / "metrics_golden"
GOLDEN_CASES: dict[str, Any] = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]


def golden_frame(case: str) -> Frame:
    """Return prediction and ground truth of one of the shipped golden cases."""
    arrays = dict(np.load(GOLDEN.with_suffix(".npz")))
    arrays["centre_prior"] = np.outer(arrays.pop("centre_prior_down"), arrays.pop("centre_prior_across"))
    arrays["noise"] = arrays["noise"] / 65535
    frame = {}
    for role, name in GOLDEN_CASES[case]["arrays"].items():
        frame[role] = arrays[name]
        if "fixations" in role:
            frame[role] = np.zeros((360, 640), dtype=bool)
            frame[role][tuple(arrays[name].T)] = True
    return frame
