"""Repositories of the Hugging Face Hub that are refused: changed files, code, no access, no network."""

import os
import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest
from helpers.fake_hub import NOBODY, FakeHub, Repository, point_at
from helpers.hub_models import NAME, edited
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

from distill.data.progress import hidden_bars
from distill.errors import UserError
from distill.limits import MAX_HUB_MANIFEST_BYTES
from distill.models.hub import open_repository, quiet_hub
from distill.models.references import load_model


def repository(fake: FakeHub) -> Repository:
    return fake.repositories[NAME]


@pytest.mark.parametrize("cached", [True, False])
def test_load_model_with_changed_weights_is_refused(cached: bool, fake: FakeHub, files: dict[str, bytes]) -> None:
    changed = bytearray(files["model.safetensors"])
    changed[-1] ^= 1
    if cached:
        path = open_repository("hf://me/student").weights().resolve()
        path.write_bytes(changed)
    else:
        repository(fake).files()["model.safetensors"] = bytes(changed)
    with pytest.raises(UserError) as error:
        load_model("hf://me/student")
    text = str(error.value)
    assert "model.safetensors has SHA-256" in text
    assert "the file is damaged or has been replaced: remove" in text
    if cached:  # as the message says
        path.unlink()
        load_model("hf://me/student")


def test_load_model_with_larger_file_downloads_nothing(fake: FakeHub, files: dict[str, bytes]) -> None:
    repository(fake).files()["model.safetensors"] = files["model.safetensors"] + b"x"
    with pytest.raises(UserError, match=r"model\.safetensors has .* bytes, expected at most"):
        load_model("hf://me/student")
    assert not [line for line in fake.requests if line.startswith("GET") and line.endswith("model.safetensors")]


def test_repository_with_code_and_pickles_runs_none_of_it(
    fake: FakeHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trap),)

    code = f"import os; os.mkdir({str(trap)!r})".encode()
    hostile = {"pytorch_model.bin": pickle.dumps(Trap()), "modeling.py": code, "hubconf.py": code}
    assert hostile["pytorch_model.bin"]
    repository(fake).commit({**files, **hostile})
    load_model("hf://me/student")
    assert not trap.exists()
    got = {line.rpartition("/")[2] for line in fake.requests}
    assert got == {"saldistill.json", "model.safetensors"}
    repository(fake).commit(hostile)
    with pytest.raises(
        UserError,
        match=r"hf://me/student: me/student has no saldistill\.json, so it holds no model of saldistill; expected "
        "a repository that was written with: saldistill push RUN me/student",
    ):
        load_model("hf://me/student")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "modeling.py", "weights.onnx"])
def test_manifest_with_weights_of_another_kind_is_refused_unread(
    name: str, fake: FakeHub, files: dict[str, bytes]
) -> None:
    content = {"sha256": "0" * 64, "bytes": 3}
    repository(fake).commit({**edited(files, weights=name, files={name: content}), name: b"abc"})
    with pytest.raises(UserError, match=f"weights is {name}, expected a .safetensors file"):
        load_model("hf://me/student")
    assert not [line for line in fake.requests if line.endswith(name)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, "has format 2, and this version of saldistill reads up to 1; update saldistill"),
        ({"format": "1"}, "format: .*valid integer"),
        ({"weights": "../../etc/passwd.safetensors"}, "weights: string should match pattern"),
        ({"weights": "absent.safetensors"}, "which is not among files"),
        ({"files": {"../up": {"sha256": "0" * 64, "bytes": 1}}}, "files"),
        ({"files": {"model.safetensors": {"sha256": "0", "bytes": 1}}}, "sha256: string should match"),
        ({"files": {"model.safetensors": {"sha256": "0" * 64, "bytes": 2**60}}}, "bytes: .*less than or equal"),
        ({"files": {f"{i}.onnx": {"sha256": "0" * 64, "bytes": 1} for i in range(101)}}, "at most 100"),
        ({"model": {"name": "a", "variant": "b", "arguments": {"width": 10**9}}}, "over the limit"),
    ],
)
def test_invalid_manifest_is_refused_in_one_sentence(
    changes: dict[str, object], sentence: str, fake: FakeHub, files: dict[str, bytes]
) -> None:
    repository(fake).commit(edited(files, **changes))
    with pytest.raises(UserError, match=sentence) as error:
        load_model("hf://me/student")
    assert "me/student" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10_000, b"\xff\xfe", b"null"])
def test_manifest_that_is_no_json_is_refused(content: bytes, fake: FakeHub, files: dict[str, bytes]) -> None:
    repository(fake).commit({**files, "saldistill.json": content})
    with pytest.raises(UserError, match=r"saldistill\.json of hf://me/student .*; push the model again"):
        load_model("hf://me/student")


def test_large_manifest_is_not_downloaded(fake: FakeHub, files: dict[str, bytes]) -> None:
    repository(fake).commit({**files, "saldistill.json": b" " * (MAX_HUB_MANIFEST_BYTES + 1)})
    with pytest.raises(UserError, match=r"saldistill\.json has 1,048,577 bytes, expected at most 1,048,576"):
        load_model("hf://me/student")
    assert not [line for line in fake.requests if line.startswith("GET")]


def test_listed_file_that_is_missing_is_refused(fake: FakeHub, files: dict[str, bytes]) -> None:
    repository(fake).commit({name: each for name, each in files.items() if name != "model.safetensors"})
    with pytest.raises(UserError, match=r"has no model\.safetensors, which its saldistill\.json lists"):
        load_model("hf://me/student")


def test_unknown_repository_or_revision_is_refused(fake: FakeHub) -> None:
    with pytest.raises(UserError, match=r"^hf://me/absent: the Hugging Face Hub has no repository me/absent"):
        load_model("hf://me/absent")
    with pytest.raises(UserError, match=r"^me/absent@v1: no such file or folder, and the Hugging Face Hub has no"):
        load_model("me/absent@v1")
    with pytest.raises(UserError, match="me/student has no branch, tag or commit 'v9'"):
        load_model("hf://me/student@v9")
    with pytest.raises(UserError, match="not the name of a repository"):
        load_model("hf://me/stu--dent")


def test_gated_repository_is_refused(fake: FakeHub) -> None:
    repository(fake).gated = True
    with pytest.raises(UserError, match="access to me/student is restricted; request it on the repository's page"):
        load_model("hf://me/student")


def test_unreachable_hub_is_one_sentence_without_log_lines(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    point_at(NOBODY, tmp_path, monkeypatch)
    with pytest.raises(
        UserError, match=r"saldistill\.json is not cached, and the Hugging Face Hub cannot be reached"
    ):
        load_model("hf://me/student")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"saldistill\.json is not cached, and HF_HUB_OFFLINE is set"):
        load_model("hf://me/student")
    assert capfd.readouterr().err == ""


def test_hidden_bars_hide_those_of_the_library_for_the_time_of_a_call() -> None:
    for hidden in (True, False):
        with hidden_bars() if hidden else nullcontext(), quiet_hub():
            assert are_progress_bars_disabled() == hidden
        assert not are_progress_bars_disabled()


def test_server_that_is_no_hub_is_one_sentence(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(fake).commits["not-a-commit"] = repository(fake).files()
    repository(fake).refs["main"] = "not-a-commit"
    with pytest.raises(UserError, match="the server names no commit; check that HF_ENDPOINT is a Hugging Face Hub"):
        load_model("hf://me/student")
