"""What the toolkit shares with student/edge.py: its model of an exported file, scene cuts, and numbers of a map."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distill.data.video.protocol import VideoReader
from distill.errors import UserError


class Session(Protocol):
    """A graph that is loaded in any runtime, with the method of ONNX Runtime's session that edge.py calls."""

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names; the arrays are not overwritten by later calls."""


def check_metadata(text: str, path: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported file from their JSON text, with valid types and ranges.

    Raises:
        UserError: they are invalid, or of another version.
    """
    edge = importlib.import_module("student.edge")
    try:
        metadata: dict[str, Any] = edge.read_metadata({edge.METADATA_KEY: text}, Path(path))
    except ValueError as error:
        raise UserError(str(error)) from error
    return metadata


def edge_model(path: str | Path, session: Session, metadata: dict[str, Any], *, check: bool = False) -> Any:
    """Return a `student.edge.EdgeModel` that another runtime runs; see `EdgeModel.from_session`."""
    return importlib.import_module("student.edge").EdgeModel.from_session(path, session, metadata, check=check)


def describe_map(saliency: np.ndarray, size: tuple[int, int]) -> dict[str, float]:
    """Return the numbers that describe a map (h, w) on a frame of (height, width); see `describe` in edge.py."""
    described: dict[str, float] = importlib.import_module("student.edge").describe(saliency, size)
    return described


class CutReader:
    """A video reader that detects scene cuts among the frames that are read through it, with `student.edge.Cuts`.

    Args:
        reader: the reader of the video.

    Attributes:
        cuts: frames that start a new shot, 0-based, among those read so far.
    """

    def __init__(self, reader: VideoReader) -> None:
        self.num_frames, self.fps, self.size = reader.num_frames, reader.fps, reader.size
        self.cuts: list[int] = []
        self._reader = reader
        self._next = 0
        self._is_cut: Callable[[np.ndarray], bool] | None = None

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Return frames, see `VideoReader.read`; in order from the first one, each once and all of one size."""
        decoded = self._reader.read(frames, size)
        for frame, image in zip(frames, decoded, strict=True):
            assert frame == self._next, f"frame {frame} was read where {self._next} follows"
            self._next += 1
            is_cut = self._is_cut = self._is_cut or importlib.import_module("student.edge").Cuts(image.shape[:2])
            if is_cut(image.transpose(2, 0, 1)):
                self.cuts.append(frame)
        return decoded
