"""store.json of foreign target stores: what it says with a valid checksum is used or refused with one sentence."""

import copy
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.stores import build_small

from distill.cli.main import main
from distill.errors import UserError
from distill.targets.codec import CODECS
from distill.targets.exporter import export_maps
from distill.targets.info import info
from distill.targets.plan import Plan
from distill.targets.shard import DamagedError
from distill.targets.store import TargetStore
from distill.targets.store_file import with_checksum
from distill.targets.verify import verify_store

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**40,
    10**30,
    1.5,
    float("nan"),
    "x",
    "../x",
    [],
    [2**40] * 3,
    {},
    {"run": [0]},
]


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a JSON value."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (key,)
        yield from ((key, *rest) for rest in places(value[key]))


def changed(content: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return a copy with another value in a place; without it if the value is `...`."""
    twin = copy.deepcopy(content)
    inside = twin
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return twin


def use(path: Path, out: Path) -> None:
    """Do everything with a store that reads what store.json says."""
    store = TargetStore.open(path)
    info(store)
    verify_store(path, sample=0)
    if store.complete and store.plan.num_records < 1000:
        export_maps(store, out / "maps", progress=False)


def test_any_value_in_any_place_is_used_or_refused_with_one_sentence(tmp_path: Path, videos) -> None:
    store = build_small(tmp_path / "store", videos)
    file = store.path / "store.json"
    content = {key: value for key, value in json.loads(file.read_bytes()).items() if key != "sha256"}
    refused = []
    for number, place in enumerate(places(content)):
        for index, value in enumerate([..., *VALUES]):
            file.write_text(with_checksum(changed(content, place, value)))
            try:
                use(store.path, tmp_path / f"{number}-{index}")
            except UserError as error:
                refused.append(str(error))
    assert len(refused) > 300
    assert not [message for message in refused if "\n" in message or len(message) > 1000]


@pytest.mark.parametrize("raw", [b"", b"[", b"[" * 200_000, b"1" * 5000, b"\xff\xfe", b"null", b"\xef\xbb\xbf{}"])
def test_store_file_that_is_no_json_object_is_damaged(tmp_path: Path, raw: bytes, capsys) -> None:
    (tmp_path / "store.json").write_bytes(raw)
    with pytest.raises(DamagedError, match="was changed or damaged"):
        TargetStore.open(tmp_path)
    assert main(["cache", "info", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"videos": {"a": range(2**40)}}, "maps in the store: 1,099,511,627,776 is over the limit"),
        ({"videos": {"a": range(10**7)}, "batch_size": 1, "batches_per_shard": 1}, "shards of the store: "),
    ],
)
def test_endless_plan_is_refused_at_once(plan: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan(**{"views": ("plain",), "batch_size": 8, "batches_per_shard": 64, **plan})


@pytest.mark.parametrize("codec", CODECS)
def test_record_that_unpacks_to_more_or_less_than_a_map_is_refused(codec: str) -> None:
    record = CODECS[codec].encode(np.arange(48, dtype=np.float32).reshape(6, 8))
    assert CODECS[codec].decode(record, (6, 8)).shape == (6, 8)
    bomb = record[:8] + zlib.compress(bytes(100 * 2**20))
    for wrong in (
        bomb,
        record[:-1],
        record[:9],
        record[:3],
        b"\0\0\xc0\x7f" + record[4:],
        record[:4] + b"\0\0\x80\x7f",
    ):
        with pytest.raises(Exception, match=r"map|bytes|buffer|stream|data"):
            CODECS[codec].decode(wrong, (6, 8))
