"""Markdown tables of an experiment: scores of arms and references, and differences between arms."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean as mean

from distill.data.text import plural
from distill.evaluation.metrics import METRICS
from distill.evaluation.scores import UNDEFINED, Comparison, Scores


def score_tables(
    seeds: Mapping[str, Sequence[Scores]],
    references: Sequence[Scores],
    differences: Sequence[Comparison],
    unit: str = "video",
) -> str:
    """Return Markdown tables of the mean scores of arms and references, and of the differences between arms.

    Args:
        seeds: scores of each arm's runs.
        references: scores of baselines and models.
        differences: comparisons of arms.
        unit: what the scores are averaged over: "video" or "image".
    """
    first = max(seeds.values(), key=len)
    metrics = first[0].metrics
    titles = [METRICS[metric].title for metric in metrics]
    lines = []
    for name, runs in seeds.items():
        cells = []
        for metric in metrics:
            values = [run.per_video[metric] for run in runs]
            known = all(map(math.isfinite, values))
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 and known else ""
            cells.append(f"{number(mean(values))}{spread}")
        lines.append([name, *cells])
    lines += [[each.name, *(number(each.per_video[metric]) for metric in metrics)] for each in references]
    text = aligned_table([f"mean over {unit}s, {plural(len(first), 'seed')} (range)", *titles], lines)
    every = [run for runs in seeds.values() for run in runs] + list(references)
    text += "".join(f"\n{each.name}: {note}.\n" for each in every for note in each.undefined_notes())
    if not differences:
        return text
    lines = []
    for pair in differences:
        means, ends = pair.difference.per_video, pair.difference.intervals["per_video"]
        cells = [f"{number(means[m], '+')} [{number(ends[m][0], '+')}, {number(ends[m][1], '+')}]" for m in metrics]
        lines.append([f"{pair.second} minus {pair.first}", *cells])
    scenes = plural(differences[0].difference.count_recordings, "image" if unit == "image" else "scene")
    return text + "\n" + aligned_table([f"difference [95 % interval over {scenes}]", *titles], lines)


def number(value: float, sign: str = "") -> str:
    """Return a score with three decimals; a dash if it is undefined."""
    return f"{value:{sign}.3f}" if math.isfinite(value) else UNDEFINED


def aligned_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *lines]) for column in range(len(head))]
    rows = [head, ["-" * width for width in widths], *lines]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    )
