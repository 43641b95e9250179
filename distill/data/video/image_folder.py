"""Video reader for a folder of images."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from distill.data.pictures import read_image, to_rgb
from distill.data.video.names import IMAGE_SUFFIXES, describe, natural
from distill.data.video.protocol import unique_frames
from distill.errors import UserError

FOLDER_FPS = 30.0
"""Frame rate assumed for folders of frames: DHF1K's."""


@lru_cache(maxsize=64)
def _listing(folder: str, _changed: int) -> tuple[Path, ...]:
    images = [p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
    return tuple(sorted(images, key=lambda p: natural(p.name)))


def frame_files(folder: Path) -> tuple[Path, ...]:
    """Return the images of a folder in natural order, without hidden files."""
    return _listing(str(folder), folder.stat().st_mtime_ns) if folder.is_dir() else ()


def no_frames(folder: Path) -> UserError:
    """Return the error for a folder without images."""
    return UserError(
        f"{folder}: no frame in this folder; expected images ({', '.join(IMAGE_SUFFIXES)}), "
        f"found {describe(folder)}"
    )


class FolderReader:
    """A folder of frames (images of any kind that `data/pictures.py` reads), in natural order of their names.

    Raises:
        UserError: if the folder has no image, or an image cannot be opened or differs in size from the first.
    """

    def __init__(self, path: Path, fps: float = FOLDER_FPS) -> None:
        self.path, self.fps = path, fps
        self.files = frame_files(path)
        if not self.files:
            raise no_frames(path)
        self.num_frames = len(self.files)
        self.size = read_image(self.files[0], decode=False).size[::-1]

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        for row, index in enumerate(unique.tolist()):
            image = read_image(self.files[index])
            if image.size[::-1] != self.size:
                raise UserError(
                    f"{self.files[index]}: the frame has {image.size[0]} x {image.size[1]} pixels, but the first "
                    f"frame of its folder {self.size[1]} x {self.size[0]}; all frames must have the same size"
                )
            image = to_rgb(image, self.files[index])
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            pixels[row] = np.asarray(image)
        return pixels[positions]
