"""Convert an exported model to fp16, or to INT8 calibrated on real frames, and verify it before it gets its name.

    saldistill quantize student.onnx --to int8 --on ntire:hevc-gaze --on-split train

Inputs, outputs and state keep their names and types. The metadata gain `precision` and, under `quantization`, how
the file was made. The new file must reproduce the maps of the old one on held-out real frames, up to a maximum loss
of linear correlation (CC). Layers that lose too much in INT8 stay in floating point.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from distill.claims import claim
from distill.deploy.calibration_clips import (
    FRAMES,
    CalibrationClips,
    agreement,
    predict_maps,
    read_calibration_clips,
)
from distill.deploy.half_storage import STORED
from distill.deploy.int8 import Int8Graph
from distill.errors import UserError
from distill.files import atomic_path, file_hash, temporary_folder
from distill.models.onnx import OnnxModel, load_onnx
from distill.runtimes.onnx_check import check_file
from distill.runtimes.onnx_graph import save_sealed

MAX_LOSS = 0.01
"""Default for the allowed loss of correlation with the maps in fp32."""

MAX_NAMED = 5
"""Number of floating-point layers that a report names."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizeReport:
    """The quantized file, and its loss.

    Attributes:
        megabytes: size of the old file and of the new one.
        cc: mean and lowest correlation of the new maps with the old ones on held-out frames.
        layers: number of layers that can be quantized; 0 in fp16, where all numbers change.
        kept: layers that stay in floating point because of their loss, worst first.
        losses: loss of each layer alone; empty if no layer stays in floating point.
    """

    path: Path
    precision: str
    megabytes: tuple[float, float]
    cc: tuple[float, float]
    layers: int
    kept: tuple[str, ...]
    losses: dict[str, float]
    metadata: dict[str, Any]

    def __str__(self) -> str:
        before, after = self.megabytes
        made = self.metadata["quantization"]
        lines = [
            f"{self.path}: {self.precision}, {after:.1f} MB (fp32: {before:.1f} MB), onnx.checker passed",
            f"  compared with fp32 on {made['held_out']} held-out frames of {made['frames_of']}: "
            f"CC {self.cc[0]:.4f}, lowest {self.cc[1]:.4f}",
        ]
        if self.layers:
            lines.append(
                f"  calibrated on {made['calibrated_on']} frames; "
                f"{self.layers - len(self.kept)} of {self.layers} layers in INT8"
            )
        if self.kept:
            worst = ", ".join(f"{layer} ({self.losses[layer]:.4f} alone)" for layer in self.kept[:MAX_NAMED])
            more = f" and {len(self.kept) - MAX_NAMED} more" if len(self.kept) > MAX_NAMED else ""
            lines.append(f"  in floating point, because of their loss of CC: {worst}{more}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Trial:
    """What a conversion works with: the source in fp32, real frames, and a folder for temporary files."""

    model: OnnxModel
    clips: CalibrationClips
    folder: Path
    max_loss: float
    threads: int | None
    progress: bool

    @cached_property
    def reference(self) -> np.ndarray:
        """Return the source's maps (n, h, w) of the held-out frames."""
        return predict_maps(self.model.edge, self.clips.held_out)

    def agreement(self, graph: onnx.ModelProto) -> np.ndarray:
        """Return the correlation (n,) of a graph's maps of the held-out frames with the source's."""
        path = self.folder / "trial.onnx"
        save_sealed(graph, path, self.model.edge.metadata)
        maps = predict_maps(load_onnx(path, threads=self.threads).edge, self.clips.held_out)
        return agreement(maps, self.reference)


class Converted(NamedTuple):
    """A converted graph.

    Attributes:
        calibrated_on: number of calibration frames that it used.
        layers: layers that can be quantized.
        kept: those that stay in floating point, worst first.
        losses: loss of each layer alone.
    """

    graph: onnx.ModelProto
    calibrated_on: int = 0
    layers: Sequence[str] = ()
    kept: Sequence[str] = ()
    losses: Mapping[str, float] = MappingProxyType({})


def to_fp16(trial: Trial) -> Converted:
    """Return the graph in fp16, with float32 inputs, outputs and state."""
    graph = onnx.load(str(trial.model.path))
    del graph.graph.value_info[:]  # the exporter lists constants there, which the converter would cast twice
    converted = ONNXModel(convert_float_to_float16(graph, keep_io_types=True))
    converted.topological_sort()  # the converter appends the casts of inputs and outputs at the end
    return Converted(converted.model)


def to_int8(trial: Trial) -> Converted:
    """Return the graph in INT8, with as few layers in floating point as the allowed loss requires."""
    model, clips = trial.model, trial.clips.calibration
    int8 = Int8Graph(model.path, model.edge, clips, trial.folder, threads=trial.threads, progress=trial.progress)
    kept, losses = int8.choose(
        lambda graph: float(1 - trial.agreement(graph).mean()), trial.max_loss, progress=trial.progress
    )
    graph = int8.quantized([layer for layer in int8.layers if layer not in kept])
    return Converted(graph, trial.clips.counts[0], int8.layers, kept, losses)


PRECISIONS: dict[str, Callable[[Trial], Converted]] = {"fp16": to_fp16, "int8": to_int8}
"""Precision -> function that makes the graph."""


def quantize(
    source: str | Path,
    path: str | Path,
    clips: CalibrationClips,
    *,
    to: str = "int8",
    max_loss: float = MAX_LOSS,
    threads: int | None = None,
    progress: bool = True,
) -> QuantizeReport:
    """Write an exported model in a smaller precision; `path` does not exist before every check has passed.

    The checks are onnx.checker with shape inference, inputs and outputs equal to the source's, and the maps in ONNX
    Runtime compared with the source's on held-out frames.

    Args:
        source: .onnx file written by `saldistill export`.
        path: .onnx file to write.
        clips: real frames, from `read_calibration_clips`.
        to: a key of PRECISIONS.
        max_loss: allowed mean loss of correlation. In INT8, the layers with the largest loss stay in floating point
            until it holds.
        threads: CPU threads per call; defaults to ONNX Runtime's choice.
        progress: show progress bars.

    Raises:
        UserError: the source is not an export in fp32, `path` exists, is being written by another process or does
            not end in .onnx, or the loss is too large.
    """
    with claim(path, "the quantized file"):
        return _write_quantized(
            Path(source), Path(path), clips, to=to, max_loss=max_loss, threads=threads, progress=progress
        )


def _write_quantized(
    source: Path,
    path: Path,
    clips: CalibrationClips,
    *,
    to: str,
    max_loss: float,
    threads: int | None,
    progress: bool,
) -> QuantizeReport:
    """Write an exported model in a smaller precision to a claimed path; see `quantize`."""
    if to not in PRECISIONS:
        raise UserError(f"to: expected one of {', '.join(PRECISIONS)}, got {to!r}")
    if not 0 < max_loss < 1:
        raise UserError(f"max_loss: expected a correlation between 0 and 1, e.g. {MAX_LOSS}, got {max_loss}")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected a file name ending in .onnx")
    model = load_source(source, threads=threads)
    with temporary_folder(path) as folder, atomic_path(path, overwrite=False) as temporary:
        trial = Trial(model, clips, folder, max_loss, threads, progress)
        converted = PRECISIONS[to](trial)
        cc = trial.agreement(converted.graph)
        if not 1 - cc.mean() <= max_loss:  # NaN fails too
            raise UserError(
                f"{path}: in {to}, the maps lose {1 - cc.mean():.4f} CC compared with {source.name}; at most "
                f"{max_loss:g} is allowed; nothing was written"
            )
        metadata = _describe(trial, to, cc, converted)
        save_sealed(converted.graph, temporary, metadata)
        check_file(temporary)
        _check_interface(model, load_onnx(temporary), path)
    return QuantizeReport(
        path=path,
        precision=to,
        megabytes=(source.stat().st_size / 1e6, path.stat().st_size / 1e6),
        cc=(float(cc.mean()), float(cc.min())),
        layers=len(converted.layers),
        kept=tuple(converted.kept),
        losses=dict(converted.losses),
        metadata=metadata,
    )


def _describe(trial: Trial, to: str, cc: np.ndarray, converted: Converted) -> dict[str, Any]:
    """Return the metadata of a converted file."""
    return {
        **trial.model.edge.metadata,
        "precision": to,
        "quantization": {
            "of_sha256": file_hash(trial.model.path),
            "frames_of": trial.clips.source,
            "calibrated_on": converted.calibrated_on,
            "held_out": trial.clips.counts[1],
            "cc": {"mean": round(float(cc.mean()), 6), "lowest": round(float(cc.min()), 6)},
            "in_floating_point": list(converted.kept),
            "made_with": {"onnxruntime": onnxruntime.__version__},
        },
    }


def quantize_files(
    source: str | Path,
    on: str | Path,
    *,
    to: Sequence[str] = ("int8",),
    out: str | Path | None = None,
    on_split: str | None = None,
    frames: int = FRAMES,
    max_loss: float = MAX_LOSS,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[list[QuantizeReport], CalibrationClips]:
    """Write an exported model in one or more precisions, and return the reports and the frames that were read.

    Args:
        source: as `quantize`.
        on: real frames, as `read_calibration_clips` takes them.
        to: one or more keys of PRECISIONS.
        out: file to write, for one precision; defaults to the source's name plus the precision.
        on_split: split of the data set.
        frames: number of frames to read.
        max_loss: as `quantize`.
        threads: as `quantize`.
        progress: show progress bars.

    Raises:
        UserError: as `quantize` and `read_calibration_clips`, or one name for several files. All files are claimed
            first.
    """
    source = Path(source)
    if out is not None and len(to) > 1:
        raise UserError(f"{out}: one file name for {len(to)} precisions; remove it, or choose one precision")
    paths = [Path(out) if out else source.with_name(f"{source.stem}-{each}.onnx") for each in to]
    options: dict[str, Any] = {"max_loss": max_loss, "threads": threads, "progress": progress}
    with ExitStack() as claims:
        for path in paths:
            claims.enter_context(claim(path, "the quantized file"))
        clips = read_calibration_clips(on, load_source(source), frames=frames, split=on_split, progress=progress)
        reports = []
        for each, path in zip(to, paths, strict=True):
            reports.append(_write_quantized(source, path, clips, to=each, **options))
            log.info("%s", reports[-1])
    return reports, clips


def load_source(path: str | Path, *, threads: int | None = None) -> OnnxModel:
    """Return an exported model that can be quantized.

    Raises:
        UserError: the file is not an export, is quantized already, or has its weights in another file.
    """
    model = load_onnx(path, threads=threads)
    precision = model.edge.metadata.get("precision", "fp32")
    if precision != "fp32":
        raise UserError(f"{path}: is already in {precision}; expected the file in fp32 that it was made from")
    if STORED in model.edge.metadata:
        raise UserError(
            f"{path}: its weights are stored in {model.edge.metadata[STORED]}, so its layers cannot be quantized; "
            "expected a file of `saldistill export`, e.g. saldistill export stream-small -o FILE"
        )
    if len(model.files) > 1:
        raise UserError(f"{path}: models of 2 GB or more, with a separate weight file, cannot be quantized")
    return model


def _check_interface(old: OnnxModel, new: OnnxModel, path: Path) -> None:
    """Raise a UserError if names, types or shapes of inputs or outputs differ."""

    def interface(model: OnnxModel) -> list[tuple[str, str, list[Any]]]:
        session = model.edge.session
        return [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]

    if interface(old) != interface(new):
        raise UserError(
            f"{path}: ONNX Runtime's tools changed the inputs or outputs of {old.path.name}; nothing was written"
        )
