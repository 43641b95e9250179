"""Scores of entries on test sets, kept in a folder, and the share of the observers' information that they explain.

scores/TEST_SET/ENTRY/     scores.json, scores.csv, videos.csv, and provenance.json: what they depend on
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from distill.data.clips import Video
from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.map_folder import MapFolder
from distill.evaluation.observers import evaluate_observers
from distill.evaluation.references import folder_name, score
from distill.evaluation.scores import FILES, Scores, read_scores
from distill.evaluation.statistics import bootstrap_ratio
from distill.files import write_json
from distill.inference.settings import InferenceSettings
from distill.leaderboard.entries import Entry, TestSet
from distill.paths import path_inside
from distill.reports.page import Estimate
from distill.targets.fingerprint import describe_truth, describe_video
from distill.validation import read_json

log = logging.getLogger(__name__)

METRICS = ("auc_shuffled", "nss", "cc", "info_gain")
"""Metrics of a leaderboard."""

CENTRE_SHARE = 0.2
"""Share of the centre prior in the observers' maps when their information gain is measured. Chosen on the train
split of the HEVC gaze database and on a tenth of the training stills, where it is best or nearly so."""

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class NotScored:
    """Why an entry has no scores on a test set, as one sentence."""

    reason: str


Result = Scores | NotScored


def score_all(
    entries: Sequence[Entry],
    tests: Sequence[TestSet],
    folder: Path,
    settings: InferenceSettings,
    **options: Any,
) -> dict[tuple[str, str], Result]:
    """Score every entry on every test set, except where `folder` has the scores already.

    An entry that cannot be scored on a test set, such as maps of other videos, is skipped there.

    Args:
        entries: the observers and the others.
        tests: the test sets.
        folder: folder of the scores.
        settings: how models run.
        options: of `evaluate`: every, seed, workers.

    Returns:
        (test set, entry), by name -> scores, or why there are none.
    """
    frames = {test.name: _frames(test, options.get("every", 1)) for test in tests}
    todo = [(test, entry) for test in tests for entry in entries]
    results: dict[tuple[str, str], Result] = {}
    waiting = sum(frames[test.name] for test, _ in todo)
    done, started = 0, time.perf_counter()
    for number, (test, entry) in enumerate(todo, 1):
        place = path_inside(folder / folder_name(test.name), folder_name(entry.name), "leaderboard")
        origin = provenance(entry, test, options)
        kept: Result | None = read_kept(place, origin)
        if kept is not None:
            log.info("%s on %s (%d of %d): scored already", entry.name, test.name, number, len(todo))
            waiting -= frames[test.name]
        else:
            log.info(
                "%s on %s (%d of %d)%s", entry.name, test.name, number, len(todo), _left(started, done, waiting)
            )
            kept = _score(entry, test, place, origin, settings, options)
            done += frames[test.name]
            waiting -= frames[test.name]
        results[test.name, entry.name] = kept
    return results


def _frames(test: TestSet, every: int) -> int:
    return sum(len(video.frames[::every]) for video in test.videos)


def _left(started: float, done: int, waiting: int) -> str:
    """Return an estimate of the remaining time, from the frames scored so far; empty before the first."""
    if not done:
        return f": {plural(waiting, 'frame')} to score in total"
    seconds = (time.perf_counter() - started) / done * waiting
    return f": about {seconds / 60:.0f} min left" if seconds >= 90 else f": about {seconds:.0f} s left"


def _score(
    entry: Entry,
    test: TestSet,
    place: Path,
    origin: Mapping[str, Any],
    settings: InferenceSettings,
    options: Mapping[str, Any],
) -> Result:
    """Score an entry and write the scores."""
    try:
        if entry.kind == "observers":
            scores = _observers(test.videos, options)
        else:
            scores, _ = score(entry.reference, test.videos, settings, metrics=METRICS, **options)
    except UserError as error:
        log.warning("%s on %s: not scored: %s", entry.name, test.name, error)
        return NotScored(str(error).partition(";")[0])  # what is wrong, without what to do
    scores = replace(scores, name=entry.name, how=scores.how | {"data": test.data})
    for name in (PROVENANCE, *FILES):
        (place / name).unlink(missing_ok=True)  # of another origin, or half written
    scores.save(place)
    write_json(place / PROVENANCE, origin)  # last: scores without it are computed again
    return scores


def _observers(videos: Sequence[Video], options: Mapping[str, Any]) -> Scores:
    """Score the observers, with a centre prior in their maps for information gain.

    One half's points, blurred, are zero far from them. Without the prior, every fixation there would cost dozens of
    bits, and the observers would explain less than a model. Source: the gold standard of Kümmerer, Wallis and
    Bethge, PNAS 112(52), 2015, is regularised likewise.
    """
    rest = evaluate_observers(videos, metrics=[name for name in METRICS if name != "info_gain"], **options)
    gains = evaluate_observers(videos, metrics=["info_gain"], prior=CENTRE_SHARE, **options)
    rows = [replace(row, values=row.values | gain.values) for row, gain in zip(rest.rows, gains.rows, strict=True)]
    how = rest.how | {"info_gain": f"{gains.how['info_gain']}; prediction: {gains.how['prediction']}"}
    return replace(rest, metrics=METRICS, rows=rows, how=how)


def provenance(entry: Entry, test: TestSet, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the scores of an entry on a test set depend on, as JSON values.

    Videos are compared by size, files of maps and of ground truth by size and time of modification.
    """
    source: dict[str, Any] = {"model": entry.reference} if entry.source is None else entry.source.provenance()
    if entry.source is not None and isinstance(entry.source.maps, MapFolder):
        source["files"] = _listing_hash(entry.source.maps.folder)
    videos = [
        [
            *(video.name, str(video.path), video.recording, list(video.size), _ranges(video.frames)),
            *(describe_video(video, content=False), describe_truth(video)),
        ]
        for video in test.videos
    ]
    content = {
        "source": source,
        "videos": hashlib.sha256(json.dumps(videos).encode()).hexdigest(),
        "options": {name: value for name, value in sorted(options.items()) if name != "workers"},
        "metrics": METRICS,
    } | ({"centre_share": CENTRE_SHARE} if entry.kind == "observers" else {})
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _ranges(frames: Sequence[int]) -> list[int]:
    return [frames.start, frames.stop, frames.step] if isinstance(frames, range) else list(frames)


def _listing_hash(folder: Path) -> str:
    """Return a hash of the names, sizes and times of modification of a folder's files."""
    listing = sorted(
        (path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    )
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def read_kept(place: Path, origin: Mapping[str, Any]) -> Scores | None:
    """Return the scores in a folder if they have this origin, else None."""
    if not (place / PROVENANCE).is_file():
        return None
    try:
        found = read_json(place / PROVENANCE, dict[str, Any], "the origin of scores")
        return replace(read_scores(place), seed=origin["options"]["seed"]) if found == origin else None
    except UserError as error:
        log.warning("%s; scored again", error)
        return None


def explained(scores: Scores, observers: Scores) -> Estimate:
    """Return the information gain of an entry as a share of the observers' own, with its interval.

    Both are means over videos, of the frames on which both are defined.

    Returns:
        1 for the observers themselves, 0 for the centre prior, negative below it. NaN if the observers' gain is not
        positive, or no frame has both. The ends are NaN with fewer than two recordings, or if the observers' gain
        is not positive in some resample.
    """
    theirs = {(row.video, row.frame): row.values["info_gain"] for row in observers.rows}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in scores.rows:
        pair = row.values["info_gain"], theirs.get((row.video, row.frame), math.nan)
        if all(map(math.isfinite, pair)):
            pairs.setdefault(row.video, []).append(pair)
    own, ceiling = (np.array([fmean(pair[k] for pair in each) for each in pairs.values()]) for k in (0, 1))
    if not pairs or ceiling.mean() <= 0:
        return Estimate(math.nan, (math.nan, math.nan))
    ends = bootstrap_ratio(own, ceiling, [scores.recording(video) for video in pairs], seed=scores.seed)
    return Estimate(float(own.mean() / ceiling.mean()), ends)


def estimates(scores: Scores, observers: Scores | None) -> dict[str, Estimate]:
    """Return the means over videos with their intervals: "explained" and the metrics."""
    found = {"explained": Estimate(math.nan, (math.nan, math.nan))}
    if observers is not None:
        found["explained"] = explained(scores, observers)
    means, ends = scores.per_video, scores.intervals["per_video"]
    return found | {metric: Estimate(means[metric], ends[metric]) for metric in METRICS}


def without_videos(scores: Scores, videos: Sequence[str]) -> Scores | None:
    """Return the scores without some videos; None if no frame is left."""
    names = set(videos)
    rows = [row for row in scores.rows if row.video not in names and row.video.partition("/")[2] not in names]
    return replace(scores, rows=rows) if rows else None
