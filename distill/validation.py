"""Read JSON from outside into typed values: strict types, bounded size and depth, one sentence for an error."""

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from distill.errors import UserError, reading, shorten
from distill.limits import MAX_JSON_BYTES, check_limit
from distill.paths import require_file

T = TypeVar("T")

SHOWN = 60
"""Number of characters of a wrong value that a message shows."""


def read_json(path: str | Path, schema: type[T], what: str, remedy: str = "it may be truncated or damaged") -> T:
    """Read a JSON file.

    Args:
        path: the file.
        schema: type of its content: a pydantic model, a TypedDict, `dict[str, list[str]]` and so on. Types are
            strict: the text "5" is no number.
        what: the content with its article, for messages, e.g. "a split file".
        remedy: what to do.

    Raises:
        UserError: it cannot be read, is larger than MAX_JSON_BYTES, is not UTF-8 or JSON, is nested too deeply, or
            has another type; the error names the first place that differs.
    """
    path = Path(path)
    require_file(path, what)
    with reading(path, what, remedy):
        check_limit(path.stat().st_size, MAX_JSON_BYTES, f"{path}: bytes")
        content = path.read_bytes()
    return parse_json(content, schema, f"{path}: cannot be read as {what}", remedy)


def parse_json(
    content: str | bytes, schema: type[T], where: str, remedy: str = "it may be truncated or damaged"
) -> T:
    """Return the value of a JSON text; see `read_json`.

    Args:
        content: the text.
        schema: its type.
        where: beginning of the message of an error.
        remedy: end of the message.

    Raises:
        UserError: the text is not JSON, is nested too deeply, or has another type.
    """
    try:
        hashable: Any = schema
        value: T = _adapter(hashable).validate_json(content, strict=True)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = shorten(".".join(str(part) if str(part).isprintable() else ascii(part) for part in first["loc"]))
        got = ascii(first["input"]) if isinstance(first["input"], str | int | float | bool) else ""
        got = f", got {got[:SHOWN]}" if got and first["type"] != "json_invalid" else ""
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}".replace("input should be", "expected")
        raise UserError(f"{where} ({place}{': ' if place else ''}{message}{got}); {remedy}") from error


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)
