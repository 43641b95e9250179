"""The metrics registry, and the published saliency metrics as pure functions of one map.

A metric takes a prediction (any size, any scale) and the ground truth of one frame, and returns one number, in
float64, as the official MATLAB code defines it. The prediction is first resized to the ground truth's size.
Nothing here is shared with `training/losses.py`: a choice made for training must not change a published number.
`score_frames` computes the same numbers for many frames, faster:

    truth = {"fixations": fixations, "density": densities}
    scores = score_frames(["auc_judd", "nss", "cc"], maps, truth, seeds=range(len(maps)))
    scores["nss"]  # (n,)

Shapes: saliency and baseline (h', w'); fixations, other_fixations and density (h, w). Fixations may be a binary map
or counts: the official code asks whether a pixel was fixated, not how often. Densities may have any scale. AUCs are
in [0, 1], CC in [-1, 1], SIM in [0, 1]; `seed` determines all random draws.

Degenerate input, for all metrics unless a function states otherwise:

    no fixation, or an all-zero density                   NaN (the official SIM and KL return 0)
    one fixation                                          a number; NaN from `auc_borji` (as in the official code)
    a constant prediction                                 NaN where a division by its spread is needed
    NaN or infinity in the prediction                     NaN
    negative values in the prediction                     allowed; `kldiv` alone counts them as zero
    tied pixels, as in 8-bit maps                         `auc_judd`: the mean over all their orders; the others do
                                                          not order pixels
    NaN, infinity or a negative value in the ground
    truth, or arrays that are not two-dimensional         ValueError

Source: MATLAB code of the DHF1K and MIT/Tuebingen saliency benchmarks; Bylinskii et al., "What do different
evaluation metrics tell us about saliency models?", TPAMI 2019.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distill.evaluation import batched_forms
from distill.evaluation.batched_forms import NAN, FrameMaps, Scratch
from distill.evaluation.imresize import imresize
from distill.evaluation.metric_parts import EPS, SPLITS, Array, check_truth, draw_negatives, judd_area, mean_area

JITTER = 1e-7  # AUC-Judd's noise is uniform in [0, JITTER)


@dataclass(frozen=True)
class Metric:
    """Everything that the project knows of a metric. Adding one to METRICS adds it everywhere.

    Attributes:
        name: key in METRICS, in files and on the command line.
        title: heading in tables and charts.
        function: (saliency, *truth) -> score of one frame; takes `seed=` if `random`.
        truth: kinds of ground truth that it needs, in the order of the function's arguments: fixations, density,
            other_fixations or baseline.
        help: range, chance level and direction in a few words.
        higher_is_better: direction.
        random: whether it draws random numbers.
        batched: faster form that shares work between metrics; None to call `function` for every frame.
        how: what a report says of its computation; may use {seed}, {negatives} and {baseline}.
    """

    name: str
    title: str
    function: Callable[..., float]
    truth: tuple[str, ...]
    help: str
    higher_is_better: bool = True
    random: bool = False
    batched: Callable[[FrameMaps], float | None] | None = None
    how: str = ""

    @property
    def own_truth_only(self) -> bool:
        """Whether it needs only the frame's own ground truth, and neither other frames nor a baseline."""
        return set(self.truth) <= {"fixations", "density"}

    def score(self, saliency: ArrayLike, truth: Mapping[str, ArrayLike], *, seed: int = 0) -> float:
        """Score one map against ground truth by kind; `seed` is for random metrics."""
        options = {"seed": seed} if self.random else {}
        return self.function(saliency, *(truth[kind] for kind in self.truth), **options)


def auc_judd(saliency: ArrayLike, fixations: ArrayLike, *, jitter: bool = False, seed: int = 0) -> float:
    """Return the area under the ROC curve that separates fixated pixels from all others.

    The thresholds are the map's values at the fixated pixels; between them the curve is straight. That favours few
    fixations: a constant map gives .5 + .5 / (N + 1) for N fixated pixels (with jitter: on average). NaN without a
    fixation, or if every pixel is fixated.

    `jitter` breaks ties by uniform noise below 1e-7, as the official code does. The noise is absolute: it drowns
    densities, so pass maps with a peak of 1 or 255. Without jitter ties are handled exactly, as the mean area over
    all orders of tied pixels (what the official code gives on average) at any scale.

    Source: AUC_Judd.m.
    """
    fixated = _fixated_pixels(fixations)
    values = imresize(saliency, fixated.shape)
    others = fixated.size - int(fixated.sum())
    if not fixated.any() or others == 0 or not np.isfinite(values).all():
        return NAN
    if jitter:
        values = values + np.random.default_rng(seed).random(values.shape) * JITTER
    # The official code min-max normalises here, which does not change the order of the pixels.
    hits = np.sort(values[fixated])
    pixels = np.sort(values[values >= hits[0]])  # no other pixel is above any threshold
    at_least, above = (len(pixels) - np.searchsorted(pixels, hits, side) for side in ("left", "right"))
    return judd_area(hits, at_least, above, others)


def auc_shuffled(saliency: ArrayLike, fixations: ArrayLike, other_fixations: ArrayLike, *, seed: int = 0) -> float:
    """Return the area under the ROC curve against fixations of other frames, which cancels the centre bias.

    `other_fixations` is the union of other frames' fixations, by convention of 10 random ones. As many negatives
    are drawn from it as there are fixated pixels, or all of them if there are fewer. The area is the mean over 100
    draws, at 11 fixed thresholds, so that small differences between pixels are lost. NaN without a fixation,
    without other fixations, and for a constant map.

    Source: AUC_shuffled.m.
    """
    fixated, elsewhere = _fixated_pixels(fixations), _fixated_pixels(other_fixations)
    if fixated.shape != elsewhere.shape:
        raise ValueError(f"other_fixations: expected the shape of fixations {fixated.shape}, got {elsewhere.shape}")
    values = _min_max(imresize(saliency, fixated.shape))
    if not (fixated.any() and elsewhere.any()) or values is None:
        return NAN
    pool = values[elsewhere]
    return mean_area(values[fixated], pool[draw_negatives(len(pool), int(fixated.sum()), SPLITS, seed)])


def auc_borji(saliency: ArrayLike, fixations: ArrayLike, *, seed: int = 0) -> float:
    """Return the area under the ROC curve against as many uniformly drawn pixels as are fixated.

    The mean over 100 draws, at 11 fixed thresholds. NaN with fewer than two fixated pixels (as in the official
    code) and for a constant map.

    Source: AUC_Borji.m.
    """
    fixated = _fixated_pixels(fixations)
    values = _min_max(imresize(saliency, fixated.shape))
    count = int(fixated.sum())
    if count < 2 or values is None:
        return NAN
    draws = np.random.default_rng(seed).integers(values.size, size=(SPLITS, count))
    return mean_area(values[fixated], values.ravel()[draws])


def nss(saliency: ArrayLike, fixations: ArrayLike) -> float:
    """Return the normalised scanpath saliency: the mean z-score (ddof 1) of the map at the fixated pixels.

    NaN without a fixation and for a constant map.

    Source: NSS.m.
    """
    fixated = _fixated_pixels(fixations)
    values = imresize(saliency, fixated.shape)
    if not fixated.any() or _is_flat(values):
        return NAN
    return float((values[fixated].mean() - values.mean()) / values.std(ddof=1))


def info_gain(saliency: ArrayLike, fixations: ArrayLike, baseline: ArrayLike) -> float:
    """Return the information gain over a baseline map, in bits per fixation.

    The mean over fixated pixels of log2(p + eps) - log2(b + eps), for maps that are min-max normalised and then
    divided by their sums. The baseline is by convention the blurred fixations of all other frames. NaN without a
    fixation, and if either map is constant.

    Source: InfoGain.m; Kümmerer et al., PNAS 2015.
    """
    fixated = _fixated_pixels(fixations)
    values = _min_max(imresize(saliency, fixated.shape))
    reference = _min_max(imresize(baseline, fixated.shape))
    if not fixated.any() or values is None or reference is None:
        return NAN
    gain = np.log2(EPS + values[fixated] / values.sum()) - np.log2(EPS + reference[fixated] / reference.sum())
    return float(gain.mean())


def cc(saliency: ArrayLike, density: ArrayLike) -> float:
    """Return Pearson's linear correlation coefficient; NaN if either map is constant (an all-zero density too).

    Source: CC.m.
    """
    truth = _density(density)
    values = imresize(saliency, truth.shape)
    if _is_flat(truth) or _is_flat(values):
        return NAN
    values, truth = (values - values.mean()).ravel(), (truth - truth.mean()).ravel()
    return float(values @ truth / np.sqrt((values @ values) * (truth @ truth)))


def sim(saliency: ArrayLike, density: ArrayLike) -> float:
    """Return the similarity: the mass that the two maps share.

    The sum of minima of the maps, min-max normalised, so that a constant offset of the prediction costs nothing,
    and then divided by their sums. An all-zero prediction gives 0, any other constant NaN (as in the official
    code); a constant density gives NaN (the official code returns 0 for zeros).

    Source: similarity.m.
    """
    truth = _min_max(_density(density))
    if truth is None:
        return NAN
    values = imresize(saliency, truth.shape)
    if not values.any():
        return 0.0
    values_01 = _min_max(values)
    if values_01 is None:
        return NAN
    return float(np.minimum(values_01 / values_01.sum(), truth / truth.sum()).sum())


def kldiv(saliency: ArrayLike, density: ArrayLike) -> float:
    """Return the Kullback-Leibler divergence of prediction s from density g: sum g log(eps + g / (s + eps)).

    In nats, 0 at equality, bounded only by eps (about 36 where the prediction is zero). Negative values of the
    prediction (bicubic resizing can create them) count as zero, as MATLAB treats 8-bit maps; on others the official
    sum has no real value. A constant prediction is the uniform density; an all-zero one stays zero. NaN for an
    all-zero density (the official code returns 0).

    Source: KLdiv.m.
    """
    truth = _density(density)
    values = imresize(saliency, truth.shape)
    total = truth.sum()
    if total == 0 or not np.isfinite(values).all():
        return NAN
    seen = truth > 0  # elsewhere the summand is exactly 0
    values = np.maximum(values, 0)
    guess, truth = values[seen] / (values.sum() or 1.0), truth[seen] / total
    return float((truth * np.log(EPS + truth / (guess + EPS))).sum())


def _fixated_pixels(fixations: ArrayLike) -> NDArray[np.bool_]:
    return check_truth(fixations) > 0


def _density(values: ArrayLike) -> Array:
    return np.asarray(check_truth(values), dtype=np.float64)


def _is_flat(values: Array) -> bool:
    """Return whether a map has no spread to divide by: constant, or not finite."""
    low, high = values.min(), values.max()
    return not (np.isfinite(low) and np.isfinite(high) and low < high)


def _min_max(values: Array) -> Array | None:
    """Scale a map to [0, 1]; None if it is constant or not finite."""
    if _is_flat(values):
        return None
    low = values.min()
    return (values - low) / (values.max() - low)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "auc_judd",
            "AUC-J",
            auc_judd,
            ("fixations",),
            "[0, 1], chance .5",
            batched=batched_forms.auc_judd,
            how="ties exactly, as the official jitter breaks them on average",
        ),
        Metric(
            "auc_shuffled",
            "sAUC",
            auc_shuffled,
            ("fixations", "other_fixations"),
            "[0, 1], chance .5",
            random=True,
            batched=batched_forms.auc_shuffled,
            how="negatives: {negatives}; 100 splits; seed {seed}",
        ),
        Metric(
            "auc_borji",
            "AUC-B",
            auc_borji,
            ("fixations",),
            "[0, 1], chance .5",
            random=True,
            batched=batched_forms.auc_borji,
            how="100 splits; seed {seed} and the frame's number (from 0)",
        ),
        Metric("nss", "NSS", nss, ("fixations",), "standard deviations, chance 0", batched=batched_forms.nss),
        Metric("cc", "CC", cc, ("density",), "[-1, 1]", batched=batched_forms.cc),
        Metric("sim", "SIM", sim, ("density",), "[0, 1]", batched=batched_forms.sim),
        Metric(
            "kldiv",
            "KL",
            kldiv,
            ("density",),
            "nats, 0 at equality",
            higher_is_better=False,
            batched=batched_forms.kldiv,
        ),
        Metric(
            "info_gain",
            "IG",
            info_gain,
            ("fixations", "baseline"),
            "bits per fixation, 0 at the baseline",
            batched=batched_forms.info_gain,
            how="over {baseline}",
        ),
    )
}


def score_frames(
    metrics: Sequence[str],
    saliency: Sequence[ArrayLike],
    truth: Mapping[str, Sequence[ArrayLike]],
    *,
    seeds: Sequence[int],
    definitions: Mapping[str, Metric] = METRICS,
) -> dict[str, Array]:
    """Score n predictions in the calling thread, each as `definitions[name].score(map, truth, seed=seed)` would.

    Quantities that several metrics need are computed once per frame, and working arrays are reused from frame to
    frame: allocating a fresh megabyte takes longer than filling it.

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
            raise ValueError(f"metrics: expected one or more of {', '.join(definitions)}; got {metric!r}")
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
