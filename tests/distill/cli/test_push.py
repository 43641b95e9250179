"""`saldistill push`: what is uploaded, what is refused, and that a pushed model predicts the same maps."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.fake_hub import NOBODY, TOKEN, FakeHub, Repository, point_at, running_hub
from helpers.hub_models import USER, files_of, write_run
from helpers.places import REPOSITORY
from helpers.pretrained_models import placeholder
from huggingface_hub import constants

import distill
from distill.cli.main import main
from distill.files import file_hash
from distill.models.onnx import load_onnx
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.weight_files import read_notes, save_model
from distill.release import hub_folder
from distill.release.hub_folder import WRITTEN
from distill.training.config import load_config

NAME = "me/student"

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"  # of httpx, when huggingface_hub uploads a file
)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run folder `run` and the upload of a dry run, `upload`."""
    folder = tmp_path_factory.mktemp("push")
    write_run(folder / "run")
    assert main(["push", str(folder / "run"), NAME, "--dry-run", str(folder / "upload"), "-q"]) == 0
    return folder


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake hub without repositories, and an account on it, `me`."""
    with running_hub(tmp_path, monkeypatch, token=TOKEN) as server:
        yield server


def push(*arguments: object) -> int:
    return main(["push", *map(str, arguments)])


def repository(fake: FakeHub) -> Repository:
    return fake.repositories[NAME]


def commits_of(fake: FakeHub) -> list[str]:
    return [line for line in fake.requests if "/commit/" in line]


# ------------------------------------------------------------------------------------------------- what is written


def test_dry_run_writes_the_files_and_makes_no_request(
    material: Path, fake: FakeHub, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "upload"
    assert push(material / "run", NAME, "--dry-run", out, "--no-onnx") == 0
    assert f"{out}: model.safetensors " in (printed := capsys.readouterr().out)
    assert "nothing was uploaded, run the command without --dry-run for that" in printed
    assert {path.name for path in out.iterdir()} == set(WRITTEN) - {"model.onnx"}
    assert {path.name for path in (material / "upload").iterdir()} == set(WRITTEN)
    assert fake.requests == []


def test_written_files_name_no_user_and_no_folder_of_the_machine(material: Path) -> None:
    original = (material / "run" / "best.safetensors").read_bytes()
    assert USER.encode() in original
    for name, content in files_of(material / "upload").items():
        for private in (USER, "/home", str(material), str(REPOSITORY), str(Path.home() / ".")):
            assert private.encode() not in content, (name, private)


def test_written_config_can_be_loaded_and_keeps_everything_else(material: Path) -> None:
    original, public = (load_config(material / each / "config.yaml") for each in ("run", "upload"))
    assert public.model.weights == "best.safetensors"
    assert public.out == "mine"
    assert [each.root for each in public.data.train] == ["DHF1K", "."]
    assert public.teacher_sections[0].model == "hf://me/teacher"
    assert public.teacher_sections[0].store == "targets"
    assert public.training == original.training
    assert public.losses == original.losses


def test_written_weights_keep_notes_and_gain_the_hash_of_the_config(material: Path) -> None:
    before, after = (read_notes(material / each) for each in ("run/best.safetensors", "upload/model.safetensors"))
    kept = {key: before[key] for key in ("step", "stride", "validation", "trained_on")}
    assert {key: after[key] for key in kept} == kept
    assert after["run"] == {"config_sha256": file_hash(material / "run" / "config.yaml")}
    assert after["comment"] == "started on laptop.txt, with ."


def test_manifest_lists_size_and_hash_of_every_file_but_itself_and_the_card(material: Path) -> None:
    upload = material / "upload"
    manifest = json.loads((upload / "saldistill.json").read_text())
    assert {key: manifest[key] for key in ("format", "weights", "onnx", "config")} == {
        "format": 1,
        "weights": "model.safetensors",
        "onnx": "model.onnx",
        "config": "config.yaml",
    }
    assert manifest["files"] == {
        name: {"sha256": file_hash(upload / name), "bytes": (upload / name).stat().st_size}
        for name in ("model.safetensors", "model.onnx", "config.yaml")
    }
    assert manifest["model"] == load_model(material / "run").identity


def test_card_has_the_metadata_of_the_hub_and_the_scores(material: Path, tmp_path: Path) -> None:
    _, front, text = (material / "upload" / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["library_name"] == "saldistill"
    assert metadata["pipeline_tag"] == "image-segmentation"
    assert {"saliency", "onnx"} <= set(metadata["tags"])
    assert "license" not in metadata
    assert "Licence of the weights: not stated" in text
    assert 'distill.load("hf://me/student")' in text
    assert "| 2.5000 | 0.5500 |" in text
    assert "Weights after 80 steps." in text
    assert "Trained on dhf1k (split train)." in text
    assert "saldistill distill config.yaml" in text
    assert file_hash(material / "upload" / "model.onnx") in text


@pytest.mark.parametrize(
    ("licence", "metadata"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("for research", {"license": "other", "license_name": "for research"}),
    ],
)
def test_licence_is_in_card_and_notes(
    licence: str, metadata: dict[str, str], material: Path, tmp_path: Path
) -> None:
    out = tmp_path / "upload"
    assert push(material / "run", NAME, "--dry-run", out, "--no-onnx", "--licence", licence) == 0
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1]).items() >= metadata.items()
    assert f"Licence of the weights: {licence}." in card
    assert read_notes(out / "model.safetensors")["licence"] == licence


def test_pretrained_model_is_pushed_as_it_is_with_its_full_card(tmp_path: Path) -> None:
    pushed = distill.push("stream-nano", "me/nano", dry_run=tmp_path / "upload")
    shipped = REPOSITORY / "student" / "pretrained"
    for name in ("safetensors", "onnx"):
        original = (shipped / f"stream-nano.{name}").read_bytes()
        assert (tmp_path / "upload" / f"model.{name}").read_bytes() == original, name
    card = (tmp_path / "upload" / "README.md").read_text()
    for heading in ("Scores", "Cost", "Data", "Intended use", "Known limits", "Training"):
        assert f"\n## {heading}\n" in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "apache-2.0"
    assert pushed.commit is None
    assert pushed.reference == "hf://me/nano"


def test_network_that_cannot_be_exported_is_pushed_without_onnx(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_model(create_model("teacher/salfom:micro"), tmp_path / "teacher.safetensors")
    monkeypatch.setattr(hub_folder, "MAX_GRAPH_BYTES", 2**10)  # SalFoM's own weights take 1.6 GB
    assert push(tmp_path / "teacher.safetensors", "me/teacher", "--dry-run", tmp_path / "upload", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert "model.onnx" not in result["files"]
    assert "config.yaml" not in result["files"]
    assert "its weights take " in result["no_onnx"]
    assert "no .onnx file, because the network cannot be exported: its weights take" in caplog.text
    assert "There is no .onnx file: the network cannot be exported" in (tmp_path / "upload/README.md").read_text()
    assert json.loads((tmp_path / "upload" / "saldistill.json").read_text())["onnx"] is None


def test_failed_export_is_reported_and_the_rest_is_pushed(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("unsupported operator\nwith a long trace")

    monkeypatch.setattr(hub_folder, "export", fail)
    pushed = distill.push(material / "run", NAME, dry_run=tmp_path / "upload")
    assert pushed.no_onnx == "the network cannot be exported (unsupported operator)"
    assert "model.onnx" not in pushed.files


# ------------------------------------------------------------------------------------------------- uploads


def test_push_then_load_gives_the_same_maps(
    material: Path, fake: FakeHub, sample: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert push(material / "run", NAME, "--message", "First") == 0
    commit = repository(fake).refs["main"]
    assert repository(fake).messages == ["First"]
    assert not repository(fake).private
    assert {*WRITTEN, ".gitattributes"} == set(repository(fake).files())
    printed = capsys.readouterr().out
    assert f"commit {commit} of main" in printed
    assert f"To load it: saldistill predict hf://me/student@{commit} VIDEO" in printed
    assert len(commits_of(fake)) == 1
    frames = np.random.default_rng(0).integers(0, 256, (3, 48, 80, 3), np.uint8)
    own, theirs = (
        distill.load(each, device="cpu").predict(frames) for each in (material / "run", f"hf://me/student@{commit}")
    )
    assert own.std() > 0
    assert (own == theirs).all()
    (tmp_path / "model.onnx").write_bytes(repository(fake).files()["model.onnx"])
    assert load_onnx(tmp_path / "model.onnx").notes["comment"] == "started on laptop.txt, with ."


def test_pushing_the_same_again_makes_no_commit(material: Path, fake: FakeHub) -> None:
    first, second = (distill.push(material / "run", NAME, onnx=False) for _ in range(2))
    assert first.commit == second.commit
    assert repository(fake).messages == ["student/stream:micro, saldistill 0.2.0"]


def test_pushing_another_model_replaces_its_files_and_keeps_the_pinned_one(
    material: Path, fake: FakeHub, tmp_path: Path
) -> None:
    first = distill.push(material / "run", NAME, onnx=False)
    assert "config.yaml" in repository(fake).files()
    save_model(placeholder("nano"), tmp_path / "nano.safetensors")
    second = distill.push(tmp_path / "nano.safetensors", NAME, onnx=False)
    assert "config.yaml" not in repository(fake).files()  # of the other model
    assert load_model("hf://me/student").identity["variant"] == "nano"
    assert load_model(first.reference).identity["variant"] == "micro"
    assert first.commit != second.commit


def test_push_to_a_branch_leaves_main_as_it_is(material: Path, fake: FakeHub) -> None:
    distill.push(material / "run", NAME, onnx=False)
    main_commit = repository(fake).refs["main"]
    pushed = distill.push("stream-nano", NAME, revision="small")
    assert repository(fake).refs == {"main": main_commit, "small": pushed.commit}
    assert load_model("hf://me/student@small").identity["variant"] == "nano"
    assert load_model("hf://me/student").identity["variant"] == "micro"
    again = distill.push("stream-nano", NAME, revision="small")
    assert again.commit == pushed.commit


def test_private_repository_is_created_private(material: Path, fake: FakeHub) -> None:
    distill.push(material / "run", NAME, onnx=False, private=True)
    assert repository(fake).private
    distill.push(material / "run", NAME, onnx=False, private=True)


def test_push_of_a_repository_copies_its_model(material: Path, fake: FakeHub) -> None:
    first = distill.push(material / "run", NAME, onnx=False)
    distill.push(first.reference, "me/copy", onnx=False)
    copies = [fake.repositories[name].files()["model.safetensors"] for name in (NAME, "me/copy")]
    assert copies[0] == copies[1]  # byte for byte, so that the hub stores them once


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("teacher/salfom:tiny", "teacher/salfom:tiny: is a network with random weights; expected a run folder"),
        ("student.onnx", "student.onnx: is an exported file; expected a run folder, a weight file or"),
        ("absent", "absent: no model, run folder"),
        ("absent.safetensors", "absent.safetensors: no such weight file"),
        ("empty", "empty: no weights in this folder; expected best.safetensors"),
    ],
)
def test_run_without_weights_is_refused(
    run: str,
    sentence: str,
    fake: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert push(run, NAME) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"saldistill: {sentence}")
    assert error.count("\n") == 1
    assert fake.repositories == {}
    assert push(run, NAME, "--dry-run", "upload") == 2
    assert [path.name for path in tmp_path.iterdir() if path.name in ("upload", ".upload.lock")] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["student"], "expected OWNER/NAME of letters"),
        (["me/stu dent"], "expected OWNER/NAME of letters"),
        (["me/a/b"], "expected OWNER/NAME of letters"),
        (["me/stu--dent"], "expected OWNER/NAME of letters"),
        (["me/student.git"], "expected OWNER/NAME of letters"),
        (["me/student@v1"], "expected OWNER/NAME without a revision; choose a branch with --revision"),
        ([NAME, "--revision", "../main"], "expected OWNER/NAME of letters"),
        ([NAME, "--revision", "0" * 40], "expected the name of a branch, not a commit"),
        ([NAME, "--revision", "refs/pr/1"], "expected the name of a branch, not a commit"),
    ],
)
def test_invalid_names_are_refused_before_any_request(
    arguments: list[str], sentence: str, fake: FakeHub, capsys: Capture
) -> None:
    assert push("stream-nano", *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert fake.requests == []


def test_without_login_nothing_is_requested(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push("stream-nano", NAME) == 2
    assert (
        "me/student: not logged in to the Hugging Face Hub; log in with `hf auth login`" in capsys.readouterr().err
    )
    assert fake.requests == []


def test_offline_mode_is_refused(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push("stream-nano", NAME) == 2
    assert (
        "nothing can be uploaded while HF_HUB_OFFLINE is set; unset it, or use --dry-run" in capsys.readouterr().err
    )


def test_invalid_token_is_refused(fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert push("stream-nano", NAME) == 2
    assert "the Hugging Face Hub does not accept the token; log in" in capsys.readouterr().err
    assert fake.repositories == {}


@pytest.mark.parametrize("exists", [True, False])
def test_repository_of_another_owner_is_refused(exists: bool, fake: FakeHub, capsys: Capture) -> None:
    if exists:
        fake.add("them/student", {".gitattributes": b""})
    assert push("stream-nano", "them/student") == 2
    assert (
        "them/student: this account may not write to them; use the name of your account" in capsys.readouterr().err
    )
    assert commits_of(fake) == []


def test_unreachable_hub_is_one_sentence(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    point_at(NOBODY, tmp_path, monkeypatch, token=TOKEN)
    assert push("stream-nano", NAME) == 2
    error = capfd.readouterr().err
    assert "me/student: the upload failed (" in error
    assert error.endswith("check the network and try again; no commit was made\n")
    assert error.count("\n") == 1


def test_repository_with_something_else_is_refused_unless_overwritten(fake: FakeHub, capsys: Capture) -> None:
    before = {"README.md": b"# Mine\n", "pytorch_model.bin": b"abc"}
    fake.add(NAME, before)
    assert push("stream-nano", NAME) == 2
    error = capsys.readouterr().err
    assert "holds something other than a model of saldistill, e.g. pytorch_model.bin; choose another name" in error
    assert repository(fake).files() == before
    assert push("stream-nano", NAME, "--overwrite") == 0
    assert repository(fake).files()["pytorch_model.bin"] == b"abc"
    assert load_model("hf://me/student").identity["variant"] == "nano"


def test_private_push_to_a_public_repository_is_refused(fake: FakeHub, capsys: Capture) -> None:
    distill.push("stream-nano", NAME)
    requests = len(commits_of(fake))
    assert push("stream-nano", NAME, "--private") == 2
    assert "exists and is public, although --private was given" in capsys.readouterr().err
    assert len(commits_of(fake)) == requests


def test_commit_of_somebody_else_in_the_meantime_is_not_overwritten(fake: FakeHub, capsys: Capture) -> None:
    distill.push("stream-nano", NAME)
    theirs = {"saldistill.json": b"{}", "model.safetensors": b"theirs"}

    def commit_first(repository: Repository) -> None:
        fake.before_commit = None
        repository.commit(theirs)

    fake.before_commit = commit_first
    assert push("stream-small", NAME) == 2
    assert "the repository has changed since the upload began; run the command again" in capsys.readouterr().err
    assert repository(fake).files() == theirs


def test_dry_run_does_not_replace_a_folder(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "mine.txt").touch()
    assert push("stream-nano", NAME, "--dry-run", tmp_path / "upload") == 2
    assert "the folder already exists" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "upload").iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_push_command_uploads_to_hf_endpoint(material: Path, fake: FakeHub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": fake.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "distill.cli.main", "push", str(material / "run"), NAME, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["commit"] == repository(fake).refs["main"]
    assert load_model("hf://me/student").identity == load_model(material / "run").identity
