"""Augmentation: one random choice acts on clip, density, fixations and the teacher's map together.

A clip is cropped, recoloured and mirrored, every frame of it alike. What lies outside the crop is gone for the
ground truth too: fixations there are dropped, and a density is the crop of the whole frame's, renormalised. Where
no fixation falls into the crop, its frame is unlabelled. (Another crop could be drawn, but then which clips a seed
gives would depend on the ground truth, and crops would lean to where it is.)

A teacher looks at the whole frame in its own colours, plain or mirrored, and its map is cropped afterwards, the
same whether it was computed just now or stored long ago.
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
    """A part of a frame, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: np.ndarray) -> np.ndarray:
        """Return this part of an array (..., height, width), as a view."""
        return array[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def shares(self, size: tuple[int, int], *, flipped: bool = False) -> tuple[float, float, float, float]:
        """Return top, left, height and width as shares of a frame of `size`, seen in a mirror when `flipped`."""
        left = size[1] - self.left - self.width if flipped else self.left
        return self.top / size[0], left / size[1], self.height / size[0], self.width / size[1]


@dataclass(frozen=True)
class Crop:
    """Random boxes.

    Attributes:
        area: smallest and largest share of the frame's area; every share between is as likely.
        stretch: by how much a box may be wider, or narrower, than the frame's shape; 1 keeps the shape.
    """

    area: tuple[float, float]
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1] <= 1 or self.stretch < 1:
            raise UserError(
                "expected shares of the area, above 0 and up to 1, smaller first, and a stretch from 1 up, "
                f"got {list(self.area)} and {self.stretch}"
            )

    def draw(self, random: np.random.Generator, size: tuple[int, int]) -> Box:
        """Draw a box in a frame of (height, width): its area as drawn but for whole pixels, inside the frame."""
        area = random.uniform(*self.area)
        most = min(math.log(self.stretch), -math.log(area))  # a large box cannot be stretched far
        wider = math.exp(random.uniform(-1, 1) * most)
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
    """Factors by which a clip's colours change; 1 leaves them as they are."""

    brightness: float
    contrast: float
    saturation: float


@dataclass(frozen=True)
class Jitter:
    """Random colours: each factor lies between 1 - x and 1 + x."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def draw(self, random: np.random.Generator) -> Colour:
        """Draw the factors of one clip."""
        most = np.array([self.brightness, self.contrast, self.saturation])
        return Colour(*(1 + most * random.uniform(-1, 1, 3)).tolist())


def flip(array: np.ndarray) -> np.ndarray:
    """Mirror left and right: clip (..., H, W), density (..., h, w) or fixations (..., h, w), as a view.

    Mirroring twice gives the array back, and the sum of a density stays 1.
    """
    return array[..., ::-1]


def crop_frames(frames: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Cut frames (T, height, width, 3) uint8 and scale the part to (T, *size, 3), bicubic and antialiased.

    The pixels are resampled once, from the video's own.
    """
    part = frames[:, box.top : box.top + box.height, box.left : box.left + box.width]
    images = torch.from_numpy(part).permute(0, 3, 1, 2)  # (T, 3, height, width), the channels last in memory
    scaled = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
    return scaled.permute(0, 2, 3, 1).numpy()


LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""What red, green and blue add to the brightness that is seen. Source: ITU-R BT.601."""


def recolour(clip: np.ndarray, colour: Colour) -> np.ndarray:
    """Change the colours of a clip (3, T, H, W) uint8, of all its frames alike.

    Brightness multiplies; contrast moves values away from the mean luma of the whole clip, or towards it;
    saturation moves them away from the pixel's own luma. The three are one linear map of (red, green, blue), so
    that values are rounded, and cut to 0 ... 255, once.
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
    """Cut whole frames' maps as their clips were cut, at the size that they have.

    Densities are interpolated between the map's pixels (bilinear), not their logarithms, as
    `saliency.resize_density` does. A pixel that is nothing in float32 beside its map's peak counts as the smallest
    number that is something.

    Args:
        log_saliency: (B, N, h, w) of the frames as the clips show them, plain or mirrored.
        boxes: (B, 4) of `Box.shares`.

    Returns:
        (B, N, h, w) log-saliency, up to a constant a map.
    """
    peak = (log_saliency - log_saliency.amax(dim=(-2, -1), keepdim=True)).exp()
    cut = crop_values(peak, boxes)
    return cut.clamp_min(torch.finfo(cut.dtype).tiny).log()


def crop_values(values: Tensor, boxes: Tensor) -> Tensor:
    """Cut values (B, C, h, w) of whole frames to boxes (B, 4) of `Box.shares`, bilinearly, at the same size."""
    h, w = values.shape[-2:]
    top, left, height, width = boxes.to(values).unbind(1)  # (B,) each
    down = (torch.arange(h, device=values.device) + 0.5) / h  # where the crop's rows lie in the crop ...
    across = (torch.arange(w, device=values.device) + 0.5) / w
    rows = top[:, None] + height[:, None] * down  # ... and in the frame: (B, h)
    columns = left[:, None] + width[:, None] * across  # (B, w)
    grid = torch.stack([columns[:, None, :].expand(-1, h, -1), rows[:, :, None].expand(-1, -1, w)], dim=-1)
    return F.grid_sample(values, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)
