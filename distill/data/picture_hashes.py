"""Hashes by which copies of videos and still images are found: of a file's content, and of what its pictures show.

A perceptual hash hardly changes when a picture is compressed, resized, brightened or slightly cropped. Ours has 128
bits: imagehash's `phash`, the signs of the lowest frequencies around their median, and its `dhash`, the signs of
horizontal differences (https://github.com/JohannesBuchner/imagehash).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from distill.data.remote_data import local
from distill.data.video.folder_probe import listing_of
from distill.data.video.guard import heartbeat
from distill.data.video.image_folder import frame_files
from distill.data.video.open import open_video
from distill.data.video.probe import state_of
from distill.data.video.probe_cache import Inspection, inspect_all
from distill.data.video.synthetic import PREFIX
from distill.errors import UserError
from distill.extras import extras_named
from distill.files import file_hash
from distill.validation import parse_json

if TYPE_CHECKING:
    from imagehash import ImageHash

RATE = 2.0
"""Pictures of a video that are hashed per second."""

MIN_PICTURES = 3
"""Pictures that are hashed of a shorter video, if it has as many."""

SIZE = 128
"""Height and width at which pictures are read; the hashes reduce them to at most 32."""

FLAT = 8.0
"""Standard deviation of the grey levels, in [0, 255], below which a picture shows too little to recognise it: black
frames, plain cards. Of 1700 photographs the flattest has 10.6."""

MAX_BITS = (12, 14)
"""Bits of `phash` and of `dhash` in which two near-duplicates may differ.

Of 5.1 million pairs of pictures (1700 photographs and 662 frames of 32 videos, also mirrored), one is within them,
which is one photograph twice (a slow test repeats this). Of edited copies of 340 photographs, these are not: JPEG
at quality 10, 30% darker or brighter, 1.4 times the contrast, 2% cropped: none; 5% cropped: 0.6%; black bars of
10%: 7%; 10% cropped: 23%. Of 32 videos that were re-encoded at half the size, and trimmed, mirrored or brightened,
all are found; of those cropped by 5%, 31. A bound of 8 bits of `phash` alone misses up to 5 of them.
"""

VERSION = 1
"""Increment when the hashes of an unchanged file change."""

CONTENT_BYTES = 8
"""Bytes that are kept of a SHA-256: among a million videos, two share them with a probability of 3e-8."""

BLOCK = 2**22
"""Pairs of pictures that are compared at a time."""


@dataclass(frozen=True, eq=False)
class VideoHashes:
    """Hashes of a video or still image.

    Attributes:
        content: hexadecimal SHA-256 of the file, of the frames' files in order, or of a generated video's name.
        pictures: (n, 2) uint64, phash and dhash of pictures that are not flat, about RATE per second.
        mirrored: (n, 2) uint64, those of the same pictures mirrored left to right.
    """

    content: str
    pictures: np.ndarray
    mirrored: np.ndarray

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "VideoHashes":
        """Return the hashes that `hash_file` returned."""
        texts = parse_json(json.dumps(fields), dict[str, str], "cached hashes of a video")
        pictures, mirrored = (unpack(bytes.fromhex(texts[key])) for key in ("pictures", "mirrored"))
        return cls(texts["content"], pictures, mirrored)


@dataclass(frozen=True, eq=False)
class HashSet:
    """Hashes of many videos, with which others are compared.

    Attributes:
        content: first CONTENT_BYTES of the SHA-256 of each video's content.
        pictures: (n, 2) uint64, hashes of their pictures, each once.
    """

    content: frozenset[bytes]
    pictures: np.ndarray

    @classmethod
    def of(cls, videos: Sequence[VideoHashes]) -> "HashSet":
        """Return the hashes of some videos."""
        pictures = np.concatenate([np.zeros((0, 2), dtype=np.uint64), *(video.pictures for video in videos)])
        return cls(frozenset(_short(video) for video in videos), np.unique(pictures, axis=0))

    def holds(self, video: VideoHashes) -> bool:
        """Return whether a video has the content of one of them, or a near-duplicate picture, mirrored or not."""
        shown = np.concatenate([video.pictures, video.mirrored])
        return _short(video) in self.content or bool(near_duplicates(shown, self.pictures).any())


def pack(pictures: np.ndarray) -> bytes:
    """Return hashes (n, 2) as 16 bytes each."""
    return pictures.astype(">u8").tobytes()


def unpack(content: bytes) -> np.ndarray:
    """Return the hashes (n, 2) uint64 that `pack` wrote.

    Raises:
        ValueError: the number of bytes is not a multiple of 16.
    """
    return np.frombuffer(content, ">u8").reshape(-1, 2).astype(np.uint64)


def hash_videos(paths: Sequence[Path], *, progress: str | None = None) -> list[VideoHashes | UserError]:
    """Return the hashes of videos, which are files, folders of frames, still images or generated; cached on disk.

    Args:
        paths: what `open_video` takes; files and folders must exist.
        progress: label of a progress bar; None shows none.

    Returns:
        The hashes in order; a UserError for each video that is broken.

    Raises:
        UserError: the package imagehash is missing.
    """
    with extras_named():
        import imagehash  # noqa: F401 (here, because the subprocesses cannot report that it is missing)
    files = [path for path in paths if not _is_generated(path)]
    found = dict(zip(files, inspect_all([_inspection(path) for path in files], progress=progress), strict=True))
    return [_hash_name(path) if _is_generated(path) else found[path] for path in paths]


def near_duplicates(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which pictures have a near-duplicate among others: (n,) bool.

    Args:
        pictures: (n, 2) uint64 hashes.
        others: (m, 2) uint64 hashes.
    """
    found = np.zeros(len(pictures), dtype=bool)
    rows = max(1, BLOCK // max(1, len(others)))
    for start in range(0, len(pictures), rows):
        part = slice(start, start + rows)
        bits = [
            np.bitwise_count(pictures[part, None, each] ^ others[None, :, each]) for each in (0, 1)
        ]  # (rows, m)
        found[part] = ((bits[0] <= MAX_BITS[0]) & (bits[1] <= MAX_BITS[1])).any(axis=1)
    return found


def hash_picture(image: Image.Image) -> np.ndarray:
    """Return the phash and dhash of an image: (2,) uint64."""
    import imagehash

    def number(found: "ImageHash") -> int:
        return int(str(found), 16)

    return np.array([number(imagehash.phash(image)), number(imagehash.dhash(image))], dtype=np.uint64)


def is_flat(image: Image.Image) -> bool:
    """Return whether an image shows too little to recognise it."""
    return float(np.asarray(image.convert("L").resize((32, 32)), dtype=np.float64).std()) < FLAT


def sampled(num_frames: int, fps: float) -> list[int]:
    """Return the frames of a video that are hashed: the middles of equal parts, whatever the frame rate."""
    count = min(num_frames, max(MIN_PICTURES, round(RATE * num_frames / fps)))
    return [(2 * part + 1) * num_frames // (2 * count) for part in range(count)]


def hash_file(path: str) -> dict[str, str]:
    """Return the fields of a VideoHashes of a file or folder of frames as text, in this process.

    Raises:
        UserError: it cannot be read.
    """
    reader = open_video(path)
    pictures, mirrored = [np.zeros((0, 2), np.uint64)], [np.zeros((0, 2), np.uint64)]
    for frame in sampled(reader.num_frames, reader.fps):
        heartbeat()
        image = Image.fromarray(reader.read([frame], (SIZE, SIZE))[0])
        if not is_flat(image):
            pictures.append(hash_picture(image)[None])
            mirrored.append(hash_picture(ImageOps.mirror(image))[None])
    heartbeat()
    packed = (pack(np.concatenate(each)).hex() for each in (pictures, mirrored))
    return dict(zip(("content", "pictures", "mirrored"), (content_hash(Path(path)), *packed), strict=True))


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a video's file, of its frames' files in order, or of a generated video's name."""
    if _is_generated(path):
        return hashlib.sha256(str(path).encode()).hexdigest()
    path = local(path)
    if not path.is_dir():
        return file_hash(path)
    digest = hashlib.sha256()
    for file in frame_files(path):  # without their names, which differ between copies
        heartbeat()
        digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def _inspection(path: Path) -> Inspection:
    state = [VERSION, RATE, listing_of([path]) if path.is_dir() else state_of(path)]
    return Inspection("hashes", path, state, [(hash_file, (str(path),))], read=VideoHashes.from_dict)


def _short(video: VideoHashes) -> bytes:
    return bytes.fromhex(video.content)[:CONTENT_BYTES]


def _is_generated(path: Path) -> bool:
    return str(path).startswith(PREFIX)


def _hash_name(path: Path) -> VideoHashes:
    """Return the hashes of a generated video: its frames follow from its name, and resemble those of others."""
    nothing = np.zeros((0, 2), dtype=np.uint64)
    return VideoHashes(content_hash(path), nothing, nothing)
