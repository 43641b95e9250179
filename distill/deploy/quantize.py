"""An exported model made smaller: in fp16, or in INT8 calibrated on real frames; checked before it gets its name.

    saldistill quantize student.onnx --to int8 --on ntire:hevc-gaze --on-split train

Inputs, outputs and the state keep their names and types; the metadata stay, with `precision` and, under
`quantization`, how it was made. The new file has to give the maps of the old one on real frames that were held
out: what it loses there, in linear correlation (CC), is bounded. Layers that lose too much in INT8 stay in floating
point.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from distill.deploy.calibration import FRAMES, Stretches, agreement, maps_of, read_stretches
from distill.deploy.int8 import Int8Graph
from distill.deploy.onnx_check import check_file
from distill.deploy.onnx_graph import METADATA_KEY
from distill.errors import UserError
from distill.files import atomic_path, file_hash, refuse_existing
from distill.models.onnx import OnnxModel, load_onnx

log = logging.getLogger(__name__)

PRECISIONS = ("fp16", "int8")
"""What a file can be made into."""

MAX_LOSS = 0.01
"""Correlation with the maps of the file in floating point that may be lost, unless asked otherwise."""

NAMED = 5
"""Layers in floating point that a report names."""


@dataclass(frozen=True)
class QuantizeReport:
    """What was written, and what it lost.

    Attributes:
        path: the new file.
        precision: one of PRECISIONS.
        megabytes: of the old file and of the new one.
        cc: correlation of the new maps with the old ones on held-out frames, the mean and the lowest.
        layers: how many could be quantized; 0 in fp16, where all numbers change.
        kept: those that stayed in floating point because they hurt, the worst first.
        losses: what each layer loses alone; empty where nothing had to stay.
        metadata: of the new file.
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
            f"{self.path}: {self.precision}, {after:.1f} MB of {before:.1f}, onnx.checker passed",
            f"  against fp32 on {made['held_out']} held-out frames of {made['frames_of']}: "
            f"CC {self.cc[0]:.4f}, lowest {self.cc[1]:.4f}",
        ]
        if self.precision == "int8":
            lines.append(
                f"  calibrated on {made['calibrated_on']} frames; "
                f"{self.layers - len(self.kept)} of {self.layers} layers in INT8"
            )
        if self.kept:
            worst = ", ".join(f"{layer} ({self.losses[layer]:.4f} alone)" for layer in self.kept[:NAMED])
            more = f" and {len(self.kept) - NAMED} more" if len(self.kept) > NAMED else ""
            lines.append(f"  left in floating point, for the CC that they lose: {worst}{more}")
        return "\n".join(lines)


def quantize(
    source: str | Path,
    path: str | Path,
    stretches: Stretches,
    *,
    to: str = "int8",
    max_loss: float = MAX_LOSS,
    threads: int | None = None,
    progress: bool = True,
) -> QuantizeReport:
    """Write an exported model in a smaller precision; nothing stands under `path` before every check has passed.

    Checked are the file (onnx.checker with shape inference), that its inputs and outputs are those of the source,
    and its maps in ONNX Runtime against the source's on held-out frames.

    Args:
        source: an .onnx file that `saldistill export` wrote.
        path: the .onnx file to write.
        stretches: real frames (`read_stretches`).
        to: one of PRECISIONS.
        max_loss: the mean correlation that may be lost. In INT8 the layers that lose most alone stay in floating
            point until this holds.
        threads: CPU threads of one call; ONNX Runtime's choice when None.
        progress: show bars.

    Raises:
        UserError: a source of something else or quantized already, a `path` that exists or does not end in .onnx,
            or a loss that stays too large.
    """
    source, path = Path(source), Path(path)
    if to not in PRECISIONS:
        raise UserError(f"to: expected one of {', '.join(PRECISIONS)}, got {to!r}")
    if not 0 < max_loss < 1:
        raise UserError(f"max_loss: expected a correlation between 0 and 1, such as {MAX_LOSS}, got {max_loss}")
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected a name that ends in .onnx")
    refuse_existing(path, "a file")
    model = load_source(source, threads=threads)
    reference = maps_of(model.edge, stretches.held_out)

    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:

        def agreement_of(graph: onnx.ModelProto) -> np.ndarray:
            trial = Path(folder) / "trial.onnx"
            onnx.save(graph, str(trial))
            return agreement(maps_of(load_onnx(trial, threads=threads).edge, stretches.held_out), reference)

        kept: Sequence[str] = ()
        losses: dict[str, float] = {}
        layers: Sequence[str] = ()
        if to == "fp16":
            graph = half(source)
        else:
            int8 = Int8Graph(
                source, model.edge, stretches.calibration, Path(folder), threads=threads, progress=progress
            )
            layers = int8.layers
            kept, losses = int8.choose(
                lambda trial: float(1 - agreement_of(trial).mean()), max_loss, progress=progress
            )
            graph = int8.quantized([layer for layer in layers if layer not in kept])
        cc = agreement_of(graph)
        if not 1 - cc.mean() <= max_loss:
            raise UserError(
                f"{path}: in {to} the maps lose {1 - cc.mean():.4f} CC against {source.name}, and at most "
                f"{max_loss:g} is allowed; nothing was written"
            )
        metadata = {
            **model.edge.metadata,
            "precision": to,
            "quantization": {
                "of_sha256": file_hash(source),
                "frames_of": stretches.shown,
                "calibrated_on": stretches.counts[0] if to == "int8" else 0,
                "held_out": stretches.counts[1],
                "cc": {"mean": round(float(cc.mean()), 6), "lowest": round(float(cc.min()), 6)},
                "in_floating_point": list(kept),
                "made_with": {"onnxruntime": onnxruntime.__version__},
            },
        }
        del graph.metadata_props[:]
        onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(metadata)})
        onnx.save(graph, str(temporary))
        check_file(temporary)
        _check_border(model, load_onnx(temporary), path)
    return QuantizeReport(
        path=path,
        precision=to,
        megabytes=(source.stat().st_size / 1e6, path.stat().st_size / 1e6),
        cc=(float(cc.mean()), float(cc.min())),
        layers=len(layers),
        kept=tuple(kept),
        losses=losses,
        metadata=metadata,
    )


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
) -> tuple[list[QuantizeReport], Stretches]:
    """Write an exported model in one or more precisions; return what was written, and the frames that were read.

    Args:
        source: as `quantize`.
        on: real frames, as `read_stretches` takes them.
        to: some of PRECISIONS.
        out: the file to write, of one precision; beside the source, with the precision in its name, when None.
        on_split: of a data set.
        frames: how many to read.
        max_loss: as `quantize`.
        threads: as `quantize`.
        progress: show bars.

    Raises:
        UserError: as `quantize` and `read_stretches`, or one name for two files. All names are checked first.
    """
    source = Path(source)
    if out is not None and len(to) > 1:
        raise UserError(f"{out}: one name for {len(to)} files; leave it out, or give one precision")
    paths = [Path(out) if out else source.with_name(f"{source.stem}-{each}.onnx") for each in to]
    for path in paths:
        refuse_existing(path, "a file")
    stretches = read_stretches(on, load_source(source), frames=frames, split=on_split, progress=progress)
    made = []
    for each, path in zip(to, paths, strict=True):
        made.append(
            quantize(source, path, stretches, to=each, max_loss=max_loss, threads=threads, progress=progress)
        )
        log.info("%s", made[-1])
    return made, stretches


def load_source(path: str | Path, *, threads: int | None = None) -> OnnxModel:
    """Return an exported model that can be quantized.

    Raises:
        UserError: not an exported model, one that is quantized already, or one with its weights in another file.
    """
    model = load_onnx(path, threads=threads)
    precision = model.edge.metadata.get("precision", "fp32")
    if precision != "fp32":
        raise UserError(f"{path}: is in {precision} already; give the file in fp32 that it was made from")
    if len(model.files) > 1:
        raise UserError(f"{path}: weights of 2 GB and more, in a file of their own, are not quantized here")
    return model


def half(source: Path) -> onnx.ModelProto:
    """Return a graph in fp16, with float32 inputs, outputs and state."""
    graph = onnx.load(str(source))
    del graph.graph.value_info[:]  # the exporter's lists constants too, and the converter would cast these twice
    converted = ONNXModel(convert_float_to_float16(graph, keep_io_types=True))
    converted.topological_sort()  # its casts at the border stand at the end
    model: onnx.ModelProto = converted.model
    return model


def _check_border(old: OnnxModel, new: OnnxModel, path: Path) -> None:
    """Compare names, types and shapes of what goes in and comes out."""

    def border(model: OnnxModel) -> list[tuple[str, str, list[Any]]]:
        session = model.edge.session
        return [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]

    if border(old) != border(new):
        raise UserError(
            f"{path}: ONNX Runtime's tools changed the inputs or outputs of {old.path.name}; nothing was written"
        )
