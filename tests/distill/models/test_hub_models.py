"""Models in repositories of the Hugging Face Hub: references, pinned commits and refusals."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.fake_hub import NOBODY, TOKEN, FakeHub, Repository, point_at
from helpers.hub_models import NAME, edited, files_of, write_run
from helpers.places import REPOSITORY
from helpers.runs import config
from huggingface_hub import constants

import distill
from distill.deploy.browser_page import _file_of
from distill.errors import UserError
from distill.evaluation.references import folder_name, resolve_source
from distill.inference.settings import InferenceSettings
from distill.models.hub import is_hub_reference, parse_reference, pinned
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


def repository(fake: FakeHub) -> Repository:
    return fake.repositories[NAME]


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
    assert [each.model for each in run.teacher_sections] == [f"hf://me/student@{commit}", "runs/teacher"]
    fake.requests.clear()
    assert pin_models(run) == run
    assert fake.requests == []
    unpinned = config(tmp_path)
    assert pin_models(unpinned) == unpinned


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
