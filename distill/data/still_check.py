"""Check the fixations of still images: which images have none, points outside, and sizes that differ.

Messages are collected per file or folder and kind, because a set has thousands of images.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from distill.data.still_fixations import PointsCheck, examine_points, inspect_points
from distill.data.still_truth import StillTruth
from distill.data.text import plural
from distill.data.truth_check import TruthCheck
from distill.data.video.probe_cache import inspect_all
from distill.errors import UserError

MAX_NAMED = 3
"""Number of images that a message names."""

PUBLISHED, COMPUTED = "images with a published density", "images whose density is computed from fixations"


def check_stills(
    truths: Mapping[str, StillTruth], *, thorough: bool, progress: bool
) -> tuple[dict[str, TruthCheck], list[str]]:
    """Check the ground truth of images.

    Args:
        truths: name of the image -> its ground truth.
        thorough: decode published densities.
        progress: show a progress bar.

    Returns:
        The check of each image, and messages on all of them. An image whose file is damaged is unlabelled.
    """
    own = {name: truth for name, truth in truths.items() if not truth.source.shared}
    inspections = [inspect_points(t.source, t.size, t.maps, thorough=thorough) for t in own.values()]
    inspected = inspect_all(inspections, progress="inspecting fixations" if progress else None)
    found = dict(zip(own, inspected, strict=True))
    checks: dict[str, TruthCheck] = {}
    kinds: defaultdict[tuple[Path, str], list[str]] = defaultdict(list)
    lost: Counter[Path] = Counter()
    problems: list[str] = []
    for name, truth in truths.items():
        result = found[name] if name in found else _check_listed(truth)
        checks[name] = TruthCheck(forms=Counter({COMPUTED if truth.maps is None else PUBLISHED: 1}))
        if isinstance(result, UserError):
            problems.append(f"{result}; the image is unlabelled")
            continue
        place = truth.source.path if truth.source.shared else truth.source.path.parent
        checks[name].labelled = int(result.valid > 0)
        problems += [f"{result.broken_map}; the density is computed from fixations"] * bool(result.broken_map)
        lost[place] += result.count - result.valid
        for kind, holds in (
            ("no fixation in {}", not result.count),
            ("{lost} outside {}, not used", result.valid < result.count),
            ("the size differs from that of {}; fixations are rescaled", result.rescaled),
        ):
            if holds:
                kinds[place, kind].append(name)
    problems += [
        f"{place}: {kind.format(_named(names), lost=plural(lost[place], 'point'))}"
        for (place, kind), names in kinds.items()
    ]
    return checks, problems


def _check_listed(truth: StillTruth) -> PointsCheck:
    """Check fixations in memory."""
    return PointsCheck(**examine_points(truth.source, truth.size, truth.maps))


def _named(names: list[str]) -> str:
    """Return the number of images with the first names, e.g. `2 images (a, b)`."""
    return f"{plural(len(names), 'image')} ({', '.join(names[:MAX_NAMED])}{', ...' * (len(names) > MAX_NAMED)})"
