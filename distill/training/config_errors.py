"""Strict config sections, `key=value` overrides, and readable messages for validation errors."""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError

from distill import limits
from distill.errors import UserError, shorten
from distill.limits import MAX_DIGITS, MAX_YAML_DEPTH, check_limit
from distill.remote import is_address
from distill.stride import Stride, read_stride
from distill.training.yaml_text import parse_yaml, read_yaml

Schema = TypeVar("Schema", bound=BaseModel)
T = TypeVar("T")

Pair = Annotated[tuple[T, T], Strict(False)]
"""Two values in a list, which is what YAML has in place of a tuple; the values themselves are strict."""


class Section(BaseModel):
    """A section of a config: immutable, without unknown keys, and strict: neither `yes` nor "5" is a number.

    The docstrings of the fields are the reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def whole(value: object) -> object:
    """Return a whole number, such as 1e4, as an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 10**MAX_DIGITS else value


Integer = Annotated[int, BeforeValidator(whole)]
Seed = Annotated[Integer, Field(ge=0, lt=2**63)]


def at_most(limit: float, what: str) -> AfterValidator:
    """Return a validator for numbers up to a bound of distill/limits.py; `what` is counted."""

    def check(value: Any) -> Any:
        check_limit(value, limit, what)
        return value

    return AfterValidator(check)


def numbers_in(value: object) -> Iterator[float]:
    """Yield the numbers in a YAML value.

    Raises:
        ValueError: one of them is not finite.
    """
    if isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(each)
    elif isinstance(value, int | float):
        if not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {value}")
        yield value


def path_text(value: str) -> str:
    """Return a path if it is not empty."""
    if not value.strip():
        raise ValueError("expected a path, got an empty text; leave the key out, or name a file or folder")
    return value


PathText = Annotated[str, AfterValidator(path_text)]


def folder_text(value: str) -> str:
    """Return the path of a folder to write if it is not empty and no address."""
    if is_address(value):
        raise ValueError(f"expected a folder, got the address {shorten(value)}; runs are written to folders")
    return path_text(value)


OutText = Annotated[str, AfterValidator(folder_text)]


def plain_name(value: str) -> str:
    """Return a name if it consists of letters, digits, `_` and `-`, as names in logs and checkpoints do."""
    if not re.fullmatch("[A-Za-z0-9_-]{1,60}", value):
        raise ValueError(f"expected a name of letters, digits, _ and -, got '{shorten(value)}'")
    return value


Name = Annotated[str, AfterValidator(plain_name)]
Count = Annotated[Integer, Field(ge=1)]
BatchSize = Annotated[Count, at_most(limits.MAX_BATCH_SIZE, "clips")]
FrameStride = Annotated[Stride, BeforeValidator(read_stride)]
Precision = Literal["fp32", "bf16", "fp16"]

ONE, SEVERAL = "[one]", "[several]"
"""Tags of a union of a section and a list of such sections; errors leave them out of the path."""


def one_or_several(value: object) -> str:
    """Return the tag of a value of such a union, so that its errors are those of one of the two."""
    return SEVERAL if isinstance(value, list | tuple) else ONE


def load(schema: type[Schema], path: str | Path, overrides: Sequence[str] | None) -> Schema:
    """Return a YAML file with `key=value` overrides, validated against a schema.

    Raises:
        UserError: the config is invalid; the error lists every mistake with its key and what was expected.
    """
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a YAML mapping (key: value), got {describe_value(values)}")
    for text in overrides or []:
        override(values, text)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise explain(error, schema, str(path)) from None


def override(values: dict[str, Any], text: str) -> None:
    """Set one value in place from `key.path=value`; numbers in the path index lists from 0.

    Raises:
        UserError: the text has no `=`, the path does not exist or is over MAX_YAML_DEPTH, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    path = shorten(path.strip(), 200)
    keys = [part for part in re.split(r"[.\[\]]+", text.partition("=")[0].strip()) if part]
    if not equals or not keys:
        raise UserError(f"'{shorten(text)}': expected an override key=value, for example training.steps=10")
    check_limit(len(keys), MAX_YAML_DEPTH, f"{path}: nested keys")
    place: Any = values
    for depth, key in enumerate(keys):
        if isinstance(place, list):
            if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= len(place):
                raise UserError(f"{path}: '{key}' is not an index into a list of {len(place)}; indices start at 0")
            index: Any = int(key)
        elif isinstance(place, dict):
            index = key
        else:
            raise UserError(f"{path}: '{'.'.join(keys[:depth])}' is {describe_value(place)} and has no keys")
        if depth == len(keys) - 1:
            place[index] = parse_yaml(value, path)
        elif isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        place = place[index]


def quoted(text: object) -> str:
    """Return a text as the value of an override, so that YAML reads it as text whatever it looks like."""
    return json.dumps(str(text), ensure_ascii=False)


def one_of(name: str, accepted: Iterable[str], what: str) -> str:
    """Return `name` if it is accepted; otherwise raise a ValueError that lists the accepted names."""
    accepted = list(accepted)
    if name in accepted:
        return name
    raise ValueError(
        f"unknown {what} '{shorten(name)}'{did_you_mean(name, accepted)}; expected one of {', '.join(accepted)}"
    )


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """Return ` (did you mean 'X'?)` for the closest accepted name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(accepted), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def describe_value(value: Any) -> str:
    """Return a YAML value for errors: `a mapping`, `a list`, `nothing`, or the value itself, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, str):
        return f"'{shorten(value)}'"
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else shorten(repr(value))


EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
"""What was expected, by the first word of pydantic's type of error, such as `int_parsing`."""


MOST_ERRORS = 50
"""Mistakes that are listed."""


def explain(error: ValidationError, config: type[BaseModel], where: str) -> UserError:
    """Return a UserError with one line per mistake, `file: path.of.key: expected X, got Y`."""
    lines, problems = [], error.errors(include_url=False)
    for problem in problems[:MOST_ERRORS]:
        parts = [part for part in problem["loc"] if part not in ("[key]", ONE, SEVERAL)]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in parts).lstrip(".")
        lines.append(f"{where}: {path}{': ' if path else ''}{_sentence(problem, config)}")
    if len(problems) > MOST_ERRORS:
        lines.append(f"{where}: {len(problems) - MOST_ERRORS} more mistakes")
    return UserError("\n".join(lines))


def _sentence(problem: Any, config: type[BaseModel]) -> str:
    error_type, context = problem["type"], problem.get("ctx", {})
    if error_type == "extra_forbidden":
        accepted = list(_section_at(config, problem["loc"][:-1]).model_fields)
        return f"unknown key{did_you_mean(problem['loc'][-1], accepted)}; expected one of {', '.join(accepted)}"
    if error_type == "missing":
        return "missing; this key is required"
    if error_type == "value_error":
        return str(context["error"])
    got = describe_value(problem["input"])
    if error_type in ("too_short", "too_long"):
        allowed = (
            f"at least {context['min_length']}" if error_type == "too_short" else f"at most {context['max_length']}"
        )
        return f"expected {allowed} items, got {context['actual_length']}"
    if problem["loc"][-1:] == ("[key]",):
        return f"expected text as the key, got {got}; put it in quotes"
    if error_type == "literal_error":
        accepted = re.findall(r"'([^']*)'", context["expected"])
        return f"expected one of {', '.join(accepted)}, got {got}{did_you_mean(str(problem['input']), accepted)}"
    if (expected := EXPECTED.get(error_type.split("_")[0])) is not None:
        return f"expected {expected}, got {got}"
    if "a finite number" in problem["msg"]:
        return f"expected a finite number, got {got}"
    bound = re.fullmatch(r"Input should be (greater|less) than (or equal to )?(.+)", problem["msg"])
    if bound:
        comparison = {"greater": ">", "less": "<"}[bound[1]] + ("=" if bound[2] else "")
        return f"expected a number {comparison} {bound[3]}, got {got}"
    message = problem["msg"].removeprefix("Input should be ")
    return f"expected {message[0].lower()}{message[1:]}, got {got}"


def _section_at(config: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the section class at a path, through lists, mappings and optional sections."""
    section = config
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            section = next(_sections_in(section.model_fields[part].annotation), section)
    return section


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
