"""A video as a folder of frames: how many, of which size and numbers, and whether each picture is whole.

Pictures are not decoded: the head of a file says its size, and a cut file lacks its end.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from PIL import Image, UnidentifiedImageError

from distill.data.video.guard import alive
from distill.data.video.image_folder import FOLDER_FPS, frame_files, read_image
from distill.data.video.known import Question
from distill.data.video.names import IMAGE_SUFFIXES, describe
from distill.errors import UserError

ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
"""How files of a format end."""


@dataclass(frozen=True)
class Frames:
    """What a folder of frames holds.

    Attributes:
        num_frames: pictures in the folder.
        size: (height, width) in pixels, of all of them.
        stem: the names without their endings, to be formatted with a number; None where they do not end in one.
        first: the number of the first frame.
        gap: where the numbers do not follow one another, the name of the file and the sentence that says so.
        listing: what changes when a picture does.
    """

    num_frames: int
    size: tuple[int, int]
    stem: str | None
    first: int
    gap: str
    listing: str

    fps = FOLDER_FPS
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """Return what `examine_frames` has found."""
        height, width = plain["size"]
        return cls(**{**plain, "size": (height, width)})


def frames_question(folder: Path, *, thorough: bool = False) -> Question:
    """Return the question what a folder of frames holds; its answer is a Frames.

    It is asked anew when files come or go. That a file has changed shows in `Frames.listing` alone.

    Args:
        folder: a folder that is there.
        thorough: decode every picture.
    """
    call = (examine_frames, (str(folder), thorough))
    return Question("frames", folder, [folder.stat().st_mtime_ns], [call], read=Frames.of, thorough=thorough)


def examine_frames(folder: str, thorough: bool = False) -> dict[str, Any]:
    """Find out what a folder of frames holds.

    Args:
        folder: the folder.
        thorough: decode every picture.

    Returns:
        The fields of a Frames.

    Raises:
        UserError: if there is no picture, or one is damaged or of another size than most; all of them are named.
    """
    files = frame_files(Path(folder))
    if not files:
        raise UserError(
            f"{folder}: there is no frame in this folder; expected images ({', '.join(IMAGE_SUFFIXES)}), "
            f"found {describe(Path(folder))}"
        )
    listing = listing_of([Path(folder)])  # before they are read: a change meanwhile is then noticed the next time
    sizes: dict[Path, tuple[int, int]] = {}
    wrong: list[str] = []
    for path in files:
        alive()
        try:
            sizes[path], _ = check_picture(path, thorough=thorough)
        except UserError as error:
            wrong.append(str(error).removeprefix(f"{folder}{os.sep}"))
    size = Counter(sizes.values()).most_common(1)[0][0] if sizes else (0, 0)
    wrong += [
        f"{path.name}: is {found[1]} x {found[0]} pixels and the others {size[1]} x {size[0]}"
        for path, found in sizes.items()
        if found != size
    ]
    if wrong:
        raise UserError(f"{folder}: {len(wrong)} of {len(files)} frames are broken: {'; '.join(wrong)}")
    stem, first, gap = _numbers(files)
    return asdict(Frames(len(files), size, stem, first, gap, listing))


def _numbers(files: Sequence[Path]) -> tuple[str | None, int, str]:
    """Return the format of the names, the first number, and the sentence on a gap; None where there are none."""
    matches = [re.fullmatch(r"(.*?)(\d+)", path.stem) for path in files]
    start = matches[0]
    if start is None:
        return None, 1, f"{files[0].name}: the names of the frames must end in numbers"
    prefix, first = start[1], int(start[2])
    gap = ""
    for place, (path, match) in enumerate(zip(files, matches, strict=True)):
        if match is None or match[1] != prefix or int(match[2]) != first + place:
            gap = (
                f"{path.name}: the frames of a video must have one name and numbers that follow one another, and "
                f"this one does not follow on {files[max(0, place - 1)].name}; a frame is missing or misnamed"
            )
            break
    stem = prefix.replace("{", "{{").replace("}", "}}") + f"{{:0{len(start[2])}d}}"
    return stem, first, gap


def check_picture(path: Path, *, thorough: bool = False) -> tuple[tuple[int, int], int]:
    """Return the (height, width) and the channels of a picture, and see that its file goes on to its end.

    Raises:
        UserError: if it is no picture, cut off, or (`thorough`) cannot be decoded.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            size, channels = image.size[::-1], len(image.getbands())
            whole = _ends(file, image.format)
    except UnidentifiedImageError as error:
        what = "it is empty" if path.stat().st_size == 0 else "it is no image"
        raise UserError(f"{path}: cannot be decoded as an image: {what}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded as an image; it is damaged ({error})") from error
    if thorough or not whole:  # something may well stand behind the end, so decoding decides
        read_image(path)
    return size, channels


def _ends(file: BinaryIO, kind: str | None) -> bool:
    """Whether a file ends as its format does."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 32))
    return kind not in ENDS or ENDS[kind] in file.read()


def listing_of(folders: Iterable[Path]) -> str:
    """Return a hash of the names, sizes and times of all files in some folders, which changes when one does."""
    digest = hashlib.sha256()
    for folder in folders:
        digest.update(f"{folder.name}/\n".encode())
        if not folder.is_dir():
            continue
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            status = entry.stat()
            digest.update(f"{entry.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
