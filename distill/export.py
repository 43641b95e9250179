"""A model as one ONNX file that is checked before it gets its name.

    saldistill export runs/demo/student -o student.onnx

The graph holds the model's normalisation: its input `clip` is uint8 (batch, 3, frames, height, width) RGB (or float
in [0, 1], if asked for), its output `saliency` float32 (batch, targets, h, w) in [0, 1]. What the file is stands in
it, as JSON under the metadata key "saldistill". student/edge.py runs it with numpy and onnxruntime alone.
"""

import copy
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from onnxscript import values as onnx_values
from torch import Tensor, nn

from distill import models
from distill.data.video import open_video
from distill.errors import UserError
from distill.files import file_hash, fsync, refuse_existing
from distill.sliding import window_of

METADATA_KEY = "saldistill"

FORMAT = 1
"""Of the metadata; student/edge.py refuses others."""

OPSET = 18
"""The newest operator set that PyTorch's exporter writes without converting, and that device runtimes all read."""

VALUES = {
    "peak": "exp(log-saliency - its maximum over the map): the maximum of every map is 1",
    "sigmoid": "exp(log-saliency): the network's own sigmoid, comparable between frames",
    "log": "log-saliency: the map's logarithm, up to a constant a map",
}
"""What the output may be."""

INPUTS = {"uint8": (torch.uint8, [0, 255]), "float32": (torch.float32, [0.0, 1.0])}

MAX_ERROR = 1e-3
"""Largest difference from PyTorch, of maps in [0, 1], that an exported file may have."""

MIN_CC = 0.999
"""Smallest correlation with PyTorch's map that it may have."""

EXTERNAL_BYTES = 2**31 - 2**26
"""Weights from here on go into a .data file beside the .onnx file: protobuf's limit is 2 GiB for all."""


@dataclass(frozen=True)
class Check:
    """ONNX Runtime against PyTorch at one batch size: largest error of maps in [0, 1], smallest CC of a map."""

    batch: int
    max_error: float
    cc: float


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
        lines = [
            f"{self.path}: {self.megabytes:.1f} MB, opset {self.opset}, {self.operators} operators, "
            f"{self.metadata['frames']} frames of {shape}, onnx.checker passed"
        ]
        lines += [
            f"  ONNX Runtime against PyTorch on {self.frames}, batch {check.batch}: "
            f"max error {check.max_error:.1e}, CC {check.cc:.6f}"
            for check in self.checks
        ]
        return "\n".join(lines)


def export(
    model: Any,
    path: str | Path,
    *,
    frames: Tensor | np.ndarray | str | Path | None = None,
    input_type: str = "uint8",
    values: str = "peak",
    opset: int = OPSET,
    notes: dict[str, Any] | None = None,
    licence: str | None = None,
) -> ExportReport:
    """Write a model as an ONNX file, and check it: nothing stands under `path` before every check has passed.

    Checked are the file (onnx.checker with shape inference), and its maps in ONNX Runtime against PyTorch's at
    batch 1, 2 and 3.

    Args:
        model: a network of the project, on any device; it is copied, not changed.
        path: the .onnx file to write. Weights of 2 GB and more go into `path` + ".data".
        frames: what to compare on: a video file or folder of frames, or frames (n, H, W, 3) uint8 RGB of the
            clip's size; moving spots are drawn when None.
        input_type: "uint8", 0 to 255, or "float32", in [0, 1]; both RGB.
        values: "peak", "sigmoid" or "log": what the output is (`VALUES`).
        opset: ONNX operator set.
        notes: anything JSON about the training that the file should tell; the model's own notes when None.
        licence: licence of the weights.

    Raises:
        UserError: an existing output, a bad setting, an .onnx model, or a file that fails its checks (it is
            removed).
    """
    path = Path(path)
    _check_settings(model, path, input_type=input_type, values=values)
    refuse_existing(path, "the ONNX file")
    data = path.with_name(path.name + ".data")
    refuse_existing(data, "the ONNX file's weights")
    clips, shown = _clips(model, frames)
    twin = copy.deepcopy(model).to("cpu").float().eval()
    graph = Graph(twin, values=values).eval()
    metadata = describe(model, input_type=input_type, values=values, opset=opset, notes=notes, licence=licence)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))  # names inside a file stay true
    try:
        made = folder / path.name
        _write(graph, made, clips, input_type=input_type, opset=opset, metadata=metadata)
        operators = _check_file(made)
        checks = tuple(_compare(graph, made, clips, input_type=input_type, values=values))
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


class Graph(nn.Module):
    """What is exported: the model, and after it what its output is declared to be.

    Args:
        model: clip (B, 3, T, H, W) to log-saliency (B, N, h, w).
        values: a key of `VALUES`.
    """

    def __init__(self, model: nn.Module, *, values: str) -> None:
        super().__init__()
        self.model, self.values = model, values

    def forward(self, clip: Tensor) -> Tensor:
        """Return (B, N, h, w) float32: see `VALUES`."""
        log_saliency: Tensor = self.model(clip).float()
        if self.values == "log":
            return log_saliency
        if self.values == "sigmoid":
            return log_saliency.exp()
        return (log_saliency - log_saliency.amax(dim=(-2, -1), keepdim=True)).exp()


def describe(
    model: Any,
    *,
    input_type: str,
    values: str,
    opset: int,
    notes: dict[str, Any] | None,
    licence: str | None,
) -> dict[str, Any]:
    """Return what an exported file says about itself; student/edge.py's `read_metadata` reads it."""
    notes = notes if notes is not None else getattr(model, "notes", None) or {}
    return {
        "format": FORMAT,
        "mode": "clip",
        "model": getattr(model, "identity", {"name": type(model).__name__}),
        "frames": model.num_frames,
        "size": list(model.size),
        "target_frames": list(model.target_frames),
        "map_size": list(model.map_size),
        "input": {
            "name": "clip",
            "type": input_type,
            "range": INPUTS[input_type][1],
            "shape": ["batch", 3, model.num_frames, *model.size],
            "colours": "RGB",
            "normalisation": "inside the graph",
        },
        "output": {
            "name": "saliency",
            "type": "float32",
            "shape": ["batch", len(model.target_frames), *model.map_size],
            "values": values,
            "meaning": VALUES[values],
        },
        "weights": models.count_weights(model),
        "gflops_per_map": models.gflops_per_map(model) if hasattr(model, "identity") else None,
        "weights_sha256": models.weights_fingerprint(model),
        "licence": licence or notes.get("licence") or "not stated",
        "notes": notes,
        "opset": opset,
        "made_with": {"torch": str(torch.__version__), "onnx": onnx.__version__},
    }


def _check_settings(model: Any, path: Path, *, input_type: str, values: str) -> None:
    if not isinstance(model, nn.Module) or isinstance(model, models.OnnxModel):
        raise UserError("this is an exported model already; export the network that it came from")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected a name that ends in .onnx")
    for key, value, accepted in (("input_type", input_type, INPUTS), ("values", values, VALUES)):
        if value not in accepted:
            raise UserError(f"{key}: expected one of {', '.join(accepted)}, got {value!r}")


def _clips(model: Any, frames: Tensor | np.ndarray | str | Path | None) -> tuple[Tensor, str]:
    """Return three different clips (3, 3, T, H, W) uint8, and what they show."""
    size = tuple(model.size)
    if frames is None:
        return _moving_spots(model.num_frames, size), "drawn frames"
    if isinstance(frames, str | Path):
        reader, shown = open_video(frames), f"real frames of {Path(frames).name}"
        length = reader.num_frames
    else:
        given, shown = torch.as_tensor(frames), "given frames"
        length = len(given)
        if given.dtype != torch.uint8 or given.shape[1:] != (*size, 3) or length == 0:
            raise UserError(
                f"frames: expected uint8 RGB of shape (n, {size[0]}, {size[1]}, 3), got {given.dtype} of shape "
                f"{tuple(given.shape)}"
            )
    asked = [length * part // 4 for part in (1, 2, 3)]
    windows = [window_of(f, length, model.target_frames, length=model.num_frames).frames for f in asked]
    needed = sorted({frame for window in windows for frame in window})
    images = (
        torch.from_numpy(reader.read(needed, size)) if isinstance(frames, str | Path) else given[needed]
    )  # (n, H, W, 3)
    rows = torch.tensor([[needed.index(frame) for frame in window] for window in windows])
    return images[rows].permute(0, 4, 1, 2, 3).contiguous(), shown


def _moving_spots(num_frames: int, size: tuple[int, ...]) -> Tensor:
    """Draw bright spots that wander over a gradient, and some noise: (3, 3, T, H, W) uint8, the same every time."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    start, speed = (torch.rand(3, 3, 1, 2, generator=generator) for _ in range(2))  # (batch, channel, 1, 2)
    centre = start + (speed - 0.5) * torch.linspace(0, 1, num_frames)[:, None]  # (3, 3, T, 2)
    away = (rows - centre[..., 0, None, None]) ** 2 + (columns - centre[..., 1, None, None]) ** 2
    noise = torch.rand(3, 3, num_frames, *size, generator=generator)
    return (255 * (0.7 * torch.exp(-away * 40) + 0.2 * columns + 0.1 * noise)).to(torch.uint8)


def _feed(clips: Tensor, input_type: str) -> Tensor:
    return clips if input_type == "uint8" else clips.float() / 255


def _write(
    graph: Graph, path: Path, clips: Tensor, *, input_type: str, opset: int, metadata: dict[str, Any]
) -> None:
    """Trace the graph on a batch of 2 (a batch of 1 would become a constant) and save it with its metadata."""
    with _quiet():
        program = torch.onnx.export(
            graph,
            (_feed(clips[:2], input_type),),
            dynamo=True,
            input_names=["clip"],
            output_names=["saliency"],
            dynamic_shapes={"clip": {0: torch.export.Dim("batch")}},
            opset_version=opset,
            custom_translation_table=_translations(opset),
            verbose=False,
        )
        assert program is not None
        _drop_traces(program.model)
        program.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
        size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
        program.save(str(path), external_data=size >= EXTERNAL_BYTES)


def _translations(opset: int) -> dict[Any, Any]:
    """Return how two operations are written, where the exporter has no way or a worse one.

    Attention of any rank: the exporter's own takes four dimensions. The logarithm of the sigmoid as -softplus(-x):
    the exporter's log(sigmoid(x)) is -inf where the sigmoid underflows, and coarse in half precision.
    """
    op = onnx_values.Opset("", opset)

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        if is_causal or enable_gqa:
            raise NotImplementedError("causal or grouped attention; give the mask, and repeat the heads")
        rank = len(query.shape)
        width = int(query.shape[-1])
        factor = scale if scale is not None else width**-0.5
        order = [*range(rank - 2), rank - 1, rank - 2]
        scores = op.MatMul(op.Mul(query, op.Constant(value_float=factor)), op.Transpose(key, perm=order))
        if attn_mask is not None:
            if attn_mask.dtype == onnx_ir.DataType.BOOL:
                attn_mask = op.Where(
                    attn_mask, op.Constant(value_float=0.0), op.Constant(value_float=float("-inf"))
                )
            scores = op.Add(scores, attn_mask)
        return op.MatMul(op.Softmax(scores, axis=-1), value)

    def log_sigmoid(x: Any) -> Any:
        return op.Neg(op.Softplus(op.Neg(x)))

    return {
        torch.ops.aten.scaled_dot_product_attention.default: attention,
        torch.ops.aten.log_sigmoid.default: log_sigmoid,
    }


def _drop_traces(model: Any) -> None:
    """Remove what the exporter notes at every node: Python stack traces, which tell the paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: its warnings are about PyTorch's own code, and what it exports is checked here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_file(path: Path) -> int:
    """Run onnx.checker with shape inference; returns the number of operators in the graph."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UserError(
            f"{path.name}: onnx.checker refuses the exported file, nothing was written: {error}"
        ) from error
    return len(onnx.load(str(path), load_external_data=False).graph.node)


def _compare(graph: Graph, path: Path, clips: Tensor, *, input_type: str, values: str) -> Iterator[Check]:
    """Compare the file's maps with the network's at batch 1, 2 and 3.

    Raises:
        UserError: they differ by more than `MAX_ERROR`, or correlate by less than `MIN_CC`.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = _feed(clips, input_type)
    for batch in (1, 2, 3):
        with torch.inference_mode():
            expected = graph(feed[:batch]).numpy()
        (found,) = session.run(["saliency"], {"clip": feed[:batch].numpy()})
        if found.shape != expected.shape:
            raise UserError(
                f"{path.name}: the exported graph gives maps of shape {found.shape} at batch {batch}, PyTorch "
                f"{expected.shape}; nothing was written"
            )
        if values == "log":
            expected, found = (np.exp(m - m.max(axis=(-2, -1), keepdims=True)) for m in (expected, found))
        error = float(np.abs(found - expected).max())
        correlation = min(
            _cc(a, b)
            for a, b in zip(
                found.reshape(-1, *found.shape[2:]), expected.reshape(-1, *found.shape[2:]), strict=True
            )
        )
        if not (error <= MAX_ERROR and correlation >= MIN_CC):  # NaN fails too
            raise UserError(
                f"{path.name}: the exported graph differs from PyTorch at batch {batch}: max error {error:.1e} "
                f"(at most {MAX_ERROR} allowed), CC {correlation:.6f} (at least {MIN_CC}); nothing was written"
            )
        yield Check(batch, error, correlation)


def _cc(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two maps; 1 where both are constant, which is no difference."""
    a, b = (m.astype(np.float64) - m.mean(dtype=np.float64) for m in (a, b))
    if max(np.abs(a).max(), np.abs(b).max()) < 1e-6:
        return 1.0
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
