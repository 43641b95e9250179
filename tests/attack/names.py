"""Names that leave the folder, or that no file can have, through every command that makes paths of names."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from attack.damage import written
from attack.documents import in_data_set
from attack.harness import Case, anything, nothing
from attack.material import Material
from attack.weights import metadata_of, onnx_metadata, onnx_with, with_metadata
from distill.targets import shard

OUTSIDE = (
    "../escaped", "../../escaped", "a/../../escaped", "a/b/../../../escaped", "{room}/escaped", "..", ".", "",
    "a/..", "./a", "a//b", "a/", "\0", "a\0b", "n" * 300, "/".join(["d" * 100] * 50), "/", "../case/escaped",
)  # fmt: skip
"""Names that data can hold and that no file in a folder has; {room} is a folder that no command may write."""

ODD = (
    "a\nb", "\x1b[2J", "²", "x²", "٣", "-o", "--help", "a b", "'", '"', "$(touch x)", "é", "*", "%d", "{}", "0001",
    "~",
)  # fmt: skip
"""Unusual names that a file can have."""

LINKS = {
    "itself": {"x.mp4": "x.mp4"},
    "its folder": {"x": "."},
    "its folder twice": {"x": ".", "y": "."},
    "the folder above": {"x": ".."},
    "nowhere": {"x.mp4": "nowhere.mp4"},
    "a device": {"x.mp4": "/dev/zero"},
    "a device as a picture": {"0001.png": "/dev/zero"},
}
"""What symbolic links lead to -> name of each link, and its target."""

FORMS = ("png", "video", "video8")


def foreign_store(source: Path, name: str) -> Callable[[Path], None]:
    """Return a function that copies a target store whose video `one` has another name; its checksums are right."""

    def prepare(folder: Path) -> None:
        shutil.copytree(source, folder / "in")
        place = folder / "in" / "store.json"
        shown = name.replace("{room}", str(folder.parent))
        text = place.read_text().replace('"one"', json.dumps(shown))
        content = {key: value for key, value in json.loads(text).items() if key != "sha256"}
        digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
        old = hashlib.sha256(place.read_bytes()).digest()
        place.write_text(json.dumps({**content, "sha256": digest}, indent=1) + "\n")
        new = hashlib.sha256(place.read_bytes()).digest()
        for path in (folder / "in" / "shards").glob("*.shard"):
            number, batches, maps = (
                int.from_bytes(path.read_bytes()[at : at + 4], "little") for at in (12, 16, 20)
            )
            before, after = (shard.header_bytes(number, batches, maps, each) for each in (old, new))
            assert path.read_bytes().startswith(before)
            path.write_bytes(after + path.read_bytes()[len(before) :])

    return prepare


def odd_files(source: Path, place: str) -> Callable[[Path], None]:
    """Return a function that copies a file to a place whose name is odd."""

    def prepare(folder: Path) -> None:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path) if source.is_file() else shutil.copytree(source, path)

    return prepare


def split_names(material: Material, name: str) -> Callable[[Path], None]:
    """Return a function that writes a data set whose split file lists a name."""

    def prepare(folder: Path) -> None:
        shown = name.replace("{room}", str(folder.parent))
        content = json.dumps({"train": ["one.mp4"], "public_test": [f"{shown}.mp4", "two.mp4"]})
        in_data_set(material, "TrainTestSplit.json", content.encode())(folder)

    return prepare


def links(kind: str) -> Callable[[Path], None]:
    """Return a function that writes a folder with symbolic links."""

    def prepare(folder: Path) -> None:
        inner = folder / "in"
        inner.mkdir()
        for name, target in LINKS[kind].items():
            (inner / name).symlink_to(target)

    return prepare


def from_stores(material: Material, chance: random.Random) -> Iterator[Case]:
    """Yield foreign target stores in the commands that read or convert one."""
    for name in (*OUTSIDE, *ODD):
        form = chance.choice(FORMS)
        prepare = foreign_store(material.store, name)
        check = nothing if name in OUTSIDE else anything
        argv = ("cache", "export", "in", "-o", "out", "--as", form)
        yield Case(f"store with a video {name[:20]!r}: cache export --as {form}", argv, prepare, check)
        if chance.random() < 0.5:
            yield Case(
                f"store with a video {name[:20]!r}: cache import", ("cache", "import", "in", "-o", "out"), prepare
            )
    for form in FORMS:
        for name in ("../escaped", "{room}/escaped"):
            prepare = foreign_store(material.store, name)
            yield Case(
                f"store with a video {name!r}: cache export --as {form}",
                ("cache", "export", "in", "-o", "out", "--as", form),
                prepare,
                nothing,
            )


def from_folders(material: Material, chance: random.Random) -> Iterator[Case]:
    """Yield odd names of files in the folders that commands scan."""
    for name in (*ODD, "n" * 245, "..mp4", ".hidden", os.fsdecode(b"\xff\xfe")):
        yield Case(
            f"video named {name[:20]!a}: predict a folder",
            ("predict", material.model, "in", "-o", "out", "--maps", "maps"),
            odd_files(material.mp4, f"in/{name}.mp4"),
        )
        yield Case(
            f"video named {name[:20]!a}: submit",
            ("submit", "centre-prior", "folder:in", "--to", chance.choice(("ntire", "dhf1k")), "-o", "out"),
            odd_files(material.mp4, f"in/{name}.mp4"),
        )
        yield Case(
            f"maps named {name[:20]!a}: cache import",
            ("cache", "import", "in", "-o", "out"),
            odd_files(material.maps / "one", f"in/{name}"),
        )
    for name in ("²", "٣", "0", "00001", "1001", "-1", "1e3", "1" * 40, "001 "):
        for root in ("dhf1k:in", "in"):
            argv = ("evaluate", "centre-prior", root) if ":" in root else ("data", "check", root)
            yield Case(
                f"DHF1K video {name[:20]!r}: {argv[0]}",
                argv,
                lambda folder, name=name: (
                    odd_files(material.mp4, f"in/video/{name}.AVI")(folder),
                    odd_files(material.dhf1k / "annotation/0001", f"in/annotation/{name}")(folder),
                ),
            )
        yield Case(
            f"frame named {name[:20]!r}: cache import",
            ("cache", "import", "in", "-o", "out"),
            odd_files(material.frames / "0001.png", f"in/one/{name}.png"),
        )
        yield Case(
            f"frame named {name[:20]!r}: predict",
            ("predict", material.model, "in", "--maps", "maps"),
            odd_files(material.frames / "0001.png", f"in/{name}.png"),
        )
    for kind in LINKS:
        for argv in (
            ("predict", material.model, "in", "--maps", "maps"),
            ("data", "check", "in"),
            ("cache", "import", "in", "-o", "out"),
            ("evaluate", "centre-prior", "folder:in"),
        ):
            yield Case(f"link, {kind}: {' '.join(map(str, argv[:1]))}", argv, links(kind))


def from_data(material: Material, chance: random.Random) -> Iterator[Case]:
    """Yield names in split files, weight headers, exported models, submissions and configs."""
    model, exported = material.model.read_bytes(), material.onnx.read_bytes()
    header, about = metadata_of(model), onnx_metadata(exported)
    for name in OUTSIDE:
        for argv in (
            ("evaluate", "centre-prior", "ntire:in", "--split", "public_test"),
            ("submit", "centre-prior", "ntire:in", "--to", "ntire", "-o", "out"),
        ):
            yield Case(f"split file with {name[:20]!r}: {argv[0]}", argv, split_names(material, name))
        for key in ("name", "variant"):
            content = with_metadata(model, {**header, "identity": {**header["identity"], key: name}})
            yield Case(
                f"weights of a model with {key} {name[:20]!r}: predict",
                ("predict", "bad.safetensors", material.mp4, "--maps", "maps"),
                written("bad.safetensors", content),
                nothing,
            )
        content = onnx_with(exported, {**about, "state": [{**each, "input": name} for each in about["state"]]})
        yield Case(
            f"export with a state {name[:20]!r}: edge.py",
            ("bad.onnx", material.mp4, "--maps", "maps"),
            written("bad.onnx", content),
            nothing,
            program="edge",
        )
        config = material.config("train")
        for key, place in (("root", "nowhere"), ("videos", [name])):
            config["data"]["train"] = [
                {"dataset": "ntire", "root": str(material.ntire), key: name if key == "root" else place}
            ]
            yield Case(
                f"config with {key} {name[:20]!r}: train",
                ("train", "bad.yaml"),
                written("bad.yaml", json.dumps(config)),
                nothing,
                lists=True,
            )
    for name in ("..", "../maps", ".", "a/../..", "²"):
        yield Case(
            f"model {name!r}: evaluate two models",
            ("evaluate", "centre-prior", name, f"ntire:{material.ntire}", "-o", "out"),
            lambda folder: shutil.copytree(material.maps, folder.parent / "maps"),
        )


def cases(material: Material, chance: random.Random) -> Iterator[Case]:
    """Yield all names in all places."""
    yield from from_stores(material, chance)
    yield from from_folders(material, chance)
    yield from from_data(material, chance)
