"""Models in repositories of the Hugging Face Hub: references, pinned commits and refusals."""

import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers.fake_hub import NOBODY, TOKEN, FakeHub, Repository, point_at, running_hub
from helpers.hub_models import files_of, write_run
from helpers.places import REPOSITORY
from helpers.runs import config
from huggingface_hub import constants
from huggingface_hub.utils import are_progress_bars_disabled

import distill
from distill.data.progress import hidden_bars
from distill.deploy.browser_page import _file_of
from distill.errors import UserError
from distill.evaluation.references import folder_name, resolve_source
from distill.inference.settings import InferenceSettings
from distill.limits import MAX_HUB_MANIFEST_BYTES
from distill.models.hub import is_hub_reference, open_repository, parse_reference, pinned, quiet_hub
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.release.hub_folder import write_hub_folder
from distill.release.records import shown
from distill.targets.store import TargetStore
from distill.targets.verify import verify_store
from distill.training.config import RunConfig, load_config
from distill.training.model_pins import pin_models
from distill.training.train import train

NAME = "me/student"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a repository with a small streaming student."""
    folder = tmp_path_factory.mktemp("hub")
    write_run(folder / "run")
    (folder / "upload").mkdir()
    write_hub_folder(folder / "run", NAME, folder / "upload")
    return files_of(folder / "upload")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Iterator[FakeHub]:
    """A fake hub with the repository NAME, and an empty cache."""
    with running_hub(tmp_path, monkeypatch) as server:
        server.add(NAME, dict(files))
        yield server


def repository(fake: FakeHub) -> Repository:
    return fake.repositories[NAME]


def edited(original: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """Return the files with other values in saldistill.json."""
    manifest = json.loads(original["saldistill.json"]) | changes
    return {**original, "saldistill.json": json.dumps(manifest).encode()}


def other_model(files: dict[str, bytes], folder: Path) -> dict[str, bytes]:
    """Return the files of a model with other weights."""
    (folder / "first").mkdir(parents=True)
    (folder / "first" / "model.safetensors").write_bytes(files["model.safetensors"])
    model = load_model(folder / "first" / "model.safetensors")
    with torch.no_grad():
        model.network.decoder.head.weight.mul_(2)
    save_model(model, folder / "other.safetensors", notes=dict(model.notes))
    (folder / "upload").mkdir()
    write_hub_folder(folder / "other.safetensors", NAME, folder / "upload", onnx=False)
    return files_of(folder / "upload")


def head_of(model: LoadedModel) -> torch.Tensor:
    return model.network.decoder.head.weight


# ------------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("hf://me/student", ("me/student", "main")),
        ("hf://me/student@v1.0", ("me/student", "v1.0")),
        ("me/student@refs/pr/3", ("me/student", "refs/pr/3")),
        (f"hf://Org-1/a_b.c@{'0' * 40}", ("Org-1/a_b.c", "0" * 40)),
    ],
)
def test_parse_reference_returns_repository_and_revision(reference: str, expected: tuple[str, str]) -> None:
    assert is_hub_reference(reference)
    assert parse_reference(reference) == expected


@pytest.mark.parametrize(
    "reference",
    [
        "hf://",
        "hf://student",
        "hf://me/student/file",
        "hf://me/student@",
        "hf://me/../student",
        "hf://me/student@../../secret",
        "hf://me/student@a//b",
        "hf://me/student@a/./b",
        "hf://me/stu dent",
        "hf://-me/student",
        "hf://me/student@v1 --upload-pack",
    ],
)
def test_load_model_with_invalid_reference_raises_one_sentence(reference: str, fake: FakeHub) -> None:
    with pytest.raises(UserError, match="expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION"):
        load_model(reference)
    assert fake.requests == []


@pytest.mark.parametrize(
    "reference",
    [
        "stream-small",
        "runs/demo",
        "me/student",
        "teacher/salfom@main",
        "student/stream:micro@main",
        "runs/a@b.safetensors",
        "runs/a@b.onnx",
        "a/b/c@d",
        "/me/student@main",
    ],
)
def test_is_hub_reference_of_other_models_is_false(reference: str) -> None:
    assert not is_hub_reference(reference)
    assert pinned(reference) == reference


def test_existing_path_takes_precedence_over_a_bare_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeHub
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_reference("me/student@main")
    write_run(tmp_path / "me" / "student@main")
    assert not is_hub_reference("me/student@main")
    assert load_model("me/student@main").reference == "me/student@main"
    assert fake.requests == []


def test_names_of_folders_and_cards_keep_a_reference_readable() -> None:
    assert folder_name("hf://me/student@v1") == "me_student@v1"
    assert shown("hf://me/student@v1") == "hf://me/student@v1"


# ------------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("reference", "branch"),
    [
        ("hf://me/student", "main"),
        ("hf://me/student@main", "main"),
        ("me/student@v1", "v1"),
        ("hf://me/student@v1", "v1"),
        ("hf://me/student@refs/pr/1", "refs/pr/1"),
    ],
)
def test_load_model_by_branch_or_tag_records_the_commit(
    reference: str, branch: str, fake: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="distill")
    commit = repository(fake).refs["main"]
    repository(fake).refs[branch] = commit
    model = load_model(reference)
    write_run(tmp_path / "run")
    assert torch.equal(head_of(model), head_of(load_model(tmp_path / "run")))
    assert model.reference == f"hf://me/student@{commit}"
    assert model.stride == 2
    assert not model.network.training
    assert f"{reference}: commit {commit} of {branch}; to pin it, use hf://me/student@{commit}" in caplog.text


def test_load_model_reads_only_manifest_and_weights(fake: FakeHub) -> None:
    load_model("hf://me/student")
    got = {line.rpartition("/")[2] for line in fake.requests}
    assert got == {"saldistill.json", "model.safetensors"}


def test_load_model_of_cached_commit_makes_no_request(fake: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    reference = load_model("hf://me/student").reference
    fake.requests.clear()
    caplog.clear()
    assert load_model(reference).reference == reference
    assert fake.requests == []
    assert "to pin it" not in caplog.text


def test_moved_branch_changes_main_but_not_a_pinned_reference(
    fake: FakeHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    before = load_model("hf://me/student")
    commit = repository(fake).commit(other_model(files, tmp_path))
    after = load_model("hf://me/student")
    assert after.reference == f"hf://me/student@{commit}"
    assert torch.equal(head_of(after), 2 * head_of(before))
    assert torch.equal(head_of(load_model(before.reference)), head_of(before))


@pytest.mark.parametrize("offline", [True, False])
def test_load_model_without_network_uses_the_cache(
    offline: bool, fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = load_model("hf://me/student").reference
    point_at(NOBODY, tmp_path, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert load_model("hf://me/student").reference == reference
    assert load_model(reference).reference == reference


def test_load_model_of_private_repository_needs_the_token(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(fake).private = True
    with pytest.raises(UserError, match=r"no repository me/student that this account can see; .* HF_TOKEN"):
        load_model("hf://me/student")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    load_model("hf://me/student")


def test_create_model_starts_from_the_weights_of_a_repository(fake: FakeHub) -> None:
    model = create_model("student/stream:micro", weights="hf://me/student")
    assert model.loaded == f"hf://me/student@{repository(fake).refs['main']}: all weights loaded"
    assert torch.equal(head_of(model), head_of(load_model("hf://me/student")))
    with pytest.raises(UserError, match="contains student/stream:micro, not student/stream:nano"):
        create_model("student/stream:nano", weights="hf://me/student")


def test_python_interface_predicts_the_same_maps_as_the_run(fake: FakeHub, tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    frames = (torch.rand(3, 48, 80, 3, generator=torch.Generator().manual_seed(1)) * 255).byte().numpy()
    maps = [distill.load(each, device="cpu").predict(frames) for each in ("hf://me/student", tmp_path / "run")]
    assert maps[0].std() > 0
    assert (maps[0] == maps[1]).all()


def test_scores_and_submissions_record_the_commit(fake: FakeHub) -> None:
    source = resolve_source("me/student@main", InferenceSettings(stride=None, device="cpu", runtime="pytorch"))
    assert source.provenance()["model"] == f"hf://me/student@{repository(fake).refs['main']}"


def test_page_takes_the_onnx_file_of_a_repository(fake: FakeHub, files: dict[str, bytes]) -> None:
    assert _file_of("hf://me/student").read_bytes() == files["model.onnx"]
    repository(fake).commit(edited(files, onnx=None))
    with pytest.raises(UserError, match=r"has no \.onnx file; export one with: saldistill export hf://me/student@"):
        _file_of("hf://me/student")


def test_pin_models_names_commits_of_weights_and_teachers(fake: FakeHub, tmp_path: Path) -> None:
    commit = repository(fake).refs["main"]
    teacher = {"name": "one", "model": "hf://me/student", "store": "store"}
    values = config(tmp_path).model_dump(mode="json")
    values["model"] = {"name": "student/stream", "variant": "micro", "weights": "me/student@main"}
    values["teacher"] = [teacher, {**teacher, "name": "two", "model": "runs/teacher"}]
    values["losses"] = [{"name": "kldiv", "against": "teacher"}]
    run = pin_models(RunConfig.model_validate(values))
    assert run.model.weights == f"hf://me/student@{commit}"
    assert [each.model for each in run.teachers] == [f"hf://me/student@{commit}", "runs/teacher"]
    fake.requests.clear()
    assert pin_models(run) == run
    assert fake.requests == []
    unpinned = config(tmp_path)
    assert pin_models(unpinned) == unpinned


# ------------------------------------------------------------------------------------------------- refusals


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


# ------------------------------------------------------------------------------------------------- end to end


@pytest.mark.slow
def test_train_records_the_commit_and_does_not_resume_with_that_of_a_moved_branch(
    fake: FakeHub, files: dict[str, bytes], tmp_path: Path
) -> None:
    values = config(tmp_path / "run").model_dump(mode="json")
    values["model"] = {"name": "student/stream", "variant": "micro", "weights": "hf://me/student"}
    values["training"]["steps"] = 1
    values["resume"] = "auto"
    first = repository(fake).refs["main"]
    out = train(RunConfig.model_validate(values))
    assert load_config(out / "config.yaml").model.weights == f"hf://me/student@{first}"
    train(RunConfig.model_validate(values))
    second = repository(fake).commit(other_model(files, tmp_path))
    with pytest.raises(UserError, match=f"model.weights was hf://me/student@{first} and is now .*@{second}"):
        train(RunConfig.model_validate(values))
    train(load_config(out / "config.yaml"))


@pytest.mark.slow
def test_build_targets_notes_the_commit_of_the_teacher(fake: FakeHub, tmp_path: Path) -> None:
    overrides = {
        "out": str(tmp_path / "run"),
        "teacher.model": "hf://me/student",
        "teacher.store": str(tmp_path / "store"),
        "teacher.views": ["plain"],
        "data.train": [{"dataset": "dhf1k", "root": "@sample", "videos": ["068"], "frames": [1, 4]}],
    }
    (store,) = distill.build_targets("@distill/demo", overrides)
    assert TargetStore.open(store).notes["teacher"] == f"hf://me/student@{repository(fake).refs['main']}"
    repository(fake).commit({})  # the store names what it was built from
    assert verify_store(store, sample=4, device="cpu").ok


@pytest.mark.slow
def test_predict_command_loads_a_repository_of_hf_endpoint(fake: FakeHub, sample: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "distill.cli.main", "predict", "hf://me/student"]
    done = subprocess.run(
        [*command, str(sample / "video" / "068.AVI"), "--csv", "068.csv", "--device", "cpu"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"to pin it, use hf://me/student@{repository(fake).refs['main']}" in done.stderr
    assert len((tmp_path / "068.csv").read_text().splitlines()) == 541
