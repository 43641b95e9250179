"""Differences between two fingerprints of target stores, as text."""

import json
from collections.abc import Mapping
from typing import Any


def differences(stored: Any, expected: Any, key: str = "") -> list[str]:
    """Return the differences between two nested mappings of JSON values, one text each.

    Args:
        stored: fingerprint of the store.
        expected: expected fingerprint; keys that it lacks are not compared.
        key: path of the two values in the fingerprint, e.g. `teacher.weights`.
    """
    if not (isinstance(stored, Mapping) and isinstance(expected, Mapping)):
        return [] if stored == expected else [f"{key} was {_short(stored)} and is now {_short(expected)}"]
    found = []
    for name, value in expected.items():
        path = f"{key}.{name}" if key else name
        if name in stored:
            found += differences(stored[name], value, path)
        elif not isinstance(value, Mapping) or key == "videos":
            found.append(f"{path} is not in the store")
        else:
            found += differences({}, value, path)
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}...{text[-8:]}"
