"""Published weight files in SalFoM: nestings, keys, precisions, position grids, and errors for other files."""

import argparse
import json
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from distill.models.published_weights import load_published_weights
from teacher import salfom
from teacher.salfom import VARIANTS, Model
from teacher.umt import resize_positions, sincos_positions
from teacher.weights import UNUSED, published_name, to_published

GOLDEN = Path(__file__).parent.parent / "data" / "golden"

load = partial(load_published_weights, salfom)


def micro(seed: int = 0, **changes: object) -> Model:
    torch.manual_seed(seed)
    return Model(**VARIANTS["micro"] | changes).eval()


def umt_checkpoint(model: Model) -> dict[str, Tensor]:
    """A UMT release of this encoder: half precision, with a head, without a position table."""
    tensors = {
        key.removeprefix("encoder."): value.half()
        for key, value in to_published(model).items()
        if key.startswith("encoder.") and "pos_embed" not in key
    }
    return {key: value for key, value in tensors.items() if "head" not in key} | {
        "head.weight": torch.zeros(710, 24, dtype=torch.float16),
        "head.bias": torch.zeros(710, dtype=torch.float16),
    }


@pytest.fixture
def clip() -> Tensor:
    return torch.rand(1, 3, 16, 32, 48)


def test_published_name_on_used_keys_is_a_bijection() -> None:
    with torch.device("meta"):
        own = Model().state_dict()
    published = json.loads((GOLDEN / "salfom_published_keys.json").read_text())
    live = {key for key in published if not UNUSED.match(key) and not key.endswith("relative_position_index")}
    assert {published_name(key) for key in own} == live
    assert len(own) == len(live)


@pytest.mark.parametrize("branch", ["paper", "depthwise", "extra", "fewer"])
def test_published_name_of_every_branch_is_unique(branch: str) -> None:
    own = micro(dfd=branch, sfd=branch).state_dict()
    assert len({published_name(key) for key in own}) == len(own)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [([], ""), (["model"], ""), (["module"], ""), (["state_dict"], "module."), (["model", "state_dict"], "")],
)
def test_load_salfom_file_in_any_nesting_gives_equal_maps(
    wrap: list[str], prefix: str, tmp_path: Path, clip: Tensor
) -> None:
    source, target = micro(1), micro(2)
    content: dict = {prefix + key: value for key, value in to_published(source).items()}
    for name in reversed(wrap):
        content = {name: content, "epoch": 3, "step": torch.tensor(7)}
    torch.save(content, tmp_path / "SalFoM.pth")
    report = load(target, tmp_path / "SalFoM.pth")
    with torch.no_grad():
        assert torch.equal(source(clip), target(clip))
    loaded = len(source.state_dict())
    assert report.endswith(
        f"SalFoM weights, {loaded - 1} tensors loaded; dropped encoder.fc_norm, encoder.head, conv_t3_3, "
        "final_map, transformer_1.norm, transformer_2.norm, transformer_3.norm"
    )


def test_to_published_after_loading_returns_the_same_tensors(tmp_path: Path) -> None:
    source, target = micro(1), micro(2)
    safetensors.torch.save_file(
        {key: value.contiguous() for key, value in to_published(source).items()}, tmp_path / "a.safetensors"
    )
    load(target, tmp_path / "a.safetensors")
    back = to_published(target)
    assert back.keys() == to_published(source).keys()
    assert all(torch.equal(back[key], value) for key, value in to_published(source).items())


def test_to_published_computes_relative_position_index() -> None:
    index = to_published(micro())["transformer_3.layers.0.blocks.0.attn.relative_position_index"]
    assert index.tolist() == [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder.", "module.encoder."])
def test_load_umt_checkpoint_fills_only_the_encoder(prefix: str, tmp_path: Path) -> None:
    source, target = micro(1), micro(2)
    decoder = {key: value.clone() for key, value in target.decoder.state_dict().items()}
    content = {prefix + key: value for key, value in umt_checkpoint(source).items()}
    torch.save({"model": content, "args": argparse.Namespace(lr=1)}, tmp_path / "umt.pth")
    report = load(target, tmp_path / "umt.pth")
    for key, value in source.encoder.state_dict().items():
        expected = value if key == "position" else value.half().float()
        assert torch.equal(target.encoder.state_dict()[key], expected), key
    assert all(torch.equal(target.decoder.state_dict()[key], value) for key, value in decoder.items())
    assert "loaded into the encoder; positions computed; dropped fc_norm, head; the decoder keeps" in report


def test_load_umt_checkpoint_with_more_blocks_loads_the_first(tmp_path: Path) -> None:
    source, target = micro(1, depth=4), micro(2)
    torch.save(umt_checkpoint(source), tmp_path / "umt.pth")
    report = load(target, tmp_path / "umt.pth")
    assert "dropped blocks.2, blocks.3, fc_norm, head" in report
    weight = source.encoder.blocks[1].mlp.fc1.weight
    assert torch.equal(target.encoder.blocks[1].mlp.fc1.weight, weight.half().float())


@pytest.mark.parametrize("frames", [8, 16])
@pytest.mark.parametrize("classes", [400, 710])
@pytest.mark.parametrize("source", [None, (8, 14, 14), (16, 14, 14), (8, 24, 24)])
def test_load_umt_checkpoint_of_any_kind_fits_positions(
    source: tuple[int, int, int] | None, classes: int, frames: int, tmp_path: Path
) -> None:
    model, target = micro(1), micro(2, num_frames=frames)
    content = umt_checkpoint(model) | {"head.weight": torch.zeros(classes, 24), "head.bias": torch.zeros(classes)}
    if source:
        content["pos_embed"] = sincos_positions(source, 24).half()
    torch.save(content, tmp_path / "umt.pth")
    report = load(target, tmp_path / "umt.pth")
    assert torch.equal(target.encoder.blocks[1].attn.q_bias, model.encoder.blocks[1].attn.q_bias.half().float())
    grid = (frames, 2, 3)
    expected = resize_positions(sincos_positions(source, 24).half().float(), source, grid) if source else None
    own = sincos_positions(grid, 24)
    assert torch.equal(target.encoder.position, own if expected is None else expected)
    assert ("positions computed" in report) == (source is None)
    if source:
        sizes = f"{' x '.join(map(str, source))} to {frames} x 2 x 3"
        assert f"positions interpolated from {sizes}" in report


def test_load_half_precision_casts_to_float32(tmp_path: Path) -> None:
    source, target = micro(1), micro(2)
    torch.save({key: value.half() for key, value in to_published(source).items()}, tmp_path / "half.pth")
    load(target, tmp_path / "half.pth")
    for key, value in source.state_dict().items():
        assert target.state_dict()[key].dtype == torch.float32
        assert torch.equal(target.state_dict()[key], value.half().float()), key


def test_load_position_table_of_equal_length_and_other_grid_interpolates(tmp_path: Path) -> None:
    # 16 x 14 x 14 and 16 x 7 x 28 have the same number of tokens
    square, wide = micro(1, size=(224, 224)), micro(2, size=(112, 448))
    torch.save(to_published(square), tmp_path / "square.pth")
    assert "interpolated from 16 x 14 x 14 to 16 x 7 x 28" in load(wide, tmp_path / "square.pth")
    expected = resize_positions(square.encoder.position.detach(), (16, 14, 14), (16, 7, 28))
    assert torch.equal(wide.encoder.position, expected)
    torch.save(to_published(wide), tmp_path / "wide.pth")
    again = micro(3, size=(112, 448))
    assert "interpolated" not in load(again, tmp_path / "wide.pth")
    assert torch.equal(again.encoder.position, expected)


def test_load_position_table_without_square_grid_recomputes_or_raises(tmp_path: Path) -> None:
    source, target = micro(1, size=(48, 64)), micro(2)
    tensors = to_published(source)
    torch.save(tensors, tmp_path / "ours.pth")
    assert "; positions computed for this grid" in load(target, tmp_path / "ours.pth")
    torch.testing.assert_close(target.encoder.position, sincos_positions((16, 2, 3), 24))
    tensors["encoder.pos_embed"] = torch.rand(1, 192, 24)
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth: pos_embed of 192 tokens: expected 1, 4"):
        load(target, tmp_path / "odd.pth")
    tensors["encoder.pos_embed"] = torch.rand(1, 192, 20)
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"pos_embed \(1, 192, 20\): expected \(1, tokens, 24\)"):
        load(target, tmp_path / "odd.pth")


def test_load_own_state_dict_at_another_size_recomputes_positions(tmp_path: Path, clip: Tensor) -> None:
    source, target, larger = micro(1), micro(2), micro(3, size=(48, 48))
    torch.save(source.state_dict(), tmp_path / "own.pth")
    assert "with this project's keys" in load(target, tmp_path / "own.pth")
    with torch.no_grad():
        assert torch.equal(source(clip), target(clip))
    assert "positions computed for this grid" in load(larger, tmp_path / "own.pth")


def test_load_other_weights_names_first_misfits(tmp_path: Path) -> None:
    path = tmp_path / "wrong.pth"
    tensors = to_published(micro(1))
    del tensors["conv_3.weight"]
    tensors["conv_2.weight"] = torch.zeros(5, 16, 2, 3, 3)
    tensors["conv_99.weight"] = torch.zeros(1)
    torch.save(tensors, path)
    target = micro(2)
    with pytest.raises(ValueError, match="the weights are for another model") as error:
        load(target, path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert "1 missing: decoder.dfd.middle.conv3.weight" in text
    assert "decoder.dfd.early.conv2.weight (5, 16, 2, 3, 3) instead of (16, 16, 2, 3, 3)" in text
    assert "1 unexpected: conv_99.weight" in text


def test_load_umt_checkpoint_of_other_width_raises(tmp_path: Path) -> None:
    torch.save(umt_checkpoint(micro(1, width=32)), tmp_path / "umt.pth")
    with pytest.raises(ValueError, match=r"of another shape: patch_embed\.weight \(32, 3, 1, 16, 16\)"):
        load(micro(2), tmp_path / "umt.pth")


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path("trapped").touch, ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"fc.weight": torch.zeros(2)}, r"neither SalFoM nor UMT weights.*the first keys are fc\.weight"),
        ({"epoch": 3}, "holds no tensors"),
        ([torch.zeros(1)], "holds a list; expected a dictionary of tensors"),
        ({"conv_1.weight": Trap()}, "cannot be read as a state dict .*; expected a file of tensors only"),
    ],
)
def test_load_other_content_raises_without_executing_it(
    content: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, "file.pth")
    with pytest.raises(ValueError, match=message):
        load(micro(), "file.pth")
    assert not Path("trapped").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_load_truncated_or_missing_file_raises(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(to_published(micro()), path)
    else:
        safetensors.torch.save_file(to_published(micro()), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="cannot be read"):
        load(micro(), path)
    with pytest.raises(ValueError, match="no such weight file"):
        load(micro(), tmp_path / "absent.pth")
