"""Weights by name: downloaded from a local fake hub or the cache, and every failure."""

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.fake_hub import NOBODY, FakeHub, point_at, running_hub

from distill.errors import UserError
from distill.models.registry import create_model
from teacher import hub
from teacher.salfom import VARIANTS, Model
from teacher.weights import to_published

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "l16_ptk710_ftk710_ftk400_f16_res224.pth"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake hub on this machine with UMT's repository, and an empty cache."""
    with running_hub(tmp_path, monkeypatch) as server:
        server.add(hub.REPOSITORY, {}, oid=COMMIT)
        yield server


def files_of(fake: FakeHub) -> dict[str, bytes]:
    return fake.repositories[hub.REPOSITORY].files()


@pytest.fixture
def checkpoint(fake: FakeHub, tmp_path: Path) -> Model:
    """Put a small UMT checkpoint on the hub under the name of SalFoM's; return its model."""
    torch.manual_seed(1)
    model = Model(**VARIANTS["micro"])
    tensors = {key: value.half() for key, value in to_published(model).items() if key.startswith("encoder.")}
    torch.save({key.removeprefix("encoder."): value for key, value in tensors.items()}, tmp_path / "umt.pth")
    files_of(fake)[f"single_modality/{FILE}"] = (tmp_path / "umt.pth").read_bytes()
    return model


def digest_of(fake: FakeHub) -> str:
    return hashlib.sha256(files_of(fake)[f"single_modality/{FILE}"]).hexdigest()


def test_create_model_by_name_downloads_once(
    fake: FakeHub, checkpoint: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.SHA256, FILE, digest_of(fake))
    model = create_model("teacher/salfom:micro", weights="umt-l16-k400")
    expected = checkpoint.encoder.blocks[1].mlp.fc1.weight.half().float()
    assert torch.equal(model.network.encoder.blocks[1].mlp.fc1.weight, expected)
    assert FILE in model.loaded
    assert "UMT checkpoint" in model.loaded
    gets = [line for line in fake.requests if line.startswith("GET")]
    assert gets == [f"GET /OpenGVLab/UMT/resolve/main/single_modality/{FILE}"]
    before = len(fake.requests)
    again = hub.find("umt-l16-k400")
    assert again.read_bytes() == files_of(fake)[f"single_modality/{FILE}"]
    assert len(fake.requests) == before  # cached: no request


def test_create_model_with_wrong_checksum_raises_until_removed(fake: FakeHub, checkpoint: Model) -> None:
    with pytest.raises(UserError) as error:  # the small file has another checksum
        create_model("teacher/salfom:micro", weights="umt-l16-k400")
    text = str(error.value)
    assert f"has SHA-256 {digest_of(fake)}, expected {hub.SHA256[FILE]}" in text
    found = re.search(r"remove (\S+) and try again", text)
    assert found
    Path(found[1]).unlink()  # as the message says: the next attempt downloads again
    before = len(fake.requests)
    with pytest.raises(UserError, match="has SHA-256"):
        create_model("teacher/salfom:micro", weights="umt-l16-k400")
    assert len(fake.requests) > before


def test_find_pins_the_revision_if_one_is_known(
    fake: FakeHub, checkpoint: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.SHA256, FILE, digest_of(fake))
    monkeypatch.setattr(hub, "REVISION", COMMIT)
    hub.find("umt-l16-k400")
    assert {line.split()[1] for line in fake.requests} == {
        f"/OpenGVLab/UMT/resolve/{COMMIT}/single_modality/{FILE}"
    }


def test_find_says_if_no_checksum_is_known(
    fake: FakeHub, checkpoint: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="teacher")
    monkeypatch.delitem(hub.SHA256, FILE)
    hub.find("umt-l16-k400")
    assert (
        f"umt-l16-k400: not checked, because its SHA-256 is not known; commit {COMMIT} of OpenGVLab/UMT has "
        f"{digest_of(fake)}"
    ) in caplog.text


def test_create_model_without_network_raises_one_sentence(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    point_at(NOBODY, tmp_path, monkeypatch)
    with pytest.raises(UserError) as error:
        create_model("teacher/salfom:micro", weights="umt-l16-k400")
    assert str(error.value) == (
        f"teacher/salfom:micro: umt-l16-k400: {FILE} is not cached and the Hugging Face hub cannot be "
        f"reached; try again with a network, or give the path of {FILE} as weights"
    )
    assert capfd.readouterr().err == ""


def test_find_without_network_returns_cached_file(
    fake: FakeHub, checkpoint: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hub.SHA256, FILE, digest_of(fake))
    first = hub.find("umt-l16-k400")
    point_at(NOBODY, tmp_path, monkeypatch)
    assert hub.find("umt-l16-k400") == first


def test_find_missing_remote_file_raises(fake: FakeHub) -> None:
    with pytest.raises(ValueError, match=rf"single_modality/{FILE} of OpenGVLab/UMT cannot be downloaded .* \(404"):
        hub.find("umt-l16-k400")


def test_create_model_with_manual_download_name_explains_it() -> None:
    with pytest.raises(UserError, match=r"SalFoM_DHF1K\.pth is hosted by the authors .* give its path"):
        create_model("teacher/salfom:micro", weights="salfom-dhf1k")


def test_create_model_with_unknown_name_lists_known_names() -> None:
    with pytest.raises(UserError) as error:
        create_model("teacher/salfom:micro", weights="umt-l16-k40")
    text = str(error.value)
    assert "umt-l16-k40: no such weight file or name; did you mean 'umt-l16-k400'?" in text
    assert all(name in text for name in [*hub.UMT, "salfom-dhf1k"])
    with pytest.raises(UserError, match=r"weights/umt: no such weight file"):
        create_model("teacher/salfom:micro", weights="weights/umt")


def test_create_model_with_file_of_that_name_prefers_the_file(
    checkpoint: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("umt-l16-k400").write_bytes(Path("umt.pth").read_bytes())
    assert "umt-l16-k400: UMT checkpoint" in create_model("teacher/salfom:micro", weights="umt-l16-k400").loaded


def test_names_agree_with_their_files() -> None:
    for name, file in hub.UMT.items():
        _, size, data, *rest = name.split("-")
        last = "ptk710_f" if data == "pretrained" else f"ft{data}_f"
        assert file.startswith(f"{size}_ptk710_")
        assert last in file
        assert file.endswith(f"_f{8 if 'f8' in rest else 16}_res{384 if '384' in rest else 224}.pth")
    assert len(set(hub.UMT.values())) == len(hub.UMT)
    assert not any("b16" in file and "f16" in file for file in hub.UMT.values())  # UMT has none
    assert set(hub.SHA256) <= set(hub.UMT.values())
