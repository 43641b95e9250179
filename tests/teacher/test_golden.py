"""SalFoM compared with outputs of the authors' code for the same weights (`tests/data/golden/salfom.npz`).

Weights and inputs are a pure function of their names and shapes (`helpers/seeded_weights.py`), so only outputs are
stored. Two correct implementations differ by about 1e-6.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.seeded_weights import fill, seeded

from teacher.decoder import Stage
from teacher.salfom import Model
from teacher.umt import Encoder
from teacher.weights import published_name, to_published

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
BAR = 1e-5


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "salfom.npz") as arrays:
        return dict(arrays)


def published_encoder_name(key: str) -> str:
    return published_name(f"encoder.{key}").removeprefix("encoder.")


def published_stage_name(key: str) -> str:
    return published_name(f"decoder.tcfe.a1.{key}").removeprefix("transformer_1.")


@pytest.mark.parametrize("frames", [8, 16])
@torch.no_grad()
def test_encoder_tokens_equal_the_published_code(frames: int, golden: dict[str, np.ndarray]) -> None:
    encoder = Encoder(num_frames=frames, size=(224, 224), width=192, depth=3, heads=3)
    fill(encoder, published_encoder_name)
    np.testing.assert_allclose(
        encoder.position[0, ::97], golden[f"encoder_f{frames}_pos_embed_every_97"], rtol=0, atol=BAR
    )
    y = encoder(seeded(f"encoder_f{frames}", (1, 3, frames, 224, 224)))  # (1, C, T, h, w)
    tokens = y.flatten(2).transpose(1, 2)[0, ::97]
    np.testing.assert_allclose(tokens, golden[f"encoder_f{frames}_tokens_every_97"], rtol=0, atol=BAR)


@torch.no_grad()
def test_tcfe_stage_equals_the_published_code(golden: dict[str, np.ndarray]) -> None:
    stage = Stage(32, 16, merge=2, window=2, depth=6, heads=8)
    fill(stage, published_stage_name)
    np.testing.assert_allclose(stage(seeded("tcfe", (1, 32, 8, 7, 7))), golden["tcfe_stage"], rtol=0, atol=BAR)


def test_to_published_has_the_published_keys_and_shapes() -> None:
    with torch.device("meta"):
        model = Model()
    expected = json.loads((GOLDEN / "salfom_published_keys.json").read_text())
    assert {key: list(value.shape) for key, value in to_published(model).items()} == expected


@pytest.fixture(scope="module")
def salfom() -> Model:
    """The paper's network with seeded weights: 1.6 GB."""
    with torch.no_grad():
        model = Model()
        fill(model, published_name)
    return model


@pytest.mark.slow
@torch.no_grad()
def test_decoder_map_equals_the_published_code(salfom: Model, golden: dict[str, np.ndarray]) -> None:
    logits = salfom.decoder(seeded("features", (1, 1024, 16, 14, 14)))
    maps = logits.sigmoid()[0, :, ::7, ::7]
    np.testing.assert_allclose(maps, golden["decoder_map_every_7"], rtol=0, atol=BAR)


@pytest.mark.slow
@torch.no_grad()
def test_network_map_equals_the_published_code(salfom: Model, golden: dict[str, np.ndarray]) -> None:
    normalised = seeded("clip", (1, 3, 16, 224, 224))
    clip = normalised * salfom.std + salfom.mean  # undo the model's normalisation
    maps = salfom(clip).exp()[0, :, ::7, ::7]
    np.testing.assert_allclose(maps, golden["full_map_every_7"], rtol=0, atol=BAR)
