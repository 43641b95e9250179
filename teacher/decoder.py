"""SalFoM's decoder: the paper's Figure 1, from the encoder's features to the logits of one saliency map.

    y  (B, C, T, h, w)   from the encoder, T = 16 or 8, h and w a sixteenth of the clip's
    |- TCFE    Swin-3D stages: a1 (B, 256, 8, h, w), a2 (B, 64, 4, 4h, 4w), a3 (B, 16, 16h, 16w)
    |- DFD     3-D convolutions, to which a1 and a2 are added on the way: (B, 16, 16h, 16w)
    |- SFD     2-D convolutions, to which is added what DFD had at both places: (B, 16, 16h, 16w)
    `- fusion  of SFD, a3 and DFD: logits (B, 1, 16h, 16w)

The widths written here and below are the paper's: `widths = (512, 256, 128, 64, 32, 16)`, DFD's six convolutions.

Source: Moradi et al., "SalFoM: Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024 (Figure 1 and
Section 3), its companion on parameters and components for the branches' variants, and the published shapes.
Departures, none of which changes a number: fused attention; no norm after a TCFE stage (its result was never
used); a window of one token skips the attention that could only return that token's value.
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
"""How DFD and SFD can be built; what each means stands in their docstrings."""


class TemporalWindowAttention(nn.Module):
    """Swin-3D attention with a window of (window, 1, 1): each pixel attends to itself in neighbouring frames.

    As in Video Swin, a window that reaches over the whole clip shrinks to it and is not shifted; tokens that the
    cyclic shift brought together from both ends of the clip do not see each other.

    Args:
        width: channels of a token.
        heads: attention heads.
        window: frames of a window.
        shift: frames by which the windows are shifted: 0, or half a window in every second block.
    """

    def __init__(self, width: int, heads: int, *, window: int, shift: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a TCFE stage of width {width} cannot have {heads} heads: they must divide it")
        self.heads, self.window, self.shift = heads, window, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros(2 * window - 1, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, P, T, C) to the same shape, P being the pixels of a frame; T is a multiple of the window."""
        B, _, T, C = x.shape
        window = min(self.window, T)
        if window == 1:  # softmax over one token is 1: attention returns the values
            return self.proj(F.linear(x, self.qkv.weight[2 * C :], self.qkv.bias[2 * C :]))
        shift = self.shift if window < T else 0
        x = x.roll(-shift, dims=2) if shift else x
        q, k, v = rearrange(
            self.qkv(x), "b p (n window) (qkv h c) -> qkv (b p) n h window c", window=window, qkv=3, h=self.heads
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(T, window, shift).to(q.dtype))
        x = self.proj(rearrange(x, "(b p) n h window c -> b p (n window) (h c)", b=B))
        return x.roll(shift, dims=2) if shift else x

    def bias(self, frames: int, window: int, shift: int) -> Tensor:
        """Return what is added to scores: (heads, window, window); shifted, (T/window, heads, window, window)."""
        place = torch.arange(window, device=self.relative_position_bias_table.device)
        distance = place[:, None] - place[None] + self.window - 1  # index into the table, (window, window)
        bias = self.relative_position_bias_table[distance].permute(2, 0, 1)
        if not shift:
            return bias
        wrapped = place >= window - shift  # in the last window: frames that came round from the clip's start
        apart = (wrapped[:, None] != wrapped[None]).to(bias.dtype) * -100.0  # Swin's "never", as published
        return torch.cat((bias.expand(frames // window - 1, -1, -1, -1), (bias + apart)[None]))


class Stage(nn.Module):
    """One TCFE stage: a patch embedding over `merge` frames, then Swin-3D blocks.

    Every second block is shifted by half a window; stochastic depth rises linearly to `drop_path`.
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
    """Transformer branch: three stages in a row that shorten time and give DFD and the fusion their complement.

    a1 halves 16 frames to 8 (8 stay 8), a2 to 4, a3 to 1. a2 is upsampled x4 before it is used, a3 once more.
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
    """Deep feature decoder: 3-D convolutions of 3 x 3 in space, without bias, ReLU after each.

    Variants (`branch`), which the companion paper counts but does not draw:
        depthwise: every convolution becomes a depth-wise one of the same kernel and stride and a 1x1x1 one.
        extra: after each convolution, before any addition or upsampling, one more of (1, 3, 3) and equal width.
        fewer: 1024 -> 256 -> 64 -> 16 with time kernels and strides 2, 2, 4. The first meets a1 and the second,
            upsampled x4, meets a2, as in the paper's network; the third is upsampled x4.
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
        """Return both sums with TCFE, for SFD, and the branch's result."""
        early = self.early(y) + a1  # (B, 256, 8, h, w)
        middle = self.middle(early) + a2  # (B, 64, 4, 4h, 4w)
        late = self.late(middle)  # (B, 16, 1, 16h, 16w)
        return early, middle, late.squeeze(2)


class SFD(nn.Module):
    """Spatial feature decoder: time is taken out first, then 3 x 3 convolutions without bias, ReLU after each.

    Variants (`branch`) change the nine 2-D convolutions alone, as the companion paper's counts have it:
        depthwise: each becomes a depth-wise and a 1x1 convolution.
        extra: one more of equal width after the third, sixth and ninth, before any addition or upsampling.
        fewer: without the third, sixth and ninth, whose upsampling stays in its place.
    """

    def __init__(self, width: int, *, widths: Sequence[int], num_frames: int, branch: str) -> None:
        super().__init__()
        w0, w1, w2, w3, w4, w5 = widths
        halvings = num_frames.bit_length() - 1  # four take 16 frames to one, three take 8
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
        """Return the branch's result; `early` and `middle` are DFD's sums."""
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
        """Return logits (B, 1, 16h, 16w) of three (B, 16, 16h, 16w)."""
        x = torch.cat((sfd, a3, dfd), dim=1)  # (B, 48, 16h, 16w)
        x = F.relu(self.conv1(x))  # (B, 32, 16h, 16w)
        x = F.relu(self.conv2(x))  # (B, 16, 16h, 16w)
        return self.conv3(x)  # (B, 1, 16h, 16w)


class Decoder(nn.Module):
    """The four parts of Figure 1 in the order of the data.

    Args:
        width: C, channels of the encoder's features.
        num_frames: T, 8 or 16.
        widths: channels of DFD's six convolutions; all other widths follow from them.
        tcfe_depth: blocks of a TCFE stage.
        tcfe_heads: their attention heads.
        dfd: one of BRANCHES, how DFD is built.
        sfd: one of BRANCHES, how SFD is built.
        drop_path: stochastic depth of the last block of a TCFE stage.
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
        nn.init.trunc_normal_(self.fusion.conv3.weight, std=0.01)  # the first maps are nearly uniform

    def forward_features(self, y: Tensor) -> dict[str, Tensor]:
        """Return what each branch makes of y (B, C, T, h, w), by the names of Figure 1."""
        a1, a2, a3 = self.tcfe(y)
        early, middle, dfd = self.dfd(y, a1, a2)
        sfd = self.sfd(y, early, middle)
        return {"a1": a1, "a2": a2, "a3": a3, "dfd": dfd, "sfd": sfd}

    def forward(self, y: Tensor) -> Tensor:
        """Return the logits (B, 1, 16h, 16w) of features (B, C, T, h, w)."""
        features = self.forward_features(y)
        return self.fusion(features["sfd"], features["a3"], features["dfd"])


class Steps:
    """Makes the steps of a branch: a convolution, its ReLU, and where asked an upsampling, by name.

    Args:
        dims: 3 for convolutions over (T, H, W), 2 for (H, W).
        branch: one of BRANCHES.
    """

    def __init__(self, dims: int, branch: str) -> None:
        if branch not in BRANCHES:
            raise ValueError(f"no branch '{branch}'; there are {', '.join(BRANCHES)}")
        self.dims, self.branch = dims, branch

    def __call__(self, name: str, c_in: int, c_out: int, *, time: int = 1, up: int = 1) -> dict[str, nn.Module]:
        """One step; `time` is the kernel and stride over time, `up` the upsampling of height and width."""
        separable = self.branch == "depthwise"
        steps = {
            name: convolution(self.dims, c_in, c_out, time=time, separable=separable),
            f"{name}_relu": nn.ReLU(),
        }
        if self.branch == "extra" and self.dims == 3:
            steps |= {f"{name}_extra": convolution(3, c_out, c_out), f"{name}_extra_relu": nn.ReLU()}
        return steps | self._upsampling(name, up)

    def last(self, name: str, width: int, *, up: int = 1) -> dict[str, nn.Module]:
        """The last step of a group in SFD, of equal width: the one that `extra` doubles and `fewer` leaves out."""
        if self.branch == "fewer":
            return self._upsampling(name, up)
        steps = self(name, width, width)
        if self.branch == "extra":
            steps |= {f"{name}_extra": convolution(2, width, width), f"{name}_extra_relu": nn.ReLU()}
        return steps | self._upsampling(name, up)

    def _upsampling(self, name: str, factor: int) -> dict[str, nn.Module]:
        return {f"{name}_up": Upsample(factor)} if factor > 1 else {}


def convolution(dims: int, c_in: int, c_out: int, *, time: int = 1, separable: bool = False) -> nn.Module:
    """A 3 x 3 convolution without bias, padded by one in space; `time` is its kernel and its stride over T."""
    conv = nn.Conv3d if dims == 3 else nn.Conv2d
    shape: dict = {"kernel_size": 3, "padding": 1, "bias": False}
    if dims == 3:
        shape |= {"kernel_size": (time, 3, 3), "stride": (time, 1, 1), "padding": (0, 1, 1)}
    if not separable:
        return conv(c_in, c_out, **shape)
    depthwise = conv(c_in, c_in, groups=c_in, **shape)
    return chain({"depthwise": depthwise, "pointwise": conv(c_in, c_out, 1, bias=False)})


def squeeze_time(width: int, *, steps: int) -> nn.Sequential:
    """Convolutions over time alone, (3, 1, 1) with stride 2 and a bias, ReLU after each: T 2^steps -> 1."""
    modules: dict[str, nn.Module] = {}
    for i in range(1, steps + 1):
        modules[f"conv{i}"] = nn.Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        modules[f"conv{i}_relu"] = nn.ReLU()
    return chain(modules)


def chain(steps: dict[str, nn.Module]) -> nn.Sequential:
    """Named modules, one after the other."""
    return nn.Sequential(OrderedDict(steps))


def upsample(x: Tensor, factor: int) -> Tensor:
    """Enlarge height and width by `factor`, bilinearly, align_corners False; time, where there is any, stays.

    Trilinear interpolation with a time factor of 1 is bilinear interpolation of each frame.
    """
    if x.ndim == 4:
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return F.interpolate(x, scale_factor=(1, factor, factor), mode="trilinear", align_corners=False)


class Upsample(nn.Module):
    """`upsample` as a step of a branch."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) or (B, C, T, h, w) to `factor` times its height and width."""
        return upsample(x, self.factor)

    def extra_repr(self) -> str:
        """Show the factor where the module is printed."""
        return f"factor={self.factor}"


def init_convolution(module: nn.Module) -> None:
    """Initialise convolutions before a ReLU: Kaiming normal over the inputs, zero bias."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
