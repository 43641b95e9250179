"""From a model reference on the command line to a source of maps, and its scores."""

from dataclasses import replace
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
from distill.models.references import load_model

IN_A_RUN = ("config.yaml", "best.safetensors", "checkpoints")
"""A folder with one of these is a run's, whatever else lies in it."""


def score(
    reference: str | Path, videos: list[Video], settings: InferenceSettings | None = None, **options: Any
) -> tuple[Scores, MapSource]:
    """Score a model, a folder of maps, or a baseline by its name, on videos; return its scores and its map source.

    Args:
        reference: as `map_source`, or `observers` for the ceiling.
        videos: the videos to score on.
        settings: of a model, as `map_source` takes them.
        **options: as `evaluate` takes them.
    """
    if str(reference) == OBSERVERS:
        return evaluate_observers(videos, **options), other_half
    maps = map_source(reference, settings)
    parallel = str(reference) in BASELINES
    if isinstance(maps, MapFolder):
        maps.check(videos, options.get("every", 1))
        parallel = maps.parallel
    return evaluate(maps, videos, parallel=parallel, name=str(reference), **options), maps


def map_source(reference: str | Path, settings: InferenceSettings | None = None) -> MapSource:
    """Return the maps that a word of the command stands for: a baseline, a folder of maps, or a model.

    Args:
        reference: the name, folder or model.
        settings: of a model; when None, the stride of its training on the device `auto`.

    Raises:
        UserError: if it is none of them.
    """
    if (maps := _maps_without_model(reference)) is not None:
        return maps
    settings = settings or InferenceSettings(stride=None, device="auto")
    model = load_model(reference, device=settings.device or "cpu")
    return model_maps(model.network, settings.for_model(model))


def _maps_without_model(reference: str | Path) -> MapSource | None:
    """Return the maps of a baseline or of a folder of maps; None for anything else."""
    if str(reference) in BASELINES:
        return BASELINES[str(reference)].maps
    path = Path(reference)
    if path.is_dir() and not any((path / name).exists() for name in IN_A_RUN):
        return MapFolder(path)
    return None


def same_scene(videos: list[Video], patterns: list[str]) -> list[Video]:
    """Return the videos with those whose names match one pattern (`Vidyo*`) as one recording.

    Intervals are made over recordings; a data set that does not say which videos show one scene can be told so.

    Raises:
        UserError: if a pattern matches no video.
    """
    for pattern in patterns:
        if not any(fnmatchcase(video.name, pattern) for video in videos):
            names = ", ".join(video.name for video in videos)
            raise UserError(f"--scenes: no video is called {pattern}; there are {names}")

    def grouped(video: Video) -> Video:
        scene = next((pattern for pattern in patterns if fnmatchcase(video.name, pattern)), None)
        return video if scene is None else replace(video, recording=scene)

    return [grouped(video) for video in videos]
