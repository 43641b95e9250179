"""Pretrained models: their records, their files, and networks that start from them."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.places import REPOSITORY
from helpers.pretrained_models import make_pretrained, placeholder
from safetensors.torch import load_file

from distill.cli.main import main
from distill.errors import UserError
from distill.models import pretrained
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.models.tensor_files import read_metadata, save_tensors
from distill.models.weight_files import HEADER, weights_fingerprint

SHIPPED = REPOSITORY / "student" / "pretrained"
LIMIT = 16e6


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return placeholder()


@pytest.fixture(scope="module")
def made(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pretrained(tmp_path_factory.mktemp("pretrained"), {"stream-small": model})


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the placeholder's folder, in place of student/pretrained."""
    copy = tmp_path / "pretrained"
    shutil.copytree(made, copy)
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: copy)
    monkeypatch.chdir(tmp_path)
    return copy


def test_load_model_by_name_returns_the_shipped_weights(folder: Path, model: LoadedModel) -> None:
    found = load_model("stream-small")
    assert weights_fingerprint(found.network) == weights_fingerprint(model.network)
    assert (found.reference, found.identity, found.stride) == ("stream-small", model.identity, 2)


def test_weights_in_fp16_are_loaded_into_a_network_in_fp32(folder: Path) -> None:
    path = folder / "stream-small.safetensors"
    halves = {key: value.half() if value.ndim > 1 else value for key, value in load_file(path).items()}
    header = read_metadata(path)[HEADER]
    save_tensors(halves, path, {HEADER: header})
    records = json.loads((folder / "models.json").read_text())
    records["models"]["stream-small"]["weights"] |= {"sha256": pretrained.file_hash(path), "precision": "fp16"}
    (folder / "models.json").write_text(json.dumps(records))
    network = load_model("stream-small").network
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(network.decoder.laterals[0][0].weight.half(), halves["decoder.laterals.0.0.weight"])


@pytest.mark.parametrize("weights", ["pretrained", "stream-small"])
def test_create_model_starts_from_pretrained_weights_with_their_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    shipped = placeholder(size=(96, 128), num_frames=3)
    folder = make_pretrained(tmp_path / "made", {"stream-small": shipped})
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: folder)
    model = create_model("student/stream:micro", weights=weights)
    assert (model.network.size, model.network.num_frames) == ((96, 128), 3)
    assert weights_fingerprint(model.network) == weights_fingerprint(shipped.network)
    assert model.loaded == "stream-small: all pretrained weights loaded"
    other = create_model("student/stream", variant="micro", weights=weights, size=(64, 64))
    assert other.network.size == (64, 64)
    assert other.identity["arguments"] == {"size": [64, 64], "num_frames": 3}


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (
            "student/thtdnet:micro",
            {},
            r"student/thtdnet:micro: there are no pretrained weights for this model; available: stream-small "
            r"\(for student/stream:micro\)",
        ),
        ("student/stream:tiny", {}, r"student/stream:tiny: there are no pretrained weights for this model; avail"),
        (
            "student/stream:micro",
            {"widths": (8, 8, 8)},
            r"micro with widths = \(8, 8, 8\): the pretrained weights 'stream-small' have other tensors; they fit "
            r"student/stream:micro with its own arguments; remove",
        ),
        ("student/stream:micro", {"widths": "many"}, "argument widths"),
    ],
)
def test_pretrained_weights_for_another_architecture_name_the_one_that_they_fit(
    folder: Path, name: str, arguments: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        create_model(name, weights="pretrained", **arguments)
    assert "\n" not in str(error.value)


def test_named_weights_for_another_architecture_are_refused(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"student/stream:tiny: the weights 'stream-small' do not fit for this model"
    ):
        create_model("student/stream:tiny", weights="stream-small")


def test_changed_or_missing_file_is_one_sentence(folder: Path) -> None:
    path = folder / "stream-small.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"stream-small\.safetensors: differs from the file that was shipped"):
        load_model("stream-small")
    path.unlink()
    with pytest.raises(UserError, match=r"stream-small\.safetensors: missing, but listed in models\.json"):
        load_model("stream-small")
    with pytest.raises(UserError, match=r"stream-huge: no model, run folder, .*student/stream.*, stream-small"):
        load_model("stream-huge")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "models": {}}', '{"format": 1, "models": {"a": {}}}'])
def test_damaged_records_are_one_sentence(folder: Path, text: str) -> None:
    (folder / "models.json").write_text(text)
    with pytest.raises(UserError, match=r"models\.json: cannot be read as the list of pretrained models") as error:
        load_model("stream-small")
    assert "\n" not in str(error.value)


def test_record_cannot_name_a_file_outside_the_folder(folder: Path) -> None:
    records = (folder / "models.json").read_text()
    (folder / "models.json").write_text(records.replace('"stream-small.safetensors"', '"../stream.safetensors"'))
    with pytest.raises(UserError, match=r"weights\.name: .*pattern"):
        load_model("stream-small")


def test_without_records_no_model_is_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "pretrained_folder", lambda: tmp_path)
    assert pretrained.pretrained_models() == {}
    with pytest.raises(UserError, match=r"stream-small: no pretrained model .*models\.json does not exist"):
        pretrained.pretrained_model("stream-small")


def test_existing_path_takes_precedence_over_a_name(folder: Path) -> None:
    (folder.parent / "stream-small").mkdir()
    with pytest.raises(UserError, match="stream-small: no weights in this folder"):
        load_model("stream-small")


def test_models_lists_pretrained_models_with_scores_size_cost_and_input(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "stream-small"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "pretrained network NSS CC weights GMACs ms MB input map"
    row = r"stream-small student/stream:micro 3.50 0.600 1,000 0.01 1.5 \d.\d 64x96 stretch 16x24"
    assert re.fullmatch(row, " ".join(lines[1].split()))
    assert lines[2] == "NSS and CC on public_test; ms per map: on a computer"
    assert [line.split()[0] for line in lines[3:]] == ["weights:", "ONNX:", "card:"]
    records = json.loads((folder / "models.json").read_text())
    records["models"]["stream-small"] |= {"scores": []}  # as shipped, before an evaluation is added
    (folder / "models.json").write_text(json.dumps(records))
    assert main(["models", "stream-small"]) == 0
    _, row, note, *_ = capsys.readouterr().out.splitlines()
    assert row.split()[2:4] == ["nan", "nan"]
    assert note == "ms per map: on a computer"
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("stream-small")
    assert lines[3] == ""
    assert lines[4].startswith("model ")


# ------------------------------------------------------------------------------------------ what is shipped


def test_shipped_files_match_their_records_and_fit_into_the_wheel() -> None:
    records = pretrained.pretrained_models()
    files = [file for record in records.values() for file in (record.weights, record.onnx)]
    assert [pretrained.checked_file(file).stat().st_size for file in files] == [file.bytes for file in files]
    assert sum(file.bytes for file in files) <= LIMIT
    on_disk = {path.name for path in SHIPPED.glob("*") if path.suffix in (".onnx", ".safetensors")}
    assert on_disk == {file.name for file in files}


def test_shipped_models_load_and_agree_with_their_records() -> None:
    for name, record in pretrained.pretrained_models().items():
        network = load_model(name).network
        found = (network.size, network.map_size, network.reach, getattr(network, "fit", "stretch"))
        assert found == (record.input.size, record.input.map_size, record.input.reach, record.input.fit)
        exported = load_model(pretrained.checked_file(record.onnx)).network
        assert (exported.size, exported.map_size) == (network.size, network.map_size)
