"""Export a model as one ONNX file that is verified before it appears under its name.

    saldistill export runs/demo/student -o student.onnx

The graph includes the model's normalisation. In clip mode, input `clip` is uint8 (batch, 3, frames, height, width)
RGB (or float in [0, 1]) and output `saliency` float32 (batch, targets, h, w) in [0, 1]. Streaming students are
exported in step mode: `frame` (batch, 3, height, width) and the state in, `saliency` (batch, 1, h, w) and the next
state out; no tensor has more than four dimensions. The file describes itself in JSON under the metadata key
"saldistill". student/edge.py runs it with numpy and onnxruntime only.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from distill.claims import claim
from distill.data.fit import fit_of
from distill.errors import UserError
from distill.files import file_hash, fsync, put_in_place, temporary_folder
from distill.models.cost import count_weights, gflops_if_known
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import is_streaming
from distill.models.weight_files import weights_fingerprint
from distill.runtimes.onnx_check import (
    MAX_ERROR,
    Check,
    check_file,
    compare_with_network,
    example_clips,
    verification_steps,
)
from distill.runtimes.onnx_graph import VALUES, ClipGraph, StepGraph, write

FORMAT, FORMAT_WITH_FIT = 2, 3
"""Version of the metadata of files with the fit `stretch` and with another one, which programs of earlier versions
would ignore. student/edge.py rejects unknown versions."""

OPSET = 18
"""The newest opset that PyTorch's exporter writes without conversion and that all device runtimes read."""

MODES = ("clip", "step")

INPUTS = {"uint8": [0, 255], "float32": [0.0, 1.0]}
"""Type of the pixels -> their range."""

BATCHES = (1, 2, 3)
"""Batch sizes at which a file is compared with PyTorch."""


@dataclass(frozen=True)
class ExportReport:
    """The exported file, and its differences from the network."""

    path: Path
    megabytes: float
    opset: int
    operators: int
    sha256: str
    frames: str
    checks: tuple[Check, ...]
    metadata: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        shape = "x".join(map(str, self.metadata["size"]))
        graph, compared = f"{self.metadata['frames']} frames of {shape}", self.frames
        if self.metadata["mode"] == "step":
            steps, reset = verification_steps(self.metadata["reach"])
            graph = f"step mode, frames of {shape}, a map depends on {self.metadata['reach']} frames"
            compared = f"{steps} steps through {self.frames}, state reset after {reset}"
        lines = [
            f"{self.path}: {self.megabytes:.1f} MB, opset {self.opset}, {self.operators} operators, {graph}, "
            "onnx.checker passed"
        ]
        lines += [
            f"  ONNX Runtime vs PyTorch on {compared}, batch {check.batch}: "
            f"max error {check.max_error:.1e}, CC {check.cc:.6f}"
            for check in self.checks
        ]
        return "\n".join(lines)


def export(
    model: LoadedModel,
    path: str | Path,
    *,
    mode: str | None = None,
    frames: Tensor | np.ndarray | str | Path | None = None,
    input_type: str = "uint8",
    values: str = "peak",
    opset: int = OPSET,
    notes: dict[str, Any] | None = None,
    licence: str | None = None,
    batches: Sequence[int] = BATCHES,
    max_error: float = MAX_ERROR,
) -> ExportReport:
    """Write a model as an ONNX file and verify it; `path` does not exist before every check has passed.

    The checks are onnx.checker with shape inference, and the maps in ONNX Runtime compared with PyTorch's at batch
    1, 2 and 3. Step mode is compared over a sequence of frames, where each runtime keeps its own state and resets
    it once.

    Args:
        model: the model, on any device; it is copied, not changed.
        path: .onnx file to write. Weights of 2 GB or more go into `path` + ".data".
        mode: "clip" or "step"; defaults to "step" for streaming networks.
        frames: frames to compare on: a video file, a folder of frames, or frames (n, H, W, 3) uint8 RGB of the
            clip's size; defaults to generated moving spots.
        input_type: "uint8" (0 to 255) or "float32" (in [0, 1]); both RGB.
        values: "peak", "sigmoid" or "log": meaning of the output (`onnx_graph.VALUES`).
        opset: ONNX opset.
        notes: JSON values about the training to store in the file; defaults to the model's notes.
        licence: licence of the weights.
        batches: batch sizes to compare at, out of 1, 2 and 3.
        max_error: largest allowed difference from PyTorch's maps, for maps whose maximum is 1.

    Raises:
        UserError: the output exists or is being written by another process, a setting is invalid, the model is an
            .onnx file, or the file fails its checks (it is removed).
    """
    path = Path(path)
    network = model.network
    mode = mode or ("step" if is_streaming(network) else "clip")
    _check_settings(model, path, mode=mode, input_type=input_type, values=values)
    weights = path.with_name(f"{path.name}.data")
    with claim(path, "the ONNX file"), claim(weights, "the ONNX file's weights"):
        metadata = describe(
            model, mode=mode, input_type=input_type, values=values, opset=opset, notes=notes, licence=licence
        )
        graph, example, clips, shown = _trace_inputs(model, metadata, frames)
        with staging_folder(path) as folder:
            file = folder / path.name
            write(graph, file, example, metadata)
            return ExportReport(
                path=path,
                operators=check_file(file),
                checks=tuple(compare_with_network(graph, file, clips, metadata, batches, max_error=max_error)),
                megabytes=sum(each.stat().st_size for each in folder.iterdir()) / 1e6,
                opset=opset,
                sha256=file_hash(file),
                frames=shown,
                metadata=metadata,
            )


def graph_of(model: LoadedModel, metadata: Mapping[str, Any]) -> ClipGraph:
    """Return the graph, in PyTorch on the CPU, of the file of a model with these metadata; the model is copied."""
    twin = copy.deepcopy(model.network).to("cpu").float().eval()
    kind = StepGraph if metadata["mode"] == "step" else ClipGraph
    return kind(twin, values=metadata["output"]["values"]).eval()


def _trace_inputs(
    model: LoadedModel, metadata: Mapping[str, Any], frames: Tensor | np.ndarray | str | Path | None
) -> tuple[ClipGraph, list[Tensor], Tensor, str]:
    """Return the graph of a copy of the network, example inputs, the clips to compare on, and their description."""
    graph = graph_of(model, metadata)
    twin = graph.model
    if metadata["mode"] == "step" and is_streaming(twin):
        length, _ = verification_steps(twin.reach)
        clips, shown = example_clips(twin, length, (length - 1,), frames)
        example: list[Tensor] = [clips[:2, :, 0], *twin.initial_state(2).values()]
    else:
        clips, shown = example_clips(twin, twin.num_frames, twin.target_frames, frames)
        example = [clips[:2]]
    if metadata["input"]["type"] == "float32":
        example[0] = example[0].float() / 255
    return graph, example, clips, shown


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved next to `path` if the block succeeds.

    The files keep their names, because an .onnx file refers to its .data file by name.

    Raises:
        UserError: one of the files exists at the end; it is not replaced.
    """
    with temporary_folder(path) as folder:
        yield folder
        moved: list[Path] = []
        try:
            for file in sorted(folder.iterdir(), reverse=True):  # weights first: the .onnx file appears last
                put_in_place(file, path.parent / file.name, overwrite=False)
                moved.append(path.parent / file.name)
        except BaseException:
            for file in moved:
                file.unlink()
            raise
        fsync(path.parent)


def describe(
    model: LoadedModel,
    *,
    mode: str,
    input_type: str,
    values: str,
    opset: int,
    notes: dict[str, Any] | None,
    licence: str | None,
) -> dict[str, Any]:
    """Return the metadata of an exported file, which `student.edge.read_metadata` reads."""
    network, notes = model.network, dict(model.notes) if notes is None else notes
    step = mode == "step"
    shapes = network.state_shapes if step and is_streaming(network) else {}
    target_frames, fit = [0] if step else list(network.target_frames), fit_of(network)
    return {
        "format": FORMAT if fit == "stretch" else FORMAT_WITH_FIT,
        "mode": mode,
        "model": model.identity,
        "frames": 1 if step else network.num_frames,
        "reach": network.reach if step and is_streaming(network) else network.num_frames,
        "size": list(network.size),
        "target_frames": target_frames,
        "map_size": list(network.map_size),
        "fit": fit,
        "input": {
            "name": "frame" if step else "clip",
            "type": input_type,
            "range": INPUTS[input_type],
            "shape": ["batch", 3, *([] if step else [network.num_frames]), *network.size],
            "colours": "RGB",
            "normalisation": "inside the graph",
        },
        "state": [
            {"input": name, "output": f"next_{name}", "type": "float32", "shape": ["batch", *shape], "initial": 0}
            for name, shape in shapes.items()
        ],
        "output": {
            "name": "saliency",
            "type": "float32",
            "shape": ["batch", len(target_frames), *network.map_size],
            "values": values,
            "meaning": VALUES[values],
        },
        "precision": "fp32",
        "weights": count_weights(network),
        "gflops_per_map": gflops_if_known(model, mode=mode),
        "weights_sha256": weights_fingerprint(network),
        "licence": licence or notes.get("licence") or "not stated",
        "notes": notes,
        "opset": opset,
        "made_with": {"torch": str(torch.__version__), "onnx": onnx.__version__},
    }


def _check_settings(model: LoadedModel, path: Path, *, mode: str, input_type: str, values: str) -> None:
    if isinstance(model.network, OnnxModel):
        raise UserError("the model is an exported .onnx file; export the network that it came from")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected a file name ending in .onnx")
    accepted_values = {"mode": (mode, MODES), "input_type": (input_type, INPUTS), "values": (values, VALUES)}
    for key, (value, accepted) in accepted_values.items():
        if value not in accepted:
            raise UserError(f"{key}: expected one of {', '.join(accepted)}, got {value!r}")
    if mode == "step" and not is_streaming(model.network):
        raise UserError(f"{model.reference}: does not stream and has no step mode; export it in clip mode")
