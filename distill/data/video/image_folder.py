"""Video readers for images: a folder of frames, and a still image, which is a video of one frame."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from distill.data.pictures import picture_size, read_image, to_rgb
from distill.data.remote_data import local
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


class ImageReader:
    """Images of one size, of any kind that `data/pictures.py` reads, as the frames of a video.

    Args:
        path: the folder of frames or the still image.
        files: the images in order, at least one.

    Raises:
        UserError: if an image cannot be opened or differs in size from the first.
    """

    fps = FOLDER_FPS

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.files, self.num_frames = path, files, len(files)
        self.size = picture_size(local(files[0]))

    def read(self, frames: Sequence[int], size: tuple[int, int] | None = None) -> np.ndarray:
        """Read frames: see `VideoReader.read`."""
        unique, positions = unique_frames(frames, self.num_frames)
        height, width = size or self.size
        pixels = np.empty((len(unique), height, width, 3), dtype=np.uint8)
        for row, index in enumerate(unique.tolist()):
            image = read_image(local(self.files[index]))
            if image.size[::-1] != self.size:
                raise UserError(
                    f"{self.files[index]}: the frame has {image.size[0]} x {image.size[1]} pixels, but the first "
                    f"frame of its folder {self.size[1]} x {self.size[0]}; all frames must have the same size; "
                    "for separate images see `saldistill predict --stills`"
                )
            image = to_rgb(image, self.files[index])
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BICUBIC)
            pixels[row] = np.asarray(image)
        return pixels[positions]


class FolderReader(ImageReader):
    """A folder of frames, in natural order of their names.

    Raises:
        UserError: if the folder has no image; see also `ImageReader`.
    """

    def __init__(self, path: Path) -> None:
        files = frame_files(local(path))
        if not files:
            raise no_frames(path)
        super().__init__(path, [path / file.name for file in files])


class StillReader(ImageReader):
    """A still image: a video of one frame, which `ClipSpec.frames` repeats."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, (path,))
