"""YAML for configs: plain values only, of bounded size, with line and column in every error.

Accepted are text, numbers, true, false, null, lists and mappings. `3e-4` is a number. Dates are text, and so are
`010` and `1:30`, which YAML 1.1 reads as 8 and 90.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from distill.errors import UserError, shorten
from distill.limits import MAX_DIGITS, MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_YAML_VALUES
from distill.shipped import shipped_path

PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
"""Tags of `tag:yaml.org,2002:` that may occur; all others would build Python objects, such as sets and bytes."""

TAG = "tag:yaml.org,2002:"


class StrictLoader(yaml.SafeLoader):
    """YAML loader of plain values: rejects other tags, duplicate keys, control characters and YAML bombs."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # id of a finished node -> number of its values, with aliases written out

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build a node, and count what it would hold if all aliases were written out."""
        event: yaml.Event = self.peek_event()
        if self._depth >= MAX_YAML_DEPTH:
            raise _error(f"nested over {MAX_YAML_DEPTH} deep (MAX_YAML_DEPTH)", event.start_mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _error(
                    f"alias *{event.anchor} refers to a list or mapping that contains it", event.start_mark
                )
        else:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            flat = [each for pair in parts for each in pair] if isinstance(node, yaml.MappingNode) else parts
            self._sizes[id(node)] = 1 + sum(self._sizes[id(each)] for each in flat)
        if self._sizes[id(node)] > MAX_YAML_VALUES:
            raise _error(f"over {MAX_YAML_VALUES} values, aliases written out (MAX_YAML_VALUES)", event.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build the value of a node; what the constructors of PyYAML raise becomes an error with its place."""
        kind = node.tag.removeprefix(TAG)
        if kind == "merge":
            raise _error("merge keys (<<) are not supported; write the keys out", node.start_mark)
        if kind not in PLAIN:
            raise _error(
                f"tag {shorten(node.tag.replace(TAG, '!!'))} is not supported; expected plain text, numbers, true, "
                "false, null, lists and mappings",
                node.start_mark,
            )
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, LookupError, ArithmeticError):
            what = {"int": "an integer", "float": "a number", "bool": "true or false"}.get(kind, kind)
            raise _error(f"expected {what}, got {shorten(repr(node.value))}", node.start_mark) from None
        if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            raise _error(f"a number of over {MAX_DIGITS} digits (MAX_DIGITS)", node.start_mark)
        if isinstance(value, str) and (bad := CONTROL.search(value)):
            raise _error(f"text with the control character {bad[0]!r}; remove it", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; PyYAML would silently keep the last of two equal keys."""
        if not isinstance(node, yaml.MappingNode):
            raise _error("expected a mapping (key: value)", node.start_mark)
        values = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise _error("expected a plain key", key_node.start_mark)
            if key in values:
                raise _error(f"duplicate key '{shorten(str(key))}'", key_node.start_mark)
            values[key] = self.construct_object(value_node, deep=deep)
        return values


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Characters that no key, name or path may contain."""

RESOLVED = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", list("yYnNtTfFoO")),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": (r"<<", ["<"]),
}
"""Text without quotes that is not text: type, pattern, and first characters."""


class StrictDumper(yaml.SafeDumper):
    """YAML dumper that puts exactly the text in quotes that `StrictLoader` would not read as text."""


for _class in (StrictLoader, StrictDumper):
    _class.yaml_implicit_resolvers = {}
    for _kind, (_pattern, _first) in RESOLVED.items():
        _class.add_implicit_resolver(TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: YAML.
        where: file or key to name in errors.

    Raises:
        UserError: the text is not YAML of plain values, or is over a limit; the error names line and column.
    """
    _check_size(text, where)
    try:
        return _unshared(yaml.load(text, Loader=StrictLoader))
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        problem = f"the character {chr(error.character)!r} is not allowed; remove it"
        raise UserError(f"{where}: invalid YAML at line {line}, column {column}: {problem}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = shorten(str(error.problem or error.context), 200)
        hint = "; indent with spaces" if "'\\t'" in problem else ""
        raise UserError(f"{where}: invalid YAML{place}: {problem}{hint}") from None


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, or as `parse_yaml`.
    """
    path = shipped_path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path}: config file not found; `saldistill configs list` prints examples to start from"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot read the config ({reason}); expected a UTF-8 text file") from None
    _check_size(data, path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{path}: cannot read the config (line {line}, column {column}: byte 0x{data[error.start]:02x} is not "
            "UTF-8); expected a UTF-8 text file"
        ) from None
    return parse_yaml(text, str(path))


def dump_yaml(values: Any) -> str:
    """Return values as YAML that `parse_yaml` reads back as equal values."""
    return str(yaml.dump(values, Dumper=StrictDumper, sort_keys=False, allow_unicode=True))


def _check_size(content: str | bytes, where: object) -> None:
    if len(content) > MAX_YAML_BYTES:
        raise UserError(
            f"{where}: over the limit of {MAX_YAML_BYTES:,} bytes (MAX_YAML_BYTES in distill/limits.py)"
        )


def _unshared(value: Any) -> Any:
    """Return a copy without shared lists and mappings, which aliases give; an override then changes one place."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    return [_unshared(each) for each in value] if isinstance(value, list) else value


def _error(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
