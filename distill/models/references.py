"""From a model reference (run folder, weight file, .onnx file or name) to a loaded model."""

import logging
import re
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from distill.errors import UserError
from distill.files import atomic_path, file_hash
from distill.models.onnx import load_onnx
from distill.models.registry import PACKAGES, _module, create_model, list_models
from distill.models.weight_files import _identity_text, load_weights_into, read_header
from distill.stride import Stride, read_stride

log = logging.getLogger(__name__)


def save_published(model: nn.Module, path: str | Path) -> None:
    """Write a model's weights under its authors' keys, atomically: as .safetensors by the suffix, else as a pickle.

    Raises:
        UserError: if the authors have no keys for this model.
    """
    identity: Any = model.identity
    module = _module(identity["name"])
    if not hasattr(module, "to_published"):
        raise UserError(f"{_identity_text(identity)}: nobody published keys for this model; use --convert")
    try:
        tensors = {key: value.contiguous() for key, value in module.to_published(model).items()}
    except ValueError as error:
        raise UserError(f"{_identity_text(identity)}: {error}") from error
    with atomic_path(path) as temporary:
        if temporary.suffix == ".safetensors":
            safetensors.torch.save_file(tensors, temporary, {"format": "pt"})
        else:
            torch.save(tensors, temporary)


def load_model(reference: str | Path, *, device: str | torch.device = "cpu") -> nn.Module:
    """Return the model that a reference stands for, in evaluation mode, on a device.

    Args:
        reference: a model's name (`teacher/salfom:tiny`: its initial, untrained weights), a run folder (its best
            weights, else its newest checkpoint's), a .safetensors file of ours, or an exported .onnx file.
        device: where the model goes; an .onnx file runs on the CPU whatever this says.

    Returns:
        The model, with `reference` as given and, if it comes from a file, the file's `notes` of its training.

    Raises:
        UserError: if the reference stands for nothing; it lists what there is.
    """
    text = str(reference)
    path = Path(text)
    model: nn.Module
    if path.suffix == ".onnx":
        model = load_onnx(path)
    elif path.is_dir():
        model = _load_file(_weights_of_run(path))
    elif path.suffix == ".safetensors":
        model = _load_file(path)
    elif re.match(rf"({'|'.join(PACKAGES)})/", text):
        log.warning("%s: random weights, never trained (the same each time)", text)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = create_model(text)
    else:
        raise UserError(
            f"{text}: no model, run folder, .safetensors or .onnx file of this name; "
            f"the models are {', '.join(list_models())}"
        )
    model.reference = text  # type: ignore[assignment]
    return model.to(device).eval()


def _load_file(path: Path) -> nn.Module:
    header = read_header(path)
    identity = header["identity"]
    model = create_model(identity["name"], variant=identity["variant"], **identity["arguments"])
    load_weights_into(model, path)
    model.notes = header["notes"]
    return model


def _weights_of_run(folder: Path) -> Path:
    """Return the best weights of a run folder, else those of its newest checkpoint, averaged where they are."""
    best = folder / "best.safetensors"
    if best.is_file():
        return best
    steps = [path for path in folder.glob("checkpoints/step-*/model.safetensors") if path.is_file()]
    if steps:
        newest = max(steps, key=lambda path: int(path.parent.name.removeprefix("step-")))
        average = newest.with_name("ema.safetensors")
        return average if average.is_file() else newest
    raise UserError(
        f"{folder}: no run with weights: neither best.safetensors nor checkpoints/step-*/model.safetensors is in it"
    )


def stride_of(model: Any) -> Stride:
    """Return how far apart a clip's frames lay when a model was trained; 1 where nobody noted it."""
    return read_stride((getattr(model, "notes", None) or {}).get("stride", 1))


def notes_of(model: Any, reference: str) -> dict[str, Any]:
    """Return what is noted of a model's training; of a run folder's model also which run it was, by its config."""
    notes = dict(getattr(model, "notes", None) or {})
    folder = Path(reference) if Path(reference).is_dir() else Path(reference).parent
    if (config := folder / "config.yaml").is_file():
        notes["run"] = {"config_sha256": file_hash(config)}
    return notes
