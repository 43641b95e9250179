"""What a crop of a video keeps: the share of predicted probability and, on videos with gaze, of real fixations.

The baseline is the centre crop: `np.full(len(starts), window.centre)`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.data.truth import Truth
from distill.inference.crop_window import CropWindow, kept_share


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


def _kept_fixations(window: CropWindow, starts: np.ndarray, truth: Truth, frames: Sequence[int]) -> float | None:
    shares = []
    for frame in frames:
        places = (truth.points(frame)[:, window.axis] + 0.5) / window.frame[window.axis]  # centres of the pixels
        if len(places):
            shares.append(np.mean((places >= starts[frame]) & (places < starts[frame] + window.length)))
    return float(np.mean(shares)) if shares else None
