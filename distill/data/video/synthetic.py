"""Video reader for generated videos of a moving blob."""

import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from distill.data.video.protocol import unique_frames
from distill.errors import UserError
from distill.limits import MAX_PICTURE_PIXELS, check_limit

PREFIX = "synthetic:"
"""Start of the path of a generated video, `synthetic:SEED-FRAMESxHEIGHTxWIDTH`."""


def centre(seed: int, frame: int, size: tuple[int, int]) -> tuple[float, float]:
    """Return (row, column) of the blob, whose path depends on the seed."""
    phase, slow = np.random.default_rng([seed, 0]).uniform([0, 0.05], [2 * np.pi, 0.12])
    row = 0.5 + 0.3 * np.sin(slow * frame + phase)
    column = 0.5 + 0.35 * np.cos(1.7 * slow * frame + 2 * phase)
    return float(row * size[0]), float(column * size[1])


class SyntheticReader:
    """Frames of one generated video: a bright blob over still noise.

    Raises:
        UserError: if the name is malformed.
    """

    fps = 30.0

    def __init__(self, name: str) -> None:
        match = re.fullmatch(PREFIX + "{0}-{0}x{0}x{0}".format("([0-9]{1,9})"), name)
        if match is None:
            raise UserError(
                f"{name}: malformed name of a generated video; expected synthetic:SEED-FRAMESxHEIGHTxWIDTH"
            )
        self.seed, self.num_frames, height, width = (int(group) for group in match.groups())
        check_limit(height * width, MAX_PICTURE_PIXELS, f"{name}: pixels of a frame")
        self.size = (height, width)

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        noise = np.random.default_rng([self.seed, 1]).uniform(0, 90, (*self.size, 3))
        rows, columns = np.mgrid[: self.size[0], : self.size[1]]
        for at, frame in enumerate(unique.tolist()):
            row, column = centre(self.seed, frame, self.size)
            distance = (rows - row) ** 2 + (columns - column) ** 2
            blob = np.exp(-0.5 * distance / (0.06 * self.size[1]) ** 2)[..., None] * (165, 150, 60)
            image = Image.fromarray((noise + blob).astype(np.uint8))
            pixels[at] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        return pixels[positions]
