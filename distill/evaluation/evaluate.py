"""Scoring maps against gaze: which frames count, what they are scored with, in several processes.

    saldistill evaluate MODEL [MODEL ...] DATA

Whoever is scored is a map source: a function from a video and frames to maps. A model, a baseline and a folder of
somebody's maps are the same thing here.

    scores = evaluate(model_maps(model), videos)
    print(scores.table())
    scores.save("runs/demo/scores")

The source runs in this process (a network has the device, and its weights are in memory once); frames are scored by
others while it computes the next maps.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool

import numpy as np
from tqdm import tqdm

from distill.data.clips import Video
from distill.errors import RunError, UserError
from distill.evaluation.baselines import CENTRE_SIGMA
from distill.evaluation.frame_scorer import INFO_GAIN_BASELINES, FrameScorer, FrameScores, chunks
from distill.evaluation.map_sources import MapSource
from distill.evaluation.metrics import METRICS
from distill.evaluation.other_frames import POOL, UNION, draw_other_frames, recording_of
from distill.evaluation.protocols import PROTOCOLS
from distill.evaluation.scores import Row, Scores, intervals_in_words
from distill.evaluation.worker_pool import worker_pool
from distill.fixations import DHF1K_SIGMA

log = logging.getLogger(__name__)

PUBLISHED = PROTOCOLS["official"].metrics
"""What is scored unless something else is asked for."""

FRAMES_A_WORKER = 500
"""Fewer frames are not worth the second or two that starting another process takes."""

PART = 64
"""Frames of a light source that a process gets at a time."""

AHEAD = 2
"""Parts of the work that wait for each process."""


def evaluate(
    maps: MapSource,
    videos: Sequence[Video],
    *,
    every: int = 1,
    metrics: Sequence[str] | None = None,
    protocol: str = "official",
    over: str = INFO_GAIN_BASELINES[0],
    seed: int = 0,
    workers: int = 1,
    light: bool = False,
    progress: bool = True,
    name: str = "maps",
) -> Scores:
    """Score maps on the frames in use of videos, at each video's own size.

    Frames are scored while the source computes the next maps; the result does not depend on how many do it.

    Args:
        maps: who is scored.
        videos: on what; those without ground truth are left out and named in the result.
        every: take every n-th of each video's frames in use, from the first.
        metrics: names from METRICS; those of the protocol when None.
        protocol: one of PROTOCOLS.
        over: one of INFO_GAIN_BASELINES: what information gain is measured over.
        seed: of everything random: the metrics' own draws, other frames, drawn frames, intervals.
        workers: scoring processes; with 1, a thread of this one. Short evaluations start fewer.
        light: the source is no network but can be copied; it runs in the scoring processes too.
        progress: show a bar with the rate and the time left, and say at the end how fast it was.
        name: of who is scored, for the bar, the table and the files.

    Raises:
        UserError: an unknown metric or protocol, no ground truth or no fixation at all, or a source that leaves out
            an asked frame or gives a map with NaN or infinity.
        RunError: if a scoring process was ended from outside.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol: expected one of {', '.join(PROTOCOLS)}; got {protocol!r}")
    metrics = tuple(PROTOCOLS[protocol].metrics if metrics is None else metrics)
    _check(metrics, every, over)
    labels = _labels(videos)
    blind = [label for label, video in labels.items() if video.truth is None]
    work = [(label, video, video.frames[::every]) for label, video in labels.items() if video.truth is not None]
    if not any(frames for _, _, frames in work):
        raise UserError(f"nothing to score against: no ground truth in {', '.join(labels) or 'an empty list'}")
    work = _draw(work, PROTOCOLS[protocol].most_frames, seed)
    needs_others = "auc_shuffled" in metrics or ("info_gain" in metrics and over == "other-frames")
    others = draw_other_frames(videos, seed=seed) if needs_others else None
    scorer = FrameScorer(metrics, protocol, over, others, seed)

    rows: list[Row] = []
    without_fixations = 0
    total, started = sum(len(frames) for _, _, frames in work), time.perf_counter()
    workers = max(1, min(workers, total // FRAMES_A_WORKER))
    with (
        tqdm(total=total, desc=name, unit="frame", disable=not progress) as bar,
        worker_pool(workers, [__name__]) as pool,
    ):
        for label, frame, values in _scored(pool, AHEAD * workers, scorer, maps, work, light=light):
            if values is None:
                without_fixations += 1
            else:
                rows.append(Row(label, frame, values))
            bar.update()
    order = {label: place for place, (label, _, _) in enumerate(work)}
    rows.sort(key=lambda row: (order[row.video], row.frame))
    if progress:
        seconds, plural = time.perf_counter() - started, "es" * (workers > 1)
        rate = f"{total} frames in {seconds:.1f} s, {total / seconds:.1f} a second"
        log.info("%s: %s, scored by %d process%s", name, rate, workers, plural)
    if not rows:
        raise UserError(f"nothing to score against: no fixation in {total} frames of {', '.join(labels)}")
    return Scores(
        name,
        metrics,
        rows,
        without_fixations,
        blind,
        _how(scorer, every, total),
        {label: recording_of(video) for label, video, _ in work},
        PROTOCOLS[protocol].average,
        seed,
    )


Work = list[tuple[str, Video, Sequence[int]]]
"""(label, video, frames) of each video that is scored."""


def _scored(
    pool: Executor, ahead: int, scorer: FrameScorer, maps: MapSource, work: Work, *, light: bool
) -> Iterator[tuple[str, int, dict[str, float] | None]]:
    """Yield (video, frame, scores) in the order of the work, so many of its parts behind what is submitted."""
    pending: deque[tuple[str, Future[FrameScores]]] = deque()

    def finished(most: int) -> Iterator[tuple[str, int, dict[str, float] | None]]:
        while len(pending) > most:
            label, future = pending.popleft()
            for frame, values in future.result():
                yield label, frame, values

    try:
        for label, video, frames in work:
            for future in _submitted(pool, scorer, maps, video, frames, light=light):
                pending.append((label, future))
                yield from finished(ahead)
        yield from finished(0)
    except BrokenProcessPool as error:
        raise RunError(
            "a scoring process was ended from outside, perhaps for want of memory: try fewer workers (in a script "
            'of your own: several need `if __name__ == "__main__":` around its work)'
        ) from error


def _submitted(
    pool: Executor, scorer: FrameScorer, maps: MapSource, video: Video, frames: Sequence[int], *, light: bool
) -> Iterator[Future[FrameScores]]:
    """Hand a video's frames to those who score, a part at a time; a light source goes along with them."""
    if light:
        for start in range(0, len(frames), PART):
            yield pool.submit(scorer.score_source, maps, video, frames[start : start + PART])
    else:
        for asked, given in chunks(maps, video, frames):
            yield pool.submit(scorer.score_maps, video, asked, given)


def _draw(work: Work, most: int | None, seed: int) -> Work:
    """Draw as many frames as a protocol scores at most; all where there are no more."""
    total = sum(len(frames) for _, _, frames in work)
    if most is None or total <= most:
        return work
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng([seed, 1]).choice(total, most, replace=False)] = True
    drawn: Work = []
    start = 0
    for label, video, frames in work:
        keep = chosen[start : start + len(frames)]
        drawn.append((label, video, [frame for frame, kept in zip(frames, keep, strict=True) if kept]))
        start += len(frames)
    return drawn


def _check(metrics: Sequence[str], every: int, over: str) -> None:
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"metrics: expected some of {', '.join(METRICS)}; got {metric!r}")
    if not metrics or len(set(metrics)) < len(metrics):
        raise UserError(f"metrics: expected different names, at least one, got {list(metrics)}")
    if every < 1:
        raise UserError(f"every: expected a number of frames from 1 up, got {every}")
    if over not in INFO_GAIN_BASELINES:
        raise UserError(f"over: expected one of {', '.join(INFO_GAIN_BASELINES)}; got {over!r}")


def _labels(videos: Sequence[Video]) -> dict[str, Video]:
    """Return the videos by name; with the data set in front where two have one name."""
    names = Counter(video.name for video in videos)
    labels = [f"{video.dataset}/{video.name}" if names[video.name] > 1 else video.name for video in videos]
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise UserError(f"videos: {', '.join(twice)} stands there twice; each video is scored once")
    return dict(zip(labels, videos, strict=True))


def _how(scorer: FrameScorer, every: int, total: int) -> dict[str, str]:
    """Say how the numbers were made: without it they cannot be compared with others'."""
    protocol = PROTOCOLS[scorer.protocol]
    how = {
        "protocol": scorer.protocol,
        "definitions": "the MATLAB code of the DHF1K and MIT saliency benchmarks, unless said otherwise below",
        "frames": "every frame in use" if every == 1 else f"one of every {every} frames in use, from the first",
        "densities": "as the data set ships them; where it does not, a Gaussian a fixation, repeats add up: sigma "
        f"{DHF1K_SIGMA} px at a width of 640 and in proportion to it, unless the data set has its own",
        "pooled": "mean over all frames",
        "per_video": "mean over a video's frames, then over videos",
        "intervals": intervals_in_words(scorer.seed),
        "frames without fixations": "left out and counted",
        "auc_judd": "ties exactly, as the official jitter breaks them on average",
        "auc_borji": f"100 splits; seed {scorer.seed} and the frame's number (from 0)",
        "auc_shuffled": f"negatives: the fixations of {UNION} random frames of other recordings among the scored "
        f"videos (of other frames where there is one recording), rescaled to the frame, drawn from at most {POOL} "
        f"of the frames in use; 100 splits; seed {scorer.seed}",
        "info_gain": {
            "centre-prior": f"over a Gaussian at the centre, sigma {CENTRE_SIGMA} of each side",
            "other-frames": "over the mean map of other recordings: their fixations, blurred as densities are",
        }[scorer.over],
    }
    if protocol.most_frames is not None and total == protocol.most_frames:
        how["frames"] += f", of these {total} drawn (seed {scorer.seed})"
    how |= protocol.how
    return {subject: text for subject, text in how.items() if subject not in METRICS or subject in scorer.metrics}
