"""The report of an evaluation: one HTML file with the scores, how they spread over videos and time, and pictures.

    results = [(evaluate(maps, videos, name=name), maps) for name, maps in sources.items()]
    report_scores("scores.html", results, videos)

However many videos were scored, the page stays small: it shows the best and the worst of them, and says so.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from distill.data.clips import Video
from distill.data.video.open import open_video
from distill.evaluation.baselines import BASELINES
from distill.evaluation.map_sources import MapSource
from distill.evaluation.metrics import LOWER_IS_BETTER, TITLES
from distill.evaluation.scores import AVERAGES, Scores
from distill.files import refuse_existing
from distill.inference.predict import overlay
from distill.reports import page
from distill.reports.charts import Curve, chart, chart_grid, strips
from distill.saliency import to_peak

SHEETS = 3
"""So many of the best videos, and of the worst, are shown in pictures; all of them where there are not more."""

FRAMES = 4
"""Frames of a video that are shown."""

SIDE = 320
"""Pixels of a picture's longer side: with three models, all pictures together take about 2 MB."""

CURVES = 6
"""So many of the best videos, and of the worst, have their scores drawn over time."""

JUDGED = ("nss", "cc")
"""Scores by which models are held against the centre prior, where that was scored too."""

SMOOTH_FROM = 60
"""A curve of more frames is drawn as a running mean."""


def report_scores(
    path: str | Path,
    results: Sequence[tuple[Scores, MapSource]],
    videos: Sequence[Video],
    *,
    progress: bool = True,
) -> Path:
    """Write the report of one or several evaluations of the same videos.

    The page holds the means with their intervals, each metric's distribution over videos, the best and the worst
    videos with ground truth beside predictions, the score of these over time, and how the numbers were made. Videos
    are ordered by NSS (by the first metric where NSS was not scored): the mean over the models, baselines and the
    observers' ceiling left out unless there is nothing else.

    Args:
        path: the HTML file to write.
        results: who was scored, and their maps: those of the shown frames are asked for again.
        videos: what was scored.
        progress: show a bar while the pictures are made.

    Returns:
        The path.

    Raises:
        UserError: if the file exists, or a video or a map cannot be read any more.
    """
    path = Path(path)
    refuse_existing(path, "a report", remedy="choose another name, or remove it")
    named = dict(zip(short_names([scores.name for scores, _ in results]), results, strict=True))
    scores = {label: found for label, (found, _) in named.items()}
    metric = _ranking_metric(scores)
    ranking = rank_videos(scores, metric)
    places = {f"{video.dataset}/{video.name}": video for video in videos} | {video.name: video for video in videos}
    shown = _ends(ranking, SHEETS)
    with tqdm(total=len(shown), desc="pictures", unit="video", disable=not progress) as bar:
        sheets = {}
        for name in shown:
            sheets[name] = _sheet(name, places[name], named, metric)
            bar.update()
    charts = [_time_chart(name, places[name], scores, metric) for name in _ends(ranking, CURVES)]
    title = TITLES[metric]
    page.write_report(
        path,
        title=f"Scores of {_listed(list(scores))}",
        verdict=_verdict(scores),
        lead=_lead(scores, len(ranking)),
        sections=[
            page.section("Means", *_tables(scores)),
            page.section(
                "Over videos",
                chart_grid(_distributions(scores)),
                lead="A dot is a video's mean over its frames. Where there are five or more: the box is the middle "
                "half, its line the median, the diamond the mean and its line the 95% interval.",
            ),
            *_sheet_sections(ranking, sheets, title),
            page.section(
                f"{title} over time",
                chart_grid(charts),
                lead=_told(ranking, CURVES, "best", "worst")
                + " The number beside a name is the mean over the video. A long video's line is a running mean "
                "over a twentieth of it, with the values faintly behind. A gap: nothing was scored there.",
            ),
            page.section("How the numbers were made", page.notes(_how(scores, metric, len(ranking)))),
        ],
        foot="Written by saldistill.",
    )
    return path


def short_names(names: Sequence[str]) -> list[str]:
    """Shorten paths to their last parts, as few as tell them apart; other names stay, and twins get a number."""
    parts = [Path(name).parts or (name,) for name in names]
    taken = [1] * len(names)
    while True:
        short = ["/".join(part[-count:]) for part, count in zip(parts, taken, strict=True)]
        twins = [i for i, name in enumerate(short) if short.count(name) > 1 and taken[i] < len(parts[i])]
        if not twins:
            break
        for i in twins:
            taken[i] += 1
    return [
        name if short.count(name) == 1 else f"{name} #{short[:i].count(name) + 1}" for i, name in enumerate(short)
    ]


def rank_videos(scores: dict[str, Scores], metric: str) -> list[str]:
    """Return the names of the scored videos, the best first; those without any value come last."""
    models = _models(scores) or list(scores)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    names = dict.fromkeys(name for label in models for name in scores[label].by_video)

    def worth(name: str) -> float:
        values = [scores[label].by_video[name][metric] for label in models if name in scores[label].by_video]
        known = [value for value in values if math.isfinite(value)]
        return sign * sum(known) / len(known) if known else -math.inf

    return sorted(names, key=lambda name: -worth(name))


def side_by_side(
    video: Video, frames: Sequence[int], sources: Sequence[MapSource], *, side: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Yield frames with their pictures: the frame with its gaze, and overlays of the ground truth and each source.

    Args:
        video: one with ground truth.
        frames: 0-based, increasing.
        sources: who predicts; each is asked for these frames alone.
        side: pixels of a picture's longer side; a smaller video is not grown.
    """
    assert video.truth is not None, "only videos with ground truth are compared with it"
    size = page.fit(video.size, side)
    pictures = open_video(video.path).read(frames, size)
    maps = [dict(source(video, frames)) for source in sources]
    for picture, frame in zip(pictures, frames, strict=True):
        points = video.truth.points(frame) * (np.array(size) / video.size)
        heats = [video.truth.density(frame, size), *(found[frame] for found in maps)]
        yield frame, [page.mark_points(picture, points), *(overlay(picture, to_peak(heat)) for heat in heats)]


def _models(scores: dict[str, Scores]) -> list[str]:
    """Return the labels of those who are neither a baseline nor the observers' ceiling."""
    return [label for label, found in scores.items() if found.name not in BASELINES and not _is_ceiling(found)]


def _is_ceiling(scores: Scores) -> bool:
    return scores.name.startswith("observers (")


def _metrics(scores: dict[str, Scores]) -> list[str]:
    """Return the metrics that all were scored by."""
    first, *others = scores.values()
    return [metric for metric in first.metrics if all(metric in other.metrics for other in others)]


def _ranking_metric(scores: dict[str, Scores]) -> str:
    metrics = _metrics(scores)
    return "nss" if "nss" in metrics else metrics[0]


def _ends(ranking: list[str], number: int) -> list[str]:
    """Return the first and the last `number`, or all where these are all."""
    return ranking if len(ranking) <= 2 * number else ranking[:number] + ranking[-number:]


def _told(ranking: list[str], number: int, first: str, last: str) -> str:
    if len(ranking) == 1:
        return ""
    if len(ranking) <= 2 * number:
        return f"All {len(ranking)} videos, the {first} first."
    return f"The {number} {first} and the {number} {last} of {len(ranking)} videos, the {first} first."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verdict(scores: dict[str, Scores]) -> page.Verdict | None:
    """Hold the models against the centre prior; None where either is missing."""
    prior = next((label for label, found in scores.items() if found.name == "centre-prior"), None)
    metrics = [metric for metric in JUDGED if metric in _metrics(scores)]
    if prior is None or not _models(scores) or not metrics:
        return None
    rows = {
        label.replace("centre-prior", "centre prior"): {TITLES[m]: scores[label].per_video[m] for m in metrics}
        for label in [prior, *_models(scores)]
    }
    return page.judge(rows, names=[TITLES[metric] for metric in metrics])


def _lead(scores: dict[str, Scores], videos: int) -> str:
    frames = max(len(found.rows) for found in scores.values())
    return f"Scored on {frames:,} frames of {videos:,} video{'s' * (videos != 1)}."


def _tables(scores: dict[str, Scores]) -> Iterator[str]:
    """Yield a table for each average, then what was scored and what was left out."""
    metrics = _metrics(scores)
    columns = ["model", *(TITLES[metric] for metric in metrics)]
    best = {TITLES[metric]: "low" if metric in LOWER_IS_BETTER else "high" for metric in metrics}
    for average, words in AVERAGES.items():
        published = any(found.average == average for found in scores.values())
        rows: list[list[page.Cell]] = [
            [label, *(page.Estimate(getattr(found, average)[m], found.intervals[average][m]) for m in metrics)]
            for label, found in scores.items()
        ]
        sure = any(math.isfinite(end) for found in scores.values() for end in found.intervals[average][metrics[0]])
        yield page.table(
            columns,
            rows,
            best=best,
            caption=f"{words.capitalize()}{', the average that the protocol publishes' * published}. "
            + (
                "Below each mean, its 95% interval."
                if sure
                else "No intervals: they are made over recordings, and there is one."
            ),
        )
    yield page.table(
        ["model", "videos", "recordings", "frames scored", "left out: nobody looked", "undefined"],
        [
            [
                label,
                len(found.by_video),
                found.count_recordings,
                len(found.rows),
                found.frames_without_fixations,
                ", ".join(f"{TITLES[metric]} on {count}" for metric, count in found.undefined.items() if count)
                or "none",
            ]
            for label, found in scores.items()
        ],
        caption="What was scored. Where a metric is undefined, as on a frame whose map is constant, the frame is "
        "left out of its mean.",
    )


def _distributions(scores: dict[str, Scores]) -> list[str]:
    """Draw each metric's distribution over videos."""
    metrics = _metrics(scores)
    drawn = []
    for metric in metrics:
        groups = {
            label: {name: means[metric] for name, means in found.by_video.items()}
            for label, found in scores.items()
        }
        intervals = {label: found.intervals["per_video"][metric] for label, found in scores.items()}
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        drawn.append(
            strips(
                TITLES[metric],
                groups,
                x=f"{TITLES[metric]}, a video's mean ({better} is better)",
                intervals=intervals,
            )
        )
    return [one for one in drawn if one]


def _sheet(name: str, video: Video, named: dict[str, tuple[Scores, MapSource]], metric: str) -> str:
    """Return the contact sheet of one video: some of its scored frames, evenly spread."""
    values = {
        label: {row.frame: row.values[metric] for row in scores.rows if row.video == name}
        for label, (scores, _) in named.items()
    }
    scored = sorted(set.intersection(*(set(found) for found in values.values())))
    if not scored:
        return ""
    places = np.linspace(0, len(scored) - 1, min(FRAMES, len(scored)) + 2).round().astype(int)[1:-1]
    frames = sorted({scored[place] for place in places})
    rows = []
    for frame, pictures in side_by_side(video, frames, [source for _, source in named.values()], side=SIDE):
        captions = ["frame and gaze", "ground truth"]
        captions += [f"{_brief(label)} {_short(values[label][frame])}" for label in named]
        rows.append((f"frame {frame + 1}, {frame / video.fps:.1f} s", list(zip(pictures, captions, strict=True))))
    means = (f"{_brief(label)} {_short(scores.by_video[name][metric])}" for label, (scores, _) in named.items())
    return page.part(f"{name}: {TITLES[metric]} {', '.join(means)}", page.examples(rows, side=SIDE))


def _brief(label: str) -> str:
    """Leave out what stands in brackets behind a name: `observers (random halves ...)`."""
    return label.split(" (")[0]


def _short(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "undefined"


def _sheet_sections(ranking: list[str], sheets: dict[str, str], title: str) -> Iterator[str]:
    """Yield the sections with contact sheets: one where all videos are shown, else the best and the worst."""
    lead = (
        f"{FRAMES} frames of each, evenly spread over what was scored. Each dot is where one observer looked; the "
        f"number beside a name is its {title} on the frame."
    )
    if len(sheets) == len(ranking):
        order = "" if len(ranking) == 1 else f"The best by {title} first. "
        yield page.section("Pictures", *sheets.values(), lead=order + lead)
        return
    best, worst = list(sheets.values())[:SHEETS], list(sheets.values())[: -SHEETS - 1 : -1]
    yield page.section(
        "The best videos", *best, lead=f"The {SHEETS} of {len(ranking)} with the best {title}. {lead}"
    )
    yield page.section(
        "The worst videos", *worst, lead=f"The {SHEETS} of {len(ranking)} with the worst {title}, the worst first."
    )


def _time_chart(name: str, video: Video, scores: dict[str, Scores], metric: str) -> str:
    """Draw a score over the time of one video, all models in one chart."""
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
                figure=found.by_video[name][metric] if name in found.by_video else math.nan,
            )
        )
    return chart(name, curves, x="time (s)", y=TITLES[metric], start=None)


def _how(scores: dict[str, Scores], metric: str, videos: int) -> list[str]:
    """Say how the numbers came about: what is the same for all models once, then what is not."""
    first = next(iter(scores.values())).how
    shared = {key for key in first if all(found.how.get(key) == first[key] for found in scores.values())}
    words = TITLES | {"per_video": "mean over videos"}
    sentences = [f"{words.get(key, key)}: {text}." for key, text in first.items() if key in shared]
    for label, found in scores.items():
        sentences += [
            f"{label}, {words.get(key, key)}: {text}." for key, text in found.how.items() if key not in shared
        ]
        if found.name != label:
            sentences.append(f"{label} is {found.name}.")
    who = _listed(_models(scores) or list(scores))
    sentences.append(f"Videos are ordered by their mean {TITLES[metric]} of {who}.")
    if videos > 2 * SHEETS:
        sentences.append(
            f"Of {videos} videos, {2 * SHEETS} are shown in pictures and {min(videos, 2 * CURVES)} over time; the "
            "distributions hold all of them, and scores.csv every frame."
        )
    return sentences
