"""Small sets of still images with fixations, in the layouts that people have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STILLS = {"a": (36, 64), "b": (64, 36), "c": (48, 48)}
"""Sizes (height, width) of the images."""

GAZE = {"a": [[3, 4], [30, 60], [30, 60]], "b": [[60, 2]], "c": [[24, 24], [1, 47]]}
"""Fixations of the images."""


def picture(path: Path, size: tuple[int, int], **options: Any) -> Path:
    """Write an image of a smooth ramp, brighter to the right and to the bottom."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[: size[0], : size[1]]
    ramp = np.stack([255 * columns / size[1], 255 * rows / size[0], np.full(size, 90)], axis=-1)
    Image.fromarray(ramp.astype(np.uint8)).save(path, **options)
    return path


def still_set(folder: Path, gaze: dict[str, list[list[float]]] = GAZE, **records: Any) -> Path:
    """Write a set in the simple layout; `records` replaces or adds entries of its fixations.json."""
    for name, size in STILLS.items():
        picture(folder / "images" / f"{name}.png", size)
    listed = {
        name: {"size": list(STILLS[name]), "observers": 2, "fixations": points} for name, points in gaze.items()
    }
    (folder / "fixations.json").write_text(json.dumps(listed | records))
    return folder
