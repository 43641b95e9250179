"""Damaged, foreign and malicious weight files: .safetensors, .pth and .onnx."""

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from attack.damage import damaged, written, wrong_values
from attack.harness import Case, Check, Outcome, anything, contents, nothing
from attack.material import Material
from distill.models.registry import create_model
from distill.models.weight_files import save_model

KEY = "saldistill"
"""Metadata key of the project's headers."""


def same_maps(expected: dict[str, str], place: str = "maps") -> Check:
    """Return a check that a command wrote exactly these maps."""

    def check(outcome: Outcome, folder: Path) -> str | None:
        found = contents(folder / place)
        return None if found == expected else f"{len(found)} maps, which differ from those of the intact file"

    return check


def is_finite(outcome: Outcome, folder: Path) -> str | None:
    """Check the scores that a command printed."""
    return "the table of scores contains nan" if " nan" in outcome.stdout.lower() else None


# ------------------------------------------------------------------------------------------- .safetensors


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the tensor bytes of a .safetensors file."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def with_metadata(content: bytes, value: Any) -> bytes:
    """Return the file with another project header: a value to write as JSON, or bytes to write as they are."""
    header, data = split(content)
    text = value.decode("latin-1") if isinstance(value, bytes) else json.dumps(value)
    return joined({**header, "__metadata__": {**header["__metadata__"], KEY: text}}, data)


def metadata_of(content: bytes) -> dict[str, Any]:
    return json.loads(split(content)[0]["__metadata__"][KEY])


BAD_METADATA: dict[str, bytes] = {
    "not JSON": b"{",
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "empty": b"",
    "deep": b"[" * 200_000,
    "5000 digits": b'{"identity": ' + b"9" * 5000 + b"}",
    "twice nested": b'{"identity": {"identity": {}}}',
}


def unsigned(content: bytes) -> bytes:
    """Return the file without its checksum, as earlier versions wrote it, so that its values are read."""
    header, data = split(content)
    kept = {key: value for key, value in header["__metadata__"].items() if key in (KEY, "format")}
    return joined({**header, "__metadata__": kept}, data)


def with_index(content: bytes, value: int) -> bytes:
    """Return the unsigned file with a value in all tensors of whole numbers, which index other tensors."""
    header, data = split(unsigned(content))
    changed = bytearray(data)
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "I64":
            start, end = about["data_offsets"]
            changed[start:end] = np.full((end - start) // 8, value, "<i8").tobytes()
    assert changed != data
    return joined(header, bytes(changed))


def bad_headers(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield .safetensors files whose format is broken or lies, without a checksum that would tell."""
    header, data = split(unsigned(content))
    key = next(name for name in header if name != "__metadata__")
    for name, change in {
        "unknown dtype": {"dtype": "F33"},
        "another dtype": {"dtype": "I32"},
        "negative shape": {"shape": [-1]},
        "huge shape": {"shape": [10**12]},
        "text as shape": {"shape": "many"},
        "offsets past the end": {"data_offsets": [0, 10**12]},
        "offsets swapped": {"data_offsets": [8, 0]},
    }.items():
        yield name, joined({**header, key: {**header[key], **change}}, data)
    yield "a tensor less", joined({k: v for k, v in header.items() if k != key}, data)
    yield "no metadata", joined({k: v for k, v in header.items() if k != "__metadata__"}, data)
    yield "metadata of numbers", joined({**header, "__metadata__": {KEY: 3}}, data)
    yield "a list as header", joined([], data)
    yield "deep header", joined(b"[" * 200_000, data)
    yield "length past the end", struct.pack("<Q", 2**63) + content[8:]
    yield "NaN everywhere", joined(header, np.full(len(data) // 4 + 1, np.nan, "<f4").tobytes()[: len(data)])
    yield "huge values", joined(header, np.full(len(data) // 4 + 1, 3e38, "<f4").tobytes()[: len(data)])


def identities(metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield headers that name other code, other files, or arguments that no model takes."""
    identity = metadata["identity"]
    for name in (
        "../x",
        "os",
        "student/../teacher/salfom",
        "/etc/passwd",
        "student/edge",
        "distill/errors",
        "a\0b",
        "",
    ):
        yield f"name {name!r}", {**metadata, "identity": {**identity, "name": name}}
    for name in ("../x", "", "__class__", "base\n"):
        yield f"variant {name!r}", {**metadata, "identity": {**identity, "variant": name}}
    for key, value in {
        "weights": "/etc/hostname",
        "pretrained": True,
        "size": [10**6, 10**6],
        "widths": [10**9] * 4,
        "num_frames": 10**9,
        "backbone": "/etc/passwd",
        "self": 1,
        "__class__": "x",
    }.items():
        arguments = {**identity["arguments"], key: value}
        yield f"argument {key}", {**metadata, "identity": {**identity, "arguments": arguments}}


def safetensors_files(content: bytes, chance: random.Random, number: int) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (name, file, whether it may give the intact file's maps)."""
    yield from ((f"metadata {name}", with_metadata(content, bad), False) for name, bad in BAD_METADATA.items())
    yield from ((name, bad, False) for name, bad in bad_headers(content))
    metadata = metadata_of(content)
    yield from ((name, with_metadata(content, bad), False) for name, bad in identities(metadata))
    for name, bad in wrong_values(metadata, chance, 3 * number):
        yield f"metadata {name}", with_metadata(content, bad), True
    yield from ((name, bad, True) for name, bad in damaged(content, chance, number))


# ------------------------------------------------------------------------------------------- .onnx


def onnx_with(content: bytes, value: Any) -> bytes:
    """Return an exported model with other metadata: a value to write as JSON, bytes as they are, None for none.

    It has no checksum, which would hide what else is checked.
    """
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    if value is not None:
        text = value.decode("latin-1") if isinstance(value, bytes) else json.dumps(value)
        model.metadata_props.add(key=KEY, value=text)
    return model.SerializeToString()


def onnx_metadata(content: bytes) -> dict[str, Any]:
    return next(json.loads(each.value) for each in onnx.load_from_string(content).metadata_props if each.key == KEY)


def onnx_nan(content: bytes) -> bytes:
    """Return an exported model whose largest tensor is NaN."""
    model = onnx.load_from_string(content)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    tensor.raw_data = np.full(len(tensor.raw_data) // 4, np.nan, "<f4").tobytes()
    return onnx_with(model.SerializeToString(), onnx_metadata(content))


def onnx_files(content: bytes, chance: random.Random, number: int) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (name, file, whether it may give the intact file's maps)."""
    yield "no metadata", onnx_with(content, None), False
    yield "NaN weights", onnx_nan(content), False
    yield from ((f"metadata {name}", onnx_with(content, bad), False) for name, bad in BAD_METADATA.items())
    metadata = onnx_metadata(content)
    for key in metadata:
        yield f"metadata without {key}", onnx_with(content, {k: v for k, v in metadata.items() if k != key}), True
    for name, bad in wrong_values(metadata, chance, 4 * number):
        yield f"metadata {name}", onnx_with(content, bad), True
    yield from ((name, bad, True) for name, bad in damaged(content, chance, number))


# ------------------------------------------------------------------------------------------- .pth


class Code:
    """Pickles as a call that creates a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed; touch ../executed",)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = {"model": value}
    return value


def zip_bomb() -> bytes:
    """Return an archive as torch.save writes it, with an entry of 4 GB of zeros."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("archive/data.pkl", "w", force_zip64=True) as entry,
    ):
        for _ in range(1024):
            entry.write(bytes(2**22))
    return buffer.getvalue()


def pth_files(content: bytes, chance: random.Random, number: int) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (name, file, whether it may be loaded)."""
    loop: dict[str, Any] = {}
    loop["model"] = loop["state_dict"] = loop
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    first = next(iter(tensors))
    yield "code", pickle.dumps(Code()), False
    yield "code in an archive", saved({"model": Code()}), False
    yield "itself", saved(loop), False
    yield "a list", saved([1, 2]), False
    yield "a number", saved(3), False
    yield "nested 150 deep", saved(nested(150, tensors)), True
    yield "numbers as keys", saved(dict(enumerate(tensors.values()))), False
    yield "huge view", saved({**tensors, first: torch.zeros(1).expand(10**12)}), False
    yield "sparse tensors", saved({**tensors, first: torch.zeros(4, 4).to_sparse()}), False
    yield "complex tensors", saved({k: v.to(torch.complex64) for k, v in tensors.items()}), False
    yield "whole numbers", saved({k: v.to(torch.int64) for k, v in tensors.items()}), True
    yield "meta tensors", saved({k: v.to("meta") for k, v in tensors.items()}), False
    yield "a module", saved(torch.nn.Linear(2, 2)), False
    yield "zip bomb", zip_bomb(), False
    yield from ((name, bad, True) for name, bad in damaged(content, chance, 2 * number))


# ------------------------------------------------------------------------------------------- cases


def cases(material: Material, runner: Any, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield bad weight files in every command that loads weights."""
    folder = runner.new_folder()
    runner.command("predict", material.model, material.frames, "--maps", "maps", folder=folder)
    runner.command("predict", material.onnx, material.frames, "--maps", "onnx", folder=folder)
    runner.command(material.onnx, material.frames, "--maps", "edge", folder=folder, program="edge")
    maps = {name: same_maps(contents(folder / name)) for name in ("maps", "onnx", "edge")}

    for name, content, possible in safetensors_files(material.model.read_bytes(), chance, number):
        yield Case(
            f"safetensors, {name}: predict",
            ("predict", "bad.safetensors", material.frames, "--maps", "maps"),
            written("bad.safetensors", content),
            maps["maps"] if possible else nothing,
        )
        argv, check = chance.choice(
            [
                (("evaluate", "bad.safetensors", f"ntire:{material.ntire}", "--every", "6"), is_finite),
                (("train", "run.yaml"), anything),
                (("models", "student/stream:micro", "--convert", "bad.safetensors", "out.safetensors"), anything),
            ]
        )
        yield Case(
            f"safetensors, {name}: {argv[0]}",
            argv,
            with_config(material, "bad.safetensors", content),
            check,
            refusals=(1, 2) if argv[0] == "train" else (2,),  # 1: a loss of NaN
            lists=True,
        )
    swin = folder / "swin.safetensors"
    save_model(create_model("teacher/salfom", variant="micro-swin"), swin)
    for value in (-1, 10**6, -(2**63), 3):
        yield Case(
            f"safetensors, indices of {value}: predict",
            ("predict", "bad.safetensors", material.frames, "--maps", "maps"),
            written("bad.safetensors", with_index(swin.read_bytes(), value)),
            nothing,
        )
    for name, content, possible in onnx_files(material.onnx.read_bytes(), chance, number):
        yield Case(
            f"onnx, {name}: predict",
            ("predict", "bad.onnx", material.frames, "--maps", "maps"),
            written("bad.onnx", content),
            maps["onnx"] if possible else nothing,
        )
        yield Case(
            f"onnx, {name}: edge.py",
            ("bad.onnx", material.frames, "--maps", "maps"),
            written("bad.onnx", content),
            maps["edge"] if possible else nothing,
            program="edge",
        )
        if chance.random() < 0.15:
            options = ("--frames", "8", "--rounds", "1", "-o", "out.onnx")
            yield Case(
                f"onnx, {name}: quantize",
                ("quantize", "bad.onnx", "--to", "fp16", "--on", material.frames, *options),
                written("bad.onnx", content),
            )
    for name, content, possible in pth_files(material.pth.read_bytes(), chance, number):
        yield Case(
            f"pth, {name}: models --convert",
            ("models", "teacher/salfom:micro", "--convert", "bad.pth", "out.safetensors"),
            written("bad.pth", content),
            anything if possible else nothing,
        )


def with_config(material: Material, name: str, content: bytes) -> Any:
    """Return a function that writes a weight file, and a config that starts from it."""

    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(content)
        config = material.config("train")
        config["model"] = {"name": "student/stream", "variant": "micro", "weights": name}
        config["training"] = {"steps": 1}
        config["data"]["validation"] = []
        (folder / "run.yaml").write_text(json.dumps(config))
        shutil.rmtree(folder / "out", ignore_errors=True)

    return prepare
