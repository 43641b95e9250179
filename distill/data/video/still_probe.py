"""Probe a still image, a video of one frame, without decoding it: size, conversion, and truncated files."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from distill.data.pictures import check_picture
from distill.data.video.image_folder import FOLDER_FPS
from distill.data.video.probe import state_of
from distill.data.video.probe_cache import Inspection
from distill.validation import parse_json


@dataclass(frozen=True)
class StillProbe:
    """Properties of a still image.

    Attributes:
        size: (height, width) in pixels as displayed, i.e. after its EXIF orientation.
        conversion: what is converted to 8-bit RGB, see `pictures.conversion_of`; empty for nothing.
    """

    size: tuple[int, int]
    conversion: str = ""

    num_frames: ClassVar[int] = 1
    fps: ClassVar[float] = FOLDER_FPS
    damaged: ClassVar[tuple[int, ...]] = ()
    remarks: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the StillProbe with the fields that `examine_still` returned."""
        return parse_json(json.dumps(fields), cls, "cached properties of an image")


def inspect_still(path: Path, *, thorough: bool = False) -> Inspection:
    """Return the inspection of an existing image file; its result is a StillProbe.

    Args:
        path: the file.
        thorough: decode it.
    """
    call = (examine_still, (str(path), thorough))
    return Inspection("still", path, state_of(path), [call], read=StillProbe.from_dict, thorough=thorough)


def examine_still(path: str, thorough: bool = False) -> dict[str, Any]:
    """Examine an image file; see `inspect_still`.

    Returns:
        The fields of a StillProbe.

    Raises:
        UserError: if it cannot be read as an image, or is truncated.
    """
    size, _, conversion = check_picture(Path(path), thorough=thorough)
    return asdict(StillProbe(size, conversion))
