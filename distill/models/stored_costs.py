"""Costs of the variants of all networks, stored in costs.json so that listing them needs no PyTorch.

`scripts/generate_docs.py` writes the file. The costs of a network are valid while its source files are unchanged.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.errors import UserError
from distill.models.networks import list_models, source_hash
from distill.validation import read_json

FILE = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class VariantCost:
    """What a variant of a network costs and takes.

    Attributes:
        weights: number of weights.
        gflops_per_map: GFLOPs per map, 2 per multiply-add; for a streaming network, of one step.
        num_frames: frames of a clip.
        size: (height, width) of the frames.
        map_size: (height, width) of a map.
        fit: how frames of another aspect ratio fill the input.
    """

    weights: int
    gflops_per_map: float
    num_frames: int
    size: tuple[int, int]
    map_size: tuple[int, int]
    fit: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class NetworkCosts:
    """Costs of the variants of one network, in the order of its file, and the hash of its source files."""

    source: str
    variants: dict[str, VariantCost]


def stored_costs(path: Path = FILE) -> dict[str, Mapping[str, VariantCost]]:
    """Return network -> variant -> cost, for all networks whose source files are those that were measured.

    Networks that were added or changed since are missing, and all are if the file is missing or damaged.
    """
    try:
        found = read_json(path, dict[str, NetworkCosts], "the costs of the networks")
    except UserError:
        return {}
    return {
        name: found[name].variants
        for name in list_models()
        if name in found and found[name].source == source_hash(name)
    }
