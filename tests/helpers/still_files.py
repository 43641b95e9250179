"""Small sets of still images with fixations, in the layouts that people have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from distill.fixations import fixation_map

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


def _xy(points: list[list[float]]) -> np.ndarray:
    """Return points of (row, column) as MATLAB's (x, y), counted from 1."""
    return np.array(points, dtype=np.float64).reshape(-1, 2)[:, ::-1] + 1


def _density(path: Path, name: str) -> None:
    """Write a density that no kernel would give: uniform over the left half."""
    values = np.zeros(STILLS[name], dtype=np.uint8)
    values[:, : values.shape[1] // 2] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))


def salicon(root: Path) -> Path:
    """Write a and b for training, c for validation without a density, and d, withheld, for testing."""
    for part, names in {"train": "ab", "val": "c"}.items():
        for name in names:
            picture(root / f"images/{part}/{name}.jpg", STILLS[name])
            (root / f"fixations/{part}").mkdir(parents=True, exist_ok=True)
            points = _xy(GAZE[name])
            gaze = np.empty((2, 1), dtype=[(key, object) for key in ("location", "timestamp", "fixations")])
            gaze["location"][:, 0] = [np.zeros((9, 2))] * 2
            gaze["timestamp"][:, 0] = [np.zeros((9, 1))] * 2
            gaze["fixations"][:, 0] = [points[:1], points[1:]]
            savemat(root / f"fixations/{part}/{name}.mat", {"gaze": gaze, "image": name})
    for name in "ab":
        _density(root / f"maps/train/{name}.png", name)
    picture(root / "images/test/d.jpg", (36, 64))
    return root


def mit1003(root: Path) -> Path:
    """Write the three images; c has no density."""
    (root / "ALLFIXATIONMAPS").mkdir(parents=True)
    for name, size in STILLS.items():
        picture(root / f"ALLSTIMULI/{name}.jpeg", size)
        binary = np.uint8(255) * (fixation_map(np.array(GAZE[name]), size) > 0)
        Image.fromarray(binary.astype(np.uint8)).save(root / f"ALLFIXATIONMAPS/{name}_fixPts.jpg", quality=95)
        if name != "c":
            _density(root / f"ALLFIXATIONMAPS/{name}_fixMap.jpg", name)
    return root


def cat2000(root: Path) -> Path:
    """Write a and b of one category and c of another for training, and an image for testing."""
    for name, category in {"a": "Action", "b": "Action", "c": "Art"}.items():
        picture(root / f"trainSet/Stimuli/{category}/{name}.jpg", STILLS[name])
        picture(root / f"trainSet/Stimuli/{category}/Output/{name}_SaliencyMap.jpg", STILLS[name])
        (root / f"trainSet/FIXATIONLOCS/{category}").mkdir(parents=True, exist_ok=True)
        binary = fixation_map(np.array(GAZE[name]), STILLS[name]) > 0
        savemat(root / f"trainSet/FIXATIONLOCS/{category}/{name}.mat", {"fixLocs": binary.astype(np.uint8)})
        _density(root / f"trainSet/FIXATIONMAPS/{category}/{name}.jpg", name)
    picture(root / "testSet/Stimuli/Action/001.jpg", (36, 64))
    return root


def nus_vip(root: Path, **options: Any) -> Path:
    """Write the three images with two observers each and an empty third one."""
    cells = np.empty((len(STILLS), 1), dtype=object)
    for place, (name, size) in enumerate(STILLS.items()):
        picture(root / f"data/stimuli/{name}.jpg", size)
        points = _xy(GAZE[name])
        subjects = np.empty((3, 1), dtype=object)
        for number, part in enumerate((points[:1], points[1:])):
            columns, rows = part.T
            subjects[number, 0] = {"fix_x": columns, "fix_y": rows, "fix_duration": np.full(len(part), 200.0)}
        subjects[2, 0] = np.zeros((0, 0))
        cells[place, 0] = {"img": f"{name}.jpg", "subjects": subjects}
    (root / "data/eye").mkdir(parents=True)
    savemat(root / "data/eye/fixations.mat", {"fixations": cells}, **options)
    return root
