"""Configs and notes for publication name no home folder, no user and no private storage."""

from pathlib import Path

import pytest

from distill.release.public_values import public


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/demo/student", "runs/demo/student"),
        ("teacher/salfom:tiny", "teacher/salfom:tiny"),
        ("dhf1k", "dhf1k"),
        ("30fps", "30fps"),
        ("", ""),
        ("weights and/or maps", "weights and/or maps"),
        ("hf://me/student@v1", "hf://me/student@v1"),
        ("/data/alice/DHF1K", "DHF1K"),
        ("/data/alice/DHF1K/", "DHF1K"),
        ("/home/USER", "."),
        ("/home/USER/", "."),
        ("/Users/alice", "."),
        ("/", "."),
        ("~", "."),
        ("~alice", "."),
        ("~/alice/DHF1K", "DHF1K"),
        ("~alice/DHF1K", "DHF1K"),
        ("../alice/DHF1K", "DHF1K"),
        ("runs/../../alice/..", "."),
        (r"C:\Users\alice\DHF1K", "DHF1K"),
        (r"C:\Users\alice", "."),
        (r"\\server\alice\DHF1K", "DHF1K"),
        ("s3://alice:secret@bucket/targets", "targets"),
        ("/home/USER smith/own data", "own data"),
        ("dhf1k:/home/USER/DHF1K", "dhf1k:DHF1K"),
        ("from /home/USER/a.txt, and '/home/USER'", "from a.txt, and '.'"),
        (r"from D:\alice\a.txt", "from a.txt"),
    ],
)
def test_public_reduces_paths_of_the_machine_to_their_last_part(text: str, expected: str) -> None:
    assert public(text) == expected


def test_public_of_the_home_folder_names_no_user() -> None:
    home = Path.home()
    assert public(str(home)) == "."
    assert public(str(home / "DHF1K")) == "DHF1K"
    assert public(f"/scratch/{home.name}") == "."
    assert public(f"/scratch/{home.name}/DHF1K") == "DHF1K"


def test_public_changes_keys_and_values_at_every_depth_only_if_they_are_paths() -> None:
    value = {"/home/USER/a": [{"root": "/home/USER/b"}, 1, 2.5, None, True], "lr": 1e-3}
    assert public(value) == {"a": [{"root": "b"}, 1, 2.5, None, True], "lr": 1e-3}
