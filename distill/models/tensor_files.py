"""Read published weight files into tensors and load them with the `load_weights` of a model's file."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

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
        ValueError: if the file is missing, unreadable or for another model, or if the name is unknown.
    """
    source, content = str(weights), Path(weights)
    if not content.exists() and hasattr(module, "find_weights"):
        source, content = module.find_weights(network, source)
    tensors = read_tensors(content) if isinstance(content, Path) else content
    try:
        return f"{source}: {module.load_weights(network, {_strip_prefixes(k): v for k, v in tensors.items()})}"
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{source}: the weights are for another model: {_mismatch(error)}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, flat or nested, from a .safetensors file or a pickle, without executing any of its code.

    Raises:
        ValueError: if the file is missing, unreadable, or holds no tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # releases store their arguments in it
                content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        safetensors.SafetensorError,
    ) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{path}: cannot be read as a state dict ({reason}); expected a file of tensors only"
        ) from error
    while isinstance(content, dict) and (inner := [key for key in WRAPPERS if isinstance(content.get(key), dict)]):
        content = content[inner[0]]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected a dictionary of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path}: holds no tensors, neither at the top level nor under {', '.join(WRAPPERS)}")
    return tensors


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
