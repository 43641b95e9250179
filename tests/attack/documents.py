"""Bad YAML and JSON in every place where such files are read."""

import json
import random
import shutil
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from attack.damage import REPLACEMENTS, damaged, written, wrong_values
from attack.harness import Case, anything, nothing
from attack.material import POINTS, Material

BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)]
)
"""Ten thousand million elements in half a kilobyte."""

YAML_TEXTS: dict[str, str | bytes] = {
    "bad date": "seed: 2020-13-45",
    "int of letters": "seed: !!int abc",
    "float of letters": "seed: !!float x",
    "bool of letters": "seed: !!bool maybe",
    "bad base64": "seed: !!binary '###'",
    "bad timestamp": "seed: !!timestamp yesterday",
    "code": "seed: !!python/object/apply:os.system ['touch ../executed']",
    "unknown tag": "seed: !thing 3",
    "set": "seed: !!set {a, b}",
    "ordered map": "seed: !!omap [a: 1]",
    "5000 digits": f"seed: {'9' * 5000}",
    "5000 hexadecimal digits": f"seed: 0x{'f' * 5000}",
    "sexagesimal": f"seed: {':'.join(['59'] * 3000)}",
    "deep list": "seed: " + "[" * 20_000,
    "deep closed list": "seed: " + "[" * 5000 + "]" * 5000,
    "deep mapping": "seed: " + "{a: " * 20_000,
    "deep indentation": "\n".join(" " * depth + "a:" for depth in range(2000)),
    "alias bomb": BOMB + "\nseed: *j",
    "alias bomb as key": BOMB + "\n? *j\n: 1",
    "alias of itself": "seed: &s [*s]",
    "mapping of itself": "seed: &s {a: *s}",
    "unknown alias": "seed: *nowhere",
    "merge of a number": "seed: {<<: 3}",
    "merge of itself": "seed: &s {<<: *s}",
    "list as key": "? [1, 2]\n: 3",
    "mapping as key": "? {a: 1}\n: 3",
    "null as key": "~: 3",
    "key of another type": "3: 3",
    "key of 10000 letters": f"{'k' * 10000}: 1",
    "twice the same key": "seed: 1\nseed: 2",
    "tab": "seed:\n\t- 1",
    "NUL in out": 'out: "a\\0b"',
    "out of 5000 letters": f"out: {'o' * 5000}",
    "empty out": 'out: ""',
    "out of a list": "out: [a]",
    "out of a number": "out: 3",
    "two documents": "seed: 1\n---\nseed: 2",
    "directive": "%YAML 9.9\n---\nseed: 1",
    "Latin-1": "device: é".encode("latin-1"),
    "UTF-16": "device: cpu".encode("utf-16"),
    "control characters": b"device: \x01\x02",
    "infinity": "seed: .inf",
    "yes for steps": "training: {steps: yes}",
    "text for steps": "training: {steps: '4'}",
    "half a step": "training: {steps: 1.5}",
    "huge steps": "training: {steps: 1000000000000000000000}",
    "huge batch": "training: {steps: 1, batch_size: 1000000000}",
    "huge accumulate": "training: {steps: 1, batch_size: 1, accumulate: 1e12}",
    "yes for a rate": "optimizer: {lr: yes}",
    "no for recompute as text": "training: {steps: 1, recompute: 'no'}",
    "team of nobody": "teachers: {}",
    "team as a list": "teachers: [{store: x}]",
    "team of a number": "teachers: {a: 3}",
    "team with itself": "teachers: &t {a: *t}",
    "list for one name": "model: {name: [teacher/salfom]}",
    "foreign module": "model: {name: ../../x}",
    "file as an argument": "model: {name: student/stream, variant: micro, arguments: {weights: /etc/hostname}}",
    "huge argument": "model: {name: student/stream, variant: micro, arguments: {size: [1000000, 1000000]}}",
    "text for a mapping": "training: many",
    "null for a mapping": "training:",
}  # fmt: skip
"""Name -> text that replaces the keys of a good config that it begins with; none of these configs is valid."""

OVERRIDES = """
data.train.0.clips_per_video=1e12
data.train.0.clips_per_video=1000000000000
training.batch_size=1000000000
data.workers=100000
data.stride=1000000000000
data.stride=1e400
data.stride=0fps
data.stride=infinityfps
training.steps=yes
training.steps=1e30
training.checkpoint_every=yes
data.flip=7
data.flip=on e
out=
out=[]
out=~
seed=-1
seed=18446744073709551616
losses=[]
losses.0.weight=nan
losses.0.weight=1e400
losses.7.weight=1
losses.².weight=1
data.train.0.frames=[0,1]
data.train.0.share=[nan,1]
data.train.0.videos=one
data.train.0.root=~
schedule.warmup_steps=true
training.ema=1
training.clip_norm=.inf
optimizer.lr=!!float x
model.variant=../x
model.arguments={self: 1}
model.arguments={num_frames: 1000000000}
device=cuda:99999999999999999999
device=²
device=meta
=
a
a=b=c
training=
x.y.z=1
""".strip().splitlines()
"""Overrides that no config accepts."""


def config_text(material: Material, change: str | bytes, name: str = "train") -> bytes:
    """Return a good config of one step in which a text replaces the keys that it begins with."""
    config = material.config(name)
    config["training"] = {"steps": 1}
    config["data"]["validation"] = []
    text = change.encode() if isinstance(change, str) else change
    for key in list(config):
        if text.startswith(f"{key}:".encode()) or f"\n{key}:".encode() in text:
            del config[key]
    return yaml.safe_dump(config).encode() + b"\n" + text + b"\n"


def yaml_cases(material: Material, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield bad configs for the verbs that read one."""
    verbs: list[tuple[str, tuple[object, ...]]] = [
        ("train", ("train", "bad.yaml")),
        ("evaluate", ("evaluate", "centre-prior", "bad.yaml")),
        ("cache build", ("cache", "build", "bad.yaml", "teacher.store=out")),
        ("quantize", ("quantize", material.onnx, "--on", "bad.yaml", "-o", "out.onnx")),
        ("calibrate", ("calibrate", material.onnx, "--on", "bad.yaml", "-o", "out.onnx")),
        ("leaderboard", ("leaderboard", "centre-prior", "--on", "bad.yaml", "-o", "out")),
    ]
    for name, text in YAML_TEXTS.items():
        everywhere = b"seed" in (text if isinstance(text, bytes) else text.encode())  # a key that every verb reads
        verb, argv = chance.choice(verbs[1:]) if everywhere and chance.random() < 0.4 else verbs[0]
        content = config_text(material, text, "distill" if verb == "cache build" else "train")
        yield Case(f"YAML, {name}: {verb}", argv, written("bad.yaml", content), nothing, lists=True)
    good = config_text(material, b"")
    for text in OVERRIDES:
        yield Case(
            f"override {text}: train", ("train", "bad.yaml", text), written("bad.yaml", good), nothing, lists=True
        )
    for name, content in damaged(good, chance, number):
        yield Case(f"YAML, {name}: train", ("train", "bad.yaml"), written("bad.yaml", content), lists=True)
    config = yaml.safe_load(good)
    for name, bad in wrong_values(config, chance, 5 * number):
        text = yaml.safe_dump(bad)
        yield Case(f"YAML, {name}: train", ("train", "bad.yaml"), written("bad.yaml", text), lists=True)


# ------------------------------------------------------------------------------------------- JSON

DEEP = "[" * 200_000

JSON_TEXTS: dict[str, bytes] = {
    **{f"{name} instead of JSON": content for name, content in REPLACEMENTS.items()},
    "null": b"null",
    "number": b"3",
    "text as JSON": b'"text"',
    "true": b"true",
    "list": b"[]",
    "mapping": b"{}",
    "list of nothing": b"[null]",
    "list of lists": b"[[[[]]]]",
    "200000 deep": DEEP.encode(),
    "200000 deep mapping": (b'{"a":' * 200_000),
    "5000 digits": b"[" + b"9" * 5000 + b"]",
    "infinite": b"[1e400, NaN, -Infinity]",
    "not UTF-8": b'{"\xff\xfe": 1}',
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "byte order mark": b"\xef\xbb\xbf[]",
    "UTF-16": "[]".encode("utf-16"),
}  # fmt: skip

FIXATIONS: dict[str, Any] = {
    "letters": [[["a", "b"]]],
    "digits as text": [[["1", "2"]]],
    "true": [[[True, False]]],
    "one number": [[[1]]],
    "three numbers": [[[1, 2, 3]]],
    "not in a list": [[1, 2]],
    "ragged": [[[1, 2], [3]]],
    "mapping of frames": {"0": [[1, 2]]},
    "infinite": [[[1e400, 2]]],
    "no number": [[[None, 2]]],
    "beyond int64": [[[10**30, 2]]],
}  # fmt: skip
"""Content of a fixations.json that is no list of points per frame."""

SPLITS: dict[str, Any] = {
    "text for a list": {"train": ["one.mp4"], "public_test": "two.mp4"},
    "number for a list": {"train": ["one.mp4"], "public_test": 2},
    "mapping for a list": {"train": ["one.mp4"], "public_test": {"two.mp4": 1}},
    "numbers for names": {"train": ["one.mp4"], "public_test": [2]},
    "null for a name": {"train": ["one.mp4"], "public_test": [None]},
    "lists for names": {"train": ["one.mp4"], "public_test": [["two.mp4"]]},
    "no split": {"other": ["two.mp4"]},
    "NUL": {"train": [], "public_test": ["two\0.mp4"]},
    "empty name": {"train": [], "public_test": [""]},
    "long name": {"train": [], "public_test": ["n" * 5000]},
}  # fmt: skip
"""Content of a TrainTestSplit.json that is no list of names per split, or names no video."""

MANY_NAMES = {"train": ["one.mp4"], "public_test": ["two.mp4", *(f"v{n}.mp4" for n in range(200_000))]}


def json_cases(material: Material, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield bad JSON in every place."""
    yield from data_set_files(material, chance, number)
    yield from records(material, chance, number)
    yield from run_files(material, chance, number)
    yield from caches(material, chance, number)
    for name, content in JSON_TEXTS.items():
        yield Case(f"demo.json, {name}: demo", ("demo", "--out", "out"), written("out/demo.json", content), nothing)


def data_set_files(material: Material, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield fixations and split files."""
    fixations, splits = "FixationsTest/Test/two/fixations.json", "TrainTestSplit.json"
    good = json.dumps(POINTS).encode()
    bad = [*JSON_TEXTS.items(), *((name, json.dumps(value).encode()) for name, value in FIXATIONS.items())]
    bad += damaged(good, chance, number)
    for name, content in bad:
        verb, *more = chance.choice([("evaluate", "centre-prior", "ntire:in"), ("data", "check", "in")])
        yield Case(f"fixations.json, {name}: {verb}", (verb, *more), in_data_set(material, fixations, content))
    bad = [*JSON_TEXTS.items(), *((name, json.dumps(value).encode()) for name, value in SPLITS.items())]
    bad += damaged((material.ntire / splits).read_bytes(), chance, number)
    bad.append(("200000 names", json.dumps(MANY_NAMES).encode()))
    for name, content in bad:
        argv = chance.choice(
            [
                ("evaluate", "centre-prior", "ntire:in", "--split", "public_test"),
                ("submit", "centre-prior", "ntire:in", "--to", "ntire", "-o", "out"),
                ("data", "check", "in", "--dataset", "ntire"),
            ]
        )
        check = nothing if name in SPLITS and argv[0] != "data" else anything
        yield Case(f"split file, {name}: {argv[0]}", argv, in_data_set(material, splits, content), check)

    for split in ("all", "train", "private_test", "nowhere", "../x", "²"):
        argv = ("submit", "centre-prior", "ntire:in", "--to", "ntire", "--split", split, "-o", "out")
        yield Case(f"split {split}: submit", argv, in_data_set(material, fixations, good))


def in_data_set(material: Material, name: str, content: bytes) -> Any:
    def prepare(folder: Path) -> None:
        shutil.copytree(material.ntire, folder / "in")
        written(f"in/{name}", content)(folder)

    return prepare


def records(material: Material, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield records of results that exist already: they must not be continued."""
    bad = [*JSON_TEXTS.items(), ("another model", json.dumps({"model": "x", "weights": "0" * 64}).encode())]
    for name, content in bad:
        yield Case(
            f"predicted_by.json, {name}: predict",
            ("predict", material.model, material.videos, "--maps", "maps"),
            written("maps/predicted_by.json", content),
            nothing,
        )
        yield Case(
            f"record of a submission, {name}: submit",
            ("submit", "centre-prior", f"ntire:{material.ntire}", "--to", "ntire", "-o", "out"),
            written("out.json", content),
            nothing,
        )


def run_files(material: Material, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield damaged JSON and YAML in run folders and target stores."""
    for name, content in [
        *JSON_TEXTS.items(),
        *damaged((material.store / "store.json").read_bytes(), chance, number),
    ]:
        verb, *more = chance.choice([("cache", "info", "in"), ("cache", "export", "in", "-o", "out")])
        yield Case(
            f"store.json, {name}: {verb} {more[0]}",
            (verb, *more),
            in_copy(material.store, "store.json", content),
            nothing,
        )
    for name, content in JSON_TEXTS.items():
        yield Case(
            f"config.yaml of a run, {name}: predict",
            ("predict", "in", material.mp4, "--maps", "maps"),
            in_copy(material.student, "config.yaml", content),
            lists=True,
        )


def in_copy(source: Path, name: str, content: bytes) -> Any:
    def prepare(folder: Path) -> None:
        shutil.copytree(source, folder / "in")
        written(f"in/{name}", content)(folder)

    return prepare


def caches(material: Material, chance: random.Random, number: int) -> Iterator[Case]:
    """Yield damaged caches of inspections: a command must drop them and succeed."""
    for name, content in JSON_TEXTS.items():

        def prepare(folder: Path, content: bytes = content) -> None:
            shutil.copytree(material.ntire, folder / "in")
            for home in ("Videos", "FixationsTrain/Train", "FixationsTest/Test"):
                key = sha256(str(folder / "in" / home).encode()).hexdigest()[:32]
                written(f"cache/known/{key}.json", content)(folder)

        yield Case(
            f"cache of inspections, {name}: evaluate",
            ("evaluate", "centre-prior", "ntire:in"),
            prepare,
            environment={"SALDISTILL_CACHE": "cache"},
            out=("cache",),
            refusals=(),
        )
