"""`saldistill models`: list models and convert weight files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distill.errors import UserError
from distill.files import refuse_existing
from distill.models.cost import count_weights, gflops_per_map
from distill.models.references import load_model, save_published
from distill.models.registry import create_model, list_models, list_variants
from distill.models.weight_files import is_ours, save_model


def describe_models(name: str | None = None) -> Iterator[str]:
    """Yield the lines of a table: each model and variant, or those of one model, with what they cost."""
    asked, _, variant = (name or "").partition(":")
    pairs = [
        (each, one)
        for each in ([asked] if asked else list_models())
        for one in ([variant] if variant else list_variants(each))
    ]
    for index, (each, one) in enumerate(pairs):
        with torch.device("meta"):  # neither memory nor time
            model: Any = create_model(each, variant=one)
        if index == 0:
            yield f"{'model':<30}{'weights':>12}{'GFLOPs a map':>14}{'frames':>8}{'clip':>10}{'map':>10}"
        clip, saliency = ("x".join(map(str, size)) for size in (model.size, model.map_size))
        yield (
            f"{each + ':' + one:<30}{count_weights(model):>12,}{gflops_per_map(model):>14,.2f}"
            f"{model.num_frames:>8}{clip:>10}{saliency:>10}"
        )


def publish_weights(name: str | None, source: str, out: str) -> str:
    """Write a model's weights under the keys of its authors' code; say what was read and written.

    `source` is a run folder or a file of ours, which say themselves which variant they hold, or anything else that
    the model `name` takes as weights.

    Raises:
        UserError: if no model is named, the source is of another or does not fit, `out` exists or ends in neither
            .pth nor .safetensors, or the authors have no keys for the model.
    """
    if name is None:
        raise UserError(
            f"{source}: say which model it is of, such as "
            "saldistill models teacher/salfom --to-published IN OUT.pth"
        )
    if Path(out).suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out}: expected a name that ends in .pth or .safetensors")
    refuse_existing(out, "the weight file")
    if Path(source).is_dir() or is_ours(source):
        model: Any = load_model(source)
        found, variant = model.identity["name"], model.identity["variant"]
        if name not in (found, f"{found}:{variant}"):
            raise UserError(f"{source}: holds {found}:{variant}, not {name}")
        told = f"{source}: all weights of {found}:{variant} loaded"
    else:
        model = create_model(name, weights=source)
        told = model.loaded
    save_published(model, out)
    return f"{told}; written to {out} under the authors' keys"


def convert_weights(name: str | None, source: str, out: str) -> str:
    """Read a published weight file into a model and write it in this project's format; say what was loaded.

    Raises:
        UserError: if no model is named, the file does not fit it, or `out` exists or is no .safetensors file.
    """
    if name is None:
        raise UserError(
            f"{source}: say which model the file is of, such as saldistill models teacher/salfom --convert IN OUT"
        )
    if Path(out).suffix != ".safetensors":
        raise UserError(f"{out}: expected a name that ends in .safetensors")
    refuse_existing(out, "the weight file")
    model: Any = create_model(name, weights=source)
    save_model(model, out, notes={"converted_from": Path(source).name})
    return f"{model.loaded}; written to {out}"
