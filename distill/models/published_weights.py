"""Read published weight files into tensors and load them with the `load_weights` of a model's file."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import UserError, reading
from distill.limits import MAX_WRAPPERS
from distill.models.tensor_files import check_finite, check_names, load_tensors

WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
"""Keys under which released files keep their state dict, sometimes nested."""

PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
"""Prefixes that wrapping modules add to every key."""


def load_published_weights(module: ModuleType, network: nn.Module, weights: str | Path) -> str:
    """Load a published weight file into a network.

    Args:
        module: the model's file, with `load_weights` and optionally `find_weights` (teacher/README.md).
        network: an instance of the file's `Model`.
        weights: path of a .safetensors file or a pickle, or a name that `find_weights` knows. A file of that
            name takes precedence.

    Returns:
        One line: the source, and what was loaded and dropped.

    Raises:
        UserError: if the file is missing, unreadable, for another model or holds NaN, or if the name is unknown.
    """
    source, content = str(weights), Path(weights)
    if not content.exists() and hasattr(module, "find_weights"):
        source, content = module.find_weights(network, source)
    tensors = read_tensors(content) if isinstance(content, Path) else content
    with reading(source, "weights of this model", "the file is for another model"):
        try:
            loaded = module.load_weights(network, {_strip_prefixes(k): v for k, v in tensors.items()})
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error
        except RuntimeError as error:
            raise UserError(f"{source}: the weights are for another model: {_mismatch(error)}") from error
    check_finite(network.state_dict().items(), source)
    return f"{source}: {loaded}"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, flat or nested, from a .safetensors file or a pickle, without executing any of its code.

    Raises:
        UserError: if the file is missing, unreadable, or holds no tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    content: Any = load_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for _ in range(MAX_WRAPPERS):
        inner = [key for key in WRAPPERS if isinstance(content, dict) and isinstance(content.get(key), dict)]
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a dictionary of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors, neither at the top level nor under {', '.join(WRAPPERS)}")
    check_names(tensors, path)
    for name, value in tensors.items():
        if value.is_complex():
            raise UserError(f"{path}: tensor {name} is complex; expected real numbers")
    return tensors


def _read_pickle(path: Path) -> Any:
    """Return the content of a file of torch.save, which may hold tensors and plain values only."""
    with reading(path, "a state dict", "expected a file of tensors only"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise UserError(f"{path}: holds compressed records, which torch.save never writes")
        try:
            with (
                torch.serialization.safe_globals([argparse.Namespace]),  # releases store their arguments in it
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # about pickle's protocol; the file is read or refused either way
                return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, LookupError) as error:  # LookupError: text that looks like a pickle
            # not torch's message, which recommends to load the file without this protection
            name = re.search(r"GLOBAL ([\w.]+) ", str(error))
            raise ValueError(
                f"it refers to {name[1]}, which is code" if name else "it does not hold tensors only"
            ) from error


def _strip_prefixes(key: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key


def _mismatch(error: RuntimeError) -> str:
    """Shorten the error of `nn.Module.load_state_dict`, which lists every key, to counts and the first keys."""
    text = str(error)
    shape = r"torch\.Size\(\[([\d, ]*)\]\)"
    shapes = [
        f"{key} ({stored}) instead of ({own})"
        for key, stored, own in re.findall(rf"size mismatch for (\S+): .*?{shape}.*?{shape}", text)
    ]
    parts = [
        _count_and_name("missing", _quoted_keys("Missing", text)),
        _count_and_name("of another shape", shapes),
        _count_and_name("unexpected", _quoted_keys("Unexpected", text)),
    ]
    return "; ".join(filter(None, parts)) or text


def _quoted_keys(kind: str, text: str) -> list[str]:
    match = re.search(rf"{kind} key\(s\) in state_dict: (.*)", text)
    return re.findall(r'"([^"]+)"', match[1]) if match else []


def _count_and_name(kind: str, keys: Sequence[str]) -> str:
    return f"{len(keys)} {kind}: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}" if keys else ""
