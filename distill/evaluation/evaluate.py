"""Score a map source on videos with ground truth, in several processes.

    saldistill evaluate MODEL [MODEL ...] DATA

    scores = evaluate(model_maps(model.network), videos)
    print(scores.table())
    scores.save("runs/demo/scores")

The source runs in this process, where a network has its device; worker processes score frames while it computes the
next maps.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np

from distill.data.clips import Video
from distill.data.progress import ProgressBar
from distill.data.text import plural
from distill.data.video.damage import damaged_frames_read
from distill.errors import RunError, UserError
from distill.evaluation.baselines import INFO_GAIN_BASELINES
from distill.evaluation.frame_scorer import FrameScorer, map_chunks
from distill.evaluation.map_sources import MapSource
from distill.evaluation.metrics import METRICS
from distill.evaluation.other_frames import NEGATIVES, draw_other_frames, recording_of
from distill.evaluation.protocols import PROTOCOLS
from distill.evaluation.scores import Row, Scores, describe_intervals
from distill.evaluation.worker_pool import run_ahead, worker_pool
from distill.fixations import DHF1K_SIGMA

log = logging.getLogger(__name__)

MIN_FRAMES_PER_WORKER = 500
"""With fewer frames, the second or two that a process takes to start is not worth it."""

PART = 64
"""Frames that a process gets at a time when the source runs there too."""

AHEAD = 2
"""Parts of the work queued for each process."""

Work = list[tuple[str, Video, Sequence[int]]]
"""(label, video, frames) of each video to score."""


def evaluate(
    maps: MapSource,
    videos: Sequence[Video],
    *,
    every: int = 1,
    metrics: Sequence[str] | None = None,
    protocol: str = "official",
    over: str = "centre-prior",
    seed: int = 0,
    workers: int = 1,
    parallel: bool = False,
    progress: bool = True,
    name: str = "maps",
) -> Scores:
    """Score maps on the frames in use of videos, at each video's own size.

    Args:
        maps: source to score.
        videos: videos to score on; those without ground truth are skipped and named in the result.
        every: score every n-th of each video's frames in use, from the first.
        metrics: names from METRICS; defaults to the protocol's.
        protocol: name from PROTOCOLS.
        over: name from INFO_GAIN_BASELINES.
        seed: seed of random metrics, negatives, drawn frames and intervals.
        workers: scoring processes; with 1, a thread of this process. Short evaluations start fewer. The scores do
            not depend on it.
        parallel: run the source in the scoring processes too; for sources that can be pickled and need no device.
        progress: show a progress bar, and log the speed at the end.
        name: name of the source, for the bar, the table and the files.

    Raises:
        UserError: unknown metric or protocol, no ground truth or no fixations at all, or a source that skips a
            requested frame or yields NaN or infinity.
        RunError: if a scoring process was killed.
    """
    for setting, value, accepted in (("protocol", protocol, PROTOCOLS), ("over", over, INFO_GAIN_BASELINES)):
        if value not in accepted:
            raise UserError(f"{setting}: expected one of {', '.join(accepted)}; got {value!r}")
    metrics = tuple(PROTOCOLS[protocol].metrics if metrics is None else metrics)
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise UserError(f"metrics: expected one or more of {', '.join(METRICS)}; got {unknown[0]!r}")
    if not metrics or len(set(metrics)) < len(metrics):
        raise UserError(f"metrics: expected distinct names, at least one; got {list(metrics)}")
    if every < 1:
        raise UserError(f"every: expected a positive number of frames, got {every}")

    labels = _labels(videos)
    work = [(label, video, video.frames[::every]) for label, video in labels.items() if video.truth is not None]
    if not any(frames for _, _, frames in work):
        raise UserError(f"nothing to score against: no ground truth in {', '.join(labels) or 'an empty list'}")
    work = _sample_frames(work, PROTOCOLS[protocol].most_frames, seed)
    scorer = _scorer(metrics, protocol, over, videos, seed)
    scored = _score(scorer, maps, work, workers, parallel=parallel, progress=progress, name=name)
    rows = [row for row in scored if row.values]
    if not rows:
        raise UserError(f"nothing to score against: no fixation in {len(scored)} frames of {', '.join(labels)}")
    for label, video, _ in work:
        if damaged := damaged_frames_read(video.path):
            log.warning("%s: read %s; the decoder filled in missing parts", label, plural(damaged, "damaged frame"))
    order = {label: place for place, label in enumerate(labels)}
    rows.sort(key=lambda row: (order[row.video], row.frame))
    return Scores(
        name,
        metrics,
        rows,
        frames_without_fixations=len(scored) - len(rows),
        videos_without_truth=[label for label, video in labels.items() if video.truth is None],
        how=_describe(scorer, every, len(scored)),
        recordings={label: recording_of(video) for label, video, _ in work},
        average=PROTOCOLS[protocol].average,
        seed=seed,
    )


def _labels(videos: Sequence[Video]) -> dict[str, Video]:
    """Return the videos by name, prefixed with the data set where several have the same name."""
    names = Counter(video.name for video in videos)
    labels = [f"{video.dataset}/{video.name}" if names[video.name] > 1 else video.name for video in videos]
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise UserError(f"videos: {', '.join(twice)}: listed twice; expected each video once")
    return dict(zip(labels, videos, strict=True))


def _sample_frames(work: Work, most: int | None, seed: int) -> Work:
    """Draw at most `most` frames, the number that a protocol scores; all if there are no more."""
    total = sum(len(frames) for _, _, frames in work)
    if most is None or total <= most:
        return work
    drawn = np.zeros(total, dtype=bool)
    drawn[np.random.default_rng([seed, 1]).choice(total, most, replace=False)] = True
    kept = iter(drawn)
    return [(label, video, [frame for frame in frames if next(kept)]) for label, video, frames in work]


def _scorer(metrics: tuple[str, ...], protocol: str, over: str, videos: Sequence[Video], seed: int) -> FrameScorer:
    """Return a frame scorer, with a pool of other frames' fixations if a metric needs one."""
    kinds = {kind for metric in metrics for kind in METRICS[metric].truth}
    baseline_needs = "baseline" in kinds and INFO_GAIN_BASELINES[over].needs_other_frames
    others = draw_other_frames(videos, seed=seed) if "other_fixations" in kinds or baseline_needs else None
    return FrameScorer(metrics, protocol, over, others, seed)


def _score(
    scorer: FrameScorer,
    maps: MapSource,
    work: Work,
    workers: int,
    *,
    parallel: bool,
    progress: bool,
    name: str,
) -> list[Row]:
    """Score all frames, and log the speed."""
    total, started = sum(len(frames) for _, _, frames in work), time.perf_counter()
    workers = max(1, min(workers, total // MIN_FRAMES_PER_WORKER))
    rows: list[Row] = []
    with (
        ProgressBar(f"scoring {name}", "frame", total=total, shown=progress, result=False) as bar,
        worker_pool(workers, [__name__]) as pool,
    ):
        try:
            for scored in run_ahead(pool, _parts(scorer, maps, work, parallel=parallel), AHEAD * workers):
                rows += scored
                bar.update(len(scored))
        except BrokenProcessPool as error:
            raise RunError(
                "a scoring process was killed, perhaps for lack of memory; try fewer workers (a script with "
                'several must do its work under `if __name__ == "__main__":`)'
            ) from error
    if progress:
        seconds = time.perf_counter() - started
        processes = "1 process" if workers == 1 else f"{workers} processes"
        rate = f"{plural(total, 'frame')} in {seconds:.1f} s, {total / seconds:.1f} per second"
        log.info("%s: %s, scored by %s", name, rate, processes)
    return rows


def _parts(
    scorer: FrameScorer, maps: MapSource, work: Work, *, parallel: bool
) -> Iterator[Callable[[], list[Row]]]:
    """Yield the calls that score the work, with the source itself or with the maps that it yields here."""
    for label, video, frames in work:
        if parallel:
            for start in range(0, len(frames), PART):
                yield partial(scorer.score_source, label, video, frames[start : start + PART], maps)
        else:
            for chunk in map_chunks(maps, video, frames):
                yield partial(scorer.score_maps, label, video, *chunk)


def _describe(scorer: FrameScorer, every: int, total: int) -> dict[str, str]:
    """Return how the numbers were computed, by subject; without it they cannot be compared with other numbers."""
    protocol = PROTOCOLS[scorer.protocol]
    how = {
        "protocol": scorer.protocol,
        "definitions": "MATLAB code of the DHF1K and MIT saliency benchmarks, unless stated otherwise below",
        "frames": "every frame in use" if every == 1 else f"one of every {every} frames in use, from the first",
        "densities": "as shipped with the data set; otherwise one Gaussian per fixation, repeats add up: sigma "
        f"{DHF1K_SIGMA} px at a width of 640 and in proportion to it, unless the data set has its own",
        "pooled": "mean over all frames",
        "per_video": "mean over a video's frames, then over videos",
        "intervals": describe_intervals(scorer.seed),
        "frames without fixations": "skipped and counted",
        "resize": protocol.resize_how,
        "blur": protocol.blur,
    }
    if protocol.most_frames is not None and total == protocol.most_frames:
        how["frames"] += f", of these {total} drawn (seed {scorer.seed})"
    baseline = INFO_GAIN_BASELINES[scorer.over].how
    for metric in scorer.metrics:
        if text := protocol.definitions[metric].how:
            how[metric] = text.format(seed=scorer.seed, negatives=NEGATIVES, baseline=baseline)
    return how
