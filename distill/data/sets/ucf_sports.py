"""UCF-Sports: 150 broadcast shots of sports, 21 to 143 frames each, watched while looking for actions.

    training/Diving-Side-005/{images,maps,fixation}/Diving-Side_005_001.png
    testing/Diving-Side-001/...                     or fixation/maps/Diving-Side_001_001.mat

Published: 103 training videos (6,501 frames) and 47 test videos (2,929 frames). Where no maps are there, densities
are built from the fixations with a Gaussian of 20 px at the video's own size.

Source: Mathe and Sminchisescu, "Actions in the Eye", TPAMI 2015; frames and maps as video saliency research passes
them on.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from distill.data.sets.scan import Scan
from distill.data.sets.shots import scan_shots

SHOT = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*-\d+")

EXPECTED = "training/Diving-Side-005/images/ and testing/Diving-Side-001/images/"

PUBLISHED = {"train": 103, "test": 47, "all": 150}
"""Videos of each split."""


def scan(
    root: Path, *, split: str | None = None, names: Sequence[str] | None = None, progress: bool = False
) -> Scan:
    """Go through a UCF-Sports folder.

    Raises:
        UserError: if the folder holds no video of UCF-Sports, or there is no such split.
    """
    return scan_shots(
        root,
        dataset="ucf_sports",
        shot=SHOT,
        expected=EXPECTED,
        published=PUBLISHED,
        recording=lambda name: name,
        split=split,
        names=names,
        progress=progress,
    )
