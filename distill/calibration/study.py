"""Study how much of the gap to a model trained with the data a calibration on few videos closes.

python scripts/calibration_study.py STUDENT.onnx REFERENCE.onnx --on ntire:MINE --on-split train \
    --test ntire:MINE --test-split public_test -o study
"""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from distill.calibration.calibrate import EVERY, log_variants, motions_of, with_truth
from distill.calibration.cross_validation import SCORED, cross_validate, score_calibrated, score_unchanged
from distill.calibration.fit import fit
from distill.calibration.graph import load_source
from distill.calibration.numbers import Calibration
from distill.calibration.samples import (
    ALL_FRAMES,
    Sample,
    check_recordings,
    choose_frames,
    draw_videos,
    read_samples,
)
from distill.claims import claim
from distill.data.clips import Video
from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.other_frames import recording_of
from distill.evaluation.references import same_scene
from distill.evaluation.statistics import LEVEL, bootstrap_means, bootstrap_ratio
from distill.files import file_hash, write_json, write_text
from distill.limits import MAX_CALIBRATED_MAPS
from distill.training.sources import videos_of_argument
from distill.validation import read_json

log = logging.getLogger(__name__)

COUNTS = (5, 10, 20, 50)
"""Default numbers of videos to calibrate on."""

Scores = dict[str, list[float]]
"""Test video -> means of SCORED over its frames."""


@dataclass(frozen=True)
class Study:
    """What a study compares.

    Attributes:
        student: .onnx file to calibrate.
        reference: .onnx file of a model that was trained with the data.
        on: calibration data.
        on_split: their split.
        test: data to score on.
        test_split: their split.
        scenes: patterns of test videos that show one scene, for the intervals.
        counts: numbers of videos to calibrate on.
        seeds: number of draws of each.
        every: distance of the frames that are used.
    """

    student: str
    reference: str
    on: str
    test: str
    on_split: str | None = None
    test_split: str | None = None
    scenes: tuple[str, ...] = ()
    counts: tuple[int, ...] = COUNTS
    seeds: int = 3
    every: int = EVERY

    def draws(self, videos: Sequence[Video]) -> dict[str, list[Video]]:
        """Return the videos of each draw by its key, COUNT/SEED; one draw of a count that takes them all."""
        return {
            f"{count}/{seed}": draw_videos(videos, count, seed)
            for count in self.counts
            for seed in range(self.seeds if count < len(videos) else 1)
        }


class Part(BaseModel):
    """The result of one draw.

    Attributes:
        videos: number of videos.
        numbers: the calibration; that of no change if it was not better in cross-validation.
        better: whether it was.
        scores: scores of the test videos.
    """

    videos: int
    numbers: dict[str, Any]
    better: bool
    scores: Scores


class Results(BaseModel):
    """Content of results.json; finished parts are not computed again.

    Attributes:
        study: the study, and the SHA-256 of its files.
        recordings: scene of each test video.
        student: its scores.
        reference: its scores.
        parts: key of a draw -> its result.
    """

    study: dict[str, Any]
    recordings: dict[str, str] = {}
    student: Scores = {}
    reference: Scores = {}
    parts: dict[str, Part] = {}


def run_study(study: Study, out: str | Path, *, progress: bool = True) -> str:
    """Run a study, or resume it, and return its table; `out` gets results.json and results.md.

    Raises:
        UserError: the data or files cannot be used, or `out` holds another study.
    """
    out = Path(out)
    with claim(out / "results.md", "the results", overwrite=True), tempfile.TemporaryDirectory() as folder:
        results = _open(study, out / "results.json")
        videos = with_truth(videos_of_argument(study.on, split=study.on_split), study.on)
        tests = with_truth(videos_of_argument(study.test, split=study.test_split), study.test)
        tests = choose_frames(same_scene(tests, list(study.scenes)), every=study.every, most=ALL_FRAMES)
        results.recordings = {video.name: recording_of(video) for video in tests}
        draws = study.draws(videos)
        missing = {key: drawn for key, drawn in draws.items() if key not in results.parts}
        if missing or not results.student:
            _compute(study, results, missing, tests, out, Path(folder), progress=progress)
        if not results.reference:
            networks = log_variants(load_source(study.reference), (1.0,), Path(folder))
            samples = read_samples(networks, tests, progress=progress)
            results.reference = {sample.video.name: score_unchanged(sample).tolist() for sample in samples}
            write_json(out / "results.json", results.model_dump())
        text = table(study, results, len(videos))
        write_text(out / "results.md", text)
    return text


def _open(study: Study, path: Path) -> Results:
    """Return the results so far."""
    described = {key: list(each) if isinstance(each, tuple) else each for key, each in asdict(study).items()}
    described |= {f"{name}_sha256": file_hash(getattr(study, name)) for name in ("student", "reference")}
    if not path.exists():
        return Results(study=described)
    results = read_json(path, Results, "results of a study", remedy="remove it to start again")
    free = ("counts", "seeds")  # more draws extend a study
    if {**results.study, **dict.fromkeys(free)} != {**described, **dict.fromkeys(free)}:
        raise UserError(f"{path}: belongs to a study of other models, data or frames; choose another folder")
    return results.model_copy(update={"study": described})


def _compute(
    study: Study,
    results: Results,
    draws: Mapping[str, Sequence[Video]],
    tests: Sequence[Video],
    out: Path,
    folder: Path,
    *,
    progress: bool,
) -> None:
    """Score the student, and its calibrations of all draws, with one pass over the videos."""
    model = load_source(study.student)
    used = {id(video): video for drawn in draws.values() for video in drawn}
    motions, _ = motions_of(model, list(used.values()))
    networks = log_variants(model, motions, folder)
    scored = read_samples(networks, tests, progress=progress)
    results.student = {sample.video.name: score_unchanged(sample).tolist() for sample in scored}
    write_json(out / "results.json", results.model_dump())
    fewest = min((len(drawn) for drawn in draws.values()), default=1)
    chosen = choose_frames(list(used.values()), every=study.every, most=MAX_CALIBRATED_MAPS // fewest * len(used))
    samples = {sample.video.path: sample for sample in read_samples(networks, chosen, progress=progress)}
    for key, drawn in draws.items():
        found = [samples[video.path] for video in drawn if video.path in samples]
        part = calibrate_part(found, scored, motions, int(key.partition("/")[2]), study.on, progress=progress)
        results.parts[key] = part
        write_json(out / "results.json", results.model_dump())
        log.info("%s: %s", key, f"{'better' if part.better else 'not better'} in cross-validation")


def calibrate_part(
    samples: Sequence[Sample],
    tests: Sequence[Sample],
    motions: Sequence[float],
    seed: int,
    where: str,
    *,
    progress: bool,
) -> Part:
    """Calibrate on some videos as `calibrate` does, and score the test videos."""
    check_recordings([sample.video for sample in samples], where)
    most = max(1, MAX_CALIBRATED_MAPS // len(samples))
    samples = [sample.thinned(most) for sample in samples]
    better = cross_validate(samples, motions, seed=seed, progress=progress).better
    calibration = fit(samples, motions).rounded() if better else Calibration()
    scores = {sample.video.name: score_calibrated(sample, calibration).tolist() for sample in tests}
    return Part(videos=len(samples), numbers=calibration.as_dict(), better=better, scores=scores)


def gap_share(
    student: np.ndarray, calibrated: np.ndarray, reference: np.ndarray, recordings: Sequence[str], *, seed: int = 0
) -> tuple[float, float, float]:
    """Return the share of the gap that calibration closes, and its bootstrap interval over recordings.

    (calibrated - student) / (reference - student), each the mean over videos.

    Args:
        student: (V,) scores.
        calibrated: likewise.
        reference: likewise.
        recordings: recording of each video.
        seed: seed of the resamples.

    Returns:
        Share, lower and upper end. All NaN if there is no gap; the ends are NaN with one recording, or if a
        resample in 40 or more has no gap, because the quotient then has no mean.
    """
    closed, gap = calibrated - student, reference - student
    if not gap.mean() > 0:
        return np.nan, np.nan, np.nan
    ends = bootstrap_ratio(closed, gap, recordings, tolerated=(1 - LEVEL) / 2, seed=seed)
    return float(closed.mean() / gap.mean()), *ends


def table(study: Study, results: Results, available: int) -> str:
    """Return the results as a Markdown table: scores, changes and shares of the gap with 95% intervals.

    Args:
        study: the study.
        results: its complete results.
        available: number of calibration videos that exist.
    """
    names = list(results.student)
    groups = [results.recordings[name] for name in names]
    student, reference = (
        np.array([scores[name] for name in names]) for scores in (results.student, results.reference)
    )
    titles = [METRICS[metric].title for metric in SCORED]
    lines = [
        f"| model | {' | '.join(titles)} | {' | '.join(f'change of {title}' for title in titles)} | "
        f"{' | '.join(f'share of the gap, {title}' for title in titles)} |",
        "|---|" + "--:|" * (3 * len(titles)),
        _row("student", student.mean(0), ["-"] * 6),
    ]
    notes = []
    for count in study.counts:
        parts = [part for key, part in results.parts.items() if key.split("/")[0] == str(count)]
        calibrated = np.mean([[part.scores[name] for name in names] for part in parts], axis=0)
        ends = bootstrap_means(calibrated - student, groups)
        changes = [
            f"{change:+.3f} [{low:+.3f}, {high:+.3f}]"
            for change, low, high in zip((calibrated - student).mean(0), *ends, strict=True)
        ]
        shares = [
            _share(*gap_share(student[:, place], calibrated[:, place], reference[:, place], groups))
            for place in range(len(titles))
        ]
        better = sum(part.better for part in parts)
        label = f"calibrated on {count} videos, {better} of {plural(len(parts), 'draw')} better"
        lines.append(_row(label, calibrated.mean(0), [*changes, *shares]))
        if count > available:
            notes.append(f"{count} videos: the data have {available}, which were all used, in one draw.")
    gap = [f"{change:+.3f}" for change in (reference - student).mean(0)]
    lines.append(_row("reference", reference.mean(0), [*gap, *["100%"] * len(titles)]))
    notes.append(
        f"Means over {plural(len(names), 'test video')} ({plural(len(set(groups)), 'scene')}), 95% intervals over "
        "scenes. A calibration that is not better in cross-validation counts as the unchanged student."
    )
    return "\n".join([*lines, "", *notes, ""])


def _row(label: str, scores: np.ndarray, others: Sequence[str]) -> str:
    return f"| {label} | {' | '.join(f'{each:.3f}' for each in scores)} | {' | '.join(others)} |"


def _share(share: float, low: float, high: float) -> str:
    """Return a share as a percentage; a dash if it or its interval is undefined."""
    if np.isnan(share):
        return "-"
    return f"{share:.0%} [{'-' if np.isnan(low) else f'{low:.0%}, {high:.0%}'}]"
