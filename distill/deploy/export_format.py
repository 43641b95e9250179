"""Export a model to the format of another runtime, and compare its maps there with PyTorch's before it appears.

saldistill export stream-small --format litert -o small.tflite
saldistill export stream-small --format litert --precision int8 --on VIDEO -o small-int8.tflite
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.claims import claim
from distill.deploy.calibration_clips import FRAMES, read_calibration_clips, run_calls
from distill.deploy.formats.converter_log import captured_output
from distill.deploy.formats.find import get_format
from distill.deploy.formats.format import (
    CONVERTED,
    Format,
    Source,
    conversion,
    load,
    metadata_path,
    versions_of,
    write_metadata,
)
from distill.deploy.golden_vectors import GoldenVectors, compute_vectors, write_kit
from distill.deploy.replay import Replay, replay
from distill.errors import UserError
from distill.files import refuse_existing, temporary_folder
from distill.models.loaded import LoadedModel
from distill.models.onnx import load_onnx
from distill.models.protocols import is_streaming
from distill.models.references import load_model, notes_with_run
from distill.runtimes.export import ExportReport, export, graph_of, staging_folder
from distill.shipped import shipped_path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FormatReport:
    """The exported files, and their differences from the network.

    Attributes:
        path: the file that names the model.
        files: names of all files.
        megabytes: size of all files but the metadata.
        vectors: the golden vectors that were compared, with the metadata of the graph that was converted.
    """

    path: Path
    format: str
    runtime: str
    files: tuple[str, ...]
    megabytes: float
    replay: Replay
    frames: str
    metadata: dict[str, Any]
    vectors: GoldenVectors = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "vectors"}
        return {**values, "path": str(self.path), "replay": asdict(self.replay)}

    def __str__(self) -> str:
        made = self.metadata[CONVERTED]["with"]
        shape = "x".join(map(str, self.metadata["size"]))
        return (
            f"{self.path}: {self.megabytes:.1f} MB in {', '.join(self.files)}, {self.metadata['precision']}, "
            f"{self.metadata['mode']} mode, frames of {shape}, converted with "
            f"{', '.join(f'{name} {version}' for name, version in made.items())}\n"
            f"  {self.runtime} vs PyTorch in {len(self.replay.seconds)} calls on real frames of {self.frames}: "
            f"max error {self.replay.max_error:.1e}, CC {self.replay.cc:.6f}, lowest {self.replay.lowest_cc:.6f}"
        )


def export_format(
    model: LoadedModel,
    path: str | Path,
    kind: Format,
    *,
    precision: str = "fp32",
    mode: str | None = None,
    on: str | Path | None = None,
    frames: int = FRAMES,
    notes: dict[str, Any] | None = None,
    licence: str | None = None,
    progress: bool = True,
) -> FormatReport:
    """Write a model in a format; `path` does not exist before every check has passed.

    The model is exported to ONNX and compared with PyTorch, then converted by the format's own tool, loaded in its
    runtime, and compared with PyTorch again on golden vectors.

    Args:
        model: the model; it is not changed.
        path: the file to write. Its metadata go to `path` + ".json", and some formats have a second file.
        kind: the format.
        precision: one of the precisions of the format.
        mode: "clip" or "step"; defaults to "step" for streaming networks.
        on: real frames for the comparison (a video), and for the calibration of int8 (as `read_calibration_clips`).
        frames: number of frames to calibrate on.
        notes: as `export`.
        licence: licence of the weights.
        progress: show progress bars.

    Raises:
        UserError: the tool or the runtime is not installed, the format cannot express the model, a file exists, or
            the maps differ.
    """
    path = Path(path)
    mode = mode or ("step" if is_streaming(model.network) else "clip")
    _check(kind, path, precision, mode, on)
    with ExitStack() as stack:
        for file in (path, metadata_path(path), *([path.with_suffix(kind.second)] if kind.second else [])):
            stack.enter_context(claim(file, "the exported model"))
        work, folder = stack.enter_context(temporary_folder(path)), stack.enter_context(staging_folder(path))
        onnx = work / "source.onnx"
        options: dict[str, Any] = {"values": kind.values or "peak", "input_type": kind.input_type or "uint8"}
        log.info("exporting to ONNX, which the conversion starts from")
        plain = export(model, onnx, mode=mode, notes=notes, licence=licence, batches=(1,), **options)
        graph = graph_of(model, plain.metadata)
        vectors = compute_vectors(graph, plain.metadata, model.network, _video(on))
        calibrated = precision == "int8" and kind.calibrates
        feeds = _calibration(onnx, on, frames, progress=progress) if calibrated else []
        converted = {"format": kind.name, "with": versions_of(kind.tools(precision))}
        metadata = {**plain.metadata, "precision": precision, CONVERTED: converted}
        log.info("converting with %s, which can take a minute", ", ".join(kind.converters))
        file = folder / path.name
        source = Source(graph, _example(vectors), onnx, metadata, feeds)
        with conversion(kind, metadata), captured_output():
            changes = kind.convert(source, file)
        others = [each for each in folder.iterdir() if each != file]
        write_metadata(file, {**metadata, **changes}, others)
        found = check_reproduces(kind, file, vectors, precision)
        megabytes = sum(each.stat().st_size for each in (file, *others)) / 1e6
        names = (path.name, *(each.name for each in others))
    return FormatReport(
        path=path,
        format=kind.name,
        runtime=kind.runtime,
        files=names,
        megabytes=megabytes,
        replay=found,
        frames=vectors.source,
        metadata={**metadata, **changes},
        vectors=vectors,
    )


def export_model(
    reference: str | Path,
    path: str | Path,
    *,
    file_format: str = "onnx",
    precision: str = "fp32",
    mode: str | None = None,
    on: str | Path | None = None,
    kit: str | Path | None = None,
    input_type: str = "uint8",
    values: str = "peak",
    licence: str | None = None,
    progress: bool = True,
) -> ExportReport | FormatReport:
    """Export the model of a reference to a file of any format, and write its golden vectors if a kit is named.

    Args:
        reference: as `load_model`.
        path: the file to write.
        file_format: "onnx" or a key of FORMATS.
        precision: one of the precisions of the format; "fp32" for ONNX, see `quantize` for others.
        mode: as `export`.
        on: video whose frames are compared.
        kit: new folder for golden vectors.
        input_type: as `export`, for ONNX.
        values: as `export`, for ONNX.
        licence: licence of the weights.
        progress: show progress bars.

    Raises:
        UserError: as `export`, `export_format` and `write_kit`, or a setting is not one of the format.
    """
    on = None if on is None else shipped_path(on)
    if kit is not None:
        refuse_existing(kit, "the kit")
    model = load_model(reference)
    notes = notes_with_run(model)
    if file_format == "onnx":
        if precision != "fp32":
            raise UserError(
                "precision: ONNX files are exported in fp32; then use `saldistill quantize FILE --on VIDEO`"
            )
        report: ExportReport | FormatReport = export(
            model, path, mode=mode, frames=on, input_type=input_type, values=values, notes=notes, licence=licence
        )
    else:
        if (input_type, values) != ("uint8", "peak"):
            raise UserError(f"--input and --values are for onnx; {file_format} has one of each, which it declares")
        report = export_format(
            model,
            path,
            get_format(file_format),
            precision=precision,
            mode=mode,
            on=on,
            notes=notes,
            licence=licence,
            progress=progress,
        )
    if kit is not None:
        if isinstance(report, FormatReport):
            vectors = report.vectors
        else:
            graph = graph_of(model, report.metadata)
            vectors = compute_vectors(graph, report.metadata, model.network, _video(on))
        write_kit(vectors, kit)
        log.info(
            "%s: golden vectors; check any export of this model with: saldistill conform FILE --kit %s", kit, kit
        )
    return report


def _video(on: str | Path | None) -> Path | None:
    """Return the video of real frames, if it is one rather than a data set."""
    return Path(on) if on is not None and Path(on).is_file() else None


def check_reproduces(kind: Format, file: Path, vectors: GoldenVectors, precision: str) -> Replay:
    """Return the replay of golden vectors in a converted file.

    Raises:
        UserError: the runtime cannot run the file, or its maps differ from PyTorch's.
    """
    with captured_output():  # runtimes print what they found out about the processor
        edge = load(kind, file)
        try:
            found = replay(edge, vectors)
        except ValueError as error:
            raise UserError(f"{kind.runtime}: {error}; nothing was written") from error
    if problem := found.problem(precision):
        raise UserError(
            f"{file.name}: in {kind.runtime}, the maps differ from PyTorch's: {problem}; nothing was written"
        )
    return found


def _check(kind: Format, path: Path, precision: str, mode: str, on: str | Path | None) -> None:
    if path.suffix != kind.suffix:
        raise UserError(f"{path}: expected a file name ending in {kind.suffix}, as for every {kind.name} file")
    if precision not in kind.precisions:
        raise UserError(f"precision: {kind.name} has {', '.join(kind.precisions)}, got {precision!r}")
    if mode not in kind.modes:
        raise UserError(
            f"{kind.name}: takes streaming students in step mode, whose tensors have at most four dimensions; this "
            f"model is exported in {mode} mode, with five"
        )
    if precision == "int8" and kind.calibrates and on is None:
        raise UserError("--on: INT8 needs real frames to calibrate on; name a video or a data set")
    kind.check_installed(kind.tools(precision))


def _example(vectors: GoldenVectors) -> tuple[torch.Tensor, ...]:
    """Return inputs for batch 1: the first call's images and zero states."""
    images = torch.from_numpy(np.array(vectors.inputs(0)))
    if vectors.metadata["input"]["type"] == "float32":
        images = images.float() / 255
    return images, *(torch.zeros(1, *each["shape"][1:]) for each in vectors.metadata["state"])


def _calibration(
    onnx: Path, on: str | Path | None, frames: int, *, progress: bool
) -> Sequence[dict[str, np.ndarray]]:
    """Return the inputs of consecutive calls on real frames, each clip from the initial state."""
    if on is None:
        return []
    model = load_onnx(onnx)
    clips = read_calibration_clips(on, model, frames=frames, progress=progress)
    feeds = (feed for clip in clips.calibration for feed, _ in run_calls(model.edge, clip))
    return list(islice(feeds, frames))
