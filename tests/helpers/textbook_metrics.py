"""AUC-Judd with a loop over thresholds, as textbooks define it: the oracle of the metrics' tests."""

import numpy as np
from numpy.typing import ArrayLike

from distill.evaluation.imresize import imresize
from distill.evaluation.metrics import JITTER


def textbook_auc_judd(saliency: ArrayLike, fixations: np.ndarray, *, seed: int | None = 0) -> float:
    """Return AUC-Judd of a map (h', w') with at least one fixation; no jitter if `seed` is None."""
    values = imresize(saliency, fixations.shape)
    if seed is not None:
        values = values + np.random.default_rng(seed).random(values.shape) * JITTER
    values = (values - values.min()) / (values.max() - values.min())
    thresholds = np.sort(values[fixations > 0])[::-1]
    count = len(thresholds)
    true, false = np.zeros(count + 2), np.zeros(count + 2)
    true[-1] = false[-1] = 1
    for i, threshold in enumerate(thresholds, start=1):
        above = (values >= threshold).sum()
        true[i] = i / count
        false[i] = (above - i) / (values.size - count)
    return float(np.trapezoid(true, false))
