"""The record of a file format, and what its functions take and return.

A format other than ONNX cannot hold the metadata of `saldistill export`, so that each file has them next to it, in
a file with .json appended to its name. These also have the checksums of all files, and the converter's versions.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distill.errors import UserError, reason_of
from distill.extras import install_line, is_installed
from distill.files import file_hash, write_json
from distill.models.edge import Session, check_metadata, edge_model
from distill.runtimes.onnx_graph import ClipGraph

FILES = "files"
"""Key of the metadata: name of each file -> its SHA-256."""

CONVERTED = "converted"
"""Key of the metadata: format, and the version of each package that converted the model."""

STATE_KEPT = "state_kept"
"""Key of the metadata: true if the runtime keeps the state, so that it is neither an input nor an output."""


@dataclass(frozen=True)
class Source:
    """What a converter starts from.

    Attributes:
        graph: the graph in PyTorch, in evaluation mode, for batch 1.
        inputs: example inputs of the graph.
        onnx: the same graph as an .onnx file in fp32, with a free batch.
        metadata: metadata of the file to write; `precision` is the one to convert to.
        calibration: inputs by name of consecutive calls on real frames; empty unless the precision is int8.
    """

    graph: ClipGraph
    inputs: tuple[Tensor, ...]
    onnx: Path
    metadata: dict[str, Any]
    calibration: Sequence[dict[str, np.ndarray]]

    @property
    def precision(self) -> str:
        """Precision to convert to."""
        return str(self.metadata["precision"])

    @property
    def input_names(self) -> list[str]:
        """Names of the inputs, in the graph's order."""
        return input_names(self.metadata)


@dataclass(frozen=True)
class Format:
    """A file format: how a model is converted to it, and how its runtime runs the file.

    Attributes:
        name: value of `--format`.
        runtime: name of the runtime in tables.
        suffix: of the file that names the model.
        converters: packages that convert.
        runners: packages that run a file.
        precisions: what it can be converted to.
        convert: function from a source and the path of the file to the values of the metadata that it changes. It
            writes the file, and the second one next to it.
        open: function from a file, its metadata and a number of threads to a session.
        quantizers: packages that int8 needs in addition.
        second: suffix of a second file, which holds the weights.
        modes: modes that it can express.
        calibrates: whether int8 also rounds activations, whose ranges come from real frames.
        values: output values that it needs, if not all can be expressed.
        input_type: type of pixels that it needs, if not all can be expressed.
    """

    name: str
    runtime: str
    suffix: str
    converters: tuple[str, ...]
    runners: tuple[str, ...]
    precisions: tuple[str, ...]
    convert: Callable[[Source, Path], dict[str, Any]]
    open: Callable[[Path, dict[str, Any], int | None], Session]
    quantizers: tuple[str, ...] = ()
    second: str = ""
    modes: tuple[str, ...] = ("step", "clip")
    calibrates: bool = True
    values: str | None = None
    input_type: str | None = None

    def tools(self, precision: str) -> list[str]:
        """Return the packages that convert to a precision and run the file."""
        quantizers = self.quantizers if precision == "int8" else ()
        return list(dict.fromkeys([*self.converters, *quantizers, *self.runners]))

    def missing(self, packages: Sequence[str]) -> str | None:
        """Return the first of the packages that is not installed, or None."""
        return next((package for package in packages if not is_installed(package)), None)

    def check_installed(self, packages: Sequence[str]) -> None:
        """Raise a UserError with the installation command unless the packages are installed."""
        if (package := self.missing(packages)) is not None:
            raise UserError(f"{self.runtime}: {package} is not installed; {install_line(package)}")


def input_names(metadata: dict[str, Any]) -> list[str]:
    """Return the names of a graph's inputs, in its order."""
    return [metadata["input"]["name"], *(each["input"] for each in metadata["state"])]


def output_names(metadata: dict[str, Any]) -> list[str]:
    """Return the names of a graph's outputs, in its order."""
    return [metadata["output"]["name"], *(each["output"] for each in metadata["state"])]


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Return the installed version of each package, by the name that it is imported by."""
    found = {}
    for package in ("torch", *packages):
        try:
            found[package] = version(package.replace("_", "-"))
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def metadata_path(path: Path) -> Path:
    """Return the path of the metadata of a file that cannot hold them."""
    return path.with_name(f"{path.name}.json")


def write_metadata(path: Path, metadata: dict[str, Any], others: Sequence[Path]) -> None:
    """Write the metadata of a file next to it, with the checksums of the file and the others that belong to it."""
    files = {each.name: file_hash(each) for each in (path, *others)}
    write_json(metadata_path(path), {**metadata, FILES: files}, overwrite=False)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a file, whose checksums are compared.

    Raises:
        UserError: a file is missing, damaged or from another export, or the metadata are invalid.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a model that `saldistill export` wrote")
    described = metadata_path(path)
    if not described.is_file():
        raise UserError(
            f"{path}: {described.name} is missing, which describes it; copy it with the file, or export again"
        )
    metadata = check_metadata(described.read_text(encoding="utf-8", errors="replace"), described)
    files = metadata.get(FILES)
    if not isinstance(files, dict) or path.name not in files or any(Path(name).name != name for name in files):
        raise UserError(f"{described}: does not list {path.name} among its files; export the model again")
    for name, expected in files.items():
        file = path.with_name(name)
        if not file.is_file() or file_hash(file) != expected:
            state = "differs from the exported one" if file.is_file() else "is missing"
            raise UserError(f"{file}: {state}; copy or export {', '.join(files)} again")
    return metadata


def files_of(path: Path) -> list[Path]:
    """Return the files of a model except its metadata, the named one first."""
    names = json.loads(metadata_path(path).read_text(encoding="utf-8"))[FILES]
    return [path, *(path.with_name(name) for name in names if name != path.name)]


def load(kind: Format, path: str | Path, *, threads: int | None = None) -> Any:
    """Load a file of a format in its runtime.

    Args:
        kind: the format.
        path: the file.
        threads: threads per call; defaults to the runtime's choice.

    Returns:
        A `student.edge.EdgeModel`.

    Raises:
        UserError: the runtime is not installed, or cannot load the file.
    """
    path = Path(path)
    metadata = read_metadata(path)
    kind.check_installed(kind.runners)
    try:
        session = kind.open(path, metadata, threads)
    except UserError:
        raise
    except Exception as error:  # of the runtime
        raise UserError(f"{path}: {kind.runtime} cannot load it: {reason_of(error)}") from error
    edge = edge_model(path, session, metadata)
    return InternalState(edge, session) if metadata.get(STATE_KEPT) else edge


class InternalState:
    """A `student.edge.EdgeModel` whose runtime keeps the state, of one video at stride 1.

    Args:
        edge: the model; its other attributes are those of this object.
        session: its session, with a method `reset`.
    """

    def __init__(self, edge: Any, session: Any) -> None:
        self._edge, self._session, self._steps = edge, session, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._edge, name)

    def initial_state(self, batch: int = 1) -> dict[str, int]:
        """Reset the runtime's state, and return the number of steps since then in its place."""
        self._session.reset()
        self._steps = 0
        return {"steps": 0}

    def step(self, frame: np.ndarray, state: dict[str, int]) -> tuple[np.ndarray, dict[str, int]]:
        """Return the map of one frame (1, 3, H, W), and the number of steps since the reset.

        Raises:
            ValueError: the state is not the last one that was returned, or as `EdgeModel.step`.
        """
        if state != {"steps": self._steps}:
            raise ValueError(
                f"{self._edge.path.name}: keeps one state itself, so that only one video at stride 1 can run; use "
                "the .onnx file for others"
            )
        maps, _ = self._edge.step(frame, {})
        self._steps += 1
        return maps, {"steps": self._steps}


@contextmanager
def conversion(kind: Format, metadata: dict[str, Any]) -> Iterator[None]:
    """Turn an error of a converter into a UserError with its message.

    Raises:
        UserError: the converter failed, or raised it.
    """
    try:
        yield
    except (UserError, OSError, KeyboardInterrupt):
        raise
    except Exception as error:  # of the converter, of many types
        raise UserError(
            f"{kind.name}: {', '.join(kind.converters)} cannot convert this model in {metadata['precision']}: "
            f"{reason_of(error)}"
        ) from error
