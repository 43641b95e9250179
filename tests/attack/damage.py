"""Generic damage to the bytes of any file, and values of the wrong type for any key."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]


def cut(content: bytes, chance: random.Random) -> bytes:
    """Return the first part, as after an interrupted copy."""
    return content[: chance.randrange(len(content))]


def flip_bytes(content: bytes, chance: random.Random) -> bytes:
    """Change up to 16 bytes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 16)):
        changed[chance.randrange(len(changed))] ^= chance.randint(1, 255)
    return bytes(changed)


def flip_early(content: bytes, chance: random.Random) -> bytes:
    """Change up to 4 of the first 512 bytes, where the headers are."""
    return flip_bytes(content[:512], chance) + content[512:]


def flip_bit(content: bytes, chance: random.Random) -> bytes:
    """Change one bit."""
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def zero_block(content: bytes, chance: random.Random) -> bytes:
    """Replace a block by zeros, as after a power cut."""
    start = chance.randrange(len(content))
    length = min(chance.randint(1, 4096), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def insert(content: bytes, chance: random.Random) -> bytes:
    """Insert random bytes."""
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(chance.randint(1, 64)) + content[place:]


DAMAGES: tuple[Damage, ...] = (cut, flip_bytes, flip_early, zero_block, insert)
"""Kinds of damage that leave most of a file as it was."""

REPLACEMENTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"this is a text file\n" * 20,
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "zeros": bytes(5000),
    "noise": random.Random(0).randbytes(5000),
    "pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
    + b"0" * 64
    + b"\nsize 12345\n",
}
"""Contents that are something else altogether."""


def damaged(content: bytes, chance: random.Random, number: int) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content): every replacement, then random damage of each kind in turn."""
    yield from REPLACEMENTS.items()
    for index in range(number):
        damage = DAMAGES[index % len(DAMAGES)]
        yield f"{damage.__name__} {index}", damage(content, chance)


WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 7, 2.5, float("nan"), float("inf"), 1e12, 10**30, "", "many", "../x", "\0", [],
    [1, "a", None], [[]], {}, {"a": 1}, "x" * 5000,
)  # fmt: skip
"""Values of types and sizes that few keys accept."""


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every key and index in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from places(inner, (*at, key))


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of nested mappings and lists with one value replaced; removed if `new` is `REMOVE`."""
    key, *rest = place
    copy = dict(value) if isinstance(value, dict) else list(value)
    if rest:
        copy[key] = replaced(copy[key], tuple(rest), new)
    elif new is REMOVE:
        del copy[key]
    else:
        copy[key] = new
    return copy


REMOVE = object()


def wrong_values(value: Any, chance: random.Random, number: int) -> Iterator[tuple[str, Any]]:
    """Yield (name, copy with one key removed or replaced by a wrong value), at random places."""
    everywhere = list(places(value))
    for _ in range(number):
        place, new = chance.choice(everywhere), chance.choice([*WRONG, REMOVE])
        shown = "removed" if new is REMOVE else repr(new)[:20]
        yield f"{'.'.join(map(str, place))} {shown}", replaced(value, place, new)


def written(name: str, content: bytes | str) -> Callable[[Path], object]:
    """Return a function that writes a file into the folder of a case."""

    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write
