"""Registry of models: create the networks of `teacher/` and `student/` by name."""

import difflib
import importlib
import inspect
import json
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from torch import nn

from distill.errors import UserError, reason_of
from distill.models.hub import is_hub_reference, open_repository
from distill.models.loaded import LoadedModel
from distill.models.networks import list_models
from distill.models.pretrained import PRETRAINED, checked_file, is_pretrained, misfit, pretrained_for
from distill.models.protocols import check_model
from distill.models.published_weights import load_published_weights
from distill.models.startup import compiler_postponed
from distill.models.weight_files import fits, is_saldistill_file, load_weights_into


def list_variants(name: str) -> list[str]:
    """Return the names of a model's variants in the order of its file.

    Raises:
        UserError: if the model is unknown; the message lists all models.
    """
    return list(_module(name).VARIANTS)


def default_variant(name: str) -> str:
    """Return the name of a model's default variant; errors as `list_variants`."""
    return str(_module(name).DEFAULT)


def create_model(
    name: str, *, variant: str | None = None, weights: str | Path | None = None, **arguments: Any
) -> LoadedModel:
    """Build a model with random or given weights.

    Args:
        name: name of the model, such as `teacher/salfom`, with or without a variant, `teacher/salfom:tiny`.
        variant: name of the variant, if `name` has none; defaults to the model's DEFAULT.
        weights: `pretrained` for the weights that come with the project for this variant, whose arguments are then
            the defaults; a weight file of this project, or a repository of the Hugging Face Hub with one; or
            published weights that the model's `load_weights` accepts: a path, or a name known to the model.
        **arguments: keyword arguments of the model's `Model`, which override those of the variant.

    Returns:
        The model, with its network in training mode.

    Raises:
        UserError: if a name, variant or argument is unknown, a value is invalid, or the weights do not fit;
            the message lists the accepted names.
    """
    if weights is not None and (str(weights) == PRETRAINED or is_pretrained(weights)):
        return _create_pretrained(name, variant, str(weights), arguments)
    model = _build(name, variant, arguments)
    if weights is None:
        return model
    if is_hub_reference(weights):
        repository = open_repository(weights)
        load_weights_into(model, repository.weights())
        return replace(model, loaded=f"{repository.reference}: all weights loaded")
    if is_saldistill_file(weights):
        load_weights_into(model, weights)
        return replace(model, loaded=f"{weights}: all weights loaded")
    module = _module(model.identity["name"])
    try:
        return replace(model, loaded=load_published_weights(module, cast(nn.Module, model.network), weights))
    except ValueError as error:
        raise UserError(f"{model.reference}: {error}") from error


def rebuild(identity: Mapping[str, Any]) -> LoadedModel:
    """Build a model again from the identity of a `LoadedModel` or a weight file, with initial weights.

    The arguments are those of the model's signature; no file is read for them.
    """
    return _build(identity["name"], identity["variant"], identity["arguments"])


def _create_pretrained(name: str, variant: str | None, weights: str, arguments: Mapping[str, Any]) -> LoadedModel:
    """Build a model with the pretrained weights of its architecture and variant; see `create_model`."""
    name, variant = _resolve(name, variant)
    reference, record = pretrained_for(name, variant, weights)
    model = _build(name, variant, {**record.model.arguments, **arguments})
    path = checked_file(record.weights)
    if not fits(model, path):
        raise misfit(model.reference, reference, record, arguments)
    load_weights_into(model, path)
    return replace(model, loaded=f"{reference}: all pretrained weights loaded")


def _resolve(name: str, variant: str | None) -> tuple[str, str]:
    """Return the name of a model and its variant; see `create_model`."""
    name, _, suffix = name.partition(":")
    if suffix and variant and suffix != variant:
        raise UserError(f"{name}:{suffix}: variant '{variant}' was given as well; give only one of them")
    module = _module(name)
    variant = variant or suffix or default_variant(name)
    if variant not in module.VARIANTS:
        raise UserError(f"{name}: no variant '{variant}'{_suggest(variant, module.VARIANTS)}")
    return name, variant


def _build(name: str, variant: str | None, arguments: Mapping[str, Any]) -> LoadedModel:
    """Build a model with random weights; see `create_model`."""
    name, variant = _resolve(name, variant)
    module = _module(name)
    reference = f"{name}:{variant}"
    given = _check_arguments(reference, module.Model, arguments)
    try:
        network = module.Model(**{**module.VARIANTS[variant], **given})
    except ValueError as error:
        raise UserError(f"{reference}: {error}") from error
    except Exception as error:  # torch's error for a value that the model does not check itself
        if not given:
            raise
        raise UserError(f"{reference}: cannot be built with {given} ({reason_of(error)})") from error
    check_model(network)
    identity = {"name": name, "variant": variant, "arguments": json.loads(json.dumps(given))}
    return LoadedModel(network, identity, reference)


def _module(name: str) -> types.ModuleType:
    """Import the file of a model."""
    if name not in (models := list_models()):
        raise UserError(f"no model '{name}'{_suggest(name, models)}")
    with compiler_postponed():
        return importlib.import_module(name.replace("/", "."))


def _check_arguments(where: str, model: type[nn.Module], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Check arguments against the signature of `Model`: names and strict types; lists become tuples."""
    accepted = [key for key in inspect.signature(model.__init__).parameters if key != "self"]
    hints = typing.get_type_hints(model.__init__)
    checked = {}
    for key, value in arguments.items():
        if key not in accepted:
            raise UserError(f"{where}: no argument '{key}'{_suggest(key, accepted)}")
        value = tuple(value) if isinstance(value, list) else value
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            what = error.errors()[0]["msg"]
            raise UserError(f"{where}: argument {key} = {value!r}: {what[0].lower()}{what[1:]}") from error
    return checked


def _suggest(wrong: str, names: Iterable[str]) -> str:
    """Return the end of an error message: `; did you mean 'x'? Available: x, y, z`."""
    names = list(names)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'? Available" if near else "; available"
    return f"{hint}: {', '.join(names)}"
