"""Strict config sections, YAML with `key=value` overrides, and readable messages for validation errors."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from distill.errors import UserError

Schema = TypeVar("Schema", bound=BaseModel)


class Section(BaseModel):
    """A section of a config: immutable and without unknown keys. The docstrings of the fields are the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class StrictLoader(yaml.SafeLoader):
    """YAML loader that reads `3e-4` as a number and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; PyYAML would silently keep the last of two equal keys."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.MarkedYAMLError(problem="expected a plain key", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key '{key}'", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: YAML.
        where: file or key to name in errors.

    Raises:
        UserError: the syntax is invalid; the error names line and column.
    """
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{where}: invalid YAML{place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: invalid YAML: {str(error).splitlines()[0]}") from None


def load(schema: type[Schema], path: str | Path, overrides: Sequence[str] | None) -> Schema:
    """Return a YAML file with `key=value` overrides, validated against a schema.

    Raises:
        UserError: the config is invalid; the error lists every mistake with its key and what was expected.
    """
    values = read_yaml(path)
    for text in overrides or []:
        override(values, text)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise explain(error, schema, str(path)) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the content of a YAML file whose top level is a mapping.

    Raises:
        UserError: the file is missing, unreadable, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: config file not found; configs/ has examples to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the config ({error}); expected a UTF-8 text file") from None
    values = parse(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a YAML mapping (key: value), got {describe_value(values)}")
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Set one value in place from `key.path=value`; numbers in the path index lists from 0.

    Raises:
        UserError: the text has no `=`, or the path does not exist.
    """
    path, equals, value = text.partition("=")
    keys = [part for part in re.split(r"[.\[\]]+", path.strip()) if part]
    if not equals or not keys:
        raise UserError(f"'{text}': expected an override key=value, for example training.steps=10")
    place: Any = values
    for depth, key in enumerate(keys):
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise UserError(f"{path}: '{key}' is not an index into a list of {len(place)}; indices start at 0")
            index: Any = int(key)
        elif isinstance(place, dict):
            index = key
        else:
            raise UserError(f"{path}: '{'.'.join(keys[:depth])}' is {describe_value(place)} and has no keys")
        if depth == len(keys) - 1:
            place[index] = parse(value, path)
        elif isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        place = place[index]


def one_of(name: str, accepted: Iterable[str], what: str) -> str:
    """Return `name` if it is accepted; otherwise raise a ValueError that lists the accepted names."""
    accepted = list(accepted)
    if name in accepted:
        return name
    raise ValueError(
        f"unknown {what} '{name}'{did_you_mean(name, accepted)}; expected one of {', '.join(accepted)}"
    )


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """Return ` (did you mean 'X'?)` for the closest accepted name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(accepted), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def describe_value(value: Any) -> str:
    """Return a description of a YAML value for errors: `a mapping`, `a list`, `nothing`, or the value itself."""
    names = {dict: "a mapping", list: "a list", str: f"'{value}'", type(None): "nothing"}
    return names.get(type(value), str(value).lower() if isinstance(value, bool) else repr(value))


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


def explain(error: ValidationError, config: type[BaseModel], where: str) -> UserError:
    """Return a UserError with one line per mistake, `file: path.of.key: expected X, got Y`."""
    lines = []
    for problem in error.errors():
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        lines.append(f"{where}: {path}{': ' if path else ''}{_sentence(problem, config)}")
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
