"""Cache of exported networks, so that each is exported and compared with PyTorch only once.

The .onnx files are in the user's cache folder and can be deleted at any time. A file's name is a hash of everything
that its graph depends on, so a cached file never belongs to other weights or other code.
"""

import hashlib
import json
import logging
import os
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.claims import lock
from distill.data.fit import fit_of, read_placed
from distill.data.video.open import open_video
from distill.data.video.protocol import VideoReader
from distill.errors import UserError, reason_of
from distill.file_cache import cache_folder
from distill.limits import MAX_GRAPHS_BYTES
from distill.models.loaded import LoadedModel
from distill.models.onnx import OnnxModel, load_onnx
from distill.models.protocols import SaliencyModel, is_streaming
from distill.models.weight_files import weights_fingerprint

log = logging.getLogger(__name__)

MAX_ERROR = 1e-4
"""Largest difference of a cached graph's maps from PyTorch's, for maps whose maximum is 1; usually it is 1e-6."""

BATCHES = (1, 2)
"""Batch sizes at which a graph is compared with PyTorch: fewer than for a file that goes to other programs."""

PACKAGES = ("saldistill", "torch", "onnx", "onnxscript", "onnxruntime")
"""Packages whose versions a graph depends on."""

Example = VideoReader | str | Path
"""A video on whose first frames a new graph is compared with PyTorch."""


def network_threads() -> int:
    """Return the threads of a network in ONNX Runtime: PyTorch's number, less one for decoding and drawing."""
    return max(1, torch.get_num_threads() - 1)


def graph_path(model: LoadedModel) -> Path:
    """Return the path at which a network's graph is cached, whether it is there or not.

    Raises:
        UserError: the source code of the network is not in a file.
    """
    network = model.network
    key = {
        "weights": weights_fingerprint(network),
        "identity": model.identity,
        "clip": [network.num_frames, *network.size, *network.target_frames, *network.map_size, fit_of(network)],
        "code": _source_hash(network),
        "versions": [_version(package) for package in PACKAGES],
    }
    text = json.dumps(key, sort_keys=True, default=str)
    return cache_folder() / "graphs" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.onnx"


def cached_graph(model: LoadedModel, example: Example | None = None) -> OnnxModel:
    """Return a network's graph in ONNX Runtime; export it if it is not cached or if the cached file is damaged.

    One process exports while others wait for it. The graph runs in `network_threads` threads and returns the exact
    log-saliency.

    Args:
        model: a model whose network runs in PyTorch; it is not changed.
        example: video on whose first frames the graph is compared with PyTorch; defaults to generated frames.

    Raises:
        UserError: the network cannot be exported, its maps differ from PyTorch's by more than MAX_ERROR, the video
            cannot be read, or the cache folder is not writable.
    """
    path = graph_path(model)
    found = _load(path)
    try:
        while found is None:
            with lock(path.with_suffix("")) as locked:  # `export` locks the file itself
                if locked:
                    found = _load(path) or _export(model, path, example)
            time.sleep(0.1 if found is None else 0)
    except OSError as error:
        raise UserError(f"{path.parent}: the exported network cannot be cached ({reason_of(error)})") from error
    return found


def _load(path: Path) -> OnnxModel | None:
    """Return a cached graph and mark it as used; None if the file is missing or damaged."""
    if not path.is_file():
        return None
    try:
        found = load_onnx(path, threads=network_threads(), exact=True)
    except UserError as error:
        log.info("%s; exporting the network again", error)
        return None
    with suppress(OSError):  # a cache folder that is not writable
        os.utime(path)
    return found


def _export(model: LoadedModel, path: Path, example: Example | None) -> OnnxModel:
    """Export a network to the cache folder, replacing a damaged file, and remove old graphs."""
    from distill.runtimes.export import export  # PyTorch's exporter takes a second to import

    for file in _files(path):
        file.unlink(missing_ok=True)
    log.info("%s: exporting the network to ONNX Runtime, once; %s keeps it", model.reference, path.parent)
    frames = None if example is None else _first_frames(model.network, example)
    try:
        export(model, path, frames=frames, values="log", notes={}, batches=BATCHES, max_error=MAX_ERROR)
    except (UserError, OSError):
        raise
    except Exception as error:  # PyTorch's exporter raises errors of many types
        raise UserError(f"{model.reference}: the network cannot be exported to ONNX: {reason_of(error)}") from error
    found = load_onnx(path, threads=network_threads(), exact=True)
    _remove_old(path)
    return found


def _first_frames(network: SaliencyModel, example: Example) -> np.ndarray:
    """Return the first frames of a video on the network's input (n, H, W, 3), for clips to compare on."""
    from distill.runtimes.onnx_check import verification_steps

    reader = open_video(example) if isinstance(example, str | Path) else example
    length = verification_steps(network.reach)[0] if is_streaming(network) else network.num_frames
    frames = range(min(2 * length, reader.num_frames))
    placed = read_placed(reader, frames, fit_of(network), network.size)  # (n, 3, H, W)
    return placed.movedim(1, -1).numpy()


def _remove_old(kept: Path) -> None:
    """Remove the graphs that were not used for longest until the folder is within MAX_GRAPHS_BYTES."""
    with suppress(OSError):  # e.g. another process removes the same file
        graphs = sorted(kept.parent.glob("*.onnx"), key=lambda path: path.stat().st_mtime)
        sizes = {path: sum(file.stat().st_size for file in _files(path)) for path in graphs}
        for path in graphs:
            if path != kept and sum(sizes.values()) > MAX_GRAPHS_BYTES:
                for file in _files(path):
                    file.unlink(missing_ok=True)
                del sizes[path]


def _files(path: Path) -> list[Path]:
    """Return the existing files of a graph: the .onnx file and, for more than 2 GB, its .data file."""
    return [file for file in (path, path.with_name(f"{path.name}.data")) if file.exists()]


def _source_hash(network: Any) -> str:
    """Return a hash of the Python files next to the network's own and next to this one.

    The version of the package is not enough: while the code is developed, it changes without the version.
    """
    module = sys.modules.get(type(network).__module__)
    source = getattr(module, "__file__", None)
    if source is None:
        raise UserError(f"{type(network).__name__}: the source code of this network is not in a file")
    digest = hashlib.sha256()
    for folder in (Path(source).parent, Path(__file__).parent):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
