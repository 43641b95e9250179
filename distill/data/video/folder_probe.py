"""Probe a folder of frames without decoding: number, size and numbering of the images, and truncated files."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from distill.data.pictures import check_picture, conversion_remarks
from distill.data.remote_data import local
from distill.data.video.guard import heartbeat
from distill.data.video.image_folder import FOLDER_FPS, frame_files, no_frames
from distill.data.video.names import MAX_DIGITS
from distill.data.video.probe_cache import Inspection
from distill.errors import UserError
from distill.validation import parse_json


@dataclass(frozen=True)
class FolderProbe:
    """Properties of a folder of frames.

    Attributes:
        num_frames: number of images.
        size: (height, width) in pixels of all images.
        stem: file names without suffix, as a format string for the number; None if they do not end in a number.
        first: number of the first frame.
        gap: file name and message if the numbers are not consecutive; empty otherwise.
        listing: hash that changes with any image.
        remarks: messages on images that are converted to 8-bit RGB.
    """

    num_frames: int
    size: tuple[int, int]
    stem: str | None
    first: int
    gap: str
    listing: str

    remarks: tuple[str, ...] = ()

    fps: ClassVar[float] = FOLDER_FPS
    damaged: ClassVar[tuple[int, ...]] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Return the FolderProbe with the fields that `examine_folder` returned."""
        return parse_json(json.dumps(fields), cls, "cached properties of a folder")


def inspect_folder(folder: Path, *, thorough: bool = False) -> Inspection:
    """Return the inspection of a folder of frames; its result is a FolderProbe.

    A cached result is valid until files are added or removed. Only `FolderProbe.listing` shows changed files.

    Args:
        folder: an existing folder.
        thorough: decode every image.
    """
    call = (examine_folder, (str(folder), thorough))
    return Inspection(
        "frames", folder, [folder.stat().st_mtime_ns], [call], read=FolderProbe.from_dict, thorough=thorough
    )


def examine_folder(folder: str, thorough: bool = False) -> dict[str, Any]:
    """Examine a folder of frames; see `inspect_folder`.

    Returns:
        The fields of a FolderProbe.

    Raises:
        UserError: if there is no image, or if images are damaged or differ in size; names all of them.
    """
    files = frame_files(local(Path(folder)))
    if not files:
        raise no_frames(Path(folder))
    listing = listing_of([Path(folder)])  # first, so that later changes are noticed next time
    sizes: dict[Path, tuple[int, int]] = {}
    conversions: dict[str, str] = {}
    wrong: list[str] = []
    for path in files:
        heartbeat()
        try:
            sizes[path], _, conversions[path.name] = check_picture(path, thorough=thorough)
        except UserError as error:
            wrong.append(str(error).removeprefix(f"{path.parent}{os.sep}"))
    size = Counter(sizes.values()).most_common(1)[0][0] if sizes else (0, 0)
    wrong += [
        f"{path.name}: has {other[1]} x {other[0]} pixels, the others {size[1]} x {size[0]}"
        for path, other in sizes.items()
        if other != size
    ]
    if wrong:
        raise UserError(f"{folder}: {len(wrong)} of {len(files)} frames are broken: {'; '.join(wrong)}")
    stem, first, gap = _numbering(files)
    remarks = tuple(conversion_remarks(conversions, "8-bit RGB"))
    return asdict(FolderProbe(len(files), size, stem, first, gap, listing, remarks))


def _numbering(files: Sequence[Path]) -> tuple[str | None, int, str]:
    """Return the `stem`, `first` and `gap` of a FolderProbe."""
    matches = [re.fullmatch(rf"(.*?)([0-9]{{1,{MAX_DIGITS}}})", path.stem) for path in files]
    start = matches[0]
    if start is None:
        return None, 1, f"{files[0].name}: invalid name of a frame; expected it to end in the frame's number"
    prefix, first = start[1], int(start[2])
    gap = ""
    for place, (path, match) in enumerate(zip(files, matches, strict=True)):
        if match is None or match[1] != prefix or int(match[2]) != first + place:
            gap = (
                f"{path.name}: does not follow {files[max(0, place - 1)].name}; expected consecutive numbers after "
                "one prefix; a frame is missing or misnamed"
            )
            break
    stem = prefix.replace("{", "{{").replace("}", "}}") + f"{{:0{len(start[2])}d}}"
    return stem, first, gap


def listing_of(folders: Iterable[Path]) -> str:
    """Return a hash of the names, sizes and modification times of all files in some folders."""
    digest = hashlib.sha256()
    for folder in folders:
        digest.update(os.fsencode(f"{folder.name}/\n"))
        if not folder.is_dir():
            continue
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            try:
                status = entry.stat()
            except OSError:  # a link to nothing or to itself
                status = entry.stat(follow_symlinks=False)
            digest.update(os.fsencode(f"{entry.name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()
