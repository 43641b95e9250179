"""Tensor files with checksums: no flipped bit, wrong header or foreign content is ever used."""

import json
import logging
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from helpers.model_cases import awake

from distill.errors import UserError
from distill.models.loaded import LoadedModel
from distill.models.published_weights import read_tensors
from distill.models.references import load_model, save_published
from distill.models.registry import create_model, rebuild
from distill.models.tensor_files import check_tensors, load_tensors, read_metadata, save_tensors
from distill.models.weight_files import HEADER, load_weights_into, save_model, weights_fingerprint


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return awake("teacher/salfom")


@pytest.fixture
def file(model: LoadedModel, tmp_path: Path) -> Path:
    save_model(model, tmp_path / "model.safetensors", notes={"step": 3, "stride": 2})
    return tmp_path / "model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> None:
    """Change the header or the tensors of a weight file, as a program without our checksum would."""
    with safetensors.safe_open(path, framework="pt") as opened:
        header, tensors = json.loads(opened.metadata()[HEADER]), opened.get_tensors()
    changed = change(header, tensors)
    safetensors.torch.save_file(tensors, path, {HEADER: json.dumps(header if changed is None else changed)})


def test_any_flipped_bit_is_refused_or_changes_nothing(file: Path, model: LoadedModel) -> None:
    content, expected = file.read_bytes(), weights_fingerprint(model.network)
    draw = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    for position in [
        *(draw.randrange(header) for _ in range(150)),
        *(draw.randrange(len(content)) for _ in range(50)),
    ]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        try:
            loaded = load_model(file)
        except UserError:
            continue
        # only the key of the checksum itself can be damaged without being noticed
        assert b'"sha256"' not in damaged, position
        assert weights_fingerprint(loaded.network) == expected
        assert loaded.notes == {"step": 3, "stride": 2}


def test_flipped_bit_in_a_tensor_is_one_sentence(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 64
    file.write_bytes(content)
    for read in (load_model, load_tensors, check_tensors):
        with pytest.raises(
            UserError, match=r"model\.safetensors: its content does not match its checksum; .* damaged"
        ):
            read(file)
    with pytest.raises(UserError, match="does not match its checksum"):
        create_model("teacher/salfom:micro", weights=file)


def test_file_without_checksum_loads_with_a_note(
    file: Path, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    rewrite(file, lambda header, tensors: None)
    with caplog.at_level(logging.INFO, logger="distill"):
        loaded = load_model(file)
    assert f"{file}: has no checksum" in caplog.text
    assert weights_fingerprint(loaded.network) == weights_fingerprint(model.network)


def test_another_checksum_than_the_recorded_one_is_refused(tmp_path: Path) -> None:
    checksum = save_tensors({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert torch.equal(load_tensors(tmp_path / "a.safetensors", checksum=checksum)["a"], torch.ones(3))
    save_tensors({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="does not match its checksum"):
        load_tensors(tmp_path / "a.safetensors", checksum=checksum)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 2)])
def test_every_type_and_shape_is_saved_and_checked(
    dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path
) -> None:
    path, value = tmp_path / "a.safetensors", torch.ones(shape, dtype=dtype)
    save_tensors({"a": value, "b": torch.ones(4, 3).T}, path, {"more": "ö"})
    assert torch.equal(load_tensors(path)["a"], value)
    assert read_metadata(path)["more"] == "ö"
    check_tensors(path)


def test_weight_files_get_the_permissions_of_the_umask(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    expected = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    save_model(model, tmp_path / "ours.safetensors")
    for name in ("published.safetensors", "published.pth"):
        save_published(model, tmp_path / name)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {expected}


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda header: [1], "invalid saldistill header"),
    "no identity": (lambda header: header.pop("identity") and None, r"identity: field required"),
    "no notes": (lambda header: header.pop("notes") and None, r"notes: field required"),
    "identity of text": (lambda header: header.update(identity="x"), "identity"),
    "name of a number": (lambda header: header["identity"].update(name=3), "identity.name"),
    "another name": (lambda header: header["identity"].update(name="os.path"), "no model 'os.path'"),
    "two lines": (lambda header: header["identity"].update(variant="base\n"), "identity.variant"),
    "a key of two lines": (
        lambda header: header["identity"]["arguments"].update({"a\nb": 1}),
        "identity.arguments",
    ),
    "huge sizes": (lambda header: header["identity"]["arguments"].update(size=[10**6, 10**6]), "over the limit"),
    "many frames": (lambda header: header["identity"]["arguments"].update(num_frames=10**9), "over the limit"),
    "no variant": (lambda header: header["identity"].update(variant="huge"), "no variant 'huge'"),
    "arguments of text": (lambda header: header["identity"].update(arguments="x"), "identity.arguments"),
    "unknown argument": (lambda header: header["identity"]["arguments"].update(x=1), "no argument 'x'"),
    "weights": (
        lambda header: header["identity"]["arguments"].update(weights="/etc/passwd"),
        "no argument 'weights'",
    ),
    "a second name": (lambda header: header["identity"]["arguments"].update(name="x"), "no argument 'name'"),
    "a mapping": (
        lambda header: header["identity"]["arguments"].update(width={"a": 1}),
        "identity.arguments.width",
    ),
    "text for a number": (lambda header: header["identity"]["arguments"].update(width="8"), "width = '8'"),
    "true for a number": (lambda header: header["identity"]["arguments"].update(width=True), "width = True"),
    "a huge number": (
        lambda header: header["identity"]["arguments"].update(width=10**12),
        "over the limit of 8,192",
    ),
    "another number": (lambda header: header["identity"]["arguments"].update(width=8192), "tensors do not fit"),
    "a negative number": (
        lambda header: header["identity"]["arguments"].update(width=-8),
        "width -8|cannot be built",
    ),
    "no depth": (
        lambda header: header["identity"]["arguments"].update(tcfe_depth=0),
        "tcfe_depth 0: expected at least 1",
    ),
    "no heads": (lambda header: header["identity"]["arguments"].update(heads=0), "heads 0"),
    "a long list": (
        lambda header: header["identity"]["arguments"].update(widths=[4] * 10**5),
        "length of widths: 100,000 is over the limit of 256",
    ),
    "a stride of a list": (lambda header: header["notes"].update(stride=[1]), "notes.stride"),
    "a score of text": (lambda header: header["notes"].update(validation={"cc": "x"}), "notes.validation.cc"),
    "a size of text": (lambda header: header["spec"].update(size="x"), "spec.size"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_header_of_wrong_types_is_refused(case: str, file: Path) -> None:
    change, sentence = HEADERS[case]
    rewrite(file, lambda header, tensors: change(header))
    with pytest.raises(UserError, match=sentence) as error:
        load_model(file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "9" * 5000, "[" * 200_000, '{"identity": {}}'])
def test_header_that_is_no_header_is_refused(text: str, file: Path) -> None:
    with safetensors.safe_open(file, framework="pt") as opened:
        tensors = opened.get_tensors()
    safetensors.torch.save_file(tensors, file, {HEADER: text})
    for read in (load_model, lambda path: create_model("teacher/salfom:micro", weights=path)):
        with pytest.raises(UserError, match="invalid saldistill header") as error:
            read(file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_tensors_of_wrong_kinds_are_refused(suffix: str, model: LoadedModel, tmp_path: Path) -> None:
    path, tensors = tmp_path / f"published{suffix}", dict(model.network.state_dict())
    name = "decoder.fusion.conv1.weight"
    for changed, sentence in (
        ({**tensors, name: tensors[name].to(torch.complex64)}, f"tensor {name} is complex"),
        ({**tensors, "a\nb": torch.zeros(1)}, r"the tensor name 'a\\nb' cannot be printed"),
        ({**tensors, "a" * 501: torch.zeros(1)}, "characters in the name of a tensor: 501 is over the limit"),
        ({**tensors, name: torch.zeros(1, 2, 3)}, "1 of another shape"),
    ):
        (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(changed, path)
        with pytest.raises(UserError, match=sentence) as error:
            create_model("teacher/salfom:micro", weights=path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_pickle_is_one_sentence(legacy: bool, model: LoadedModel, tmp_path: Path) -> None:
    path = tmp_path / "published.pth"
    torch.save(model.network.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    content, draw = path.read_bytes(), random.Random(2)
    for _ in range(30):
        path.write_bytes(content[: draw.randrange(len(content))])
        with pytest.raises(UserError) as error:
            create_model("teacher/salfom:micro", weights=path)
        assert "\n" not in str(error.value)


def test_header_over_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    length = 17 * 2**20
    path.write_bytes(length.to_bytes(8, "little") + b" " * length)
    with pytest.raises(UserError, match=r"header bytes: .* over the limit"):
        load_tensors(path)
    path.write_text("no tensors, but a text file")
    with pytest.raises(UserError, match=r"cannot be read as a \.safetensors file"):
        load_tensors(path)


def test_nan_in_weights_names_the_tensor(file: Path, tmp_path: Path) -> None:
    name = "decoder.fusion.conv1.weight"
    rewrite(file, lambda header, tensors: tensors[name].view(-1)[:1].fill_(float("nan")) and None)
    with pytest.raises(UserError, match=f"tensor {name} holds NaN"):
        load_model(file)
    torch.save(load_tensors(file), tmp_path / "published.pth")
    with pytest.raises(UserError, match=f"tensor {name} holds NaN"):
        create_model("teacher/salfom:micro", weights=tmp_path / "published.pth")


@pytest.mark.parametrize("name", ["student/thtdnet:micro", "teacher/salfom:micro-swin"])
def test_damaged_index_table_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(create_model(name), path)

    def damage(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        key = next(key for key in tensors if key.endswith("relative_position_index"))
        tensors[key][0, 0] = 10**9

    rewrite(path, damage)
    with pytest.raises(UserError, match="relative_position_index is not what the model computes"):
        load_model(path)


def test_weights_of_another_type_are_refused(file: Path, model: LoadedModel) -> None:
    name = "decoder.fusion.conv1.weight"
    rewrite(file, lambda header, tensors: tensors.update({name: tensors[name].long()}))
    with pytest.raises(UserError, match=f"tensor {name} is not what"):
        load_weights_into(rebuild(model.identity), file)


def self_reference() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["state_dict"] = content
    return content


def test_pickle_that_contains_itself_ends(tmp_path: Path) -> None:
    torch.save(self_reference(), tmp_path / "loop.pth")
    with pytest.raises(UserError, match="holds no tensors"):
        read_tensors(tmp_path / "loop.pth")


@pytest.mark.parametrize(
    "content",
    [b"", b"a", b"just some text\nin two lines\n", b"{}", b"PK\x03\x04", b"\x80\x02.", bytes(range(256)) * 40],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_as_weights_are_one_sentence(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        create_model("teacher/salfom:micro", weights=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Malicious:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self) -> tuple:
        import os

        return (os.system, ("touch trapped",))


@pytest.mark.parametrize(
    ("protocol", "reason"),
    [(2, r"it refers to (posix|os)\.system, which is code"), (4, "it does not hold tensors only")],
)
def test_refusal_of_code_does_not_recommend_to_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malicious()}, "bad.pth", pickle_protocol=protocol)
    with pytest.raises(UserError, match=rf"bad\.pth: .*{reason}") as error:
        read_tensors(Path("bad.pth"))
    assert "weights_only" not in str(error.value)
    assert "two options" not in str(error.value)
    assert not Path("trapped").exists()


def test_compressed_pickle_is_refused(tmp_path: Path) -> None:
    import zipfile

    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(UserError, match="holds compressed records"):
        read_tensors(tmp_path / "bomb.pth")


def test_save_tensors_writes_the_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 5, dtype=torch.float16)}
    metadata = {f"key {i}": f'ä\x01\\ "{i}"\n' for i in range(8)}
    for name in ("one", "two"):
        save_tensors(tensors, tmp_path / name, metadata)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_metadata(tmp_path / "one").items() >= metadata.items()
    loaded = load_tensors(tmp_path / "one")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
