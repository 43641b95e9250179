"""Draw saliency maps on pictures: heat maps, contours, and a heat map side by side with the picture.

Maps are drawn by table look-up: the new value of a pixel depends on its own value and the map's level at it, both
in 8 bits.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import av
import cmap
import numpy as np
import torch
from torch.nn import functional as F

from distill.data.video.canvas import Canvas
from distill.data.video.colour import Colour
from distill.errors import UserError

STYLES = {
    "heat": "a heat map over the picture, more opaque where the saliency is higher",
    "contour": "lines around the parts above 25, 50 and 75% of the map's maximum",
    "side-by-side": "the picture, and to its right the heat map alone",
}
"""Name of a style -> what is drawn."""

CONTOURS = {0.25: 0.5, 0.5: 0.75, 0.75: 1.0}
"""Levels of the contour lines, relative to the map's maximum, and their places in the colour map."""

THIN = 360
"""Picture height at which lines are two pixels wide."""

BAND = 128
"""Rows that are drawn at a time: they stay in the processor's cache, and whole 8K frames would take gigabytes."""


@dataclass(frozen=True)
class DrawSettings:
    """How maps are drawn.

    Attributes:
        style: name in STYLES.
        colours: name of a colour map that the package `cmap` knows, such as inferno, viridis, turbo or grey.
        opacity: opacity of the heat map where the saliency is 1, and of contour lines, in [0, 1].

    Raises:
        UserError: naming the setting and the accepted values.
    """

    style: str = "heat"
    colours: str = "inferno"
    opacity: float = 0.7

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise UserError(f"style: expected one of {', '.join(STYLES)}, got {self.style!r}")
        if not 0 <= self.opacity <= 1:
            raise UserError(f"opacity: expected a number from 0 to 1, got {self.opacity}")
        colour_map(self.colours)

    def size(self, picture: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of a drawn video, given that of the original."""
        return (picture[0], 2 * (picture[1] + picture[1] % 2)) if self.style == "side-by-side" else picture


@lru_cache(maxsize=8)
def colour_map(name: str) -> np.ndarray:
    """Return the 256 colours of a colour map, low to high: (256, 3) float64 RGB in [0, 255].

    Raises:
        UserError: if there is no colour map of this name.
    """
    try:
        table = np.asarray(cmap.Colormap(name).lut(256), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"colours: no colour map is called {name!r}; expected e.g. inferno, viridis, magma, turbo or grey (all "
            "names: https://cmap-docs.readthedocs.io)"
        ) from error
    return table[:, :3] * 255


def resize_map(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one map (h, w) for display: bilinear with antialiasing, float32, within the range of the input."""
    if saliency.shape == tuple(size):
        return saliency
    image = torch.from_numpy(np.ascontiguousarray(saliency, dtype=np.float32))[None, None]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0].numpy()


def overlay(frame: np.ndarray, saliency: np.ndarray, settings: DrawSettings = DrawSettings()) -> np.ndarray:
    """Draw a saliency map on an RGB picture; by default as a heat map.

    Args:
        frame: (H, W, 3) uint8 RGB.
        saliency: (h, w) in [0, 1]; it is resized to the frame.
        settings: how it is drawn.

    Returns:
        (H, W, 3) uint8 RGB, twice as wide side by side. Where the map is 0, the frame is unchanged.
    """
    return Painter(settings)(Canvas.of_rgb(frame), saliency).rgb()


@dataclass
class Painter:
    """Draws maps on the pictures of one video, with the tables and the scaler that it keeps.

    Args:
        settings: how maps are drawn.
    """

    settings: DrawSettings = DrawSettings()
    _tables: dict[Colour | None, list[np.ndarray]] = field(default_factory=dict)
    _scalers: dict[tuple[int, ...], av.video.reformatter.VideoReformatter] = field(default_factory=dict)

    def __call__(self, canvas: Canvas, saliency: np.ndarray) -> Canvas:
        """Return a picture with a map (h, w) in [0, 1] drawn on it; the given picture is not changed."""
        levels = np.rint(np.clip(saliency, 0.0, 1.0) * 255).astype(np.uint8)
        by_shape = {shape: self._resize(levels, shape) for shape in {plane.shape for plane in canvas.planes}}
        if self.settings.style == "contour":
            by_shape = {shape: contour_lines(at) for shape, at in by_shape.items()}
        drawn = []
        for plane, table in zip(canvas.planes, self._tables_for(canvas), strict=True):
            at = by_shape[plane.shape]
            if self.settings.style == "side-by-side":
                drawn.append(np.hstack([plane, table[:, 0].take(at)]))
            else:
                drawn.append(look_up(table, at, plane))
        wide = self.settings.style == "side-by-side"
        return canvas.with_planes(tuple(drawn), (canvas.size[0], drawn[0].shape[1] if wide else canvas.size[1]))

    def _resize(self, levels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Resize levels to the shape of a plane, bilinearly."""
        if levels.shape == shape:
            return levels
        grey = av.VideoFrame.from_ndarray(levels, format="gray")
        scaler = self._scalers.setdefault(shape, av.video.reformatter.VideoReformatter())  # keeps one size's tables
        scaled = scaler.reformat(grey, width=shape[1], height=shape[0], interpolation="BILINEAR", threads=1)
        resized: np.ndarray = scaled.to_ndarray()
        return resized

    def _tables_for(self, canvas: Canvas) -> list[np.ndarray]:
        """Return for each plane the table (256 levels, 256 values) uint8 of its new values."""
        if canvas.colour not in self._tables:
            level = np.linspace(0, 1, 256)
            opacity = self.settings.opacity
            alpha = {
                "heat": opacity * level * (2 - level),  # rises fast, so that low saliency is visible
                "contour": np.where(level > 0, opacity, 0.0),
                "side-by-side": np.ones(256),
            }[self.settings.style]
            colours = canvas.palette(colour_map(self.settings.colours)).T  # (3, 256)
            self._tables[canvas.colour] = [
                np.rint(np.arange(256) * (1 - alpha)[:, None] + (colour * alpha)[:, None]).astype(np.uint8)
                for colour in colours
            ]
        return self._tables[canvas.colour]


def look_up(table: np.ndarray, levels: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Return `table[levels, plane]` for a table (256, 256) uint8 and levels and a plane (H, W) uint8."""
    drawn = np.empty(plane.shape, np.uint8)
    flat = table.reshape(-1)
    for top in range(0, len(plane), BAND):
        rows = slice(top, top + BAND)
        drawn[rows] = flat.take((levels[rows].astype(np.uint16) << 8) | plane[rows])
    return drawn


def contour_lines(levels: np.ndarray) -> np.ndarray:
    """Return the contour lines of a map: the place in the colour map at its lines, and 0 elsewhere.

    Args:
        levels: (H, W) uint8, the map; the line width is in proportion to its height.

    Returns:
        (H, W) uint8.
    """
    width = max(1, round(2 * len(levels) / THIN))
    steps = np.searchsorted(np.rint(np.array([*CONTOURS]) * 255), np.arange(256), side="right").astype(np.uint8)
    region = steps.take(levels)  # 0 outside all contours
    padded = np.pad(region, ((0, width), (0, width)), mode="edge")
    highest, lowest = region, region
    for down, right in ((width, 0), (0, width), (width, width)):
        shifted = padded[down : down + region.shape[0], right : right + region.shape[1]]
        highest, lowest = np.maximum(highest, shifted), np.minimum(lowest, shifted)
    line = np.rint(np.array([0, *CONTOURS.values()]) * 255).astype(np.uint8).take(highest)
    return np.where(highest > lowest, line, np.uint8(0))
