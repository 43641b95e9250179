"""THTD-Net, a student: Video Swin and a decoder with a high temporal dimension, reduced gradually.

    clip (B, 3, T, H, W) -> four stages of features, each with T/2 time steps
      -> laterals to one width and top-down sums, still with T/2 time steps
      -> convolutions over time and space, each halving time, until one step is left
      -> log-saliency (B, 1, H, W) of the clip's last frame

Source: Moradi, Moradi, Rudoy, "Transformer-based Video Saliency Prediction with High Temporal Dimension
Decoding", VISAPP 2024, arXiv 2401.07942: a Video Swin encoder; one deep decoder without further branches, which
keeps the temporal dimension high and reduces it gradually; a model file of 220 MB. There is no public code.

Choices of this reimplementation:
- Video Swin-S and clips of 32 x 224 x 384, as in the same authors' TMFI-Net;
- laterals of 192 channels with top-down sums at 16 time steps;
- convolutions 192-96-48-24-12 of (2, 3, 3) with temporal stride 2, ReLU, and x2 upsampling before the last two;
- a 3 x 3 convolution to one map. The model returns the logarithm of the sigmoid map.

It has 50.2 M weights. The state dict, with its integer indices of window positions, takes 219.7 MiB: the paper's
220 MB. The paper also finds that a shorter decoder or early temporal down-sampling hurts and a longer decoder helps
up to a point, without details; the variants `decoder-*` are this project's interpretation (see `DECODERS`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.video.swin_transformer import SwinTransformer3d

from student.weights import load_all, load_video_swin

VARIANTS: dict[str, dict[str, Any]] = {
    # the paper's network on Video Swin-S
    "base": {},
    # the paper's ablations of the decoder (see DECODERS)
    "decoder-shorter": {"decoder": "shorter"},
    "decoder-longer": {"decoder": "longer"},
    "decoder-early": {"decoder": "early"},
    # Video Swin-T, which has Kinetics weights too, and half the decoder's width
    "small": {"depths": (2, 2, 6, 2), "laterals": 96},
    # trains on two CPU cores
    "tiny": {
        "num_frames": 16,
        "size": (112, 192),
        "width": 32,
        "depths": (1, 1, 2, 1),
        "heads": (1, 2, 4, 8),
        "window": (4, 4, 4),
        "laterals": 48,
        "drop_path": 0.0,
    },
    # for tests
    "micro": {
        "num_frames": 8,
        "size": (32, 48),
        "width": 8,
        "depths": (1, 1, 2, 1),
        "heads": (1, 1, 2, 2),
        "window": (2, 2, 2),
        "laterals": 16,
        "drop_path": 0.0,
    },
}

DEFAULT = "base"

DECODERS: dict[str, str] = {
    "paper": "each convolution halves time",
    "shorter": "half as many convolutions, each of which quarters time, down to the same width",
    "longer": "each halving is followed by a (3, 3, 3) convolution of equal time and width",
    "early": "time is average-pooled to two steps before the sums; only the first convolution halves it",
}
"""Decoder variants: how time is reduced."""

EARLY_STEPS = 2
"""Time steps of the decoder `early`."""

PATCH = 16
"""Sizes are multiples of this; Video Swin pads the last stage if its grid would be odd."""


class Model(nn.Module):
    """THTD-Net.

    Args:
        num_frames: T, a power of two, at least 8; the decoder halves time log2(T/2) times.
        size: (H, W) of clip and map, multiples of 16, at least 32.
        width: channels of the encoder's first stage; each later stage has twice as many.
        depths: numbers of blocks of the four stages.
        heads: numbers of attention heads of the four stages.
        window: attention window in (frames, rows, columns) of tokens.
        laterals: channels of the laterals, which the decoder halves step by step.
        decoder: how time is reduced, one of DECODERS.
        drop_path: stochastic depth rate of the encoder's last block; it increases linearly from 0 in the first.
        fit: how frames of another aspect ratio fill the input: `stretch`, `letterbox` or `crop`. The network only
            keeps the name for those who read frames and use maps (distill/data/fit.py, student/edge.py).

    Raises:
        ValueError: if an argument has an unsupported value; the message names a supported one.
    """

    no_gradient: tuple[str, ...] = ()

    encoder_layers: tuple[str, ...]
    """Names of the encoder's modules in forward order: patch embedding, blocks and patch mergings."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        num_frames: int = 32,
        size: tuple[int, int] = (224, 384),
        width: int = 96,
        depths: tuple[int, int, int, int] = (2, 2, 18, 2),
        heads: tuple[int, int, int, int] = (3, 6, 12, 24),
        window: tuple[int, int, int] = (8, 7, 7),
        laterals: int = 192,
        decoder: str = "paper",
        drop_path: float = 0.1,
        fit: str = "stretch",
    ) -> None:
        super().__init__()
        check_clip(num_frames, size)
        if decoder not in DECODERS:
            raise ValueError(f"decoder '{decoder}': expected one of {', '.join(DECODERS)}")
        if decoder == "shorter" and num_frames < 16:
            raise ValueError(f"num_frames {num_frames}: the shorter decoder needs at least 16")
        check_ranges(
            width=width,
            depths=min(depths),
            heads=min(heads),
            window=min(window),
            laterals=laterals,
            rates={"drop_path": drop_path},
        )
        if any((width << i) % n for i, n in enumerate(heads)):
            widths = tuple(width << i for i in range(4))
            raise ValueError(
                f"heads {heads}: each must divide the width of its stage {widths}, such as (1, 2, 4, 8)"
            )
        height, width_px = size
        self.num_frames = num_frames
        self.size = (height, width_px)
        self.fit = fit
        self.target_frames = (num_frames - 1,)
        self.map_size = self.size
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1), persistent=False)
        self.encoder = Encoder(width=width, depths=depths, heads=heads, window=window, drop_path=drop_path)
        self.encoder_layers = (
            "encoder.patch_embed",
            *(
                f"encoder.features.{part}" + (f".{i}" if part % 2 == 0 else "")
                for part in range(7)
                for i in range(depths[part // 2] if part % 2 == 0 else 1)
            ),
        )
        self.decoder = Decoder(
            [width * 2**i for i in range(4)], width=laterals, steps=num_frames // 2, kind=decoder
        )

    def forward(self, clip: Tensor) -> Tensor:
        """Predict the saliency of the clip's last frame.

        Args:
            clip: (B, 3, T, H, W), RGB, uint8 or float in [0, 1].

        Returns:
            (B, 1, H, W) float32 log-saliency: the logarithm of a map in (0, 1).

        Raises:
            ValueError: if the clip does not have the model's number of frames and size.
        """
        return self.forward_head(self.forward_features(clip))

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        """Return `stage1` (B, C, T/2, H/4, W/4) to `stage4` (B, 8C, T/2, H/32, W/32), `decoder` (B, c, H, W)."""
        stages = self.encoder(self.normalise(clip))
        features = {f"stage{i}": stage for i, stage in enumerate(stages, start=1)}
        return features | {"decoder": self.decoder(stages)}

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        """Map the decoder's features (B, c, H, W) to log-saliency (B, 1, H, W) float32."""
        logits = self.decoder.head(features["decoder"]).float()  # (B, 1, H, W)
        return -F.softplus(-logits)  # logsigmoid, in a form that is exact in ONNX Runtime

    def normalise(self, clip: Tensor) -> Tensor:
        """Normalise a clip with ImageNet's mean and standard deviation, in the precision of the weights."""
        if clip.ndim != 5 or clip.shape[1] != 3 or tuple(clip.shape[2:]) != (self.num_frames, *self.size):
            T, (H, W) = self.num_frames, self.size
            raise ValueError(f"THTD-Net: clip of shape {tuple(clip.shape)}, expected (B, 3, {T}, {H}, {W})")
        values = clip.to(self.mean.dtype) / 255 if clip.dtype == torch.uint8 else clip.to(self.mean.dtype)
        return (values - self.mean) / self.std


def load_weights(model: Model, tensors: dict[str, Tensor]) -> str:
    """Load Video Swin's weights into the encoder, or a state dict of this model into all of it.

    Returns:
        One line: what was loaded and dropped.

    Raises:
        ValueError: if the tensors are of neither kind.
        RuntimeError: if they belong to a model of another size.
    """
    if "encoder.patch_embed.proj.weight" in tensors:
        return f"THTD-Net weights, {load_all(model, tensors)} tensors loaded"
    return f"{load_video_swin(model.encoder, tensors)}; the decoder keeps its initial weights"


class Encoder(SwinTransformer3d):
    """torchvision's Video Swin with patches of (2, 4, 4), without its head, returning all four stages.

    The last stage is normalised, as in the classifier.
    """

    def __init__(
        self,
        *,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        window: Sequence[int],
        drop_path: float,
    ) -> None:
        super().__init__(
            patch_size=[2, 4, 4],
            embed_dim=width,
            depths=list(depths),
            num_heads=list(heads),
            window_size=list(window),
            stochastic_depth_prob=drop_path,
            num_classes=1,
        )
        del self.head, self.avgpool

    def forward(self, clip: Tensor) -> list[Tensor]:
        """Encode a normalised clip (B, 3, T, H, W) to four tensors (B, C, T/2, h, w), finest first."""
        x = self.patch_embed(clip)  # (B, T/2, H/4, W/4, C)
        stages = []
        for i, part in enumerate(self.features):
            x = part(x)
            if i % 2 == 0:  # a stage; patch mergings, which halve h and w, have odd indices
                stages.append(x)
        stages[-1] = self.norm(stages[-1])
        return [rearrange(stage, "b t h w c -> b c t h w") for stage in stages]


class Decoder(nn.Module):
    """High-temporal-dimension decoder: top-down sums at all time steps, then gradual temporal reduction.

    Args:
        stages: channels of the encoder's stages, finest first.
        width: channels of the laterals.
        steps: time steps of the stages, a power of two; the decoder reduces them to one.
        kind: one of DECODERS.
    """

    def __init__(self, stages: Sequence[int], *, width: int, steps: int, kind: str) -> None:
        super().__init__()
        self.steps = EARLY_STEPS if kind == "early" else steps
        self.laterals = nn.ModuleList(nn.Conv3d(channels, width, 1) for channels in stages)
        self.reduce = nn.ModuleList()
        self.upsamples: list[bool] = []  # whether each convolution is preceded by x2 upsampling
        c_in, level, left = width, 0, self.steps
        parts = time_factors(kind, steps)
        for i, factors in enumerate(parts):
            level += max(1, factors[0].bit_length() - 1)
            c_out = max(width >> level, 4)  # 192, 96, 48, 24, 12
            for j, factor in enumerate(factors):
                depth = factor if factor > 1 else min(3, 2 * left - 1)  # a single step has no neighbours
                padding = (depth // 2 if factor == 1 else 0, 1, 1)
                self.reduce.append(nn.Conv3d(c_in, c_out, (depth, 3, 3), stride=(factor, 1, 1), padding=padding))
                self.upsamples.append(j == 0 and i >= len(parts) - 2)
                c_in, left = c_out, left // factor
        self.head = nn.Conv2d(c_in, 1, 3, padding=1)
        self.apply(init_convolution)
        nn.init.trunc_normal_(self.head.weight, std=0.01)  # initial maps are nearly uniform

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Decode four stages to features (B, c, H, W)."""
        x = self.lateral(3, stages)  # (B, 192, T/2, H/32, W/32)
        for i in (2, 1, 0):
            h, w = stages[i].shape[-2:]
            x = self.lateral(i, stages) + upsample(x)[..., :h, :w]  # crop the padding of an odd h or w
        for upsamples, conv in zip(self.upsamples, self.reduce, strict=True):
            x = upsample(x) if upsamples else x  # H/4 -> H/2 -> H
            x = F.relu(conv(x))  # (B, 192 / 2^n, T / 2^(n+1), ., .)
        return x.squeeze(2)

    def lateral(self, i: int, stages: Sequence[Tensor]) -> Tensor:
        """Project stage i to the laterals' width and pool it to the decoder's time steps."""
        x: Tensor = self.laterals[i](stages[i])  # (B, 192, T/2, h, w)
        return F.avg_pool3d(x, (x.shape[2] // self.steps, 1, 1)) if x.shape[2] != self.steps else x


def time_factors(kind: str, steps: int) -> list[list[int]]:
    """Return the temporal strides of a decoder's convolutions, grouped by output width.

    Args:
        kind: one of DECODERS.
        steps: time steps of its input; 16 give [[2], [2], [2], [2]] for "paper" and [[4], [4]] for "shorter".
    """
    halvings = steps.bit_length() - 1
    if kind == "shorter":
        return [[2]] * (halvings % 2) + [[4]] * (halvings // 2)
    if kind == "longer":
        return [[2, 1]] * halvings
    if kind == "early":
        return [[EARLY_STEPS]] + [[1]] * (halvings - 1)
    return [[2]] * halvings


def upsample(x: Tensor) -> Tensor:
    """Double height and width of (B, C, T, h, w), bilinear, align_corners=False."""
    return F.interpolate(x, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)


def init_convolution(module: nn.Module) -> None:
    """Initialise a convolution that a ReLU follows: Kaiming normal with fan-in, zero bias."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_clip(num_frames: int, size: Sequence[int]) -> None:
    """Raise a ValueError naming supported values, unless T is a power of two and both sides multiples of 16."""
    if num_frames < 8 or num_frames & (num_frames - 1):
        near = max(8, 1 << round(max(num_frames, 1)).bit_length() - 1)
        raise ValueError(f"num_frames {num_frames}: expected a power of two, at least 8, such as {near}")
    if len(size) != 2 or any(side < 2 * PATCH or side % PATCH for side in size):
        near_size = tuple(max(2 * PATCH, round(side / PATCH) * PATCH) for side in size)
        raise ValueError(
            f"size {tuple(size)}: height and width must be multiples of {PATCH} and at least {2 * PATCH}, "
            f"such as {near_size}"
        )


def check_ranges(*, rates: dict[str, float], **counts: int) -> None:
    """Raise a ValueError naming the first count below 1 or the first rate outside [0, 1)."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} {value}: expected at least 1")
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate}: expected a rate in [0, 1), such as 0.1")
