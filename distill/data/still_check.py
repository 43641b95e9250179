"""Check the fixations of still images: which images have none, points outside, and sizes that differ.

Messages are collected per file and kind, because a set has thousands of images.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

from distill.data.still_truth import StillTruth
from distill.data.text import plural
from distill.data.truth_check import TruthCheck
from distill.fixations import inside, rescale

MAX_NAMED = 3
"""Number of images that a message names."""


def check_stills(truths: Mapping[str, StillTruth]) -> tuple[dict[str, TruthCheck], list[str]]:
    """Check the ground truth of images.

    Args:
        truths: name of the image -> its ground truth.

    Returns:
        The check of each image, without problems of its own, and messages on all of them.
    """
    checks: dict[str, TruthCheck] = {}
    empty, outside, rescaled = (defaultdict[Path, list[str]](list) for _ in range(3))
    lost: Counter[Path] = Counter()
    for name, truth in truths.items():
        path, rows = truth.source.path, truth.source.read().rows
        valid = len(inside(rescale(rows, truth.recorded or truth.size, truth.size), truth.size))
        checks[name] = TruthCheck(int(valid > 0), forms=Counter({f"images in {path.name}": 1}))
        if not len(rows):
            empty[path].append(name)
        if valid < len(rows):
            outside[path].append(name)
            lost[path] += len(rows) - valid
        if truth.recorded is not None:
            rescaled[path].append(name)
    problems = [f"{path}: no fixation in {_named(names)}" for path, names in empty.items()]
    problems += [
        f"{path}: {plural(lost[path], 'point')} outside {_named(names)}, not used"
        for path, names in outside.items()
    ]
    problems += [
        f"{path}: the size differs from that of {_named(names)}; fixations are rescaled"
        for path, names in rescaled.items()
    ]
    return checks, problems


def _named(names: list[str]) -> str:
    """Return the number of images with the first names, e.g. `2 images (a, b)`."""
    return f"{plural(len(names), 'image')} ({', '.join(names[:MAX_NAMED])}{', ...' * (len(names) > MAX_NAMED)})"
