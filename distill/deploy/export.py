"""A model as one ONNX file that is checked before it gets its name.

    saldistill export runs/demo/student -o student.onnx

The graph holds the model's normalisation. In clip mode its input `clip` is uint8 (batch, 3, frames, height, width)
RGB (or float in [0, 1], if asked for), its output `saliency` float32 (batch, targets, h, w) in [0, 1]. A student
that streams is exported in step mode: `frame` (batch, 3, height, width) and the state go in, `saliency` (batch, 1,
h, w) and the next state come out, and no tensor has more than four dimensions. What the file is stands in it, as
JSON under the metadata key "saldistill". student/edge.py runs it with numpy and onnxruntime alone.
"""

import copy
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from distill.deploy.onnx_check import Check, check_file, compare, example_clips, steps_of
from distill.deploy.onnx_graph import VALUES, ClipGraph, StepGraph, write
from distill.errors import UserError
from distill.files import file_hash, fsync, refuse_existing
from distill.models.cost import count_weights, gflops_if_known
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel
from distill.models.protocols import is_streaming
from distill.models.weight_files import weights_fingerprint

FORMAT = 2
"""Of the metadata; student/edge.py refuses those that it does not know."""

OPSET = 18
"""The newest operator set that PyTorch's exporter writes without converting, and that device runtimes all read."""

MODES = ("clip", "step")

INPUTS = {"uint8": [0, 255], "float32": [0.0, 1.0]}
"""Type of the pixels -> their range."""

BATCHES = (1, 2, 3)
"""Batch sizes at which a file is compared with PyTorch."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far it is from the network it came from."""

    path: Path
    megabytes: float
    opset: int
    operators: int
    sha256: str
    frames: str
    checks: tuple[Check, ...]
    metadata: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values for JSON."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        shape = "x".join(map(str, self.metadata["size"]))
        seen = f"{self.metadata['frames']} frames of {shape}"
        compared = self.frames
        if self.metadata["mode"] == "step":
            steps, anew = steps_of(self.metadata["reach"])
            seen = f"step mode, frames of {shape}, a map depends on {self.metadata['reach']} of them"
            compared = f"{steps} steps through {self.frames}, begun anew after {anew}"
        lines = [
            f"{self.path}: {self.megabytes:.1f} MB, opset {self.opset}, {self.operators} operators, {seen}, "
            "onnx.checker passed"
        ]
        lines += [
            f"  ONNX Runtime against PyTorch on {compared}, batch {check.batch}: "
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
) -> ExportReport:
    """Write a model as an ONNX file, and check it: nothing stands under `path` before every check has passed.

    Checked are the file (onnx.checker with shape inference), and its maps in ONNX Runtime against PyTorch's at
    batch 1, 2 and 3; in step mode over a sequence of frames, each side with its own state, begun anew once.

    Args:
        model: the model, on any device; it is copied, not changed.
        path: the .onnx file to write. Weights of 2 GB and more go into `path` + ".data".
        mode: "clip", or "step" of a network that has `step`; the latter where it can be had when None.
        frames: what to compare on: a video file or folder of frames, or frames (n, H, W, 3) uint8 RGB of the
            clip's size; moving spots are drawn when None.
        input_type: "uint8", 0 to 255, or "float32", in [0, 1]; both RGB.
        values: "peak", "sigmoid" or "log": what the output is (`onnx_graph.VALUES`).
        opset: ONNX operator set.
        notes: anything JSON about the training that the file should tell; the model's own notes when None.
        licence: licence of the weights.
        batches: batch sizes to compare at, of 1, 2 and 3.

    Raises:
        UserError: an existing output, a bad setting, an .onnx model, or a file that fails its checks (it is
            removed).
    """
    path = Path(path)
    network = model.network
    mode = mode or ("step" if is_streaming(network) else "clip")
    _check_settings(model, path, mode=mode, input_type=input_type, values=values)
    refuse_existing(path, "the ONNX file")
    data = path.with_name(path.name + ".data")
    refuse_existing(data, "the ONNX file's weights")
    twin = copy.deepcopy(network).to("cpu").float().eval()
    if mode == "step" and is_streaming(twin):
        length, _ = steps_of(twin.reach)
        clips, shown = example_clips(twin.size, length, (length - 1,), frames)
        graph: ClipGraph = StepGraph(twin, values=values)
        example: list[Tensor] = [clips[:2, :, 0], *twin.initial_state(2).values()]
    else:
        clips, shown = example_clips(network.size, network.num_frames, network.target_frames, frames)
        graph, example = ClipGraph(twin, values=values), [clips[:2]]
    if input_type == "float32":
        example[0] = example[0].float() / 255
    metadata = describe(
        model, mode=mode, input_type=input_type, values=values, opset=opset, notes=notes, licence=licence
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))  # names inside a file stay true
    try:
        made = folder / path.name
        write(graph.eval(), made, example, metadata)
        operators = check_file(made)
        checks = tuple(compare(graph, made, clips, metadata, batches))
        report = ExportReport(
            path=path,
            megabytes=sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
            opset=opset,
            operators=operators,
            sha256=file_hash(made),
            frames=shown,
            checks=checks,
            metadata=metadata,
        )
        for file in sorted(folder.iterdir(), reverse=True):  # weights first: the .onnx file is the last to appear
            fsync(file)
            file.replace(path.parent / file.name)
        fsync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


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
    """Return what an exported file says about itself; student/edge.py's `read_metadata` reads it."""
    network, notes = model.network, dict(model.notes) if notes is None else notes
    step = mode == "step"
    shapes = network.state_shapes if step and is_streaming(network) else {}
    target_frames = [0] if step else list(network.target_frames)
    return {
        "format": FORMAT,
        "mode": mode,
        "model": model.identity,
        "frames": 1 if step else network.num_frames,
        "reach": network.reach if step and is_streaming(network) else network.num_frames,
        "size": list(network.size),
        "target_frames": target_frames,
        "map_size": list(network.map_size),
        "input": {
            "name": "frame" if step else "clip",
            "type": input_type,
            "range": INPUTS[input_type],
            "shape": ["batch", 3, *([] if step else [network.num_frames]), *network.size],
            "colours": "RGB",
            "normalisation": "inside the graph",
        },
        "state": [
            {
                "input": name,
                "output": f"next_{name}",
                "type": "float32",
                "shape": ["batch", *shape],
                "initial": 0,
            }
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
        raise UserError("this is an exported model already; export the network that it came from")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected a name that ends in .onnx")
    for key, value, accepted in (
        ("mode", mode, MODES),
        ("input_type", input_type, INPUTS),
        ("values", values, VALUES),
    ):
        if value not in accepted:
            raise UserError(f"{key}: expected one of {', '.join(accepted)}, got {value!r}")
    if mode == "step" and not is_streaming(model.network):
        raise UserError(f"{model.reference}: reads whole clips and has no step mode; export it in clip mode")
