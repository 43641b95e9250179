"""Fixations in MATLAB's cells and structures, as sets of still images publish them; version 5 files only.

SciPy crashes on some damaged cells, so it reads them in a guarded subprocess.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.annotation import MAT, as_pixels, check_expansion, mat_version
from distill.data.video.guard import call_guarded
from distill.errors import UserError, reading
from distill.limits import MAX_POINTS_BYTES, check_limit
from distill.paths import require_file

CACHED_SETS = 16
"""Parsed files of whole sets that a process keeps."""

CACHED_IMAGES = 20_000
"""Parsed files of single images that a process keeps: all of SALICON's take 40 MB."""

EXPECTED_CELLS = "cells of images with .img and .subjects, and subjects with .fix_x and .fix_y"

EXPECTED_GAZE = "a structure array of observers with .fixations, one [x, y] per row"


def read_cells(path: Path) -> Mapping[str, np.ndarray]:
    """Read the variable `fixations` of NUS-VIP's sets: one cell per image, with one cell per observer.

    Coordinates count from 1 and are rounded, as in the sets' own code. Observers without fixations are skipped.

    Returns:
        (K, 2) int32 pixels (row, column) of each image by the name of its file.

    Raises:
        UserError: if the file cannot be read or has another form.
    """
    return _read_cells(path, _changed(path))


def read_gaze(path: Path) -> np.ndarray:
    """Read the variable `gaze` of one of SALICON's images: the fixations of all observers.

    Coordinates count from 1. Raw mouse positions (`location`) are not used.

    Returns:
        (K, 2) int32 pixels (row, column).

    Raises:
        UserError: if the file cannot be read or has another form.
    """
    return _read_gaze(path, _changed(path))


def _changed(path: Path) -> int:
    require_file(path, MAT)
    with reading(path, MAT):
        return path.stat().st_mtime_ns


@lru_cache(maxsize=CACHED_SETS)
def _read_cells(path: Path, _changed: int) -> Mapping[str, np.ndarray]:
    _check_file(path)
    return call_guarded(path, MAT, parse_cells, path)


def parse_cells(path: Path) -> Mapping[str, np.ndarray]:
    """Read a file in this process; see `read_cells`."""
    points: dict[str, np.ndarray] = {}
    for image in _elements(_load(path, "fixations", EXPECTED_CELLS)):
        name = getattr(image, "img", None)
        if not isinstance(name, str) or not hasattr(image, "subjects"):
            raise _malformed(path, "fixations", EXPECTED_CELLS)
        parts = list(_of_subjects(path, name, image.subjects))
        points[name] = np.concatenate([np.zeros((0, 2), dtype=np.int32), *parts])
    return points


def _of_subjects(path: Path, image: str, subjects: Any) -> Iterator[np.ndarray]:
    """Yield the fixations of each observer who has any."""
    for subject in _elements(subjects):
        if not hasattr(subject, "fix_x") or not hasattr(subject, "fix_y"):
            if np.size(subject) == 0:  # an empty cell
                continue
            raise _malformed(path, "fixations", EXPECTED_CELLS)
        columns, rows = (_numbers(path, "fixations", values) for values in (subject.fix_x, subject.fix_y))
        if len(columns) != len(rows):
            raise UserError(
                f"{path}: {image}: a subject has {len(columns)} fix_x and {len(rows)} fix_y; expected pairs"
            )
        yield _pixels(path, np.stack([columns, rows], axis=1), EXPECTED_CELLS)


@lru_cache(maxsize=CACHED_IMAGES)
def _read_gaze(path: Path, _changed: int) -> np.ndarray:
    _check_file(path)
    return call_guarded(path, MAT, parse_gaze, path)


def parse_gaze(path: Path) -> np.ndarray:
    """Read a file in this process; see `read_gaze`."""
    parts = [np.zeros((0, 2), dtype=np.int32)]
    for observer in _elements(_load(path, "gaze", EXPECTED_GAZE)):
        if not hasattr(observer, "fixations"):
            raise _malformed(path, "gaze", EXPECTED_GAZE)
        values = np.asarray(observer.fixations)
        if values.size and (values.ndim > 2 or values.shape[-1] != 2):
            raise _malformed(path, "gaze", EXPECTED_GAZE)
        parts.append(_pixels(path, _numbers(path, "gaze", values).reshape(-1, 2), EXPECTED_GAZE))
    return np.concatenate(parts)


def _check_file(path: Path) -> None:
    """Check the size and version of a file."""
    with reading(path, MAT):
        check_limit(path.stat().st_size, MAX_POINTS_BYTES, f"{path}: bytes")
        if mat_version(path) == "7.3":
            raise UserError(f"{path}: is a MATLAB 7.3 file; expected version 5; save it again with `save -v7`")
        check_expansion(path)


def _load(path: Path, name: str, expected: str) -> Any:
    """Return a variable, with structures as objects and arrays without sides of length 1."""
    from scipy.io import loadmat

    with reading(path, MAT):
        variables = loadmat(path, variable_names=[name], squeeze_me=True, struct_as_record=False)
    if name not in variables:
        raise UserError(f"{path}: has no variable {name}; expected {expected}; it may be of another data set")
    return variables[name]


def _elements(values: Any) -> list[Any]:
    """Return the elements of a cell or structure array; those of length 1 have been replaced by their element."""
    if isinstance(values, np.ndarray):
        return list(values.ravel()) if values.dtype == object else ([] if not values.size else [values])
    return [values]


def _numbers(path: Path, name: str, values: Any) -> np.ndarray:
    """Return numbers as (n,) float64."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" and array.size:
        raise _malformed(path, name, EXPECTED_CELLS if name == "fixations" else EXPECTED_GAZE)
    return array.astype(np.float64).ravel() if array.size else np.zeros(0)


def _pixels(path: Path, points: np.ndarray, expected: str) -> np.ndarray:
    """Return 1-based points (K, 2) of (x, y) as rounded 0-based pixels (K, 2) of (row, column)."""
    return as_pixels((points[:, ::-1] - 0.5).tolist(), len(points), path, expected)


def _malformed(path: Path, name: str, expected: str) -> UserError:
    return UserError(
        f"{path}: variable {name} has another form; expected {expected}; the file may be of another data set"
    )
