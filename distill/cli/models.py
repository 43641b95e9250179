"""`saldistill models`: list models and convert weight files."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from distill.claims import claim
from distill.cli.verb import Verb
from distill.errors import UserError

if TYPE_CHECKING:
    from distill.models.loaded import LoadedModel


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="e.g. stream-small, teacher/salfom or student/thtdnet:tiny"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--convert",
        nargs=2,
        metavar=("IN", "OUT"),
        help="load published weights, a file or a name such as umt-l16-k400, and write OUT.safetensors",
    )
    either.add_argument(
        "--to-published",
        nargs=2,
        metavar=("IN", "OUT"),
        help="load a run folder or weight file, and write OUT.pth or OUT.safetensors with the authors' keys",
    )


def _run(arguments: argparse.Namespace) -> None:
    if arguments.convert:
        print(convert_weights(arguments.name, *arguments.convert))
    elif arguments.to_published:
        print(publish_weights(arguments.name, *arguments.to_published))
    else:
        for line in list_all(arguments.name):
            print(line, flush=True)


def list_all(name: str | None = None) -> Iterator[str]:
    """Yield the lines of the tables of pretrained models and of networks; of one of them if a name is given."""
    from distill.models.pretrained import pretrained_models

    pretrained = pretrained_models()
    if name is None or name in pretrained:
        yield from describe_pretrained(name)
    if name is None and pretrained:
        yield ""
    if name not in pretrained:
        yield from describe_models(name)


def describe_pretrained(name: str | None = None) -> Iterator[str]:
    """Yield the lines of a table of the pretrained models, and the paths of the files of a chosen one."""
    from distill.models.pretrained import pretrained_folder, pretrained_models

    chosen = {each: record for each, record in pretrained_models().items() if name in (None, each)}
    if not chosen:
        return
    yield (
        f"{'pretrained':<16}{'network':<24}{'NSS':>7}{'CC':>7}{'weights':>12}{'GMACs':>8}{'ms':>7}{'MB':>7}"
        f"{'input':>20}{'map':>10}"
    )
    for each, record in chosen.items():
        means = record.scores[0].rows[0].means if record.scores else {}
        cost = record.cost
        figures = [f"{means.get(metric) or math.nan:>7.{digits}f}" for metric, digits in (("nss", 2), ("cc", 3))]
        clip, saliency = ("x".join(map(str, size)) for size in (record.input.size, record.input.map_size))
        yield (
            f"{each:<16}{record.architecture:<24}{''.join(figures)}{cost.weights:>12,}"
            f"{cost.gmacs or math.nan:>8.2f}{cost.milliseconds or math.nan:>7.1f}{record.weights.bytes / 1e6:>7.1f}"
            f"{f'{clip} {record.input.fit}':>20}{saliency:>10}"
        )
    first = next(iter(chosen.values()))
    notes = [f"NSS and CC on {table.title}" for table in first.scores[:1]]
    notes += [f"ms per map: {first.cost.how}"] * bool(first.cost.how)
    if notes:
        yield "; ".join(notes)
    if name is not None:
        for label, file in (("weights", first.weights.name), ("ONNX", first.onnx.name), ("card", f"{name}.md")):
            yield f"{label + ':':<9}{pretrained_folder() / file}"


def describe_models(name: str | None = None) -> Iterator[str]:
    """Yield the lines of a table with the size and cost of each variant, of one model or of all."""
    import torch

    from distill.data.fit import fit_of
    from distill.models.cost import count_weights, gflops_per_map
    from distill.models.registry import create_model, list_models, list_variants

    chosen, _, variant = (name or "").partition(":")
    pairs = [
        (model, each)
        for model in ([chosen] if chosen else list_models())
        for each in ([variant] if variant else list_variants(model))
    ]
    for index, (model, each) in enumerate(pairs):
        with torch.device("meta"):  # neither memory nor time
            created = create_model(model, variant=each)
        network = created.network
        if index == 0:
            header = f"{'model':<36}{'weights':>12}{'GFLOPs per map':>16}{'frames':>8}{'clip':>10}{'map':>10}"
            yield f"{header}{'fit':>11}"
        clip, saliency = ("x".join(map(str, size)) for size in (network.size, network.map_size))
        yield (
            f"{model + ':' + each:<36}{count_weights(network):>12,}{gflops_per_map(created):>16,.2f}"
            f"{network.num_frames:>8}{clip:>10}{saliency:>10}{fit_of(network):>11}"
        )


def convert_weights(name: str | None, source: str, out: str) -> str:
    """Load published weights into a model and save them in this project's format; return a one-line summary.

    Raises:
        UserError: no model is named, the file does not fit it, or `out` exists or is not a .safetensors file.
    """
    from distill.models.registry import create_model
    from distill.models.weight_files import save_model

    name = check_conversion(name, source, out, "--convert", (".safetensors",))
    with claim(out, "the weight file"):
        model = create_model(name, weights=source)
        save_model(model, out, notes={"converted_from": Path(source).name}, overwrite=False)
    return f"{model.loaded}; written to {out}"


def publish_weights(name: str | None, source: str, out: str) -> str:
    """Write a model's weights with the keys of its authors' code; return a one-line summary.

    Args:
        name: the model; a run folder or weight file of this project must contain the same one.
        source: a run folder, a weight file, or other weights that the model can load.
        out: the file to write.

    Raises:
        UserError: no model is named, the source contains another model or does not fit, `out` exists or has another
            suffix, or the authors have no keys for the model.
    """
    from distill.models.references import save_published

    name = check_conversion(name, source, out, "--to-published", (".pth", ".safetensors"))
    with claim(out, "the weight file"):
        model, loaded = load_for_publication(name, source)
        save_published(model, out)
    return f"{loaded}; written to {out} with the authors' keys"


def load_for_publication(name: str, source: str) -> "tuple[LoadedModel, str]":
    """Return the model `name` with the weights of `source`, and a line about what was loaded."""
    from distill.models.references import load_model
    from distill.models.registry import create_model
    from distill.models.weight_files import is_saldistill_file

    if Path(source).is_dir() or is_saldistill_file(source):
        model = load_model(source)
        stored, variant = model.identity["name"], model.identity["variant"]
        if name not in (stored, f"{stored}:{variant}"):
            raise UserError(f"{source}: contains {stored}:{variant}, not {name}; name the model that it contains")
        return model, f"{source}: all weights of {stored}:{variant} loaded"
    model = create_model(name, weights=source)
    return model, model.loaded


def check_conversion(name: str | None, source: str, out: str, option: str, suffixes: tuple[str, ...]) -> str:
    """Check the arguments of a conversion and return the name of the model."""
    if name is None:
        raise UserError(
            f"{source}: no model given; name it, e.g. saldistill models teacher/salfom {option} {source} {out}"
        )
    if Path(out).suffix not in suffixes:
        raise UserError(f"{out}: expected a file name that ends in {' or '.join(suffixes)}")
    return name


MODELS = Verb(
    "models",
    "list pretrained models, and networks with size and cost; convert weights",
    "List the pretrained models with their scores, cost and input, and all networks; or one of them. With "
    "--convert, load published weights, from a file or fetched by name, and write them in this project's format. "
    "With --to-published, write weights with the keys of the authors' code.",
    (
        "saldistill models",
        "saldistill models stream-small",
        "saldistill models teacher/salfom",
        "saldistill models teacher/salfom --convert SalFoM_DHF1K.pth salfom.safetensors",
        "saldistill models teacher/salfom --to-published salfom.safetensors salfom_dhf1k.pth",
    ),
    _add_arguments,
    _run,
)
