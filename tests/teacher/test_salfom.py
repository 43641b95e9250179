"""SalFoM's parts: published parameter counts, attention by definition, position tables, stochastic depth."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from teacher import umt
from teacher.decoder import BRANCHES, Decoder, TemporalWindowAttention, attend, upsample
from teacher.salfom import VARIANTS, Model
from teacher.umt import Attention, resize_positions, sincos_positions
from teacher.weights import to_published

COUNTS = {
    # variant: (used weights, whole file), from the companion paper and the published code
    "tcfe2": (399_147_856, 399_572_931),
    "tcfe4": (400_834_112, 401_259_187),
    "base": (402_520_368, 402_945_443),
    "tcfe8": (404_206_624, 404_631_699),
    "tcfe10": (405_892_880, 406_317_955),
    "dfd-depthwise": (395_677_680, 396_102_755),
    "dfd-extra": (405_665_328, 406_090_403),
    "dfd-fewer": (400_004_400, 400_429_475),
    "sfd-depthwise": (396_391_392, 396_816_467),
    "sfd-extra": (403_149_360, 403_574_435),
    "sfd-fewer": (401_891_376, 402_316_451),
    "umt-b8-d6": (91_836_464, 92_158_627),
    "umt-b8-d12": (134_359_088, 134_681_251),
    "umt-l8-d6": (152_704_419 - 425_075, 152_704_419),
    "umt-l8-d12": (228_275_619 - 425_075, 228_275_619),
    "umt-l8-d18": (303_846_819 - 425_075, 303_846_819),
    "umt-l8-d24": (379_418_019 - 425_075, 379_418_019),
    "umt-l16-d6": (176_231_843 - 425_075, 176_231_843),
    "umt-l16-d12": (251_803_043 - 425_075, 251_803_043),
    "umt-l16-d18": (327_374_243 - 425_075, 327_374_243),
}


@pytest.mark.parametrize("variant", COUNTS)
def test_parameter_counts_equal_the_published(variant: str) -> None:
    with torch.device("meta"):
        model = Model(**VARIANTS[variant])
    live = sum(parameter.numel() for parameter in model.parameters())
    whole = sum(tensor.numel() for tensor in to_published(model).values() if tensor.is_floating_point())
    assert (live, whole) == COUNTS[variant]


def test_counts_cover_every_published_variant() -> None:
    assert set(VARIANTS) - set(COUNTS) == {"tiny", "micro", "swin-encoder", "micro-swin"}


def test_readme_table_lists_every_variant_with_its_counts() -> None:
    readme = (Path(__file__).parent.parent.parent / "teacher" / "README.md").read_text()
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in readme.splitlines() if line[:1] == "|"
    ]
    table = {row[0]: tuple(row[2:4]) for row in rows if row[0] in VARIANTS}
    assert list(table) == list(VARIANTS)
    for variant, arguments in VARIANTS.items():
        with torch.device("meta"):
            model = Model(**arguments)
        live = sum(parameter.numel() for parameter in model.parameters())
        whole = f"{COUNTS[variant][1]:,}" if variant in COUNTS else "-"
        assert table[variant] == (f"{live:,}", whole), variant


@pytest.mark.parametrize("frames", [8, 16])
@pytest.mark.parametrize("branch", BRANCHES)
def test_decoder_branches_agree_in_shape(frames: int, branch: str) -> None:
    decoder = Decoder(
        width=8,
        num_frames=frames,
        widths=(8, 8, 4, 4, 4, 4),
        tcfe_depth=1,
        tcfe_heads=2,
        dfd=branch,
        sfd=branch,
        drop_path=0.0,
    )
    features = decoder.forward_features(torch.randn(2, 8, frames, 2, 3))
    assert features["dfd"].shape == features["sfd"].shape == features["a3"].shape == (2, 4, 32, 48)


def test_model_with_unknown_branch_raises() -> None:
    with pytest.raises(ValueError, match="branch 'deep': expected one of paper, depthwise, extra, fewer"):
        Model(**VARIANTS["micro"] | {"dfd": "deep"})


def test_initial_map_is_nearly_uniform() -> None:
    model = Model(**VARIANTS["tiny"]).eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, 16, *model.size)).exp()
    assert maps.min() > 0.2
    assert maps.max() < 0.8
    assert maps.std() > 1e-4  # it still depends on the input


def test_encoder_attention_equals_its_definition() -> None:
    attention = Attention(12, heads=3)
    torch.nn.init.normal_(attention.q_bias)
    torch.nn.init.normal_(attention.v_bias)
    x = torch.randn(2, 7, 12)
    q, k, v = (x @ weight.T for weight in attention.qkv.weight.chunk(3))
    q, v = q + attention.q_bias, v + attention.v_bias
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(4)
        heads.append(scores.softmax(-1) @ v[..., part])
    expected = attention.proj(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), expected, atol=1e-6, rtol=0)


def windows_written_out(attention: TemporalWindowAttention, x: Tensor, groups: list[list[int]]) -> Tensor:
    """Compute each pixel's attention within the given groups of frames by the definition."""
    size = x.shape[-1] // attention.heads
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    out = torch.zeros_like(x)
    for group in groups:
        for head in range(attention.heads):
            part = slice(size * head, size * head + size)
            scores = q[:, :, group, part] @ k[:, :, group, part].transpose(-1, -2) / math.sqrt(size)
            for i, a in enumerate(group):
                for j, b in enumerate(group):
                    scores[..., i, j] += attention.relative_position_bias_table[a - b + attention.window - 1, head]
            out[:, :, group, part] = scores.softmax(-1) @ v[:, :, group, part]
    return attention.proj(out)


@pytest.mark.parametrize(
    ("window", "shift", "frames", "groups"),
    [
        (2, 0, 8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (2, 1, 8, [[1, 2], [3, 4], [5, 6], [7], [0]]),  # the ends of the clip do not attend to each other
        (4, 2, 8, [[2, 3, 4, 5], [6, 7], [0, 1]]),
        (4, 2, 4, [[0, 1, 2, 3]]),  # the window covers the clip: no shift
        (4, 2, 2, [[0, 1]]),  # the window shrinks to the clip
        (4, 2, 1, [[0]]),
    ],
)
@torch.no_grad()
def test_window_attention_equals_its_definition(
    window: int, shift: int, frames: int, groups: list[list[int]]
) -> None:
    attention = TemporalWindowAttention(8, heads=2, window=window, shift=shift)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, frames, 8)
    torch.testing.assert_close(attention(x), windows_written_out(attention, x, groups), atol=1e-5, rtol=0)


def test_model_with_indivisible_heads_raises() -> None:
    with pytest.raises(ValueError, match="width 10: must be a multiple of heads 4"):
        Model(**VARIANTS["micro"] | {"width": 10, "heads": 4})
    with pytest.raises(ValueError, match="tcfe_heads 3: must divide the width of every TCFE stage, got 16"):
        Model(**VARIANTS["micro"] | {"tcfe_heads": 3})


def test_position_table_equals_its_formula() -> None:
    table = sincos_positions((8, 14, 14), 6)
    assert table.shape == (1, 1568, 6)
    assert table[0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    for token, channel in [(1, 0), (700, 3), (1567, 4)]:
        angle = token / 10000 ** (2 * (channel // 2) / 6)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert table[0, token, channel].item() == pytest.approx(expected, abs=1e-6)


def test_resize_positions_of_linear_table_stays_linear() -> None:
    grid = (8, 14, 14)
    rows = torch.arange(14.0)[None, :, None].expand(grid).reshape(1, -1, 1)  # linear in the row
    frames = torch.arange(8.0)[:, None, None].expand(grid).reshape(1, -1, 1)
    inside = resize_positions(rows, grid, (8, 7, 12)).reshape(8, 7, 12)[0, 1:-1, 0]
    torch.testing.assert_close(inside, 2 * torch.arange(1.0, 6.0) + 0.5)  # centres of row pairs
    longer = resize_positions(frames, grid, (16, 14, 14)).reshape(16, 14, 14)[1:-1, 0, 0]
    torch.testing.assert_close(longer, torch.arange(1, 15) / 2 - 0.25)
    torch.testing.assert_close(resize_positions(rows, grid, grid), rows)


def test_position_table_is_never_trained() -> None:
    for frames in (8, 16):
        model = Model(**VARIANTS["micro"] | {"num_frames": frames})
        assert not model.encoder.position.requires_grad
        assert "encoder.position" in model.state_dict()


def test_load_state_dict_at_another_size_keeps_own_positions() -> None:
    small, large = Model(**VARIANTS["micro"]), Model(**VARIANTS["micro"] | {"size": (48, 64)})
    before = large.encoder.position.clone()
    large.load_state_dict(small.state_dict())
    assert torch.equal(large.encoder.position, before)
    assert torch.equal(large.encoder.blocks[0].mlp.fc1.weight, small.encoder.blocks[0].mlp.fc1.weight)


def test_drop_path_rate_increases_with_depth() -> None:
    model = Model(**VARIANTS["micro"] | {"drop_path": 0.2, "encoder_drop_path": 0.1, "tcfe_depth": 3, "depth": 3})
    assert [block.drop_path.drop_prob for block in model.decoder.tcfe.a2.blocks] == pytest.approx([0, 0.1, 0.2])
    assert [block.drop_path.drop_prob for block in model.encoder.blocks] == pytest.approx([0, 0.05, 0.1])


def test_upsample_of_clip_equals_upsample_of_its_frames() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    each = torch.stack([upsample(x[:, :, t], 2) for t in range(4)], dim=2)
    torch.testing.assert_close(upsample(x, 2), each)


# ---------------------------------------------------------------- for a GPU's fused kernels


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("length", [2, 4])
def test_attention_with_windows_merged_into_heads_equals_attention_per_window(length: int, shifted: bool) -> None:
    pixels, windows, heads = 6, 3, 4
    q, k, v = torch.randn(3, pixels, windows, heads, length, 8, dtype=torch.float64).unbind()
    bias = torch.randn(*([windows] if shifted else []), heads, length, length, dtype=torch.float64)
    plain, merged = (attend(q, k, v, bias, merge=merge) for merge in (False, True))
    torch.testing.assert_close(merged, plain, rtol=0, atol=1e-12)
    without = attend(q, k, v, torch.zeros_like(bias), merge=True)
    assert (merged - without).abs().max() > 0.1  # the bias counts


def test_merged_attention_has_four_dimensions_for_the_fused_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def spy(*values: Tensor, attn_mask: Tensor) -> Tensor:
        shapes.append([tuple(each.shape) for each in (*values, attn_mask)])
        return values[2]

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    attend(*torch.zeros(3, 6, 3, 4, 2, 8).unbind(), torch.zeros(4, 2, 2), merge=True)
    assert shapes == [[(6, 12, 2, 8)] * 3 + [(1, 12, 2, 2)]]


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name in COUNTS])
def test_encoder_attention_has_heads_of_64_channels_in_one_row(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flash kernels take rows of any stride; queries, keys and values are views of one product."""
    found = []

    def spy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        found.append([(each.ndim, each.shape[-1], each.stride(-1)) for each in (q, k, v)])
        return v

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    settings = {"width": 1024, "heads": 16, **VARIANTS[variant]}
    with torch.device("meta"):
        Attention(settings["width"], settings["heads"])(torch.empty(1, 5, settings["width"]))
    assert found == [[(4, 64, 1)] * 3]


@torch.no_grad()
def test_encoder_tokens_are_channels_last_features_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(umt, "for_convolutions", lambda x: given.append(x) or x)
    model = Model(**VARIANTS["micro"]).eval()
    model.encoder(torch.zeros(2, 3, 16, 32, 48))
    assert given[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert given[0]._base is not None  # a view of the tokens


def test_masks_and_tables_of_windows_are_not_saved() -> None:
    attention = TemporalWindowAttention(8, heads=2, window=2, shift=1)
    assert set(dict(attention.named_buffers())) == {"distance", "apart"}
    assert not {"distance", "apart"} & set(attention.state_dict())


@torch.no_grad()
def test_under_autocast_all_products_and_convolutions_are_in_half_precision() -> None:
    model = Model(**VARIANTS["micro"]).eval()
    found: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
            module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output.dtype}))
    with torch.autocast("cpu", torch.bfloat16):
        maps = model(torch.zeros(1, 3, 16, 32, 48, dtype=torch.uint8))
    assert len(found) > 40
    assert set(found.values()) == {torch.bfloat16}
    assert maps.dtype == torch.float32
