"""Strict YAML, key=value overrides, and pydantic's complaints in sentences that a user can act on."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from distill.errors import UserError

Schema = TypeVar("Schema", bound=BaseModel)


class StrictLoader(yaml.SafeLoader):
    """YAML in which `3e-4` is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a repeated key would silently win otherwise."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.MarkedYAMLError(problem="a key must be plain text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(text: str, where: str) -> Any:
    """Parse YAML text.

    Raises:
        UserError: with the line and column of what is not YAML.
    """
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise UserError(f"{where}: not valid YAML at {place}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def load(schema: type[Schema], path: str | Path, overrides: Sequence[str] | None) -> Schema:
    """Read a YAML file by its schema, with `key=value` overrides.

    Raises:
        UserError: naming every mistake with the path of its key, and what was expected.
    """
    values = read_yaml(path)
    for text in overrides or []:
        override(values, text)
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise explain(error, schema, str(path)) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        UserError: if the file is missing, unreadable, no YAML, or no mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such config file; configs/ holds some to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config: {error}") from None
    values = parse(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a YAML mapping (key: value), found {kind(values)}")
    return values


def override(values: dict[str, Any], text: str) -> None:
    """Set one value in place from `key.path=value`; a number in the path counts a list's entries from 0.

    Raises:
        UserError: if the text has no `=`, or the path leads into a value that has no keys.
    """
    path, equals, value = text.partition("=")
    keys = [part for part in re.split(r"[.\[\]]+", path.strip()) if part]
    if not equals or not keys:
        raise UserError(f"'{text}': expected an override of the form key=value, for example training.steps=10")
    place: Any = values
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise UserError(f"{path}: '{key}' is no entry of a list of {len(place)}; entries count from 0")
            index: Any = int(key)
        elif isinstance(place, dict):
            index = key
        else:
            raise UserError(f"{path}: '{'.'.join(keys[:depth])}' is {kind(place)} and has no keys")
        if last:
            place[index] = parse(value, path)
        elif isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        place = place[index]


def one_of(name: str, accepted: Iterable[str], what: str) -> str:
    """Return `name` if it is accepted; otherwise raise a ValueError that lists what is, closest first."""
    accepted = list(accepted)
    if name in accepted:
        return name
    raise ValueError(f"unknown {what} '{name}'{did_you_mean(name, accepted)}; there are: {', '.join(accepted)}")


def did_you_mean(name: str, accepted: Iterable[str]) -> str:
    """Return ` (did you mean 'X'?)` for the closest accepted name, or nothing."""
    close = difflib.get_close_matches(str(name), list(accepted), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def kind(value: Any) -> str:
    """Say what a YAML value is, in words."""
    names = {dict: "a mapping", list: "a list", str: f"'{value}'", type(None): "nothing"}
    return names.get(type(value), str(value).lower() if isinstance(value, bool) else repr(value))


EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
"""What to say was expected, by pydantic's type of error."""


def explain(error: ValidationError, config: type[BaseModel], where: str) -> UserError:
    """Turn every complaint into `file: path.of.key: expected this, got that`, a line each."""
    lines = []
    for problem in error.errors():
        path = _path(problem["loc"])
        lines.append(f"{where}: {path}{': ' if path else ''}{_sentence(problem, config)}")
    return UserError("\n".join(lines))


def _path(loc: tuple[int | str, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return text.lstrip(".")


def _sentence(problem: Any, config: type[BaseModel]) -> str:
    kind_of_error, context = problem["type"], problem.get("ctx", {})
    if kind_of_error == "extra_forbidden":
        accepted = list(_section_at(config, problem["loc"][:-1]).model_fields)
        suggestion = did_you_mean(problem["loc"][-1], accepted)
        return f"unknown key{suggestion}; this section has: {', '.join(accepted)}"
    if kind_of_error == "missing":
        return "missing; this key is needed"
    if kind_of_error == "value_error":
        return str(context["error"])
    got = kind(problem["input"])
    if kind_of_error == "literal_error":
        accepted = re.findall(r"'([^']*)'", context["expected"])
        return f"expected one of {', '.join(accepted)}, got {got}{did_you_mean(str(problem['input']), accepted)}"
    if kind_of_error in EXPECTED:
        return f"expected {EXPECTED[kind_of_error]}, got {got}"
    message = problem["msg"].removeprefix("Input should be ")
    return f"expected {message[0].lower()}{message[1:]}, got {got}"


def _section_at(config: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the class of the section that a path leads to, through lists and optional sections."""
    section = config
    for part in loc:
        if isinstance(part, str):
            section = next(_sections_in(section.model_fields[part].annotation))
    return section


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
