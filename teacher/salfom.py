"""SalFoM, the teacher: a video foundation model with a three-branch decoder that predicts a clip's last frame.

    clip (B, 3, T, H, W) -> encoder (UMT, or Video Swin) -> TCFE, DFD, SFD -> fusion -> log-saliency (B, 1, H, W)

Source: Moradi, Moradi, Rudoy, "SalFoM: Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024,
arXiv 2404.03097; the variants are those of its companion study of parameters and components.
Departures: the model returns the logarithm of the published sigmoid map; attention is fused; layers and weights
that do not affect the map are left out. `teacher/weights.py` converts published weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from teacher import hub
from teacher.decoder import Decoder
from teacher.swin import Encoder as SwinEncoder
from teacher.umt import PATCH, Encoder
from teacher.weights import load_weights, to_published

__all__ = ["DEFAULT", "VARIANTS", "Model", "find_weights", "load_weights", "to_published"]

VIT_B: dict[str, Any] = {"width": 768, "heads": 12, "depth": 12}
VIT_L: dict[str, Any] = {"width": 1024, "heads": 16, "depth": 24}

VARIANTS: dict[str, dict[str, Any]] = {
    # the paper's network: UMT-L/16 with 16 frames, TCFE of depth 6
    "base": {},
    # depth of the TCFE stages
    "tcfe2": {"tcfe_depth": 2},
    "tcfe4": {"tcfe_depth": 4},
    "tcfe8": {"tcfe_depth": 8},
    "tcfe10": {"tcfe_depth": 10},
    # convolutions of the other two branches
    "dfd-depthwise": {"dfd": "depthwise"},
    "dfd-extra": {"dfd": "extra"},
    "dfd-fewer": {"dfd": "fewer"},
    "sfd-depthwise": {"sfd": "depthwise"},
    "sfd-extra": {"sfd": "extra"},
    "sfd-fewer": {"sfd": "fewer"},
    # size, frames and depth of the encoder
    "umt-b8-d6": {**VIT_B, "num_frames": 8, "depth": 6},
    "umt-b8-d12": {**VIT_B, "num_frames": 8},
    "umt-l8-d6": {**VIT_L, "num_frames": 8, "depth": 6},
    "umt-l8-d12": {**VIT_L, "num_frames": 8, "depth": 12},
    "umt-l8-d18": {**VIT_L, "num_frames": 8, "depth": 18},
    "umt-l8-d24": {**VIT_L, "num_frames": 8},
    "umt-l16-d6": {**VIT_L, "depth": 6},
    "umt-l16-d12": {**VIT_L, "depth": 12},
    "umt-l16-d18": {**VIT_L, "depth": 18},
    # Video Swin-B, an encoder that is not a video foundation model (teacher/swin.py)
    "swin-encoder": {"encoder": "swin", "heads": 32},
    # trains on two CPU cores
    "tiny": {
        "size": (112, 192),
        "width": 96,
        "depth": 4,
        "heads": 3,
        "widths": (64, 48, 32, 32, 16, 16),
        "tcfe_depth": 2,
        "drop_path": 0.0,
    },
    # for tests
    "micro": {
        "size": (32, 48),
        "width": 24,
        "depth": 2,
        "heads": 2,
        "widths": (16, 16, 8, 8, 8, 8),
        "tcfe_depth": 2,
        "tcfe_heads": 2,
        "drop_path": 0.0,
    },
    "micro-swin": {
        "encoder": "swin",
        "size": (32, 48),
        "width": 32,
        "depth": 8,
        "heads": 8,
        "widths": (16, 16, 8, 8, 8, 8),
        "tcfe_depth": 2,
        "tcfe_heads": 2,
        "drop_path": 0.0,
    },
}

DEFAULT = "base"

ENCODERS = ("umt", "swin")

FRAMES = (8, 16)
"""Clip lengths that the temporal strides of the branches support."""


class Model(nn.Module):
    """SalFoM.

    Args:
        num_frames: T, 8 or 16.
        size: (H, W) of clip and map, multiples of 16.
        encoder: "umt" (the paper's) or "swin" (teacher/swin.py).
        width: channels of the encoder's features.
        depth: number of blocks of the encoder.
        heads: number of attention heads of the encoder; for Video Swin, of its last stage.
        widths: channels of DFD's six convolutions; the decoder's other widths follow from them.
        tcfe_depth: number of blocks of a TCFE stage.
        tcfe_heads: number of attention heads of a TCFE stage.
        dfd: variant of DFD: "paper", "depthwise", "extra" or "fewer" (teacher/decoder.py).
        sfd: variant of SFD, with the same values.
        encoder_drop_path: stochastic depth rate of the encoder's last block; it increases linearly from 0.
        drop_path: stochastic depth rate of the last block of a TCFE stage, likewise.
        fit: how frames of another aspect ratio fill the input: `stretch`, `letterbox` or `crop`. The network only
            keeps the name; distill/data/fit.py does the geometry.

    Raises:
        ValueError: if an argument has an unsupported value; the message names a supported one.
    """

    no_gradient = ("encoder.position", "decoder.tcfe.a3.blocks.*.attn.relative_position_bias_table")
    """Parameters without gradient: the fixed position table, and the bias of a3's windows of one token."""

    fixed_by_size = ("encoder.position",)
    """Tensors that are recomputed for another size or clip length; all others transfer unchanged."""

    encoder_layers: tuple[str, ...]
    """Names of the encoder's modules in forward order: the patch embedding, then the blocks."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        num_frames: int = 16,
        size: tuple[int, int] = (224, 224),
        encoder: str = "umt",
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        widths: Sequence[int] = (512, 256, 128, 64, 32, 16),
        tcfe_depth: int = 6,
        tcfe_heads: int = 8,
        dfd: str = "paper",
        sfd: str = "paper",
        encoder_drop_path: float = 0.0,
        drop_path: float = 0.2,
        fit: str = "stretch",
    ) -> None:
        super().__init__()
        if num_frames not in FRAMES:
            near = min(FRAMES, key=lambda frames: abs(frames - num_frames))
            raise ValueError(
                f"num_frames {num_frames}: expected {' or '.join(map(str, FRAMES))}; the nearest is {near}"
            )
        check_size(size)
        if len(widths) != 6:
            raise ValueError(f"widths {tuple(widths)}: expected six numbers, such as (512, 256, 128, 64, 32, 16)")
        check_ranges(
            width=width,
            depth=depth,
            heads=heads,
            tcfe_depth=tcfe_depth,
            tcfe_heads=tcfe_heads,
            widths=min(widths),
            rates={"drop_path": drop_path, "encoder_drop_path": encoder_drop_path},
        )
        if encoder not in ENCODERS:
            raise ValueError(f"encoder '{encoder}': expected {' or '.join(ENCODERS)}")
        height, width_px = size
        self.num_frames, self.size, self.fit = num_frames, (height, width_px), fit
        self.target_frames = (num_frames - 1,)
        self.map_size = self.size
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1, 1), persistent=False)
        shape: dict[str, Any] = {"width": width, "depth": depth, "heads": heads, "drop_path": encoder_drop_path}
        if encoder == "swin":
            self.encoder: SwinEncoder | Encoder = SwinEncoder(num_frames=num_frames, **shape)
            self.encoder_layers = tuple(f"encoder.{name}" for name in self.encoder.layers)
        else:
            self.encoder = Encoder(num_frames=num_frames, size=self.size, **shape)
            self.encoder_layers = ("encoder.patch_embed", *(f"encoder.blocks.{i}" for i in range(depth)))
        self.decoder = Decoder(
            width=width,
            num_frames=num_frames,
            widths=tuple(widths),
            tcfe_depth=tcfe_depth,
            tcfe_heads=tcfe_heads,
            dfd=dfd,
            sfd=sfd,
            drop_path=drop_path,
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
        """Return the outputs of the parts of Figure 1 by name.

        They are `encoder` (B, C, T, H/16, W/16), TCFE's `a1`, `a2` and `a3`, `dfd` and `sfd`.
        """
        y = self.encoder(self.normalise(clip))
        return {"encoder": y, **self.decoder.forward_features(y)}

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        """Fuse the branches to log-saliency (B, 1, H, W) float32."""
        logits = self.decoder.fusion(features["sfd"], features["a3"], features["dfd"])
        return F.logsigmoid(logits.float())

    def normalise(self, clip: Tensor) -> Tensor:
        """Normalise a clip with ImageNet's mean and standard deviation, in the precision of the weights."""
        if clip.ndim != 5 or clip.shape[1] != 3 or tuple(clip.shape[2:]) != (self.num_frames, *self.size):
            T, (H, W) = self.num_frames, self.size
            raise ValueError(f"SalFoM: clip of shape {tuple(clip.shape)}, expected (B, 3, {T}, {H}, {W})")
        values = clip.to(self.mean.dtype) / 255 if clip.dtype == torch.uint8 else clip.to(self.mean.dtype)
        return (values - self.mean) / self.std


def find_weights(model: Model, name: str) -> tuple[str, Path]:
    """Return a published file by its name in `teacher.hub`, as a source for messages and as a path.

    Raises:
        ValueError: if the name is unknown or its file cannot be fetched.
    """
    path = hub.find(name)
    return str(path), path


def check_size(size: Sequence[int]) -> None:
    """Raise a ValueError naming the nearest supported size, unless both sides are multiples of 16."""
    if len(size) != 2 or any(side < PATCH or side % PATCH for side in size):
        near = tuple(max(PATCH, round(side / PATCH) * PATCH) for side in size)
        raise ValueError(f"size {tuple(size)}: height and width must be multiples of {PATCH}, such as {near}")


def check_ranges(*, rates: dict[str, float], **counts: int) -> None:
    """Raise a ValueError naming the first count below 1 or the first rate outside [0, 1)."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} {value}: expected at least 1")
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate}: expected a rate in [0, 1), such as 0.1")
