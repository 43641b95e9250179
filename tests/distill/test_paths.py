"""Names from data that become paths."""

from pathlib import Path

import pytest

from distill.errors import UserError
from distill.paths import path_inside


@pytest.mark.parametrize("name", ["0601", "deep/0601", "a b", "..a", "a..", "\u00fc/1", "x" * 255])
def test_name_inside_is_joined(name: str) -> None:
    assert path_inside("out", name, "store.json") == Path("out") / name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../x", "'..'"),
        ("a/../../b", "'..'"),
        ("..", "'..'"),
        (".", "'.'"),
        ("", "empty"),
        ("a//b", "empty part"),
        ("a/", "empty part"),
        ("/etc/x", "absolute"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("x" * 256, "longer than 255 bytes"),
        ("\u00fc" * 128, "longer than 255 bytes"),
        ("/".join(["d" * 100] * 50), "longer than 1000 bytes"),
        ("a\udcff", "not valid Unicode"),
    ],
)
def test_name_that_leaves_the_folder_is_refused(name: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault) as caught:
        path_inside("out", name, "store.json")
    assert str(caught.value).startswith("store.json: the name ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
