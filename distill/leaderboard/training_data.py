"""What a model was trained on, as far as its files tell: its own data, its initial weights' and its teachers'."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.picture_hashes import HashSet, VideoHashes
from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.references import RUN_FILES
from distill.files import file_hash
from distill.models.hub import is_hub_reference, open_repository
from distill.models.networks import PACKAGES
from distill.models.onnx import load_onnx
from distill.models.pretrained import PRETRAINED, is_pretrained, pretrained_for, pretrained_model, pretrained_models
from distill.models.registry import default_variant
from distill.models.training_hashes import training_hashes
from distill.models.weight_files import read_notes
from distill.targets.store import TargetStore
from distill.training.config import ModelSection, load_config
from distill.training.sources import videos_of_source
from distill.training.teacher_section import TeacherSection

CONFIG = "config.yaml"

WEIGHTS_OF_RUN = ("best.safetensors", "model.safetensors", "ema.safetensors")
"""Weight files in a run folder and its checkpoints."""


@dataclass
class TrainingData:
    """What is known of the data behind a model.

    Attributes:
        paths: its videos, as `open_video` takes them, each once.
        hashes: hashes of videos that need not be there.
        hashed: number of those videos.
        unknown: clauses on what is not known.
        imagenet: whether a backbone was trained on ImageNet first, which is not compared.
    """

    paths: dict[Path, None] = field(default_factory=dict)
    hashes: list[HashSet] = field(default_factory=list)
    hashed: int = 0
    unknown: list[str] = field(default_factory=list)
    imagenet: bool = False
    _seen: set[str] = field(default_factory=set)

    def add(self, reference: str) -> None:
        """Add the data behind a model, which `load_model` accepts, or of a folder of maps; `unknown` names gaps."""
        path = Path(reference)
        with self._or_unknown(reference):
            if is_hub_reference(reference):
                manifest = open_repository(reference).manifest
                self._add_file_of_hash(
                    manifest.files[manifest.weights].sha256, "its saldistill.json does not list it"
                )
            elif path.is_dir():
                self._add_folder(path)
            elif path.is_file():
                self._add_file(path)
            elif is_pretrained(reference):
                self._add_pretrained(reference)
            elif not reference.startswith(tuple(f"{package}/" for package in PACKAGES)):  # those are untrained
                raise UserError("no file, folder or pretrained model of this name")

    def _add_folder(self, folder: Path) -> None:
        if (folder / CONFIG).is_file():
            self._add_run(folder)
        elif any((folder / name).exists() for name in RUN_FILES):
            raise UserError(f"the run folder has no {CONFIG}")
        else:
            raise UserError("a folder of maps does not record what made them")

    def _add_run(self, folder: Path) -> None:
        if not self._is_new(folder.resolve()):
            return
        config = load_config(folder / CONFIG)
        for source in [*config.data.train, *config.data.validation]:  # validation chose the weights
            with self._or_unknown(folder):
                self.paths |= dict.fromkeys(video.path for video in videos_of_source(source))
        self._add_initial(config.model, folder)
        for teacher in config.teacher_sections:
            with self._or_unknown(f"the teacher of {folder}"):
                self._add_teacher(teacher)

    def _add_initial(self, model: ModelSection, folder: Path) -> None:
        """Add the data behind the initial weights of a run."""
        if model.weights == "imagenet":
            self.imagenet = True
        elif model.weights == PRETRAINED:
            with self._or_unknown(f"the initial weights of {folder}"):
                variant = model.variant or default_variant(model.name)
                self._add_pretrained(pretrained_for(model.name, variant, PRETRAINED)[0])
        elif model.weights is not None:
            self.add(model.weights)

    def _add_teacher(self, teacher: TeacherSection) -> None:
        if (
            teacher.source == "cached"
            and teacher.store
            and (TargetStore.exists(teacher.store) or not teacher.model)
        ):
            self._add_store(teacher.store)
        elif teacher.model:
            self.add(teacher.model)

    def _add_store(self, store: str) -> None:
        """Add the data behind the maps of a target store."""
        if not self._is_new(store):
            return
        with self._or_unknown(f"the teacher behind {store}"):
            notes = TargetStore.open(store).notes
            teacher, imported = notes.get("teacher"), notes.get("imported")
            for source in imported if isinstance(imported, list) else []:
                if TargetStore.exists(source):
                    self._add_store(str(source))
                else:
                    self.unknown.append(f"training data of what made the maps in {source} is unknown")
            if isinstance(teacher, str):
                self.add(teacher)
            elif not imported:
                raise UserError("the target store does not name it")

    def _add_file(self, path: Path) -> None:
        """Add the data behind a weight file or exported file: of the run around it, or of a pretrained model."""
        notes: dict[str, Any] = {}
        if path.suffix == ".onnx":
            exported = load_onnx(path)
            notes = exported.notes
            self._add_calibration(exported.edge.metadata.get("calibration"))
        else:
            notes = read_notes(path)
        run = notes.get("run")
        config_hash = run.get("config_sha256") if isinstance(run, dict) else None
        for folder in (path.parent, path.parent.parent.parent):  # a checkpoint is in RUN/checkpoints/step-N
            config = folder / CONFIG
            if config.is_file() and (path.name in WEIGHTS_OF_RUN or file_hash(config) == config_hash):
                self._add_run(folder)
                return
        for name, record in pretrained_models().items():
            if name == notes.get("pretrained") or record.training.config_sha256 == config_hash:
                self._add_pretrained(name)
                return
        self._add_file_of_hash(file_hash(path), "the file names no pretrained model, and is not in its run folder")

    def _add_calibration(self, record: Any) -> None:
        """Add the data that an exported file was calibrated on, of which it records the content."""
        if isinstance(record, dict):
            videos = plural(len(record.get("videos", [])), "video")
            self.unknown.append(
                f"of the {videos} that it was calibrated on only the content is recorded, so copies are not found"
            )
            contents = [each for each in record.get("content", []) if re.fullmatch("[0-9a-f]{64}", str(each))]
            nothing = np.zeros((0, 2), dtype=np.uint64)
            self.hashes.append(HashSet.of([VideoHashes(each, nothing, nothing) for each in contents]))
            self.hashed += len(contents)

    def _add_file_of_hash(self, sha256: str, otherwise: str) -> None:
        """Add the data of the pretrained model that has a file with this hash."""
        for name, record in pretrained_models().items():
            if sha256 in (record.weights.sha256, record.onnx.sha256):
                self._add_pretrained(name)
                return
        raise UserError(otherwise)

    def _add_pretrained(self, name: str) -> None:
        if not self._is_new(name):
            return
        if (found := training_hashes().get(name)) is None:
            raise UserError(f"{name} comes without hashes of it")
        self.hashes.append(found.hash_set())
        self.hashed += found.videos
        self.imagenet |= any("ImageNet" in data.title for data in pretrained_model(name).training.data)

    @contextmanager
    def _or_unknown(self, whose: object) -> Iterator[None]:
        """Note that some training data is unknown if the block raises a UserError."""
        try:
            yield
        except UserError as error:
            self.unknown.append(f"training data of {whose} is unknown ({str(error).partition(';')[0]})")

    def _is_new(self, name: object) -> bool:
        """Return whether a run, store or model was not added yet; runs may share their ancestors."""
        new = str(name) not in self._seen
        self._seen.add(str(name))
        return new


def training_data(reference: str) -> TrainingData:
    """Return what is known of the data behind a model, which `load_model` accepts, or of a folder of maps."""
    data = TrainingData()
    data.add(reference)
    return data
