"""Video reader for frames in memory."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from distill.data.video.protocol import unique_frames
from distill.errors import UserError


class ArrayReader:
    """Frames in memory.

    Args:
        frames: (n, H, W, 3) uint8 RGB, or (H, W, 3) for a single frame.
        fps: frame rate.

    Raises:
        UserError: if the array has another shape or type, or no frame.
    """

    def __init__(self, frames: np.ndarray, fps: float = 30.0) -> None:
        frames = frames[None] if frames.ndim == 3 else frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise UserError(
                f"frames: expected uint8 RGB of shape (n, height, width, 3) or (height, width, 3), got "
                f"{frames.dtype} of shape {frames.shape}"
            )
        self.frames, self.fps = frames, fps
        self.num_frames = len(frames)
        self.size: tuple[int, int] = frames.shape[1:3]

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        for row, index in enumerate(unique.tolist()):
            frame = self.frames[index]
            if frame.shape[:2] != (height, width):
                image = Image.fromarray(np.ascontiguousarray(frame))
                frame = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
            pixels[row] = frame
        return pixels[positions]
