"""Golden vectors of an exported model: the frames, states and maps that any runtime must reproduce.

    saldistill export stream-small -o small.onnx --kit
    small.onnx.kit/
      index.json       the model's metadata, the arrays with their shapes, and the tolerances
      vectors.npz      all arrays, for Python
      frames.bin ...   each array by itself: little-endian, row-major, for every other language

The vectors are 24 calls on real frames, computed by PyTorch in fp32: a first scene in which one frame is dropped,
and a second one before which the state is reset.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distill.data.fit import read_placed
from distill.data.video.open import open_video
from distill.errors import UserError
from distill.files import atomic_folder, file_hash, refuse_existing, write_json
from distill.models.edge import check_metadata
from distill.models.protocols import SaliencyModel
from distill.runtimes.onnx_graph import ClipGraph
from distill.shipped import shipped_path

FORMAT = 1
"""Version of index.json; other versions are rejected."""

VIDEO = "@sample/video/068.AVI"
"""Video whose frames are used if no other is named."""

FIRST, SECOND = 16, 8
"""Calls of the first and of the second scene."""

DROPPED = 5
"""Call of the first scene before which one frame of the video is dropped."""

INDEX, VECTORS = "index.json", "vectors.npz"


class Tolerance(NamedTuple):
    """Largest difference from PyTorch's maps, whose maximum is 1, and smallest mean correlation with them."""

    max_error: float
    min_cc: float


TOLERANCES = {"fp32": Tolerance(1e-3, 0.9999), "fp16": Tolerance(0.05, 0.999), "int8": Tolerance(1.0, 0.99)}
"""Precision -> tolerance. In INT8, only the correlation counts, as for `saldistill quantize`: a single pixel on the
slope of a peak can differ by a third while the map looks the same."""


@dataclass(frozen=True)
class GoldenVectors:
    """Inputs and outputs of consecutive calls of a model.

    Attributes:
        metadata: the metadata of the exported file.
        source: name of the video, for reports.
        numbers: number of each frame in the video, from 0; one is missing where a frame was dropped.
        frames: (n, 3, H, W) uint8 RGB.
        calls: (calls, 1 + T) int32: whether the state is reset before the call (1 or 0), and the indices in
            `frames` of its T frames; T is 1 in step mode.
        maps: (calls, N, h, w) float32, in the file's output values.
        states: name of each state input -> (calls, ...) float32: its value after the call; empty in clip mode.
    """

    metadata: dict[str, Any]
    source: str
    numbers: list[int]
    frames: np.ndarray
    calls: np.ndarray
    maps: np.ndarray
    states: dict[str, np.ndarray]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, as they are stored."""
        return {"frames": self.frames, "calls": self.calls, "maps": self.maps, **self.states}

    def inputs(self, call: int) -> np.ndarray:
        """Return the uint8 input of a call: a frame (1, 3, H, W), or a clip (1, 3, T, H, W)."""
        images = self.frames[self.calls[call, 1:]]  # (T, 3, H, W)
        return images if self.metadata["mode"] == "step" else np.ascontiguousarray(images.swapaxes(0, 1))[None]

    def resets(self, call: int) -> bool:
        """Return whether a new scene starts with a call."""
        return bool(self.calls[call, 0])


def compute_vectors(
    graph: ClipGraph, metadata: Mapping[str, Any], network: SaliencyModel, video: str | Path | None = None
) -> GoldenVectors:
    """Run a graph in PyTorch over two scenes of a video.

    Args:
        graph: the graph that was exported, in evaluation mode on the CPU.
        metadata: the metadata of the exported file.
        network: its network, for the size and the fit.
        video: a video file or a folder of frames; defaults to the sample that comes with saldistill.

    Raises:
        UserError: the video cannot be read, or has fewer than 25 frames.
    """
    path = shipped_path(video or VIDEO)
    reader = open_video(path)
    needed = FIRST + 1 + SECOND
    if reader.num_frames < needed:
        raise UserError(
            f"{path}: {reader.num_frames} frames; golden vectors need a video of at least {needed} frames"
        )
    second = max(FIRST + 1, reader.num_frames // 2)
    second = min(second, reader.num_frames - SECOND)
    numbers = [n for n in range(FIRST + 1) if n != DROPPED] + list(range(second, second + SECOND))
    frames = read_placed(reader, numbers, metadata.get("fit", "stretch"), network.size).contiguous()
    calls = _calls(metadata["frames"])
    maps, states = _run(graph, metadata, frames, calls)
    return GoldenVectors(dict(metadata), path.name, numbers, frames.numpy(), calls, maps, states)


def _calls(length: int) -> np.ndarray:
    """Return `GoldenVectors.calls` for clips of `length` frames, padded with the first frame of their scene."""
    rows = []
    for first, count in ((0, FIRST), (FIRST, SECOND)):
        for call in range(first, first + count):
            rows.append([call == first, *(max(first, call - length + 1 + t) for t in range(length))])
    return np.array(rows, np.int32)


def _run(
    graph: ClipGraph, metadata: Mapping[str, Any], frames: Tensor, calls: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the maps and the next states of all calls in PyTorch."""
    images = frames.float() / 255 if metadata["input"]["type"] == "float32" else frames
    declared = metadata["state"]
    zeros = [torch.zeros(1, *each["shape"][1:]) for each in declared]
    state, maps = zeros, []
    states: dict[str, list[Tensor]] = {each["input"]: [] for each in declared}
    with torch.inference_mode():
        for reset, *places in calls.tolist():
            if metadata["mode"] == "step":
                saliency, *state = graph(images[places], *(zeros if reset else state))
            else:
                [saliency] = graph(images[places].transpose(0, 1)[None])
            maps.append(saliency)
            for (_, kept), value in zip(states.items(), state, strict=True):
                kept.append(value)
    return torch.cat(maps).numpy(), {name: torch.cat(kept).numpy() for name, kept in states.items()}


def write_kit(vectors: GoldenVectors, folder: str | Path) -> None:
    """Write golden vectors into a new folder, which appears when it is complete.

    Raises:
        UserError: the folder exists and is not empty.
    """
    refuse_existing(folder, "the kit")
    with atomic_folder(folder) as temporary:
        entries = {}
        for name, array in vectors.arrays.items():
            file = temporary / f"{name}.bin"
            file.write_bytes(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
            entries[name] = {
                "file": file.name,
                "type": str(array.dtype),
                "shape": list(array.shape),
                "sha256": file_hash(file),
            }
        arrays: dict[str, Any] = vectors.arrays
        np.savez_compressed(temporary / VECTORS, **arrays)
        index = {
            "format": FORMAT,
            "frames_of": vectors.source,
            "frame_numbers": vectors.numbers,
            "arrays": entries,
            "tolerances": {name: tolerance._asdict() for name, tolerance in TOLERANCES.items()},
            "model": vectors.metadata,
        }
        write_json(temporary / INDEX, index)


def read_kit(folder: str | Path) -> GoldenVectors:
    """Read golden vectors.

    Raises:
        UserError: the folder is not a kit, is one of another version, or is damaged.
    """
    folder = Path(folder)
    file = folder / INDEX
    if not file.is_file():
        raise UserError(f"{folder}: is not a kit; expected a folder that `saldistill export MODEL --kit` wrote")
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        version = index["format"]
        if version != FORMAT:
            raise UserError(f"{file}: format {version!r:.20}; expected {FORMAT}; write the kit again with --kit")
        metadata = check_metadata(json.dumps(index["model"]), file)
        arrays = {name: _read_array(folder, name, entry) for name, entry in index["arrays"].items()}
        names = [each["input"] for each in metadata.get("state", [])]
        return GoldenVectors(
            metadata=metadata,
            source=str(index["frames_of"]),
            numbers=[int(number) for number in index["frame_numbers"]],
            frames=arrays["frames"],
            calls=arrays["calls"],
            maps=arrays["maps"],
            states={name: arrays[name] for name in names},
        )
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is damaged; write the kit again with `saldistill export MODEL --kit`") from error


def _read_array(folder: Path, name: str, entry: Mapping[str, Any]) -> np.ndarray:
    content = (folder / f"{name}.bin").read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise UserError(
            f"{folder / name}.bin: its checksum differs; the kit was damaged or changed, write it again"
        )
    return np.frombuffer(content, np.dtype(entry["type"]).newbyteorder("<")).reshape(entry["shape"])


def check_same_model(vectors: GoldenVectors, metadata: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError unless a file has the weights, the mode and the sizes of the model of golden vectors."""
    keys: Sequence[str] = ("weights_sha256", "mode", "size", "map_size", "frames")
    differing = [key for key in keys if metadata.get(key) != vectors.metadata.get(key)]
    if differing:
        raise UserError(
            f"{path}: the kit belongs to another model (its {differing[0]} differs); write one for this file with "
            "`saldistill export MODEL --kit`"
        )
