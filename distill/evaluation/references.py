"""Resolve references from the command line (models, folders of maps, baselines) to map sources, and score them."""

from collections.abc import Sequence
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
from distill.inference.runtime import run_in
from distill.inference.settings import InferenceSettings
from distill.models.hub import PREFIX
from distill.models.loaded import LoadedModel
from distill.models.references import load_model
from distill.models.weight_files import weights_fingerprint

RUN_FILES = ("config.yaml", "best.safetensors", "checkpoints")
"""A folder that contains one of these is a run folder, whatever else it contains."""


@dataclass(frozen=True)
class ResolvedSource:
    """The map source of a reference.

    Attributes:
        reference: the reference; for a repository of the Hugging Face Hub, one that names its commit.
        maps: the map source.
        parallel: whether several processes can run it.
        model: the model, if it is one.
        settings: how the model runs.
        runtime: name of the runtime that the model runs in; None for other sources.
    """

    reference: str
    maps: MapSource
    parallel: bool = False
    model: LoadedModel | None = None
    settings: InferenceSettings = InferenceSettings()
    runtime: str | None = None

    def provenance(self) -> dict[str, Any]:
        """Return what the maps depend on, with the reference under "model", to record next to results.

        The runtime is not part of it: all runtimes compute the same maps, up to rounding.
        """
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
    return reference.removeprefix(PREFIX).strip("/").replace("/", "_")


def resolve_source(
    reference: str | Path,
    settings: InferenceSettings | None = None,
    *,
    videos: Sequence[Video] = (),
    frames: int = 0,
) -> ResolvedSource:
    """Resolve a baseline, a folder of maps or a model to a map source.

    Args:
        reference: the reference.
        settings: how a model runs; defaults to its training stride on the device `auto`.
        videos: videos that maps are computed of; a network is compared on the first one when it is exported.
        frames: number of maps that will be computed, by which the runtime `auto` is chosen.

    Raises:
        UserError: if the reference is none of these, or the runtime cannot run the model.
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
    running = run_in(model, settings, frames=frames, example=videos[0].path if videos else None)
    maps = model_maps(running.network, running.settings)
    return ResolvedSource(model.reference, maps, model=model, settings=settings, runtime=running.runtime)


def score(
    reference: str | Path, videos: list[Video], settings: InferenceSettings | None = None, **options: Any
) -> tuple[Scores, MapSource]:
    """Score a reference on videos with options of `evaluate`; return its scores and its map source.

    References and settings are those of `resolve_source`, and `observers` is the ceiling.
    """
    if str(reference) == OBSERVERS:
        return evaluate_observers(videos, **options), other_half
    scored = [video for video in videos if video.truth is not None]
    frames = sum(len(video.frames) for video in scored) // max(1, options.get("every", 1))
    source = resolve_source(reference, settings, videos=scored, frames=frames)
    if isinstance(source.maps, MapFolder):
        source.maps.check(videos, options.get("every", 1))
    scores = evaluate(source.maps, videos, parallel=source.parallel, name=source.reference, **options)
    if source.runtime is not None:
        scores = replace(scores, how=scores.how | {"runtime": source.runtime})
    return scores, source.maps


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
