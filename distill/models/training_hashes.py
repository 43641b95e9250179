"""Hashes of the data that the pretrained models were trained on, in student/pretrained/training_hashes.json.

With them, anybody can check whether a video is among that data, which does not come with the project.
`scripts/ship_pretrained.py` and `scripts/hash_training_data.py` write the file, which is part of the wheel.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from distill.data.picture_hashes import CONTENT_BYTES, VERSION, HashSet, VideoHashes, pack, unpack
from distill.errors import reading
from distill.files import write_json
from distill.models import pretrained
from distill.models.pretrained import REINSTALL, Record
from distill.validation import read_json

FILE = "training_hashes.json"


class TrainingHashes(Record):
    """Hashes of all data behind one model: its own, and that of its initial weights and its teachers."""

    videos: int = Field(ge=1)
    """Number of videos and still images."""
    content: str
    """CONTENT_BYTES of each SHA-256, in base64."""
    pictures: str
    """16 bytes per picture, in base64."""

    @classmethod
    def of(cls, videos: Sequence[VideoHashes]) -> "TrainingHashes":
        """Return the hashes of videos as they are stored, in an order that depends on the hashes only."""
        hashes = HashSet.of(videos)
        content, pictures = b"".join(sorted(hashes.content)), pack(hashes.pictures)
        return cls(
            videos=len(hashes.content),
            content=base64.b64encode(content).decode(),
            pictures=base64.b64encode(pictures).decode(),
        )

    def hash_set(self) -> HashSet:
        """Return the stored hashes.

        Raises:
            UserError: they are damaged.
        """
        with reading(pretrained.pretrained_folder() / FILE, "hashes of training data", REINSTALL):
            content, pictures = (base64.b64decode(each, validate=True) for each in (self.content, self.pictures))
            parts = frozenset(content[at : at + CONTENT_BYTES] for at in range(0, len(content), CONTENT_BYTES))
            return HashSet(parts, unpack(pictures))


class AllTrainingHashes(Record):
    """The content of training_hashes.json."""

    format: Literal[1]
    version: int
    """`picture_hashes.VERSION` when they were computed."""
    models: dict[str, TrainingHashes]


def training_hashes() -> dict[str, TrainingHashes]:
    """Return the hashes by name of the pretrained model; none if they are missing or of another version.

    Raises:
        UserError: the file is damaged.
    """
    path = pretrained.pretrained_folder() / FILE
    if not path.exists():
        return {}
    content = read_json(path, AllTrainingHashes, "hashes of training data", REINSTALL)
    return dict(content.models) if content.version == VERSION else {}


def write_training_hashes(models: Mapping[str, TrainingHashes]) -> None:
    """Write training_hashes.json."""
    content = AllTrainingHashes(format=1, version=VERSION, models=dict(sorted(models.items())))
    write_json(pretrained.pretrained_folder() / FILE, content.model_dump(mode="json"))
