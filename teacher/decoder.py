"""SalFoM's decoder (Figure 1 of the paper): from encoder features to the logits of one saliency map.

    y  (B, C, T, h, w)   encoder features; T is 16 or 8, h = H/16 and w = W/16
    |- TCFE    Swin-3D stages: a1 (B, 256, 8, h, w), a2 (B, 64, 4, 4h, 4w), a3 (B, 16, 16h, 16w)
    |- DFD     3-D convolutions, to which a1 and a2 are added: (B, 16, 16h, 16w)
    |- SFD     2-D convolutions, to which both of these sums are added: (B, 16, 16h, 16w)
    `- fusion  of SFD, a3 and DFD: logits (B, 1, 16h, 16w)

Widths in comments are the paper's: `widths = (512, 256, 128, 64, 32, 16)`, those of DFD's six convolutions.

Source: Moradi et al., "SalFoM: Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024 (Figure 1 and
Section 3); its companion study of parameters and components, for the variants; and the published shapes.
Departures, none of which changes the output: fused attention; no norm after a TCFE stage (its result is never
used); a window of one token skips attention, which can only return that token's value.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from teacher.umt import Block, init_vit

BRANCHES = ("paper", "depthwise", "extra", "fewer")
"""Variants of DFD and SFD; their docstrings describe them."""


class TemporalWindowAttention(nn.Module):
    """Swin-3D attention with a window of (window, 1, 1): each pixel attends to itself in neighbouring frames.

    As in Video Swin, a window that covers the whole clip shrinks to it and is not shifted. Tokens from opposite
    ends of the clip that the cyclic shift brings together do not attend to each other.

    Args:
        width: channels of a token.
        heads: number of attention heads.
        window: window size in frames.
        shift: shift of the windows in frames: 0, or half a window in every second block.
    """

    distance: Tensor
    """Row of the bias table for each pair of a window's tokens, (window, window)."""
    apart: Tensor
    """Mask of the window that the cyclic shift wraps, (window, window): 0, or -100 as in Swin."""

    def __init__(self, width: int, heads: int, *, window: int, shift: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"tcfe_heads {heads}: must divide the width of every TCFE stage, got {width}")
        self.heads, self.window, self.shift = heads, window, shift
        place = torch.arange(window)
        wrapped = place >= window - shift  # frames from the start of the clip
        self.register_buffer("distance", place[:, None] - place[None] + window - 1, persistent=False)
        self.register_buffer("apart", (wrapped[:, None] != wrapped[None]) * -100.0, persistent=False)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(2 * window - 1, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, P, T, C) to the same shape; P is the pixels of a frame, and T a multiple of the window."""
        B, _, T, C = x.shape
        window = min(self.window, T)
        if window == 1:  # softmax over one token is 1: attention returns the values
            return self.proj(F.linear(x, self.qkv.weight[2 * C :], self.qkv.bias[2 * C :]))
        shift = self.shift if window < T else 0
        x = x.roll(-shift, dims=2) if shift else x
        q, k, v = rearrange(
            self.qkv(x), "b p (n window) (qkv h c) -> qkv (b p) n h window c", window=window, qkv=3, h=self.heads
        )
        x = attend(q, k, v, self.bias(T, window, shift).to(q.dtype), merge=q.is_cuda)
        x = self.proj(rearrange(x, "(b p) n h window c -> b p (n window) (h c)", b=B))
        return x.roll(shift, dims=2) if shift else x

    def bias(self, frames: int, window: int, shift: int) -> Tensor:
        """Return the attention bias (heads, window, window), or (T/window, heads, window, window) if shifted."""
        bias = self.relative_position_bias_table[self.distance[:window, :window]].permute(2, 0, 1)
        if not shift:
            return bias
        return torch.cat((bias.expand(frames // window - 1, -1, -1, -1), (bias + self.apart)[None]))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, *, merge: bool) -> Tensor:
    """Return the attention (P, n, heads, L, c) of queries, keys and values of that shape, P pixels with n windows.

    Args:
        q: queries.
        k: keys.
        v: values.
        bias: (heads, L, L), or (n, heads, L, L).
        merge: let the windows count as heads, because the fused kernels of a GPU take four dimensions; with five,
            PyTorch computes attention in single operations and in float32. On a CPU only the rounding differs.
    """
    if not merge:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    windows, heads, length = q.shape[1:4]
    bias = bias.expand(windows, heads, length, length).flatten(0, 1)[None]  # (1, n * heads, L, L)
    merged = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), attn_mask=bias)
    return merged.unflatten(1, (windows, heads))


class Stage(nn.Module):
    """One TCFE stage: a patch embedding of `merge` frames, then Swin-3D blocks.

    Every second block is shifted by half a window. Stochastic depth increases linearly from 0 to `drop_path`.
    """

    def __init__(
        self, width_in: int, width: int, *, merge: int, window: int, depth: int, heads: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv3d(width_in, width, kernel_size=(merge, 1, 1), stride=(merge, 1, 1))
        self.blocks = nn.ModuleList(
            Block(
                TemporalWindowAttention(width, heads, window=window, shift=window // 2 * (i % 2)),
                width,
                eps=1e-5,
                drop_path=drop_path * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C', T * merge, h, w) to (B, C, T, h, w)."""
        x = self.patch_embed(x)  # (B, C, T, h, w)
        h, w = x.shape[-2:]
        x = rearrange(x, "b c t h w -> b (h w) t c").contiguous()
        for block in self.blocks:
            x = block(x)
        return rearrange(x, "b (h w) t c -> b c t h w", h=h, w=w)


class TCFE(nn.Module):
    """Transformer branch: three consecutive stages that reduce time; their outputs go to DFD and the fusion.

    a1 reduces 16 frames to 8 (8 stay 8), a2 to 4 and a3 to 1. a2 and a3 are upsampled x4 in space.
    """

    def __init__(
        self, width: int, *, widths: Sequence[int], num_frames: int, depth: int, heads: int, drop_path: float
    ) -> None:
        super().__init__()
        shared: dict[str, Any] = {"depth": depth, "heads": heads, "drop_path": drop_path}
        _, w1, _, w3, _, w5 = widths
        self.a1 = Stage(width, w1, merge=num_frames // 8, window=2, **shared)
        self.a2 = Stage(w1, w3, merge=2, window=2, **shared)
        self.a3 = Stage(w3, w5, merge=4, window=4, **shared)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a1, a2 and a3 of y (B, C, T, h, w)."""
        a1 = self.a1(y)  # (B, 256, 8, h, w)
        a2 = upsample(self.a2(a1), 4)  # (B, 64, 4, 4h, 4w)
        a3 = upsample(self.a3(a2), 4)  # (B, 16, 1, 16h, 16w)
        return a1, a2, a3.squeeze(2)


class DFD(nn.Module):
    """Deep feature decoder: 3-D convolutions, 3 x 3 in space, without bias, each followed by a ReLU.

    Variants (`branch`); the companion paper gives their parameter counts but no drawings:
        depthwise: every convolution becomes a depth-wise one of the same kernel and stride and a 1x1x1 one.
        extra: each convolution is followed, before any addition or upsampling, by a (1, 3, 3) one of equal width.
        fewer: 1024 -> 256 -> 64 -> 16 with temporal kernels and strides of 2, 2 and 4. a1 is added to the first,
            a2 to the second after x4 upsampling, as in the paper's network; the third is upsampled x4.
    """

    def __init__(self, width: int, *, widths: Sequence[int], num_frames: int, branch: str) -> None:
        super().__init__()
        step = Steps(3, branch)
        w0, w1, w2, w3, w4, w5 = widths
        halve = num_frames // 8  # 16 frames become 8 here; 8 stay
        if branch == "fewer":
            self.early = chain(step("conv1", width, w1, time=halve))
            self.middle = chain(step("conv2", w1, w3, time=2, up=4))
            self.late = chain(step("conv3", w3, w5, time=4, up=4))
        else:
            self.early = chain(step("conv1", width, w0) | step("conv2", w0, w1, time=halve))
            self.middle = chain(step("conv3", w1, w2, up=2) | step("conv4", w2, w3, time=2, up=2))
            self.late = chain(step("conv5", w3, w4, time=2, up=2) | step("conv6", w4, w5, time=2, up=2))

    def forward(self, y: Tensor, a1: Tensor, a2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both sums with TCFE, which SFD uses, and the branch's output."""
        early = self.early(y) + a1  # (B, 256, 8, h, w)
        middle = self.middle(early) + a2  # (B, 64, 4, 4h, 4w)
        late = self.late(middle)  # (B, 16, 1, 16h, 16w)
        return early, middle, late.squeeze(2)


class SFD(nn.Module):
    """Spatial feature decoder: time is reduced first, then 3 x 3 convolutions without bias, each with a ReLU.

    Variants (`branch`) change only the nine 2-D convolutions, which agrees with the companion paper's counts:
        depthwise: each becomes a depth-wise and a 1x1 convolution.
        extra: the third, sixth and ninth are followed by one of equal width, before any addition or upsampling.
        fewer: the third, sixth and ninth are left out; their upsampling stays.
    """

    def __init__(self, width: int, *, widths: Sequence[int], num_frames: int, branch: str) -> None:
        super().__init__()
        w0, w1, w2, w3, w4, w5 = widths
        halvings = num_frames.bit_length() - 1  # 4 for 16 frames, 3 for 8
        reduce = Steps(3, "paper")
        steps: dict[str, nn.Module] = {}
        for i in range(1, halvings + 1):
            steps |= reduce(f"conv{i}", width, width, time=2)
        self.reduce = chain(steps)
        self.from_early = squeeze_time(w1, steps=3)
        self.from_middle = squeeze_time(w3, steps=2)

        step = Steps(2, branch)
        self.early = chain(step("conv1", width, w0) | step("conv2", w0, w1) | step.last("conv3", w1))
        self.middle = chain(step("conv4", w1, w2) | step("conv5", w2, w3, up=2) | step.last("conv6", w3, up=2))
        self.late = chain(step("conv7", w3, w4) | step("conv8", w4, w5, up=2) | step.last("conv9", w5, up=2))

    def forward(self, y: Tensor, early: Tensor, middle: Tensor) -> Tensor:
        """Return the branch's output; `early` and `middle` are DFD's sums."""
        x = self.reduce(y).squeeze(2)  # (B, C, h, w)
        x = self.early(x) + self.from_early(early).squeeze(2)  # (B, 256, h, w)
        x = self.middle(x) + self.from_middle(middle).squeeze(2)  # (B, 64, 4h, 4w)
        return self.late(x)  # (B, 16, 16h, 16w)


class Fusion(nn.Module):
    """Concatenate the three branches and convolve them to one map of logits."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 * width, 2 * width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(width, 1, 3, padding=1, bias=False)

    def forward(self, sfd: Tensor, a3: Tensor, dfd: Tensor) -> Tensor:
        """Fuse three tensors (B, 16, 16h, 16w) to logits (B, 1, 16h, 16w)."""
        x = torch.cat((sfd, a3, dfd), dim=1)  # (B, 48, 16h, 16w)
        x = F.relu(self.conv1(x))  # (B, 32, 16h, 16w)
        x = F.relu(self.conv2(x))  # (B, 16, 16h, 16w)
        return self.conv3(x)  # (B, 1, 16h, 16w)


class Decoder(nn.Module):
    """SalFoM's decoder: TCFE, DFD, SFD and fusion.

    Args:
        width: C, channels of the encoder's features.
        num_frames: T, 8 or 16.
        widths: channels of DFD's six convolutions; all other widths follow from them.
        tcfe_depth: number of blocks of a TCFE stage.
        tcfe_heads: number of attention heads of a TCFE stage.
        dfd: variant of DFD, one of BRANCHES.
        sfd: variant of SFD, one of BRANCHES.
        drop_path: stochastic depth rate of the last block of a TCFE stage.
    """

    def __init__(
        self,
        *,
        width: int,
        num_frames: int,
        widths: Sequence[int],
        tcfe_depth: int,
        tcfe_heads: int,
        dfd: str,
        sfd: str,
        drop_path: float,
    ) -> None:
        super().__init__()
        shared: dict[str, Any] = {"widths": widths, "num_frames": num_frames}
        self.tcfe = TCFE(width, **shared, depth=tcfe_depth, heads=tcfe_heads, drop_path=drop_path)
        self.dfd = DFD(width, **shared, branch=dfd)
        self.sfd = SFD(width, **shared, branch=sfd)
        self.fusion = Fusion(widths[5])
        self.apply(init_convolution)
        self.tcfe.apply(init_vit)
        nn.init.trunc_normal_(self.fusion.conv3.weight, std=0.01)  # initial maps are nearly uniform

    def forward_features(self, y: Tensor) -> dict[str, Tensor]:
        """Return the branches' outputs for y (B, C, T, h, w), named as in Figure 1."""
        a1, a2, a3 = self.tcfe(y)
        early, middle, dfd = self.dfd(y, a1, a2)
        sfd = self.sfd(y, early, middle)
        return {"a1": a1, "a2": a2, "a3": a3, "dfd": dfd, "sfd": sfd}

    def forward(self, y: Tensor) -> Tensor:
        """Return the logits (B, 1, 16h, 16w) of features (B, C, T, h, w)."""
        features = self.forward_features(y)
        return self.fusion(features["sfd"], features["a3"], features["dfd"])


class Steps:
    """Build the named steps of a branch: a convolution, its ReLU, and optionally an upsampling.

    Args:
        dims: 3 for convolutions over (T, H, W), 2 for (H, W).
        branch: one of BRANCHES.
    """

    def __init__(self, dims: int, branch: str) -> None:
        if branch not in BRANCHES:
            raise ValueError(f"branch '{branch}': expected one of {', '.join(BRANCHES)}")
        self.dims, self.branch = dims, branch

    def __call__(self, name: str, c_in: int, c_out: int, *, time: int = 1, up: int = 1) -> dict[str, nn.Module]:
        """Return one step; `time` is the temporal kernel and stride, `up` the upsampling factor in space."""
        separable = self.branch == "depthwise"
        steps = {
            name: convolution(self.dims, c_in, c_out, time=time, separable=separable),
            f"{name}_relu": nn.ReLU(),
        }
        if self.branch == "extra" and self.dims == 3:
            steps |= {f"{name}_extra": convolution(3, c_out, c_out), f"{name}_extra_relu": nn.ReLU()}
        return steps | self._upsampling(name, up)

    def last(self, name: str, width: int, *, up: int = 1) -> dict[str, nn.Module]:
        """Return the last step of a group in SFD, of equal width, which `extra` doubles and `fewer` leaves out."""
        if self.branch == "fewer":
            return self._upsampling(name, up)
        steps = self(name, width, width)
        if self.branch == "extra":
            steps |= {f"{name}_extra": convolution(2, width, width), f"{name}_extra_relu": nn.ReLU()}
        return steps | self._upsampling(name, up)

    def _upsampling(self, name: str, factor: int) -> dict[str, nn.Module]:
        return {f"{name}_up": Upsample(factor)} if factor > 1 else {}


def convolution(dims: int, c_in: int, c_out: int, *, time: int = 1, separable: bool = False) -> nn.Module:
    """Return a padded 3 x 3 convolution without bias; `time` is its temporal kernel and stride."""
    conv = nn.Conv3d if dims == 3 else nn.Conv2d
    shape: dict = {"kernel_size": 3, "padding": 1, "bias": False}
    if dims == 3:
        shape |= {"kernel_size": (time, 3, 3), "stride": (time, 1, 1), "padding": (0, 1, 1)}
    if not separable:
        return conv(c_in, c_out, **shape)
    depthwise = conv(c_in, c_in, groups=c_in, **shape)
    return chain({"depthwise": depthwise, "pointwise": conv(c_in, c_out, 1, bias=False)})


def squeeze_time(width: int, *, steps: int) -> nn.Sequential:
    """Return (3, 1, 1) convolutions of temporal stride 2 with bias, each with a ReLU: 2^steps frames to one."""
    modules: dict[str, nn.Module] = {}
    for i in range(1, steps + 1):
        modules[f"conv{i}"] = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        modules[f"conv{i}_relu"] = nn.ReLU()
    return chain(modules)


def chain(steps: dict[str, nn.Module]) -> nn.Sequential:
    """Return named modules as a sequence."""
    return nn.Sequential(OrderedDict(steps))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Upsample height and width of (B, C, h, w) or (B, C, T, h, w) by `factor`, bilinear, align_corners=False.

    Trilinear interpolation with a time factor of 1 is bilinear interpolation of each frame.
    """
    if x.ndim == 4:
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return F.interpolate(x, scale_factor=(1, factor, factor), mode="trilinear", align_corners=False)


class Upsample(nn.Module):
    """`upsample` as a module."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Upsample (B, C, h, w) or (B, C, T, h, w)."""
        return upsample(x, self.factor)

    def extra_repr(self) -> str:
        """Return the factor for `repr`."""
        return f"factor={self.factor}"


def init_convolution(module: nn.Module) -> None:
    """Initialise a convolution that a ReLU follows: Kaiming normal with fan-in, zero bias."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
