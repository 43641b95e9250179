"""`saldistill models`: list models and convert weight files."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from distill.cli.output import print_json, print_result, print_text
from distill.cli.verb import Verb
from distill.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distill.models.loaded import LoadedModel
    from distill.models.pretrained import PretrainedModel
    from distill.models.stored_costs import VariantCost


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
        print_result(arguments, convert_weights(arguments.name, *arguments.convert))
    elif arguments.to_published:
        print_result(arguments, publish_weights(arguments.name, *arguments.to_published))
    else:
        list_all(arguments)


def list_all(arguments: argparse.Namespace) -> None:
    """Print the tables of pretrained models and of networks; of one of them if a name is given.

    Raises:
        UserError: no model has the given name.
    """
    from distill.models.pretrained import pretrained_models

    name: str | None = arguments.name
    pretrained = {each: record for each, record in pretrained_models().items() if name in (None, each)}
    if pretrained:
        for line in describe_pretrained(pretrained, paths=name is not None):
            print_text(arguments, line)
    networks: dict[str, VariantCost] = {}
    if name is None and pretrained:
        print_text(arguments, "")
    if name is None or not pretrained:
        for reference, cost in variant_costs(name):
            if not networks:
                print_text(arguments, NETWORKS_HEADER)
            networks[reference] = cost
            print_text(arguments, describe_variant(reference, cost))
    content = {
        "pretrained": {each: record.model_dump(mode="json") for each, record in pretrained.items()},
        "networks": {reference: cost.as_dict() for reference, cost in networks.items()},
    }
    print_json(arguments, content)


def describe_pretrained(models: "Mapping[str, PretrainedModel]", *, paths: bool) -> Iterator[str]:
    """Yield the lines of a table of pretrained models, with `paths` also those of the files of the first one."""
    from distill.models.pretrained import pretrained_folder

    yield (
        f"{'pretrained':<16}{'network':<24}{'NSS':>7}{'CC':>7}{'weights':>12}{'GMACs':>8}{'ms':>7}{'MB':>7}"
        f"{'input':>20}{'map':>10}"
    )
    for each, record in models.items():
        means = record.scores[0].rows[0].means if record.scores else {}
        cost = record.cost
        figures = [f"{means.get(metric) or math.nan:>7.{digits}f}" for metric, digits in (("nss", 2), ("cc", 3))]
        clip, saliency = ("x".join(map(str, size)) for size in (record.input.size, record.input.map_size))
        yield (
            f"{each:<16}{record.architecture:<24}{''.join(figures)}{cost.weights:>12,}"
            f"{cost.gmacs or math.nan:>8.2f}{cost.milliseconds or math.nan:>7.1f}{record.weights.bytes / 1e6:>7.1f}"
            f"{f'{clip} {record.input.fit}':>20}{saliency:>10}"
        )
    name, first = next(iter(models.items()))
    notes = [f"NSS and CC on {table.title}" for table in first.scores[:1]]
    notes += [f"ms per map: {first.cost.how}"] * bool(first.cost.how)
    if notes:
        yield "; ".join(notes)
    if paths:
        for label, file in (("weights", first.weights.name), ("ONNX", first.onnx.name), ("card", f"{name}.md")):
            yield f"{label + ':':<9}{pretrained_folder() / file}"


NETWORKS_HEADER = (
    f"{'model':<36}{'weights':>12}{'GFLOPs per map':>16}{'frames':>8}{'clip':>10}{'map':>10}{'fit':>11}"
)


def variant_costs(name: str | None = None) -> "Iterator[tuple[str, VariantCost]]":
    """Yield MODEL:VARIANT and the cost of each variant, of one model or of all.

    Stored costs need no PyTorch; those of a network that was added or changed are computed.
    """
    from distill.models.networks import list_models
    from distill.models.stored_costs import stored_costs

    stored = stored_costs()
    chosen, _, variant = (name or "").partition(":")
    for model in [chosen] if chosen else list_models():
        costs = stored.get(model, {})
        if variant:
            costs = {variant: costs[variant]} if variant in costs else {}
        if not costs:
            from distill.models.cost import costs_of

            costs = costs_of(model, variant or None)
        for each, cost in costs.items():
            yield f"{model}:{each}", cost


def describe_variant(reference: str, cost: "VariantCost") -> str:
    """Return the line of a variant in the table of networks."""
    clip, saliency = ("x".join(map(str, size)) for size in (cost.size, cost.map_size))
    return (
        f"{reference:<36}{cost.weights:>12,}{cost.gflops_per_map:>16,.2f}{cost.num_frames:>8}{clip:>10}"
        f"{saliency:>10}{cost.fit:>11}"
    )


class Converted(NamedTuple):
    """Weights that were converted: a sentence on what was loaded, the file, and what is special about it."""

    loaded: str
    out: str
    keys: str = ""

    def __str__(self) -> str:
        return f"{self.loaded}; written to {self.out}{self.keys}"

    def as_dict(self) -> dict[str, str]:
        """Return plain values for JSON."""
        return {"out": self.out, "loaded": self.loaded}


def convert_weights(name: str | None, source: str, out: str) -> Converted:
    """Load published weights into a model and save them in this project's format.

    Raises:
        UserError: no model is named, the file does not fit it, or `out` exists or is not a .safetensors file.
    """
    from distill.claims import claim
    from distill.models.registry import create_model
    from distill.models.weight_files import save_model

    name = check_conversion(name, source, out, "--convert", (".safetensors",))
    with claim(out, "the weight file"):
        model = create_model(name, weights=source)
        save_model(model, out, notes={"converted_from": Path(source).name}, overwrite=False)
    return Converted(model.loaded, out)


def publish_weights(name: str | None, source: str, out: str) -> Converted:
    """Write a model's weights with the keys of its authors' code.

    Args:
        name: the model; a run folder or weight file of this project must contain the same one.
        source: a run folder, a weight file, or other weights that the model can load.
        out: the file to write.

    Raises:
        UserError: no model is named, the source contains another model or does not fit, `out` exists or has another
            suffix, or the authors have no keys for the model.
    """
    from distill.claims import claim
    from distill.models.references import save_published

    name = check_conversion(name, source, out, "--to-published", (".pth", ".safetensors"))
    with claim(out, "the weight file"):
        model, loaded = load_for_publication(name, source)
        save_published(model, out)
    return Converted(loaded, out, " with the authors' keys")


def load_for_publication(name: str, source: str) -> "tuple[LoadedModel, str]":
    """Return the model `name` with the weights of `source`, and a line about what was loaded."""
    from distill.models.hub import is_hub_reference
    from distill.models.references import load_model
    from distill.models.registry import create_model
    from distill.models.weight_files import is_saldistill_file

    if Path(source).is_dir() or is_hub_reference(source) or is_saldistill_file(source):
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
    "pretrained and networks; with --convert and --to-published: out and loaded",
)
