"""Scores of many frames at once: the numbers of `metrics.py`, with less work.

    truth = {"fixations": fixations, "density": densities}
    scores = score_frames(["auc_judd", "nss", "cc"], maps, truth, seeds=range(len(maps)))
    scores["nss"]  # (n,)

Quantities that several metrics need are computed once per frame, and working arrays are reused from frame to frame:
allocating a fresh megabyte takes longer than filling it. All in float64, in the calling thread.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from distill.evaluation.batched_forms import NAN, FrameMaps, Scratch
from distill.evaluation.metric_parts import Array
from distill.evaluation.metrics import METRICS, Metric


def score_frames(
    metrics: Sequence[str],
    saliency: Sequence[ArrayLike],
    truth: Mapping[str, Sequence[ArrayLike]],
    *,
    seeds: Sequence[int],
    definitions: Mapping[str, Metric] = METRICS,
) -> dict[str, Array]:
    """Score n predicted maps, each as `definitions[name].score(map, truth, seed=seed)` would.

    Args:
        metrics: names from `definitions`.
        saliency: n predictions (h', w').
        truth: n arrays for each kind of ground truth that the metrics need (`Metric.truth`): fixations,
            other_fixations and density of one shape (h, w), baseline of any shape.
        seeds: n seeds, for the metrics that draw random numbers.
        definitions: metrics by name, e.g. those of a protocol.

    Returns:
        For each metric its n values, equal to the single-frame ones to rounding (1e-9, AUCs 1e-12), NaN where those
        are NaN.

    Raises:
        ValueError: unknown metric, missing ground truth, lengths other than n, ground truth of one frame with
            different shapes, or whatever the single-frame functions raise.
    """
    for metric in metrics:
        if metric not in definitions:
            raise ValueError(f"metrics: expected some of {', '.join(definitions)}; got {metric!r}")
        if missing := [kind for kind in definitions[metric].truth if kind not in truth]:
            raise ValueError(f"truth: {metric} needs {' and '.join(missing)}, got {', '.join(truth) or 'nothing'}")
    needed = sorted({kind for metric in metrics for kind in definitions[metric].truth})
    counts = {"seeds": len(seeds), **{kind: len(truth[kind]) for kind in needed}}
    if wrong := {name: count for name, count in counts.items() if count != len(saliency)}:
        raise ValueError(f"expected {len(saliency)} of everything, as there are {len(saliency)} maps; got {wrong}")
    if not metrics:
        return {}
    scores = {metric: np.full(len(saliency), NAN) for metric in metrics}
    scratch: Scratch = defaultdict(dict)
    for i, (prediction, seed) in enumerate(zip(saliency, seeds, strict=True)):
        frame = FrameMaps(prediction, {kind: truth[kind][i] for kind in needed}, seed, scratch)
        for metric in metrics if frame.finite else ():
            record = definitions[metric]
            score = None if record.batched is None else record.batched(frame)
            scores[metric][i] = record.score(frame.values, frame.truth, seed=seed) if score is None else score
    return scores
