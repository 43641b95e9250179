"""Adapters that run exported ONNX files on the CPU behind the `SaliencyModel` interface."""

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill.errors import UserError, reason_of

log = logging.getLogger(__name__)

LOG_FLOOR = 1e-12
"""Minimum of a map before the logarithm is taken."""

CHECKSUM_KEY = "saldistill_sha256"

UNSEALED = "0" * 64
"""Stands in for the checksum of an exported file until `seal` writes it."""


class OnnxModel(nn.Module):
    """An exported model in clip mode.

    The file gives maps in [0, 1]; `forward` returns their logarithm, clamped at LOG_FLOOR. NaN and infinity become
    NaN, which `inference.sliding_window` reports with the video and the frame.

    Args:
        edge: the `student.edge.EdgeModel` that runs the file, or a `LogEdge`, whose maps are returned as they are.
    """

    no_gradient: tuple[str, ...] = ("*",)
    encoder_layers: tuple[str, ...] = ()

    def __init__(self, edge: Any) -> None:
        super().__init__()
        self.edge = edge
        self.path: Path = edge.path
        self.num_frames: int = edge.num_frames
        self.size: tuple[int, int] = edge.size
        self.target_frames: tuple[int, ...] = edge.target_frames
        self.map_size: tuple[int, int] = edge.map_size
        self.fit: str = edge.fit

    @property
    def notes(self) -> dict[str, Any]:
        """Notes on the model's training that the file records."""
        return self.edge.metadata.get("notes") or {}

    @property
    def files(self) -> list[Path]:
        """The .onnx file and, if its weights are stored separately, the .data file."""
        data = self.path.with_name(self.path.name + ".data")
        return [self.path, *([data] if data.is_file() else [])]

    def forward(self, clip: Tensor) -> Tensor:
        """Map a uint8 clip (B, 3, T, H, W) to log-saliency (B, N, h, w) float32, on the clip's device."""
        with _user_errors():
            maps = self.edge(_array(clip))
        return self._log_saliency(maps, clip.device)

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Raise UserError: an exported model gives maps only."""
        raise UserError(f"{self.path}: an exported model has no features; use the model it was exported from")

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        """Raise UserError: an exported model gives maps only."""
        raise UserError(f"{self.path}: an exported model has no features; use the model it was exported from")

    def _log_saliency(self, maps: np.ndarray, device: torch.device) -> Tensor:
        """Return the log-saliency of the edge's maps, on a device."""
        values = torch.from_numpy(np.asarray(maps))
        return (values if isinstance(self.edge, LogEdge) else values.clamp_min(LOG_FLOOR).log()).to(device)


class OnnxStepModel(OnnxModel):
    """An exported model in step mode: a frame and a state in, a map and the next state out.

    As a clip model it takes clips of `reach` frames, on which the map of the last frame depends.
    """

    def __init__(self, edge: Any) -> None:
        super().__init__(edge)
        self.reach: int = edge.reach
        self.num_frames, self.target_frames = self.reach, (self.reach - 1,)
        self.state_shapes: dict[str, tuple[int, ...]] = edge.state_shapes

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        """Return the state before the first frame of a video or after a cut: zeros."""
        return {name: torch.from_numpy(value) for name, value in self.edge.initial_state(batch).items()}

    def step(self, frame: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict the map of one frame.

        Args:
            frame: (B, 3, H, W) uint8 RGB.
            state: state after the previous frame, or `initial_state`; not modified.

        Returns:
            Log-saliency (B, 1, h, w) float32 on the frame's device, and the state for the next frame.

        Raises:
            UserError: if a frame or state has the wrong shape, or ONNX Runtime cannot run the file.
        """
        with _user_errors():
            maps, after = self.edge.step(_array(frame), {name: _array(value) for name, value in state.items()})
        after_step = {name: torch.from_numpy(value) for name, value in after.items()}
        return self._log_saliency(maps, frame.device), after_step

    def steps(self, clip: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Predict the maps of T consecutive frames, one by one: a batch is not faster in ONNX Runtime on a CPU.

        Args:
            clip: (B, 3, T, H, W) uint8 RGB, T at least 1.
            state: as for `step`.

        Returns:
            Log-saliency (B, T, h, w) float32 on the clip's device, and the state after the last frame.

        Raises:
            UserError: as `step`, or if the clip has no frames.
        """
        if clip.ndim != 5 or clip.shape[2] < 1:
            raise UserError(f"{self.path.name}: expected clips of at least one frame, got {tuple(clip.shape)}")
        maps = []
        for frame in clip.unbind(2):
            log_saliency, state = self.step(frame, state)
            maps.append(log_saliency)
        return torch.cat(maps, 1), state

    def forward(self, clip: Tensor) -> Tensor:
        """Step through a uint8 clip (B, 3, reach, H, W); return the log-saliency (B, 1, h, w) of its last frame."""
        frames, state = _array(clip), self.edge.initial_state(len(clip))
        if frames.ndim != 5 or frames.shape[2] != self.reach:
            raise UserError(f"{self.path.name}: expected clips of {self.reach} frames, got {tuple(clip.shape)}")
        maps = np.empty(0)
        with _user_errors():
            for t in range(self.reach):
                maps, state = self.edge.step(np.ascontiguousarray(frames[:, :, t]), state)
        return self._log_saliency(maps, clip.device)


class LogEdge:
    """Runs a file with the output values "log" and returns its log-saliency exactly.

    `student.edge.EdgeModel` returns maps in [0, 1], whose logarithm has lost the values below LOG_FLOOR.

    Args:
        edge: the `EdgeModel` of the file; its other attributes are those of this object.
    """

    def __init__(self, edge: Any) -> None:
        self.edge, self.session = edge, edge.session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.edge, name)

    def __call__(self, clip: np.ndarray) -> np.ndarray:
        """Return the log-saliency (B, N, h, w) of uint8 clips (B, 3, T, H, W)."""
        return self._run({"clip": clip})[0]

    def step(self, frame: np.ndarray, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the log-saliency (B, 1, h, w) of uint8 frames (B, 3, H, W), and the next state."""
        names = self.edge.state_shapes
        log_saliency, *after = self._run({"frame": frame, **{name: state[name] for name in names}})
        return log_saliency, dict(zip(names, after, strict=True))

    def _run(self, feed: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        metadata = self.edge.metadata
        outputs = [metadata["output"]["name"], *(each["output"] for each in metadata.get("state", []))]
        if metadata["input"]["type"] == "float32":
            pixels = {name: value / np.float32(255) for name, value in feed.items() if value.dtype == np.uint8}
            feed = {**feed, **pixels}
        try:
            found: Sequence[np.ndarray] = self.session.run(outputs, feed)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise UserError(f"{self.edge.path.name}: the runtime cannot run it: {reason_of(error)}") from error
        return found


def load_onnx(path: str | Path, *, threads: int | None = None, exact: bool = False) -> OnnxModel:
    """Load an exported model in clip or step mode.

    Its waiting threads do not spin, which would slow down decoding and drawing in the same program.

    Args:
        path: the .onnx file.
        threads: CPU threads; defaults to the choice of ONNX Runtime.
        exact: return the file's log-saliency as it is; only for files with the output values "log".

    Raises:
        UserError: if the file is missing, damaged, or not an exported model.
    """
    with _user_errors():
        edge = importlib.import_module("student.edge").EdgeModel(path, threads=threads, check=False, spinning=False)
    if not edge.has_checksum:
        log.info("%s: has no checksum (an earlier version or another program wrote it), so it is not checked", path)
    edge = LogEdge(edge) if exact else edge
    return OnnxStepModel(edge) if edge.mode == "step" else OnnxModel(edge)


def seal(path: Path) -> None:
    """Write the checksum of an exported file into it; student/edge.py compares it on every load."""
    found = importlib.import_module("student.edge").checksum(path, UNSEALED)
    entry = CHECKSUM_KEY.encode() + b"\x12\x40"  # field 2 of 64 bytes follows, in the file's Protocol Buffers
    path.write_bytes(path.read_bytes().replace(entry + UNSEALED.encode(), entry + found.encode()))


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn the errors of student/edge.py, which imports nothing of this project, into UserErrors."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def _array(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().numpy())
