"""Running a model over a folder of videos: one video after the other, by any number of processes.

    saldistill predict MODEL FOLDER -o DIR [--maps DIR]

The same command on several devices or machines shares the work; stopped at any moment, it goes on where it was: a
video's overlay and its folder of maps each appear whole or not at all, so what stands is done and is passed over.
"""

from pathlib import Path
from typing import Any

from distill.data.sets.folder import find_media
from distill.data.video.image_folder import frame_files
from distill.data.video.names import VIDEO_SUFFIXES, describe, natural
from distill.errors import UserError
from distill.inference.predict import predict
from distill.inference.settings import InferenceSettings
from distill.inference.shared_work import Outcome, check_record, make_each
from distill.models.loaded import LoadedModel
from distill.models.weight_files import weights_fingerprint

RECORD = "predicted_by.json"
"""In every folder of results: the model and settings that made them."""

RECORDED = ("stride", "precision", "first_frames")
"""The settings that maps depend on."""


def is_folder_of_videos(source: str | Path) -> bool:
    """Tell whether a path is a folder of videos or of folders of frames, and not itself a video.

    Raises:
        UserError: if it holds frames of its own and videos too.
    """
    source = Path(source)
    if not source.is_dir():
        return False
    media = list(find_media(source).values())
    inside = [path for path in media if path != source]
    if inside and len(media) > len(inside):
        raise UserError(
            f"{source}: holds {len(frame_files(source))} images and videos too ({inside[0].name} for one), so it "
            "may be one video or many; name the one, or move the images away"
        )
    return bool(inside)


def predict_folder(
    model: LoadedModel,
    source: str | Path,
    settings: InferenceSettings = InferenceSettings(),
    *,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    progress: bool = True,
) -> Outcome:
    """Predict every video at or below a folder, except those whose results stand or that another process works on.

    Args:
        model: the model; its network is moved to the device of the settings.
        source: a folder of video files and folders of frames; a video's name is its path below the folder, without
            the suffix (`data.folder.find`).
        settings: how the model runs.
        out: the folder for overlay videos, NAME.mp4.
        maps: the folder for maps, NAME/0001.png; it may be the same as `out`.
        progress: show a bar a video.

    Raises:
        UserError: nothing to write, results that would lie among the videos, or were made by another model or other
            settings; and, after all others are made, if some videos cannot be read.
    """
    source = Path(source)
    folders = {what: Path(folder) for what, folder in (("out", out), ("maps", maps)) if folder}
    media = dict(sorted(find_media(source).items(), key=lambda item: natural(item[0])))
    results = {name: _results_of(name, folders) for name in media}
    _check(source, folders, results)
    _note(folders, model, settings)

    def make(name: str, missing: list[Path]) -> int:
        outputs: dict[str, Any] = {what: path for what, path in results[name].items() if path in missing}
        return predict(model.network, media[name], settings, **outputs, progress=progress).frames

    done = make_each({name: list(paths.values()) for name, paths in results.items()}, make)
    if done.broken:
        raise UserError(
            f"{source}: {len(done.broken)} of {len(media)} videos could not be predicted: "
            f"{', '.join(done.broken)}; the first: {next(iter(done.broken.values()))}"
        )
    return done


def _results_of(name: str, folders: dict[str, Path]) -> dict[str, Path]:
    """Return where a video's overlay and its folder of maps go."""
    ending = {"out": ".mp4", "maps": ""}
    return {what: folder / f"{name}{ending[what]}" for what, folder in folders.items()}


def _check(source: Path, folders: dict[str, Path], results: dict[str, dict[str, Path]]) -> None:
    if not folders:
        raise UserError(
            "nothing to write: name a folder of overlay videos (-o DIR), a folder of maps (--maps DIR) or both"
        )
    if not results:
        raise UserError(f"{source}: there is no video in this folder; found {describe(source)}")
    for folder in folders.values():
        if folder.suffix.lower() in VIDEO_SUFFIXES or folder.is_file():
            raise UserError(f"{folder}: {source} is a folder of videos, so its results need a folder's name")
        if folder.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"{folder}: lies in the folder of the videos, and the next call would take the results for videos; "
                "choose another place"
            )
    seen: dict[Path, str] = {}
    for name, paths in results.items():
        for path in paths.values():
            if path in seen:
                raise UserError(f"{path}: the results of '{seen[path]}' and '{name}' would have the same name")
            seen[path] = name
    for path, name in seen.items():
        for above in path.parents:
            if above in seen:
                raise UserError(
                    f"{path}: the results of '{name}' would lie in those of '{seen[above]}'; rename one"
                )


def _note(folders: dict[str, Path], model: LoadedModel, settings: InferenceSettings) -> None:
    """Note in each folder of results what makes them.

    Raises:
        UserError: if something else has begun one.
    """
    record = {
        "model": model.reference,
        "weights": weights_fingerprint(model.network),
        **{key: getattr(settings, key) for key in RECORDED},
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
        check_record(folder / RECORD, record, folder)
