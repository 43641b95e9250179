"""Models by name, files of weights, and their cost: the only door from the toolkit to `teacher/` and `student/`.

A model is a file there that has `VARIANTS` (name -> keyword arguments of `Model`), `DEFAULT` (a variant's name),
`Model` and `load_weights`. It is listed by reading the files, and imported only when it is asked for by name, so
that a teacher trains where `student` cannot be imported.
"""

import ast
import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import re
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distill.errors import UserError
from distill.files import atomic_path
from distill.onnx_model import OnnxModel, load_onnx

log = logging.getLogger(__name__)

PACKAGES = ("teacher", "student")

HEADER = "saldistill"
"""Key of a .safetensors file's metadata under which a model's identity and spec stand as JSON."""

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What a network computes in: float32, or autocast to a half format."""


def list_models() -> list[str]:
    """Return the names of all models, such as `teacher/salfom`, sorted."""
    names = []
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            names += [f"{package}/{file.stem}" for file in Path(folder).glob("*.py") if _is_model(file)]
    return sorted(names)


def list_variants(name: str) -> list[str]:
    """Return the names of a model's variants in the order of its file.

    Raises:
        UserError: for an unknown model; it lists the models that there are.
    """
    return list(_module(name).VARIANTS)


def create_model(
    name: str, *, variant: str | None = None, weights: str | Path | None = None, **arguments: Any
) -> nn.Module:
    """Build a model, with initial or given weights.

    Args:
        name: a model, such as `teacher/salfom`, or with its variant, `teacher/salfom:tiny`.
        variant: name of a variant; the model's default when neither is given.
        weights: a file of ours, or a published one that the model's `load_weights` reads, by its path or a name
            that the model knows.
        **arguments: keyword arguments of the model's `Model`, which go before the variant's.

    Returns:
        The model, in training mode, with `identity` = {"name", "variant", "arguments"} (plain JSON values) and
        `reference`, that in words; after loading weights, `loaded` says in one line what was loaded.

    Raises:
        UserError: for an unknown name, variant or argument (it lists what there is), a value that the model does
            not take, or a file that does not fit.
    """
    name, _, suffix = name.partition(":")
    if suffix and variant and suffix != variant:
        raise UserError(f"{name}:{suffix}: asked for variant '{variant}' at the same time; give one of the two")
    module = _module(name)
    variant = variant or suffix or module.DEFAULT
    if variant not in module.VARIANTS:
        raise UserError(f"{name}: no variant '{variant}'{_suggest(variant, module.VARIANTS)}")
    given = _check_arguments(f"{name}:{variant}", module.Model, arguments)
    try:
        model = module.Model(**{**module.VARIANTS[variant], **given})
    except ValueError as error:
        raise UserError(f"{name}:{variant}: {error}") from error
    model.identity = {"name": name, "variant": variant, "arguments": json.loads(json.dumps(given))}
    model.reference = f"{name}:{variant}"
    if weights is not None:
        if is_ours(weights):
            load_weights_into(model, weights)
            model.loaded = f"{weights}: all weights loaded"
        else:
            try:
                model.loaded = module.load_weights(model, weights)
            except ValueError as error:
                raise UserError(f"{name}:{variant}: {error}") from error
    return model


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


def save_model(model: nn.Module, path: str | Path, *, notes: dict | None = None) -> None:
    """Write a model's weights as one .safetensors file, atomically; an existing file is replaced.

    The header holds, under `saldistill`, JSON of {identity, spec, notes}: what `load_model` rebuilds the model
    from, its clip and its maps, and whatever the caller wants to note.
    """
    spec = {key: getattr(model, key) for key in ("num_frames", "size", "target_frames", "map_size")}
    header = {"identity": model.identity, "spec": spec, "notes": notes or {}}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"format": "pt", HEADER: json.dumps(header)})


def read_header(path: str | Path) -> dict[str, Any]:
    """Return {identity, spec, notes} of one of our files.

    Raises:
        UserError: if the file is missing, damaged, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); is it truncated?") from error
    if HEADER not in metadata:
        raise UserError(
            f"{path}: its header names no model, so it was not written by saldistill; "
            "give it as the weights of a model instead, such as weights=FILE of teacher/salfom"
        )
    return json.loads(metadata[HEADER])


def is_ours(path: str | Path) -> bool:
    """Tell whether a file is one that `save_model` wrote."""
    with contextlib.suppress(UserError):
        return Path(path).suffix == ".safetensors" and bool(read_header(path))
    return False


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


def load_weights_into(model: nn.Module, path: str | Path) -> None:
    """Load one of our files into a model of the same architecture.

    Raises:
        UserError: if the file holds the weights of another model; it names both.
    """
    path = Path(path)
    identity = read_header(path)["identity"]
    tensors = _read_tensors(path)
    own = model.state_dict()
    fixed = _fixed_by_size(model)
    misfits = sorted(tensors.keys() ^ own.keys()) + [
        key for key in tensors.keys() & own.keys() if tensors[key].shape != own[key].shape and key not in fixed
    ]
    if misfits:
        raise UserError(
            f"{path}: holds {_identity_text(identity)}, not {_identity_text(model.identity)}: "
            f"{len(misfits)} tensors do not fit, {misfits[0]} for one"
        )
    model.load_state_dict(tensors)


def count_weights(model: nn.Module) -> int:
    """Return the number of weights: elements of all parameters, whether they are trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def gflops_per_map(model: nn.Module, *, mode: str | None = None) -> float:
    """Return 10^9 floating-point operations a saliency map costs: 2 per multiply-add of products and convolutions.

    Counted on the meta device, on a model built anew, so that it takes neither time nor memory.

    Args:
        model: a network that `create_model` built.
        mode: "step": of one step of a network that streams; "clip": of a clip, divided by its maps. When None, of
            a step where there is one: that is how such a network runs.
    """
    if isinstance(model, OnnxModel):
        raise UserError(
            f"{model.reference}: an .onnx file does not tell its operations; ask the model it came from"
        )
    identity: Any = model.identity
    with torch.device("meta"), torch.no_grad():
        twin: Any = create_model(identity["name"], variant=identity["variant"], **identity["arguments"]).eval()
        with FlopCounterMode(display=False) as counter:
            if hasattr(twin, "step") and mode != "clip":
                maps, _ = twin.step(torch.zeros(1, 3, *twin.size), twin.initial_state())
            else:
                maps = twin(torch.zeros(1, 3, twin.num_frames, *twin.size))
    return counter.get_total_flops() / 1e9 / maps.shape[1]


def weights_fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a model's state dict: its keys, types, shapes and bytes, in the order of the keys.

    Of an exported model, that of its files.
    """
    if isinstance(model, OnnxModel):
        return hashlib.sha256(b"".join(file.read_bytes() for file in model.files)).hexdigest()
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: `auto` (a GPU where there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UserError: if there is no such device here.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = ["cpu"] + [f"cuda:{i}" for i in range(count)] + (["mps"] if torch.backends.mps.is_available() else [])
    if name == "auto":
        return torch.device("cuda" if count else there[-1])
    if name in (*there, "cuda" if count else "cpu"):
        return torch.device(name)
    raise UserError(
        f"device '{name}' is not there; this machine has {', '.join(there)}, and auto chooses among them"
    )


def check_precision(name: str) -> None:
    """Refuse a precision that is none of PRECISIONS.

    Raises:
        UserError: it lists what there is.
    """
    if name not in PRECISIONS:
        raise UserError(f"precision: expected one of {', '.join(PRECISIONS)}, got {name!r}")


def device_of(model: Any) -> torch.device:
    """Return where a model's weights lie; the CPU for one that has none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")


def _is_model(file: Path) -> bool:
    """Tell by a file's text, without importing it, whether it defines VARIANTS and Model."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {"VARIANTS", "Model"} <= names


def _module(name: str) -> types.ModuleType:
    """Import the file of a model, of that model alone."""
    if name not in (models := list_models()):
        raise UserError(f"no model '{name}'{_suggest(name, models)}")
    return importlib.import_module(name.replace("/", "."))


def _check_arguments(where: str, model: type[nn.Module], arguments: dict[str, Any]) -> dict[str, Any]:
    """Check arguments against the signature of `Model`; convert them as its annotations say (lists to tuples)."""
    accepted = [key for key in inspect.signature(model.__init__).parameters if key != "self"]
    hints = typing.get_type_hints(model.__init__)
    checked = {}
    for key, value in arguments.items():
        if key not in accepted:
            raise UserError(f"{where}: no argument '{key}'{_suggest(key, accepted)}")
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise UserError(f"{where}: argument {key} = {value!r}: {what[0].lower()}{what[1:]}") from error
    return checked


def _suggest(wrong: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'? There are x, y, z`."""
    names = list(names)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    return (f"; did you mean '{near[0]}'?" if near else ";") + f" There are {', '.join(names)}"


def _load_file(path: Path) -> nn.Module:
    header = read_header(path)
    identity = header["identity"]
    model = create_model(identity["name"], variant=identity["variant"], **identity["arguments"])
    load_weights_into(model, path)
    model.notes = header["notes"]
    return model


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); is it truncated?") from error


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


def _fixed_by_size(model: nn.Module) -> set[str]:
    """Keys that depend on the clip's size alone and are made anew for another (fixed position tables)."""
    return set(getattr(model, "fixed_by_size", ()))


def _identity_text(identity: Any) -> str:
    arguments = "".join(f" {key}={value}" for key, value in identity["arguments"].items())
    return f"{identity['name']}:{identity['variant']}{arguments}"
