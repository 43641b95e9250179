"""Stored costs of the networks: complete, equal to computed ones, and ignored when a network changes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from distill.cli.models import variant_costs
from distill.models import networks, stored_costs
from distill.models.cost import costs_of
from distill.models.networks import list_models, source_hash
from distill.models.registry import list_variants

SMALLEST = ("student/stream:micro", "student/thtdnet:micro", "teacher/salfom:micro")


def test_every_variant_has_a_row_in_the_order_of_its_file() -> None:
    stored = stored_costs.stored_costs()
    assert {name: list(rows) for name, rows in stored.items()} == {n: list_variants(n) for n in list_models()}, (
        "a network changed; run python scripts/generate_docs.py"
    )


@pytest.mark.parametrize("reference", SMALLEST)
def test_stored_cost_of_a_small_variant_is_the_computed_one(reference: str) -> None:
    name, _, variant = reference.partition(":")
    assert costs_of(name, variant)[variant] == stored_costs.stored_costs()[name][variant]


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_stored_costs_of_all_variants_are_the_computed_ones(name: str) -> None:
    assert costs_of(name) == stored_costs.stored_costs()[name]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the networks be found in copies of the packages, which a test may change."""
    for package in networks.PACKAGES:
        (tmp_path / package).mkdir()
        for file in networks._folders(package)[0].glob("*.py"):
            shutil.copy(file, tmp_path / package)
    monkeypatch.setattr(networks, "_folders", lambda package: [tmp_path / package])
    return tmp_path


@pytest.mark.parametrize("file", ["salfom.py", "decoder.py"])
def test_costs_of_a_network_whose_sources_changed_are_not_used(packages: Path, file: str) -> None:
    before = {name: source_hash(name) for name in list_models()}
    assert stored_costs.stored_costs().keys() == before.keys()
    path = packages / "teacher" / file
    path.write_text(path.read_text() + "\n# changed\n")
    changed = [name for name in list_models() if source_hash(name) != before[name]]
    assert changed == ["teacher/salfom"]
    assert stored_costs.stored_costs().keys() == before.keys() - {"teacher/salfom"}


def test_network_without_a_row_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dict(variant_costs("student/stream:micro"))
    monkeypatch.setattr(stored_costs, "stored_costs", dict)
    assert dict(variant_costs("student/stream:micro")) == expected


def test_stored_row_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored_costs.stored_costs()["student/stream"]
    other = {"student/stream": {"micro": replace(rows["micro"], weights=1)}}
    monkeypatch.setattr(stored_costs, "stored_costs", lambda: other)
    assert next(variant_costs("student/stream:micro"))[1].weights == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"student/stream": {}}', json.dumps({"a": {"source": 1}})])
def test_damaged_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    (tmp_path / "costs.json").write_text(text)
    assert stored_costs.stored_costs(tmp_path / "costs.json") == {}
    assert stored_costs.stored_costs(tmp_path / "missing.json") == {}
