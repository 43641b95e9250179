"""Running a model over a folder of videos: one video after the other, by any number of processes.

    saldistill predict MODEL FOLDER -o DIR [--maps DIR]

The same command on several devices or machines shares the work; stopped at any moment, it goes on where it was. A
video's overlay and its folder of maps each appear whole or not at all, so what stands is done and is passed over.
While a process works on a video it holds the lock (flock) of the hidden file beside the result; the system drops
the lock when its process ends, however it ends.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.data.folder import find
from distill.data.video import VIDEO_SUFFIXES, describe, frame_files, natural
from distill.errors import UserError
from distill.files import clear_leftovers, write_json
from distill.models import weights_fingerprint
from distill.predict import predict

log = logging.getLogger(__name__)

RECORD = "predicted_by.json"
"""In every folder of results: the model and settings that made them."""

DEFAULTS = {"stride": 1, "precision": "fp32", "first_frames": "repeat"}
"""The settings of `predict` that its maps depend on."""


def is_folder_of_videos(source: str | Path) -> bool:
    """Tell whether a path is a folder of videos or of folders of frames, and not itself a video.

    Raises:
        UserError: if it holds frames of its own and videos too.
    """
    source = Path(source)
    if not source.is_dir():
        return False
    media = list(find(source).values())
    inside = [path for path in media if path != source]
    if inside and len(media) > len(inside):
        raise UserError(
            f"{source}: holds {len(frame_files(source))} images and videos too ({inside[0].name} for one), so it "
            "may be one video or many; name the one, or move the images away"
        )
    return bool(inside)


@dataclass
class FolderPrediction:
    """What `predict_folder` did: which videos it made, passed over, left to other processes, and could not read."""

    seconds: float = 0.0
    frames: int = 0
    made: list[str] = field(default_factory=list)
    stood: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = self.frames / max(self.seconds, 1e-9)
        parts = [f"{len(self.made)} videos made ({self.frames} frames, {rate:.1f} a second)"]
        parts += [f"{len(self.stood)} stood already"] if self.stood else []
        parts += [f"{len(self.elsewhere)} are being made by other processes"] if self.elsewhere else []
        return ", ".join(parts)


def predict_folder(
    model: Any,
    source: str | Path,
    *,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> FolderPrediction:
    """Predict every video at or below a folder, except those whose results stand or that another process works on.

    Args:
        model: as `predict` takes it.
        source: a folder of video files and folders of frames; a video's name is its path below the folder, without
            the suffix (`data.folder.find`).
        out: the folder for overlay videos, NAME.mp4.
        maps: the folder for maps, NAME/0001.png; it may be the same as `out`.
        progress: show a bar a video.
        **settings: device, stride, batch_size, precision and first_frames, as `predict` takes them.

    Raises:
        UserError: nothing to write, results that would lie among the videos, or were made by another model or other
            settings; and, after all others are made, if some videos cannot be read.
    """
    source, started = Path(source), time.perf_counter()
    folders = {what: Path(folder) for what, folder in (("out", out), ("maps", maps)) if folder}
    media = dict(sorted(find(source).items(), key=lambda item: natural(item[0])))
    results = {name: _results_of(name, folders) for name in media}
    _check(source, folders, results)
    _check_record(folders, model, settings)
    done = FolderPrediction()

    def attempt(name: str) -> bool:
        """Make one video's missing results; return False when another process is making them."""
        with _claim(results[name].values()) as claimed:
            if not claimed:
                return False
            missing: dict[str, Any] = {what: path for what, path in results[name].items() if not _stands(path)}
            if not missing:
                done.stood.append(name)
                log.info("%s: its results stand; passed over", name)
                return True
            for path in missing.values():
                clear_leftovers(path)
            try:
                made = predict(model, media[name], **missing, **settings, progress=progress)
            except UserError as error:
                done.broken[name] = str(error)
                log.info("%s", error)
                return True
            done.made.append(name)
            done.frames += made.frames
            return True

    try:
        for name in media:
            if not attempt(name):
                done.elsewhere.append(name)
        # Those that others worked on: most are done by now, and one whose process died is free.
        done.elsewhere = [name for name in done.elsewhere if not attempt(name)]
    except KeyboardInterrupt:
        log.info("%d videos made; the same command goes on with the others", len(done.made))
        raise
    done.seconds = time.perf_counter() - started
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


def _stands(path: Path) -> bool:
    """Tell whether a result is there: a file, or a folder with something in it."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


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


def _check_record(folders: dict[str, Path], model: Any, settings: dict[str, Any]) -> None:
    """Note in each folder of results what makes them; refuse one that something else has begun.

    Raises:
        UserError: naming what differs.
    """
    record = {
        "model": str(getattr(model, "reference", type(model).__name__)),
        "weights": weights_fingerprint(model),
        **{key: settings.get(key, usual) for key, usual in DEFAULTS.items()},
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RECORD
        if not path.exists():
            write_json(path, record)  # two processes that start at once write the same, or the later one finds out
        found = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in record if key != "model" and found.get(key) != record[key]]
        if different:
            key = different[0]
            raise UserError(
                f"{folder}: its results were made by {found.get('model')} with {key} {found.get(key)!r}, this call "
                f"is of {record['model']} with {record[key]!r}; choose another folder"
            )


@contextmanager
def _claim(results: Iterable[Path]) -> Iterator[bool]:
    """Hold the locks of a video's results for a block; yields whether they were free and are held."""
    with ExitStack() as held:
        yield all(held.enter_context(_lock(result)) for result in results)


@contextmanager
def _lock(result: Path) -> Iterator[bool]:
    """Hold the lock of one result; yields whether it is held.

    The lock's file is removed before the lock is dropped. Whoever opened it before then holds a lock on a file
    that is no longer there, and tries again.
    """
    path = result.with_name(f".{result.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.stat()):
                    break
        except BlockingIOError:
            os.close(file)
            yield False
            return
        os.close(file)
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
