"""Content of store.json, parsed into typed values: what a foreign target store says is checked once, here."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.errors import UserError
from distill.limits import MAX_JSON_BYTES, MAX_MAP_PIXELS, check_limit
from distill.paths import path_inside
from distill.targets.codec import CODECS
from distill.targets.shard import VERSION, DamagedError
from distill.validation import parse_json

STORE_FILE = "store.json"

Frame = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Pair = tuple[Positive, Positive]


class Frames(BaseModel):
    """Frames of one video: exactly one of the two is set."""

    run: tuple[Frame, Frame, Positive] | None = None
    """First, last and step."""
    list: tuple[Frame, ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Frames":
        if len(self.model_fields_set) != 1 or (self.run is None and self.list is None):
            raise ValueError("expected either run or list")
        return self


class PlanContent(BaseModel):
    """See `Plan.to_json`."""

    views: tuple[str, ...]
    batch_size: Positive
    batches_per_shard: Positive
    videos: dict[str, Frames]


class TeacherContent(BaseModel):
    """The teacher in a fingerprint."""

    name: str | None = None
    variant: str | None = None
    arguments: dict[str, Any] = {}
    weights: str | None = None


class InputContent(BaseModel):
    """The teacher's input in a fingerprint."""

    num_frames: Positive
    size: Pair
    stride: Positive | str
    precision: str


class Fingerprint(BaseModel):
    """What the maps depend on; more keys are allowed."""

    teacher: TeacherContent = TeacherContent()
    input: InputContent | None = None
    videos: dict[str, dict[str, Any]] = {}


class VideoNote(BaseModel):
    """Where a video was when the store was built."""

    dataset: str
    path: str


class Notes(BaseModel):
    """What is never compared; more keys are allowed."""

    teacher: str | None = None
    videos: dict[str, VideoNote] = {}
    imported: tuple[str, ...] | None = None
    mean: str | None = None


class StoreContent(BaseModel):
    """Content of store.json without its checksum."""

    model_config = ConfigDict(frozen=True)

    codec: str
    map_size: Pair
    plan: PlanContent
    fingerprint: Fingerprint
    notes: Notes


def read_store_file(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read store.json and check its checksum, its version and the type of everything in it.

    Args:
        path: folder of the store.

    Returns:
        Its JSON values, and the SHA-256 of the file.

    Raises:
        UserError: there is no store, or store.json is damaged, has another format version or values that no target
            store has.
    """
    file = path / STORE_FILE
    try:
        check_limit(file.stat().st_size, MAX_JSON_BYTES, f"{file}: bytes")
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path}: not a target store (no store.json); build one with `saldistill cache build`"
        ) from None
    return parse_store(raw, str(path), str(file))


def parse_store(raw: bytes, path: str, file: str) -> tuple[dict[str, Any], bytes]:
    """Return the JSON values of store.json, and its SHA-256; see `read_store_file`.

    Args:
        raw: content of the file.
        path: folder or address of the store, for messages.
        file: the file, for messages.

    Raises:
        UserError: the file is damaged, has another format version or values that no target store has.
    """
    try:
        content = parse_json(raw, dict[str, Any], file)
        intact = raw == with_checksum({k: v for k, v in content.items() if k != "sha256"}).encode()
    except ValueError:
        intact = False
    if not intact:
        raise DamagedError(
            f"{file}: the file was changed or damaged since the target store was created; restore it, or rebuild "
            "the store"
        )
    if content.get("format") != VERSION:
        raise UserError(
            f"{path}: expected a target store of format {VERSION}, got {content.get('format')!r}; rebuild the "
            "store, or use the version of saldistill that wrote it"
        )
    typed = parse_json(raw, StoreContent, f"{file}: cannot be read as a target store", "rebuild the store")
    if typed.codec not in CODECS:
        raise UserError(
            f"{path}: expected one of the codecs {', '.join(CODECS)}, got {typed.codec!r}; rebuild the store, or "
            "use the version of saldistill that wrote it"
        )
    check_names(typed.plan.videos, file)
    check_limit(typed.map_size[0] * typed.map_size[1], MAX_MAP_PIXELS, f"{file}: pixels of a map")
    return content, hashlib.sha256(raw).digest()


def check_names(videos: Iterable[str], source: object) -> None:
    """Check that the names of videos can become names of files below a folder; see `path_inside`."""
    for name in videos:
        path_inside("", name, source)


def with_checksum(content: Mapping[str, Any]) -> str:
    """Return the text of store.json. Each content has exactly one text, so that any changed byte is detected."""
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"
