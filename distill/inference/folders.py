"""Run a model over every video or still image in a folder, in any number of processes.

    saldistill predict MODEL FOLDER -o DIR [--maps DIR]
    saldistill predict MODEL FOLDER --stills -o DIR [--maps DIR]

The images of a folder are the frames of one video, unless they are declared to be separate stills.

Several devices or machines can run the same command and share the work. After an interruption it resumes: overlays
and folders of maps appear complete or not at all, and existing ones are skipped.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from distill.data.progress import ProgressBar
from distill.data.sets.folder import find_media
from distill.data.sets.images import find_images
from distill.data.text import plural
from distill.data.video.image_folder import frame_files
from distill.data.video.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, describe, natural
from distill.data.video.open import open_size
from distill.errors import UserError
from distill.inference.outputs import OutputSettings, Targets
from distill.inference.predict import write_prediction
from distill.inference.runtime import run_in
from distill.inference.settings import InferenceSettings
from distill.inference.shared_work import WorkSummary, check_record, process_missing
from distill.models.loaded import LoadedModel
from distill.models.weight_files import weights_fingerprint
from distill.paths import path_inside

log = logging.getLogger(__name__)

RECORD = "predicted_by.json"
"""File in each folder of results that records the model and its settings."""

RECORDED = ("stride", "precision", "first_frames")
"""Settings in that file: those that the maps depend on."""


def is_folder_of_videos(source: str | Path) -> bool:
    """Return whether a path is a folder of videos or of folders of frames, rather than a video itself.

    Raises:
        UserError: if it contains both frames and videos.
    """
    source = Path(source)
    if not source.is_dir():
        return False
    media = list(find_media(source).values())
    inside = [path for path in media if path != source]
    if inside and len(media) > len(inside):
        raise UserError(
            f"{source}: contains both {plural(len(frame_files(source)), 'image')} and videos, e.g. "
            f"{inside[0].name}; pass one video, move the images to another folder, or pass --stills for the images"
        )
    return bool(inside)


def predict_folder(
    model: LoadedModel,
    source: str | Path,
    settings: InferenceSettings = InferenceSettings(),
    *,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    csv: str | Path | None = None,
    outputs: OutputSettings = OutputSettings(),
    stills: bool = False,
    progress: bool = True,
) -> WorkSummary:
    """Predict every video in a folder and its subfolders, except those that are done or in progress elsewhere.

    Args:
        model: the model; its network is moved to the device of the settings.
        source: a folder of video files and folders of frames. A video's name is its path relative to the folder,
            without the suffix.
        settings: how the model runs.
        out: folder for overlay videos, NAME.mp4.
        maps: folder for maps, NAME/0001.png, or NAME.mp4 for videos of maps; may be the same as `out`.
        csv: folder for tables, NAME.csv.
        outputs: how the results are written.
        stills: predict the images in `source` as separate stills, with overlays NAME.png, and nothing else.
        progress: show a progress bar per video, or one for all stills.

    Raises:
        UserError: no output is given, an output is inside `source` or has results of another model or settings, or,
            after all other videos are done, some videos could not be read.
    """
    source = Path(source)
    named = (("out", out), ("maps", maps), ("csv", csv))
    folders = {what: Path(folder) for what, folder in named if folder}
    found, unit = (find_images, "image") if stills else (find_media, "video")
    suffixes = {
        "out": ".png" if stills else ".mp4",
        "maps": ".mp4" if outputs.map_form == "video" else "",
        "csv": ".csv",
    }
    media = dict(sorted(found(source).items(), key=lambda item: natural(item[0])))
    results = {
        name: {what: path_inside(folder, name, source, suffix=suffixes[what]) for what, folder in folders.items()}
        for name in media
    }
    _check(source, folders, results, unit)
    running = run_in(model, settings, frames=_count_frames(media), example=next(iter(media.values())))
    ready = replace(model, network=running.network)
    record = {"model": model.reference, "weights": weights_fingerprint(model.network), "runtime": running.runtime}
    record |= {key: getattr(settings, key) for key in RECORDED}
    for what, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        form = {"map_form": outputs.map_form} if what == "maps" and outputs.map_form != "png" else {}
        check_record(folder / RECORD, record | form, folder)

    def process(name: str, missing: list[Path]) -> int:
        targets = Targets(**{what: path for what, path in results[name].items() if path in missing})
        each = progress and not stills
        done = write_prediction(ready, media[name], running.settings, targets, outputs, progress=each)
        bar.update()
        if each:
            log.info("%s: %s", name, done)
        return done.frames

    with ProgressBar(
        f"predicting {source.name}", "image", total=len(media), shown=progress and stills, result=False
    ) as bar:
        summary = process_missing(
            {name: list(paths.values()) for name, paths in results.items()}, process, unit=unit
        )
    summary.runtime = running.runtime if summary.made else ""
    if summary.failed:
        raise UserError(
            f"{source}: {len(summary.failed)} of {len(media)} {unit}s could not be predicted: "
            f"{', '.join(summary.failed)}; first error: {next(iter(summary.failed.values()))}"
        )
    return summary


def _count_frames(media: Mapping[str, Path]) -> int:
    """Return the number of frames of all videos or images that can be read."""
    total = 0
    for path in media.values():
        with suppress(UserError):  # reported when its turn comes
            total += open_size(path)[0]
    return total


def _check(source: Path, folders: dict[str, Path], results: dict[str, dict[str, Path]], unit: str) -> None:
    if not folders:
        raise UserError(
            "nothing to write: expected a folder for overlays (-o DIR), for maps (--maps DIR) or for tables "
            "(--csv DIR)"
        )
    if not results:
        raise UserError(f"{source}: no {unit} in this folder; found {describe(source)}")
    for folder in folders.values():
        if folder.suffix.lower() in (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES) or folder.is_file():
            raise UserError(f"{folder}: expected the name of a folder, since {source} is a folder of {unit}s")
        if folder.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"{folder}: is inside the folder of {unit}s, so the next run would read the results as {unit}s; "
                "choose another location"
            )
    seen: dict[Path, str] = {}
    for name, paths in results.items():
        for path in paths.values():
            if path in seen:
                raise UserError(
                    f"{path}: the results of '{seen[path]}' and '{name}' have the same name; rename one {unit}"
                )
            seen[path] = name
    for path, name in seen.items():
        for parent in path.parents:
            if parent in seen:
                raise UserError(
                    f"{path}: the results of '{name}' would be inside those of '{seen[parent]}'; "
                    f"rename one of the {unit}s"
                )
