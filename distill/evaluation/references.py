"""Resolve references from the command line (models, folders of maps, baselines) to map sources, and score them."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.baselines import BASELINES
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_folder import MapFolder
from distill.evaluation.map_sources import MapSource, model_maps
from distill.evaluation.observers import NAME as OBSERVERS
from distill.evaluation.observers import evaluate_observers, other_half
from distill.evaluation.scores import Scores
from distill.inference.settings import InferenceSettings
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.models.weight_files import weights_fingerprint

RUN_FILES = ("config.yaml", "best.safetensors", "checkpoints")
"""A folder that contains one of these is a run folder, whatever else it contains."""


@dataclass(frozen=True)
class ResolvedSource:
    """The map source of a reference; `parallel` if several processes can run it; its model, if it is one."""

    reference: str
    maps: MapSource
    parallel: bool = False
    model: LoadedModel | None = None
    settings: InferenceSettings = InferenceSettings()

    def provenance(self) -> dict[str, Any]:
        """Return what the maps depend on, with the reference under "model", to record next to results."""
        if self.model is None:
            return {"model": self.reference, "maps": self.reference}
        return {
            "model": self.reference,
            "weights": weights_fingerprint(self.model.network),
            "stride": self.settings.stride,
            "first_frames": self.settings.first_frames,
        }


def folder_name(reference: str) -> str:
    """Return the name of a folder of results for a reference."""
    return reference.strip("/").replace("/", "_")


def resolve_source(reference: str | Path, settings: InferenceSettings | None = None) -> ResolvedSource:
    """Resolve a baseline, a folder of maps or a model to a map source.

    Settings of a model default to its training stride on the device `auto`.

    Raises:
        UserError: if the reference is none of these.
    """
    reference = str(reference)
    if reference in BASELINES:
        return ResolvedSource(reference, BASELINES[reference].maps, parallel=True)
    path = Path(reference)
    if path.is_dir() and not any((path / name).exists() for name in RUN_FILES):
        folder = MapFolder(path)
        return ResolvedSource(reference, folder, folder.parallel)
    settings = settings or InferenceSettings(stride=None, device="auto")
    model = load_model(reference, device=settings.device or "cpu")
    settings = settings.for_model(model)
    return ResolvedSource(reference, model_maps(model.network, settings), model=model, settings=settings)


def score(
    reference: str | Path, videos: list[Video], settings: InferenceSettings | None = None, **options: Any
) -> tuple[Scores, MapSource]:
    """Score a reference on videos with options of `evaluate`; return its scores and its map source.

    References and settings are those of `resolve_source`, and `observers` is the ceiling.
    """
    if str(reference) == OBSERVERS:
        return evaluate_observers(videos, **options), other_half
    source = resolve_source(reference, settings)
    if isinstance(source.maps, MapFolder):
        source.maps.check(videos, options.get("every", 1))
    return evaluate(source.maps, videos, parallel=source.parallel, name=str(reference), **options), source.maps


def same_scene(videos: list[Video], patterns: list[str]) -> list[Video]:
    """Return the videos, with those whose names match the same pattern (`Vidyo*`) as one recording.

    Intervals resample recordings; this is for data sets that do not list which videos show the same scene.

    Raises:
        UserError: if a pattern matches no video.
    """
    names = [video.name for video in videos]
    scenes: dict[str, str] = {}
    for pattern in patterns:
        matches = [name for name in names if fnmatchcase(name, pattern)]
        if not matches:
            raise UserError(f"--scenes: no video matches {pattern}; the videos are {', '.join(names)}")
        scenes = dict.fromkeys(matches, pattern) | scenes  # the first pattern counts
    return [replace(video, recording=scenes.get(video.name, video.recording)) for video in videos]
