"""What a crop of a video keeps: the share of predicted probability and, on videos with gaze, of real fixations.

The baseline is the centre crop: `np.full(len(starts), window.centre)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.data.clips import Video
from distill.data.truth import Truth
from distill.inference.crop_window import CropWindow, kept_share
from distill.inference.reframe import CropPlan


@dataclass(frozen=True)
class Kept:
    """Shares in [0, 1] that a crop keeps, means over frames.

    Attributes:
        probability: share of the predicted probability.
        fixations: share of the fixations, over the frames that have any; None if there are none.
    """

    probability: float
    fixations: float | None = None


def kept_by(
    window: CropWindow,
    starts: np.ndarray,
    marginal: np.ndarray,
    truth: Truth | None = None,
    frames: Sequence[int] | None = None,
) -> Kept:
    """Return what a window keeps along its path.

    Args:
        window: the window.
        starts: (T,) start of the window in each frame, relative to the frame's side.
        marginal: (T, n) distribution of probability along the window's axis per frame, sum 1.
        truth: ground truth of the video.
        frames: frames to count, 0-based; None counts all of them.
    """
    counted = range(len(starts)) if frames is None else frames
    chosen = np.asarray(counted, dtype=np.int64)
    kept = kept_share(marginal[chosen], starts[chosen, None], window.length)
    fixations = None if truth is None else _kept_fixations(window, starts, truth, counted)
    return Kept(float(kept.mean()), fixations)


def compare_crops(plan: CropPlan, video: Video | None = None) -> tuple[Kept, Kept]:
    """Return what the camera keeps, and what the crop of the centre keeps.

    Args:
        plan: where the camera crops.
        video: the video with ground truth, of which the frames in use count; None for a video without.
    """
    centre = np.full(len(plan.starts), plan.window.centre)
    truth, frames = (video.truth, video.frames) if video is not None else (None, None)
    camera, fixed = (kept_by(plan.window, starts, plan.marginal, truth, frames) for starts in (plan.starts, centre))
    return camera, fixed


def crop_table(kept: Mapping[str, tuple[Kept, Kept]]) -> str:
    """Return a table of what crops keep, in percent, with the mean over videos if there are several.

    Args:
        kept: name of a video -> what the camera and the crop of the centre keep.
    """
    columns = {"predicted": [each.probability for pair in kept.values() for each in pair]}
    if all(each.fixations is not None for pair in kept.values() for each in pair):
        columns["fixations"] = [each.fixations or 0.0 for pair in kept.values() for each in pair]
    width = max(len(name) for name in (*kept, "mean"))
    lines = [
        f"{'kept, %':<{width}}" + "".join(f"{name:>20}{'':>11}" for name in columns),
        " " * width + f"{'camera':>10}{'centre':>10}{'gain':>8}   " * len(columns),
    ]
    values = np.array([np.reshape(each, (-1, 2)) for each in columns.values()])  # (columns, videos, 2)
    rows = [*zip(kept, values.transpose(1, 0, 2), strict=True)]
    if len(kept) > 1:
        rows.append(("mean", values.mean(axis=1)))
    for name, row in rows:
        cells = (f"{100 * a:>10.1f}{100 * b:>10.1f}{100 * (a - b):>+8.1f}   " for a, b in row)
        lines.append(f"{name:<{width}}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)


def _kept_fixations(window: CropWindow, starts: np.ndarray, truth: Truth, frames: Sequence[int]) -> float | None:
    shares = []
    for frame in frames:
        places = (truth.points(frame)[:, window.axis] + 0.5) / window.frame[window.axis]  # centres of the pixels
        if len(places):
            shares.append(np.mean((places >= starts[frame]) & (places < starts[frame] + window.length)))
    return float(np.mean(shares)) if shares else None
