"""Augmentation: random crops, colours and mirroring of a clip together with its ground truth and teacher maps.

All frames of a clip receive the same augmentation. Fixations outside the crop are dropped, and the density is the
crop of the whole frame's density, renormalised. A frame without a fixation inside the crop is unlabelled. Drawing
another crop instead would make the clips of a seed depend on the ground truth, and bias crops towards fixations.

A teacher sees whole frames in their own colours, plain or mirrored. Its map is cropped afterwards, whether it is
computed online or read from a target store.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distill.errors import UserError


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return the crop of an array (..., height, width), as a view."""
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def shares(self, size: tuple[int, int], *, flipped: bool = False) -> tuple[float, float, float, float]:
        """Return top, left, height and width relative to a frame of `size`, mirrored if `flipped`."""
        left = size[1] - self.left - self.width if flipped else self.left
        return self.top / size[0], left / size[1], self.height / size[0], self.width / size[1]


@dataclass(frozen=True)
class Crop:
    """Random crops.

    Attributes:
        area: smallest and largest area relative to the frame's, uniformly distributed.
        stretch: maximum factor between the aspect ratios of crop and frame; 1 keeps the aspect ratio.
    """

    area: tuple[float, float]
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1 or self.stretch < 1:
            raise UserError(
                "expected an area [min, max] with 0 < min <= max <= 1 and a stretch of at least 1, "
                f"got {list(self.area)} and {self.stretch}"
            )

    def draw(self, random: np.random.Generator, size: tuple[int, int]) -> Box:
        """Draw a box inside a frame of (height, width), rounded to whole pixels."""
        area = random.uniform(*self.area)
        limit = min(math.log(self.stretch), -math.log(area))  # beyond it, a large box no longer fits
        wider = math.exp(random.uniform(-1, 1) * limit)
        height, width = (
            min(side, max(1, round(side * math.sqrt(share))))
            for side, share in zip(size, (area / wider, area * wider), strict=True)
        )
        top, left = (
            int(random.integers(side - part + 1)) for side, part in zip(size, (height, width), strict=True)
        )
        return Box(top, left, height, width)


@dataclass(frozen=True)
class Colour:
    """Factors by which a clip's colours change; 1 leaves them unchanged."""

    brightness: float
    contrast: float
    saturation: float


@dataclass(frozen=True)
class Jitter:
    """Random colours: each factor is uniform in [1 - x, 1 + x]."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def draw(self, random: np.random.Generator) -> Colour:
        """Draw the factors for one clip."""
        ranges = np.array([self.brightness, self.contrast, self.saturation])
        return Colour(*(1 + ranges * random.uniform(-1, 1, 3)).tolist())


def flip(array: np.ndarray) -> np.ndarray:
    """Mirror a clip (..., H, W), density or fixation map (..., h, w) left to right, as a view."""
    return array[..., ::-1]


def crop_frames(frames: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Crop frames (T, height, width, 3) uint8 and scale the crop to (T, *size, 3), bicubic and antialiased."""
    part = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    images = torch.from_numpy(part).permute(0, 3, 1, 2)  # (T, 3, height, width), the channels last in memory
    scaled = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
    return scaled.permute(0, 2, 3, 1).numpy()


LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the luma. Source: ITU-R BT.601."""


def recolour(clip: np.ndarray, colour: Colour) -> np.ndarray:
    """Return a clip (3, T, H, W) uint8 with changed colours.

    Brightness multiplies; contrast scales the difference to the mean luma of the clip; saturation scales the
    difference to the pixel's luma. The three are combined into one linear map of (red, green, blue), so that values
    are rounded and clipped once.
    """
    values = clip.reshape(3, -1).astype(np.float32)
    luma = sum(weight * channel for weight, channel in zip(LUMA, values, strict=True))  # (T * H * W,)
    factor = colour.brightness * colour.contrast
    constant = (1 - colour.contrast) * colour.brightness * float(luma.mean())
    luma *= np.float32(factor * (1 - colour.saturation))
    luma += np.float32(constant)
    values *= np.float32(factor * colour.saturation)
    values += luma
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    return values.astype(np.uint8).reshape(clip.shape)


def crop_maps(log_saliency: Tensor, boxes: Tensor) -> Tensor:
    """Crop maps of whole frames as their clips were cropped, keeping the map size.

    Interpolates densities (bilinear) rather than their logarithms, like `saliency.resize_density`. Pixels that
    underflow in float32 relative to the peak are set to the smallest normal number.

    Args:
        log_saliency: (B, N, h, w) of the whole frames, plain or mirrored as the clips are.
        boxes: (B, 4) from `Box.shares`.

    Returns:
        (B, N, h, w) log-saliency, up to an additive constant per map.
    """
    peak = (log_saliency - log_saliency.amax(dim=(-2, -1), keepdim=True)).exp()
    cut = crop_values(peak, boxes)
    return cut.clamp_min(torch.finfo(cut.dtype).tiny).log()


def crop_values(values: Tensor, boxes: Tensor) -> Tensor:
    """Crop values (B, C, h, w) of whole frames to boxes (B, 4) of `Box.shares`, bilinearly, keeping the size."""
    h, w = values.shape[-2:]
    top, left, height, width = boxes.to(values).unbind(1)  # (B,) each
    down = (torch.arange(h, device=values.device) + 0.5) / h  # relative positions of the rows in the crop ...
    across = (torch.arange(w, device=values.device) + 0.5) / w
    rows = top[:, None] + height[:, None] * down  # ... and in the frame: (B, h)
    columns = left[:, None] + width[:, None] * across  # (B, w)
    grid = torch.stack([columns[:, None, :].expand(-1, h, -1), rows[:, :, None].expand(-1, -1, w)], dim=-1)
    return F.grid_sample(values, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)
