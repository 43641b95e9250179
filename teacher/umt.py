"""UMT's video transformer: SalFoM's encoder, a plain ViT with joint space-time attention.

    clip (B, 3, T, H, W) -> patches of 1 x 16 x 16 -> tokens (B, T*h*w, C) + fixed positions
      -> blocks -> features (B, C, T, h, w)

The output is the residual stream, without a final norm, pooling or head.

Source: Li et al., "Unmasked Teacher: Towards Training-Efficient Video Foundation Models", ICCV 2023.
Departures: fused attention (`scaled_dot_product_attention`); the position table is computed for any grid.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 16
"""Height and width of a patch in pixels; a patch spans one frame."""

POSITION_GRID = (8, 14, 14)
"""Frames, rows and columns of the sin-cos table from which tables for other grids are interpolated."""


class Block(nn.Module):
    """Pre-norm transformer block: x + attn(norm1(x)), then x + mlp(norm2(x)), with stochastic depth."""

    def __init__(self, attn: nn.Module, width: int, *, eps: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ..., C) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Attention(nn.Module):
    """Self-attention over all tokens. Queries and values have a bias; keys have none, as published.

    A key bias would add the same number to all scores of a query, which softmax ignores.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, C) to the same shape."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)  # (B, L, 3C)
        q, k, v = rearrange(qkv, "b l (qkv h c) -> qkv b h l c", qkv=3, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, L, C/heads)
        return self.proj(rearrange(x, "b h l c -> b l (h c)"))


class Encoder(nn.Module):
    """UMT's encoder, from a normalised clip to a grid of features.

    The position table is not trained. As in the published code it is a parameter without gradient if it was
    interpolated over time, and a buffer if T is 8.

    Args:
        num_frames: T, frames of a clip; each is one step of the grid.
        size: (H, W) of the clip, multiples of 16.
        width: C, channels of a token (768 in ViT-B, 1024 in ViT-L).
        depth: number of blocks.
        heads: number of attention heads of a block.
        drop_path: stochastic depth rate of the last block; it increases linearly from 0 in the first.
    """

    position: Tensor

    def __init__(
        self,
        *,
        num_frames: int,
        size: tuple[int, int],
        width: int,
        depth: int,
        heads: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width {width}: must be a multiple of heads {heads}, such as {heads * max(width // heads, 1)}"
            )
        self.grid = (num_frames, size[0] // PATCH, size[1] // PATCH)
        self.patch_embed = nn.Conv3d(3, width, kernel_size=(1, PATCH, PATCH), stride=(1, PATCH, PATCH))
        table = sincos_positions(self.grid, width)  # (1, L, C)
        if num_frames == POSITION_GRID[0]:
            self.register_buffer("position", table)
        else:
            self.position = nn.Parameter(table, requires_grad=False)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(Attention(width, heads), width, eps=1e-6, drop_path=rate) for rate in rates
        )
        self.apply(init_vit)

    def forward(self, clip: Tensor) -> Tensor:
        """Encode a normalised clip (B, 3, T, H, W) to (B, C, T, h, w), h = H/16 and w = W/16."""
        x = self.patch_embed(clip)  # (B, C, T, h, w)
        x = rearrange(x, "b c t h w -> b (t h w) c")
        # A sum has the memory layout of its first operand: with x first, tokens would be strided in every block.
        # Under autocast it is float32, as is then the residual stream, which the norms would convert anyway.
        x = self.position + x
        for block in self.blocks:
            x = block(x)
        t, h, w = self.grid
        return for_convolutions(rearrange(x, "b (t h w) c -> b c t h w", t=t, h=h, w=w))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: object) -> None:
        # The table is a function of the grid: keep our own if the stored one differs, so that weights transfer.
        stored = state_dict.get(prefix + "position")
        if stored is not None and stored.shape != self.position.shape:
            state_dict[prefix + "position"] = self.position
        super()._load_from_state_dict(state_dict, prefix, *args)


def sincos_positions(grid: Sequence[int], width: int) -> Tensor:
    """Return UMT's fixed position table (1, L, C) float32, for a grid of (frames, rows, columns), in [-1, 1].

    Tokens are numbered in (t, h, w) order. In the table of 8 x 14 x 14, channel i of token p is the sine (i even)
    or cosine (i odd) of p / 10000^(2*(i//2)/C). Tables for other grids are interpolated from it.
    """
    length = POSITION_GRID[0] * POSITION_GRID[1] * POSITION_GRID[2]
    place = torch.arange(length, dtype=torch.float64)[:, None]
    channel = torch.arange(width, dtype=torch.float64)[None]
    angle = place / 10000 ** (2 * (channel // 2) / width)  # (1568, C)
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]
    return resize_positions(table, POSITION_GRID, grid)


def resize_positions(table: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Interpolate a position table (1, L, C) from one grid of (frames, rows, columns) to another.

    Bicubic within each frame, then linear over time, both with align_corners=False, as published. Axes of unchanged
    size are left alone.
    """
    t, h, w = source
    if (h, w) != tuple(target[1:]):
        frames = rearrange(table, "1 (t h w) c -> t c h w", t=t, h=h)
        frames = F.interpolate(frames, size=tuple(target[1:]), mode="bicubic", align_corners=False)
        table = rearrange(frames, "t c h w -> 1 (t h w) c")
    if t != target[0]:
        tracks = rearrange(table, "1 (t hw) c -> hw c t", t=t)
        tracks = F.interpolate(tracks, size=target[0], mode="linear", align_corners=False)
        table = rearrange(tracks, "hw c t -> 1 (t hw) c")
    return table.contiguous()


def for_convolutions(x: Tensor) -> Tensor:
    """Return features (B, C, T, h, w) in the memory layout for convolutions on their device.

    On a GPU that is channels last, the layout of its matrix units and of the encoder's tokens, from which it is no
    copy. Elsewhere it is channels first: in float32 on one CPU thread, a decoder of 768 channels, 8 frames and two
    blocks per TCFE stage took 1.13 times as long in channels last (median of five interleaved rounds, on a machine
    that was also busy with other work).
    """
    return x.contiguous(memory_format=torch.channels_last_3d if x.is_cuda else torch.contiguous_format)


def init_vit(module: nn.Module) -> None:
    """Initialise a ViT layer: truncated normal (std 0.02) if linear, Xavier if a patch embedding, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv3d):  # a linear layer over a patch's pixels
        nn.init.xavier_uniform_(module.weight.data.flatten(1))
    if isinstance(module, nn.Linear | nn.Conv3d) and module.bias is not None:
        nn.init.zeros_(module.bias)
