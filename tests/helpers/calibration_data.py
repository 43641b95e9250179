"""Maps with fixations that were drawn from known densities, and still images with fixations at known places."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from distill.calibration.maps import calibrate_maps
from distill.calibration.numbers import Calibration
from distill.calibration.samples import Sample
from distill.data.clips import Video
from helpers.fake_gaze import FakeTruth
from helpers.still_files import picture

SIZE = (24, 40)
"""Size of the maps."""

SCALE = 8
"""Pixels of the video per pixel of the map."""


def random_maps(count: int, seed: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Return log-saliency (count, h, w) with detail at all scales."""
    noise = np.random.default_rng(seed).normal(size=(3, count, *size))
    scales = [gaussian_filter(each, (0, sigma, sigma)) for each, sigma in zip(noise, (0.5, 2, 6), strict=True)]
    return torch.from_numpy(sum(each / each.std() for each in scales)).float()


def draw(density: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return pixels (count, 2) drawn from a density (h, w)."""
    flat = np.random.default_rng(seed).choice(density.size, count, p=density.ravel() / density.sum())
    return np.column_stack(np.unravel_index(flat, density.shape))


def sample_of(
    maps: Mapping[float, Tensor], truth: Calibration, number: int, *, fixations: int = 60, recording: str = ""
) -> Sample:
    """Return a video whose fixations are drawn from the calibrated maps."""
    densities = calibrate_maps(maps[truth.motion], truth).exp().numpy()
    points = [draw(density, fixations, 1000 * number + frame) for frame, density in enumerate(densities)]
    gaze = {frame: [tuple(point * SCALE + SCALE // 2) for point in each] for frame, each in enumerate(points)}
    known = FakeTruth(gaze)
    h, w = densities.shape[1:]
    known.size = (h * SCALE, w * SCALE)
    name = f"video-{number}"
    video = Video(name, Path(name), len(points), 30.0, known.size, range(len(points)), known, "fake", recording)
    rows = [np.column_stack([np.full(len(each), frame), each]) for frame, each in enumerate(points)]
    return Sample(video, maps, None, np.concatenate(rows))


def samples_of(truth: Calibration, count: int = 12, frames: int = 6, fixations: int = 60) -> list[Sample]:
    """Return videos whose fixations are drawn from a calibration of random maps."""
    maps = [random_maps(frames, seed) for seed in range(count)]
    return [sample_of({1.0: each}, truth, number, fixations=fixations) for number, each in enumerate(maps)]


def stills_at(folder: Path, places: list[tuple[float, float]], *, size: tuple[int, int] = (64, 96)) -> str:
    """Write still images with fixations around one place each, as fractions of the image; return their DATA."""
    random, gaze = np.random.default_rng(0), {}
    for number, place in enumerate(places):
        picture(folder / f"images/{number}.png", size)
        points = np.array(place) * size + random.normal(size=(30, 2)) * 4
        points = points.clip(0, np.array(size) - 1)
        gaze[str(number)] = {"size": list(size), "observers": 30, "fixations": points.round().astype(int).tolist()}
    (folder / "fixations.json").write_text(json.dumps(gaze))
    return f"stills:{folder}"
