"""Hollywood-2: scenes of films, cut into shots of 1 to some hundred frames, watched while looking for actions.

    training/actioncliptrain00001_1/{images,maps,fixation}/actioncliptrain00001_00001.png
    testing/actioncliptest00001_1/...                       or fixation/maps/actioncliptest00001_00001.mat

Published: 747 training videos in 2,699 shots (192,661 frames), 884 test videos in 3,558 shots (244,860 frames).
More than a third of the shots are shorter than 16 frames. Where no maps are there, densities are built from the
fixations with a Gaussian of 20 px at the shot's own size.

Source: Mathe and Sminchisescu, "Actions in the Eye", TPAMI 2015; frames and maps as video saliency research passes
them on.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from distill.data.sets.scan import Scan
from distill.data.sets.shots import scan_shots

SHOT = re.compile(r"actionclip(?:auto)?(?:train|test)\d+_\d+")

EXPECTED = "training/actioncliptrain00001_1/images/ and testing/actioncliptest00001_1/images/"

PUBLISHED = {"train": 2699, "test": 3558, "all": 6257}
"""Shots of each split."""


def scan(
    root: Path, *, split: str | None = None, names: Sequence[str] | None = None, progress: bool = False
) -> Scan:
    """Go through a Hollywood-2 folder: every shot is a video, and the shots of one video belong together.

    Raises:
        UserError: if the folder holds no shot of Hollywood-2, or there is no such split.
    """
    return scan_shots(
        root,
        dataset="hollywood2",
        shot=SHOT,
        expected=EXPECTED,
        published=PUBLISHED,
        recording=lambda name: name.rpartition("_")[0],
        split=split,
        names=names,
        progress=progress,
    )
