"""Report of one or several evaluations: scores, their distributions over videos and time, and pictures.

    results = [(evaluate(maps, videos, name=name), maps) for name, maps in sources.items()]
    report_scores("scores.html", results, videos)

The page stays small for any number of videos: it shows pictures only of the best and the worst ones.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from markupsafe import Markup

from distill.data.clips import Video
from distill.data.progress import ProgressBar
from distill.data.video.open import open_video
from distill.evaluation.baselines import BASELINES
from distill.evaluation.map_sources import MapSource
from distill.evaluation.metrics import METRICS
from distill.evaluation.scores import AVERAGES, Scores
from distill.files import refuse_existing
from distill.inference.overlay import overlay
from distill.reports import page
from distill.reports.charts import Curve, line_chart, strip_plot
from distill.saliency import to_peak

SHEETS = 3
"""Number of best and of worst videos with a contact sheet."""

FRAMES = 4
"""Frames shown per video."""

SIDE = 320
"""Longer side of a picture in pixels: with three models, all pictures together take about 2 MB."""

CURVES = 6
"""Number of best and of worst videos whose scores are drawn over time."""

JUDGED = ("nss", "cc")
"""Metrics on which models are compared with the centre prior, if it was scored too."""

SMOOTH_FROM = 60
"""Number of frames above which a curve is drawn as a running mean."""


def report_scores(
    path: str | Path,
    results: Sequence[tuple[Scores, MapSource]],
    videos: Sequence[Video],
    *,
    progress: bool = True,
) -> Path:
    """Write the report of one or several evaluations of the same videos.

    Videos are ordered by NSS (by the first metric if NSS was not scored), averaged over the models. Baselines and
    the observers' ceiling are included in the average only if there is no model.

    Args:
        path: HTML file to write.
        results: scores, and the source of the maps, which is called again for the frames to show.
        videos: the scored videos.
        progress: show a progress bar.

    Returns:
        The path.

    Raises:
        UserError: the file exists, or a video or map can no longer be read.
    """
    path = Path(path)
    refuse_existing(path, "a report", remedy="choose another name, or remove it")
    named = dict(zip(short_names([scores.name for scores, _ in results]), results, strict=True))
    scores = {label: found for label, (found, _) in named.items()}
    metric = _ranking_metric(scores)
    ranking = rank_videos(scores, metric)
    by_name = {f"{video.dataset}/{video.name}": video for video in videos} | {video.name: video for video in videos}
    page.write_report(
        path,
        "scores",
        overwrite=False,
        verdict=_verdict(scores),
        models=_join_names(list(scores)),
        metric=METRICS[metric].title,
        num_frames=max(len(found.rows) for found in scores.values()),
        num_videos=len(ranking),
        mean_tables=list(_mean_tables(scores)),
        count_table=_count_table(scores),
        distributions=_distributions(scores),
        num_sheets=SHEETS,
        frames_per_sheet=FRAMES,
        sheets=[
            _sheet(name, by_name[name], named, metric)
            for name in ProgressBar("drawing pictures", "video", _ends(ranking, SHEETS), shown=progress)
        ],
        num_curves=CURVES,
        over_time=[
            _time_chart(name, by_name[name], scores, metric)
            for name in _ends(ranking, CURVES)
            if by_name[name].num_frames > 1
        ],
        method=_method(scores, metric),
    )
    return path


def short_names(names: Sequence[str]) -> list[str]:
    """Return the shortest unique suffixes of paths; identical names are numbered."""
    parts = [Path(name).parts or (name,) for name in names]
    lengths = [1] * len(names)
    while True:
        short = ["/".join(part[-count:]) for part, count in zip(parts, lengths, strict=True)]
        ambiguous = [i for i, name in enumerate(short) if short.count(name) > 1 and lengths[i] < len(parts[i])]
        if not ambiguous:
            break
        for i in ambiguous:
            lengths[i] += 1
    return [
        name if short.count(name) == 1 else f"{name} #{short[:i].count(name) + 1}" for i, name in enumerate(short)
    ]


def rank_videos(scores: Mapping[str, Scores], metric: str) -> list[str]:
    """Return the names of the scored videos, best first; videos without a defined value come last."""
    models = _models(scores) or list(scores)
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0

    def quality(name: str) -> float:
        values = [scores[label].by_video[name][metric] for label in models if name in scores[label].by_video]
        finite = [value for value in values if math.isfinite(value)]
        return sign * sum(finite) / len(finite) if finite else -math.inf

    names = dict.fromkeys(name for label in models for name in scores[label].by_video)
    return sorted(names, key=quality, reverse=True)


def side_by_side(
    video: Video, frames: Sequence[int], sources: Sequence[MapSource], *, side: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield each frame with its pictures: the frame with fixations, then overlays of ground truth and each source.

    Args:
        video: a video with ground truth.
        frames: 0-based, increasing.
        sources: sources of maps to overlay.
        side: longer side of a picture in pixels; smaller videos are not enlarged.
    """
    assert video.truth is not None, "pictures show the ground truth"
    size = page.fit(video.size, side)
    pictures = open_video(video.path).read(frames, size)
    maps = [dict(source(video, frames)) for source in sources]
    for picture, frame in zip(pictures, frames, strict=True):
        points = video.truth.points(frame) * (np.array(size) / video.size)
        heats = [video.truth.density(frame, size), *(found[frame] for found in maps)]
        yield frame, [page.mark_points(picture, points), *(overlay(picture, to_peak(heat)) for heat in heats)]


def _models(scores: Mapping[str, Scores]) -> list[str]:
    """Return the labels of all models, i.e. without baselines and the observers' ceiling."""
    return [
        label
        for label, found in scores.items()
        if found.name not in BASELINES and not found.name.startswith("observers (")
    ]


def _metrics(scores: Mapping[str, Scores]) -> list[str]:
    """Return the metrics that all evaluations have."""
    first, *others = scores.values()
    return [metric for metric in first.metrics if all(metric in other.metrics for other in others)]


def _ranking_metric(scores: Mapping[str, Scores]) -> str:
    metrics = _metrics(scores)
    return "nss" if "nss" in metrics else metrics[0]


def _ends(ranking: list[str], count: int) -> list[str]:
    """Return the first and the last `count` names; all of them if there are no more."""
    return ranking if len(ranking) <= 2 * count else ranking[:count] + ranking[-count:]


def _join_names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verdict(scores: Mapping[str, Scores]) -> page.Verdict | None:
    """Return how the models compare with the centre prior; None if either is missing."""
    prior = next((label for label, found in scores.items() if found.name == "centre-prior"), None)
    metrics = [metric for metric in JUDGED if metric in _metrics(scores)]
    if prior is None or not _models(scores) or not metrics:
        return None
    rows = {
        label.replace("centre-prior", "centre prior"): {
            METRICS[m].title: scores[label].per_video[m] for m in metrics
        }
        for label in [prior, *_models(scores)]
    }
    return page.judge(rows, names=[METRICS[metric].title for metric in metrics])


def best_directions(metrics: Sequence[str]) -> dict[str, str]:
    """Return the title of each metric -> "high" or "low", whichever is better."""
    return {METRICS[name].title: "high" if METRICS[name].higher_is_better else "low" for name in metrics}


def _mean_tables(scores: Mapping[str, Scores]) -> Iterator[Markup]:
    """Yield one table of means per kind of average."""
    metrics = _metrics(scores)
    for average, description in AVERAGES.items():
        published = any(found.average == average for found in scores.values())
        intervals = any(
            math.isfinite(end) for found in scores.values() for end in found.intervals[average][metrics[0]]
        )
        yield page.table(
            ["model", *(METRICS[metric].title for metric in metrics)],
            [
                [label, *(page.Estimate(getattr(found, average)[m], found.intervals[average][m]) for m in metrics)]
                for label, found in scores.items()
            ],
            best=best_directions(metrics),
            caption=f"{description.capitalize()}{', the average that the protocol publishes' * published}. "
            + (
                "Below each mean, its 95% interval."
                if intervals
                else "No intervals: they need at least two recordings, and there is one."
            ),
        )


def _count_table(scores: Mapping[str, Scores]) -> Markup:
    """Return the table of the numbers of videos and frames that were scored or skipped."""
    return page.table(
        ["model", "videos", "recordings", "scored frames", "frames without fixations", "undefined"],
        [
            [
                label,
                len(found.by_video),
                found.count_recordings,
                len(found.rows),
                found.frames_without_fixations,
                ", ".join(
                    f"{METRICS[metric].title} on {count}" for metric, count in found.undefined.items() if count
                )
                or "none",
            ]
            for label, found in scores.items()
        ],
        caption="What was scored. Frames without fixations are skipped. Frames on which a metric is undefined, "
        "e.g. NSS of a constant map, are left out of its mean.",
    )


def _better(metric: str) -> str:
    return "higher" if METRICS[metric].higher_is_better else "lower"


def _distributions(scores: Mapping[str, Scores]) -> list[Markup]:
    """Return one chart per metric of the distributions over videos."""
    plots = (
        strip_plot(
            METRICS[metric].title,
            {
                label: {name: means[metric] for name, means in found.by_video.items()}
                for label, found in scores.items()
            },
            x=f"{METRICS[metric].title}, mean per video ({_better(metric)} is better)",
            intervals={label: found.intervals["per_video"][metric] for label, found in scores.items()},
        )
        for metric in _metrics(scores)
    )
    return [plot for plot in plots if plot]


def _sheet(name: str, video: Video, named: Mapping[str, tuple[Scores, MapSource]], metric: str) -> dict[str, str]:
    """Return the contact sheet of one video: `FRAMES` evenly spaced ones of the frames that all were scored on."""
    values = {
        label: {row.frame: row.values[metric] for row in scores.rows if row.video == name}
        for label, (scores, _) in named.items()
    }
    scored = sorted(set.intersection(*(set(found) for found in values.values())))
    places = np.linspace(0, len(scored) - 1, min(FRAMES, len(scored)) + 2).round().astype(int)[1:-1]
    frames = sorted({scored[place] for place in places})
    brief = {label: label.split(" (")[0] for label in named}  # e.g. `observers (random halves ...)` -> `observers`
    rows = []
    for frame, pictures in side_by_side(video, frames, [source for _, source in named.values()], side=SIDE):
        captions = ["frame and fixations", "ground truth"]
        captions += [f"{brief[label]} {_format_score(values[label][frame])}" for label in named]
        rows.append((f"frame {frame + 1}, {frame / video.fps:.1f} s", list(zip(pictures, captions, strict=True))))
    means = (
        f"{brief[label]} {_format_score(scores.by_video[name][metric])}" for label, (scores, _) in named.items()
    )
    return {"video": name, "means": ", ".join(means), "pictures": page.examples(rows, side=SIDE)}


def _format_score(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "undefined"


def _time_chart(name: str, video: Video, scores: Mapping[str, Scores], metric: str) -> Markup:
    """Return a chart of all models' scores over the frames of one video."""
    curves = []
    for label, found in scores.items():
        values = {row.frame: row.values[metric] for row in found.rows if row.video == name}
        frames = sorted(values)
        step = min((after - before for before, after in pairwise(frames)), default=1)
        every = range(frames[0], frames[-1] + 1, step) if frames else range(0)
        curves.append(
            Curve(
                label,
                [frame / video.fps for frame in every],
                [values.get(frame, math.nan) for frame in every],
                smooth=len(every) > SMOOTH_FROM,
                legend_value=found.by_video[name][metric] if name in found.by_video else math.nan,
            )
        )
    return line_chart(name, curves, x="time (s)", y=METRICS[metric].title, start=None)


def _method(scores: Mapping[str, Scores], metric: str) -> list[str]:
    """Return sentences on how the scores were computed: first what all models share, then the differences."""
    first = next(iter(scores.values())).how
    shared = {key for key in first if all(found.how.get(key) == first[key] for found in scores.values())}
    titles = {name: metric.title for name, metric in METRICS.items()} | {"per_video": "mean over videos"}
    sentences = [f"{titles.get(key, key)}: {text}." for key, text in first.items() if key in shared]
    for label, found in scores.items():
        sentences += [
            f"{label}, {titles.get(key, key)}: {text}." for key, text in found.how.items() if key not in shared
        ]
        if found.name != label:
            sentences.append(f"{label} is {found.name}.")
    models = _join_names(_models(scores) or list(scores))
    sentences.append(f"Videos are ordered by the mean {METRICS[metric].title} of {models}.")
    return sentences
