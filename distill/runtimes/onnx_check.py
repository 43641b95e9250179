"""Compare an exported file with its network on the same clips."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from distill.data.fit import fit_of, read_placed
from distill.data.video.open import open_video
from distill.data.windows import window_of
from distill.errors import UserError
from distill.models.protocols import SaliencyModel

MAX_ERROR = 1e-3
"""Maximum allowed difference from PyTorch, for maps whose maximum is 1."""

MIN_CC = 0.999
"""Minimum allowed correlation with PyTorch's map."""

Call = Callable[..., Sequence[np.ndarray]]
"""Runs a graph in any runtime: inputs in order -> outputs in order."""


@dataclass(frozen=True)
class Check:
    """Maximum error of maps in [0, 1], and minimum CC of a map, of ONNX Runtime vs PyTorch at one batch size."""

    batch: int
    max_error: float
    cc: float


def verification_steps(reach: int) -> tuple[int, int]:
    """Return the number of steps in the comparison of step mode, and the step before which the state is reset.

    Both parts are longer than the `reach` frames that a map depends on.
    """
    return max(20, reach + 8), max(10, reach + 2)


def example_clips(
    network: SaliencyModel,
    length: int,
    target_frames: Sequence[int],
    frames: Tensor | np.ndarray | str | Path | None,
) -> tuple[Tensor, str]:
    """Return three different clips (3, 3, T, H, W) uint8, and a description of their frames.

    Args:
        network: the model, for its size and fit.
        length: T.
        target_frames: the model's target frames in such a clip.
        frames: a video file, a folder of frames, or frames (n, H, W, 3) uint8 RGB; defaults to moving spots.

    Raises:
        UserError: the frames have another type or shape, or the video does not exist.
    """
    size = network.size
    if frames is None:
        return _moving_spots(length, size), "generated frames"
    if isinstance(frames, str | Path):
        reader, shown = open_video(frames), f"real frames of {Path(frames).name}"
        total = reader.num_frames
    else:
        given, shown = torch.as_tensor(frames), "given frames"
        total = len(given)
        if given.dtype != torch.uint8 or given.shape[1:] != (*size, 3) or total == 0:
            raise UserError(
                f"frames: expected uint8 RGB of shape (n, {size[0]}, {size[1]}, 3), got {given.dtype} of shape "
                f"{tuple(given.shape)}"
            )
    ends = [total * part // 4 for part in (1, 2, 3)]
    windows = [window_of(end, total, target_frames, length=length).frames for end in ends]
    needed = sorted({frame for window in windows for frame in window})
    images = (
        read_placed(reader, needed, fit_of(network), size)
        if isinstance(frames, str | Path)
        else given[needed].movedim(-1, 1)
    )  # (n, 3, H, W)
    rows = torch.tensor([[needed.index(frame) for frame in window] for window in windows])
    return images[rows].transpose(1, 2).contiguous(), shown


def _moving_spots(num_frames: int, size: tuple[int, ...]) -> Tensor:
    """Return bright spots that move over a gradient, with noise: (3, 3, T, H, W) uint8, deterministic."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    start, speed = (torch.rand(3, 3, 1, 2, generator=generator) for _ in range(2))  # (batch, channel, 1, 2)
    centre = start + (speed - 0.5) * torch.linspace(0, 1, num_frames)[:, None]  # (3, 3, T, 2)
    away = (rows - centre[..., 0, None, None]) ** 2 + (columns - centre[..., 1, None, None]) ** 2
    noise = torch.rand(3, 3, num_frames, *size, generator=generator)
    return (255 * (0.7 * torch.exp(-away * 40) + 0.2 * columns + 0.1 * noise)).to(torch.uint8)


def open_session(path: str | Path, *, threads: int = 0, **options: Any) -> onnxruntime.InferenceSession:
    """Open a file in ONNX Runtime on the CPU, without its warnings.

    Args:
        path: the .onnx file.
        threads: threads per call; 0 for ONNX Runtime's choice.
        options: attributes of `onnxruntime.SessionOptions`.
    """
    settings = onnxruntime.SessionOptions()
    for name, value in {"log_severity_level": 3, "intra_op_num_threads": threads, **options}.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def check_file(path: Path) -> int:
    """Run onnx.checker with shape inference and return the number of operators in the graph."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"{path.name}: onnx.checker rejects the exported file; nothing was written: {error}"
        ) from error
    return len(onnx.load(str(path), load_external_data=False).graph.node)


def compare_with_network(
    graph: nn.Module,
    path: Path,
    clips: Tensor,
    metadata: Mapping[str, Any],
    batches: Sequence[int],
    *,
    max_error: float = MAX_ERROR,
) -> Iterator[Check]:
    """Compare a file's maps with those of the graph that it was exported from.

    Args:
        graph: the exported graph.
        path: the file.
        clips: (n, 3, T, H, W) uint8; in step mode, T steps in which each runtime keeps its own state.
        metadata: metadata of the file.
        batches: batch sizes of at most n.
        max_error: largest allowed difference, for maps whose maximum is 1.

    Raises:
        UserError: a map differs by more than `max_error`, or its correlation is below `MIN_CC`.
    """
    session = open_session(path)
    names = [each.name for each in session.get_inputs()]

    def network(*inputs: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in graph(*map(torch.from_numpy, inputs))]

    def runtime(*inputs: np.ndarray) -> list[np.ndarray]:
        return session.run(None, dict(zip(names, inputs, strict=True)))

    images = clips.numpy()
    if metadata["input"]["type"] == "float32":
        images = images.astype(np.float32) / np.float32(255)
    all_expected = graph_maps(network, images[: max(batches)], metadata)
    for batch in batches:
        expected, found = all_expected[:batch], graph_maps(runtime, images[:batch], metadata)
        if found.shape != expected.shape:
            raise UserError(
                f"{path.name}: the exported graph returns maps of shape {found.shape} at batch {batch}; expected "
                f"{expected.shape}, as from PyTorch; nothing was written"
            )
        values, peak = metadata["output"]["values"], expected.max(axis=(-2, -1), keepdims=True)
        expected, found = (peak_maps(maps, values, peak) for maps in (expected, found))
        error = float(np.abs(found - expected).max())
        pairs = zip(found.reshape(-1, *found.shape[2:]), expected.reshape(-1, *found.shape[2:]), strict=True)
        correlation = min(_cc(a, b) for a, b in pairs)
        if not (error <= max_error and correlation >= MIN_CC):  # NaN fails too
            raise UserError(
                f"{path.name}: the exported graph differs from PyTorch at batch {batch}: max error {error:.1e} "
                f"(at most {max_error}), CC {correlation:.6f} (at least {MIN_CC}); nothing was written"
            )
        yield Check(batch, error, correlation)


def peak_maps(maps: np.ndarray, values: str, peak: np.ndarray | None = None) -> np.ndarray:
    """Return maps (..., h, w) in an output value of `onnx_graph.VALUES` as maps whose maximum is 1.

    Args:
        maps: the maps.
        values: a key of VALUES.
        peak: values (..., 1, 1) that become 1; defaults to each map's own maximum.
    """
    if peak is None:
        peak = maps.max(axis=(-2, -1), keepdims=True)
    if values == "log":
        return np.exp(maps - peak)
    return maps / np.maximum(peak, np.finfo(np.float32).tiny)


def graph_maps(call: Call, clips: np.ndarray, metadata: Mapping[str, Any]) -> np.ndarray:
    """Return a graph's maps of clips (B, 3, T, H, W): (B, N, h, w), or (B, T, h, w) for T steps.

    In step mode, the state is reset once in the middle, as after a cut.
    """
    if metadata["mode"] == "clip":
        return call(clips)[0]
    initial = [np.zeros((len(clips), *each["shape"][1:]), np.float32) for each in metadata["state"]]
    _, reset = verification_steps(metadata["reach"])
    state, maps = initial, []
    for t in range(clips.shape[2]):
        saliency, *state = call(np.ascontiguousarray(clips[:, :, t]), *(initial if t == reset else state))
        maps.append(saliency)
    return np.concatenate(maps, axis=1)


def _cc(a: np.ndarray, b: np.ndarray) -> float:
    """Return the linear correlation of two maps; 1 if both are constant."""
    a, b = (m.astype(np.float64) - m.mean(dtype=np.float64) for m in (a, b))
    if max(np.abs(a).max(), np.abs(b).max()) < 1e-6:
        return 1.0
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
