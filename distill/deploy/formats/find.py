"""The registry of file formats that models are exported to, next to ONNX.

To add a format, write a file with a `Format` record and add the record to FORMATS.
"""

from pathlib import Path
from typing import Any

from distill.deploy.formats.executorch import EXECUTORCH
from distill.deploy.formats.format import Format, load
from distill.deploy.formats.litert import LITERT
from distill.deploy.formats.mnn import MNN_FORMAT
from distill.deploy.formats.ncnn import NCNN
from distill.deploy.formats.openvino_ir import OPENVINO_IR
from distill.errors import UserError
from distill.models.onnx import load_onnx

FORMATS: dict[str, Format] = {each.name: each for each in (OPENVINO_IR, LITERT, EXECUTORCH, NCNN, MNN_FORMAT)}
"""Formats by name, the values of `--format` except `onnx`."""


def get_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        UserError: there is no such format.
    """
    if name not in FORMATS:
        raise UserError(f"format: expected one of onnx, {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its suffix; None for ONNX and for other files."""
    return next((each for each in FORMATS.values() if path.suffix == each.suffix), None)


def load_exported(path: str | Path, *, threads: int | None = None) -> Any:
    """Load an exported file in the runtime of its format, .onnx in ONNX Runtime.

    Args:
        path: the file.
        threads: threads per call; defaults to the runtime's choice.

    Returns:
        A `student.edge.EdgeModel`.

    Raises:
        UserError: the file is not an export, or its runtime is not installed or cannot load it.
    """
    kind = format_of(Path(path))
    return load_onnx(path, threads=threads).edge if kind is None else load(kind, path, threads=threads)
