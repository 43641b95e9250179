"""Load a model from a reference: a run folder, weight file, .onnx file, name or hub repository."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.files import atomic_path, file_hash
from distill.models.hub import is_hub_reference, open_repository
from distill.models.loaded import LoadedModel
from distill.models.networks import PACKAGES, list_models
from distill.models.onnx import load_onnx
from distill.models.pretrained import checked_file, is_pretrained, pretrained_model, pretrained_models
from distill.models.registry import _module, create_model, rebuild
from distill.models.startup import InitialWeightsSkipped
from distill.models.tensor_files import save_tensors
from distill.models.weight_files import _identity_text, check_fit, load_weights_into, read_header

log = logging.getLogger(__name__)


def save_published(model: LoadedModel, path: str | Path) -> None:
    """Write a model's weights with the keys of its authors' code, atomically, as .safetensors or a pickle.

    Raises:
        UserError: if the authors published no code for this model, or `path` exists.
    """
    identity = model.identity
    module = _module(identity["name"])
    to_published = getattr(module, "to_published", None)
    if to_published is None:
        raise UserError(
            f"{_identity_text(identity)}: no published keys exist for this model; use --convert to write "
            "a .safetensors file"
        )
    try:
        tensors = {key: value.contiguous() for key, value in to_published(model.network).items()}
    except ValueError as error:
        raise UserError(f"{_identity_text(identity)}: {error}") from error
    if Path(path).suffix == ".safetensors":
        save_tensors(tensors, path, overwrite=False)
    else:
        with atomic_path(path, overwrite=False) as temporary, temporary.open("wb") as file:
            torch.save(tensors, file)  # an open file, whose errors show a full disk, unlike those of torch's own


def load_model(reference: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a model in evaluation mode.

    Args:
        reference: the name of a pretrained model, such as `stream-small`; the name of a network, such as
            `teacher/salfom:tiny`, for random weights; a run folder, for its best weights or else its newest
            checkpoint; a weight file of this project; an exported .onnx file; or a repository of the Hugging Face
            Hub, `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`. A file or folder that has the name of a pretrained
            model takes precedence.
        device: device of the network; an .onnx file always runs on the CPU.

    Returns:
        The model, with the given reference (of a repository, one that names its commit) and, if it comes from a
        file, the training notes of the file.

    Raises:
        UserError: if there is no such model or file; the message lists the models.
    """
    text = str(reference)
    path = Path(text)
    if is_hub_reference(text):
        repository = open_repository(text)
        text = repository.reference
        model = _load_file(repository.weights())
    elif path.suffix == ".onnx":
        exported = load_onnx(path)
        identity = {"name": text, "variant": "onnx", "arguments": {}}
        model = LoadedModel(exported, identity, text, exported.notes)
    elif path.is_dir():
        model = _load_file(weights_of_run(path))
    elif path.suffix == ".safetensors":
        model = _load_file(path)
    elif is_pretrained(text):
        model = load_pretrained(text)
    elif re.match(rf"({'|'.join(PACKAGES)})/", text):
        log.warning("%s: untrained, with random weights from a fixed seed", text)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = create_model(text)
    else:
        raise UserError(
            f"{text}: no model, run folder, .safetensors or .onnx file of this name; "
            f"the models are {', '.join([*list_models(), *pretrained_models()])}"
        )
    model.network.to(device).eval()
    return replace(model, reference=text)


def load_mean(references: Sequence[str | Path]) -> LoadedModel:
    """Load a model whose weights are the mean of those of several models, in evaluation mode.

    If they were trained from the same weights, it predicts about as well as the mean of their maps, at the cost of
    one of them (Wortsman et al., "Model soups", ICML 2022). Its other properties, and entries that are not
    floating-point, are those of the first model.

    Args:
        references: what `load_model` accepts, at least one; networks of PyTorch.

    Raises:
        UserError: as `load_model`, or two models have different architectures or arguments.
    """
    first, *others = [load_model(reference) for reference in references]
    for other in others:
        if other.identity != first.identity:
            raise UserError(
                f"{other.reference}: is {_identity_text(other.identity)}, but {first.reference} is "
                f"{_identity_text(first.identity)}; only weights of the same network have a mean"
            )
    states = [other.network.state_dict() for other in others]
    with torch.no_grad():
        for key, value in first.network.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.stack([value, *(state[key] for state in states)]).double().mean(dim=0))
    return first


def load_pretrained(name: str, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Load a pretrained model in evaluation mode, whatever files or folders have its name.

    Raises:
        UserError: if there is no such model, or its file is missing or changed.
    """
    model = _read_file(checked_file(pretrained_model(name).weights))
    model.network.to(device).eval()
    return replace(model, reference=name)


def _load_file(path: Path) -> LoadedModel:
    """Return the model of a weight file, whose header may claim anything."""
    identity = read_header(path).identity.model_dump()
    try:
        with InitialWeightsSkipped(), torch.device("meta"):  # takes no memory, whatever sizes the header claims
            model = rebuild(identity)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    check_fit(model, path)
    return _read_file(path)


def _read_file(path: Path) -> LoadedModel:
    """Return the model of a weight file that is known to be valid."""
    header = read_header(path)
    with InitialWeightsSkipped():
        model = rebuild(header.identity.model_dump())
    load_weights_into(model, path)
    return replace(model, notes=header.notes.model_dump(exclude_unset=True))


def weights_of_run(folder: Path) -> Path:
    """Return the best weights of a run folder, else the newest checkpoint's, averaged (EMA) if available.

    Raises:
        UserError: the folder has neither.
    """
    best = folder / "best.safetensors"
    if best.is_file():
        return best
    for checkpoint in checkpoint_folders(folder):
        for name in ("ema.safetensors", "model.safetensors"):
            if (checkpoint / name).is_file():
                return checkpoint / name
    raise UserError(
        f"{folder}: no weights in this folder; expected best.safetensors or checkpoints/step-*/model.safetensors"
    )


def checkpoint_folders(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, the newest first."""
    folders = [
        each for each in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-[0-9]{1,18}", each.name)
    ]
    return sorted(folders, key=lambda each: int(each.name.removeprefix("step-")), reverse=True)


def notes_with_run(model: LoadedModel) -> dict[str, Any]:
    """Return a model's notes; for a model from a run folder, with the SHA-256 of the run's config."""
    notes, path = dict(model.notes), Path(model.reference)
    folder = path if path.is_dir() else path.parent
    if path.exists() and (config := folder / "config.yaml").is_file():
        notes["run"] = {"config_sha256": file_hash(config)}
    return notes
