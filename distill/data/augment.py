"""Augmentation: random crops, colours, mirroring and camera moves of a clip, its ground truth and teacher maps.

All frames of a clip receive the same augmentation, except that the virtual camera moves from frame to frame, which
turns a still into a clip with motion. Fixations outside the crop are dropped, and the density is the crop of the
whole frame's density, renormalised. A frame without a fixation inside the crop is unlabelled. Drawing another crop
instead would make the clips of a seed depend on the ground truth, and bias crops towards fixations.

A teacher sees whole frames in their own colours, plain or mirrored. Its map is cropped afterwards, whether it is
computed online or read from a target store.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
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


Shares = tuple[float, float, float, float]
"""Top, left, height and width of a part of a frame, relative to the frame."""

WHOLE: Shares = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Move:
    """A camera's move over a clip: the part of the frame that it shows, linear in time.

    Attributes:
        first: part shown at the start of the clip.
        last: part shown in the clip's last frame.
        span: duration in frames of the video, at least 1.
    """

    first: Shares
    last: Shares
    span: int

    def at(self, offset: int, *, flipped: bool = False) -> Shares:
        """Return the part shown `offset` <= 0 frames after the clip's last one, mirrored if `flipped`."""
        time = 1 + offset / self.span
        top, left, height, width = (a + time * (b - a) for a, b in zip(self.first, self.last, strict=True))
        return top, 1 - left - width if flipped else left, height, width


@dataclass(frozen=True)
class Camera:
    """Random camera moves: slow pans and zooms with the aspect ratio of the frame.

    Attributes:
        zoom: smallest and largest side of the shown part relative to the frame's.
        speed: maximum distance that its centre moves, in frame heights and widths per second.
        zoom_speed: maximum factor by which it grows or shrinks per second.
        probability: fraction of the clips with a move.
        videos: move over videos too, not only over stills (videos of one frame).
    """

    zoom: tuple[float, float] = (0.6, 1.0)
    speed: float = 0.2
    zoom_speed: float = 1.2
    probability: float = 1.0
    videos: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] <= 1:
            raise UserError(f"zoom: expected [min, max] with 0 < min <= max <= 1, got {list(self.zoom)}")
        if self.speed < 0 or self.zoom_speed < 1:
            raise UserError(
                "expected a speed of at least 0 and a zoom_speed of at least 1, "
                f"got {self.speed} and {self.zoom_speed}"
            )

    def draw(self, random: np.random.Generator, span: int, fps: float) -> Move | None:
        """Draw the move of a clip that ends `span` frames after its start; None for a clip without one."""
        moves = random.uniform() < self.probability
        seconds = span / fps
        last = random.uniform(*self.zoom)
        change = math.exp(random.uniform(-1, 1) * seconds * math.log(self.zoom_speed))
        first = min(max(last * change, self.zoom[0]), self.zoom[1])
        end = random.uniform(last / 2, 1 - last / 2, 2)  # row and column of the centre
        angle, distance = random.uniform(0, 2 * math.pi), random.uniform(0, self.speed * seconds)
        start = np.clip(end + distance * np.array([math.sin(angle), math.cos(angle)]), first / 2, 1 - first / 2)
        parts = [(*(centre - side / 2).tolist(), side, side) for centre, side in ((start, first), (end, last))]
        return Move(parts[0], parts[1], span) if moves else None


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


def show_part(frame: np.ndarray, part: Shares, size: tuple[int, int]) -> np.ndarray:
    """Scale a part of a frame (height, width, 3) uint8 to (*size, 3), bicubic and antialiased.

    The part need not consist of whole pixels, so that slow moves are smooth.
    """
    height, width = frame.shape[:2]
    top, left = max(part[0] * height, 0.0), max(part[1] * width, 0.0)
    box = (left, top, min(left + part[3] * width, width), min(top + part[2] * height, height))
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC, box=box))


def rounded(part: Shares, size: tuple[int, int]) -> Box:
    """Return a part of a frame of `size` in whole pixels, at least one."""
    places = [
        (round(first * side), max(1, round((first + length) * side) - round(first * side)))
        for first, length, side in ((part[0], part[2], size[0]), (part[1], part[3], size[1]))
    ]
    (top, height), (left, width) = (
        (min(first, side - 1), length) for (first, length), side in zip(places, size, strict=True)
    )
    return Box(top, left, min(height, size[0] - top), min(width, size[1] - left))


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
        boxes: (B, 4) from `Box.shares`, or (B, N, 4) with one box for each map.

    Returns:
        (B, N, h, w) log-saliency, up to an additive constant per map.
    """
    peak = (log_saliency - log_saliency.amax(dim=(-2, -1), keepdim=True)).exp()
    cut = crop_values(peak, boxes)
    return cut.clamp_min(torch.finfo(cut.dtype).tiny).log()


def crop_values(values: Tensor, boxes: Tensor) -> Tensor:
    """Crop values (B, C, h, w) of whole frames, bilinearly, keeping the size.

    Args:
        values: (B, C, h, w).
        boxes: (B, 4) from `Box.shares`, or (B, C, 4) with one box for each channel.
    """
    if boxes.ndim == 3:
        return crop_values(values.flatten(0, 1)[:, None], boxes.flatten(0, 1)).view(values.shape)
    h, w = values.shape[-2:]
    top, left, height, width = boxes.to(values).unbind(1)  # (B,) each
    down = (torch.arange(h, device=values.device) + 0.5) / h  # relative positions of the rows in the crop ...
    across = (torch.arange(w, device=values.device) + 0.5) / w
    rows = top[:, None] + height[:, None] * down  # ... and in the frame: (B, h)
    columns = left[:, None] + width[:, None] * across  # (B, w)
    grid = torch.stack([columns[:, None, :].expand(-1, h, -1), rows[:, :, None].expand(-1, -1, w)], dim=-1)
    return F.grid_sample(values, 2 * grid - 1, mode="bilinear", padding_mode="border", align_corners=False)
