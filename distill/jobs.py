"""From the words of a command to the parts that do the work: what the verbs and the demo have in common."""

import os
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from distill import models
from distill.build import scored_videos, training_sources, training_videos
from distill.cache import build
from distill.cache_verify import VerifyReport, verify, verify_imported
from distill.config import RunConfig, load_config
from distill.data import DATASETS, find_videos
from distill.data.clips import Video
from distill.data.video import open_size
from distill.errors import UserError
from distill.evaluate import MapSource, evaluate, model_maps
from distill.evaluation.baselines import BASELINES
from distill.evaluation.map_folder import MapFolder
from distill.evaluation.observers import NAME as OBSERVERS
from distill.evaluation.observers import evaluate_observers, other_half
from distill.evaluation.scores import Scores
from distill.files import file_hash, refuse_existing
from distill.stride import Stride, read_stride
from distill.submission import FORMATS, Submission
from distill.submission import submit as write_submission
from distill.targets.store import TargetStore

IN_A_RUN = ("config.yaml", "best.safetensors", "checkpoints")
"""A folder with one of these is a run's, whatever else lies in it."""


def videos_of(
    data: str,
    *,
    split: str | None = None,
    videos: list[str] | None = None,
    frames: tuple[int, int] | None = None,
) -> list[Video]:
    """Return the videos that DATA means: `dhf1k:ROOT`, or a config, whose test videos are taken.

    Raises:
        UserError: if it is neither, or a config without test videos or with a selection beside it.
    """
    if Path(data).suffix in (".yaml", ".yml"):
        if split or videos or frames:
            raise UserError(
                f"{data}: a config says itself which videos and frames are meant; leave the options out"
            )
        test = load_config(data).data.test
        if not test:
            raise UserError(f"{data}: data.test is empty; name the data as DATASET:ROOT instead")
        return scored_videos(test)
    dataset, colon, root = data.partition(":")
    if not colon:
        raise UserError(
            f"{data}: DATA is a CONFIG.yaml or DATASET:ROOT, such as dhf1k:{data}; "
            f"the data sets are {', '.join(DATASETS)}"
        )
    return find_videos(dataset, root, split=split, videos=videos, frames=frames, progress=True)


def stride_of(model: Any) -> Stride:
    """Return how far apart a clip's frames lay when a model was trained; 1 where nobody noted it."""
    return read_stride((getattr(model, "notes", None) or {}).get("stride", 1))


def score(
    reference: str | Path,
    videos: list[Video],
    *,
    stride: Stride | None = None,
    batch_size: int = 8,
    device: str = "auto",
    first_frames: str = "repeat",
    **options: Any,
) -> tuple[Scores, MapSource]:
    """Score a model, a folder of maps, or a baseline by its name, on videos; return its scores and its map source.

    Args:
        reference: as `map_source`, or `observers` for the ceiling.
        videos: on what.
        stride: of a model; as in training when None.
        batch_size: of a model.
        device: of a model.
        first_frames: of a model.
        **options: as `evaluate` takes them.
    """
    if str(reference) == OBSERVERS:
        return evaluate_observers(videos, **options), other_half
    maps = map_source(reference, stride=stride, batch_size=batch_size, device=device, first_frames=first_frames)
    light = maps in BASELINES.values()
    if isinstance(maps, MapFolder):
        maps.check(videos, options.get("every", 1))
        light = maps.light
    return evaluate(maps, videos, light=light, name=str(reference), **options), maps


def map_source(
    reference: str | Path,
    *,
    stride: Stride | None = None,
    batch_size: int = 8,
    device: str = "auto",
    first_frames: str = "repeat",
) -> MapSource:
    """Return the maps that a word of the command stands for: a baseline, a folder of maps, or a model.

    Raises:
        UserError: if it is none of them.
    """
    if (maps := _maps_without_model(reference)) is not None:
        return maps
    where = models.resolve_device(device)
    model = models.load_model(reference, device=where)
    return model_maps(
        model,
        batch_size=batch_size,
        stride=stride or stride_of(model),
        device=where,
        first_frames=first_frames,
    )


def _maps_without_model(reference: str | Path) -> MapSource | None:
    """Return the maps of a baseline or of a folder of maps; None for anything else."""
    if str(reference) in BASELINES:
        return BASELINES[str(reference)]
    path = Path(reference)
    if path.is_dir() and not any((path / name).exists() for name in IN_A_RUN):
        return MapFolder(path)
    return None


def submit(
    reference: str,
    data: str,
    out: str | Path,
    *,
    to: str,
    split: str | None = None,
    videos: list[str] | None = None,
    stride: Stride | None = None,
    batch_size: int = 8,
    device: str = "auto",
    first_frames: str = "repeat",
) -> Submission:
    """Write a submission: the maps of a model, a baseline or a folder of maps, of every frame of a split.

    Args:
        reference: as `map_source`.
        data: `dhf1k:ROOT`; a data set other than the benchmark's own is written in the benchmark's form too.
        out: the folder to be sent.
        to: a benchmark, one of submission.FORMATS.
        split: of the benchmark's own data set, the one that it scores when None.
        videos: only these, by name.
        stride: of a model; as in training when None.
        batch_size: of a model.
        device: of a model.
        first_frames: of a model.

    Raises:
        UserError: as `videos_of`, `map_source` and `submission.submit`; or a config instead of a data set.
    """
    dataset, colon, root = data.partition(":")
    own = dataset == to and videos is None
    if not colon and Path(data).suffix in (".yaml", ".yml"):
        raise UserError(
            f"{data}: a submission is of a data set's videos; name it as DATASET:ROOT, such as {to}:ROOT"
        )
    if own and split is None:
        split = FORMATS[to].split
    chosen = videos_of(data, split=split, videos=videos)
    expected = FORMATS[to].published(Path(root), split) if own and split else []
    made_by: dict[str, Any] = {"model": reference, "maps": reference}
    maps = _maps_without_model(reference)
    if maps is None:
        where = models.resolve_device(device)
        model = models.load_model(reference, device=where)
        settings: dict[str, Any] = {"stride": stride or stride_of(model), "first_frames": first_frames}
        maps = model_maps(model, batch_size=batch_size, device=where, **settings)
        made_by = {"model": reference, "weights": models.weights_fingerprint(model), **settings}
    return write_submission(maps, chosen, out, to=to, made_by=made_by, expected=expected)


def notes_of(model: Any, reference: str) -> dict[str, Any]:
    """Return what is noted of a model's training; of a run folder's model also which run it was, by its config."""
    notes = dict(getattr(model, "notes", None) or {})
    folder = Path(reference) if Path(reference).is_dir() else Path(reference).parent
    if (config := folder / "config.yaml").is_file():
        notes["run"] = {"config_sha256": file_hash(config)}
    return notes


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


def build_store(config: RunConfig) -> TargetStore:
    """Compute and store the teacher's maps of a config's training videos; go on where an earlier call stopped.

    Several processes may do so at once; those that one launcher started take a GPU each.

    Raises:
        UserError: if the config names no teacher or no store.
    """
    section = config.teacher
    if section is None or section.model is None or section.store is None:
        raise UserError("teacher: a store is made from 'model', the teacher, in the folder 'store'; name both")
    device = models.resolve_device(config.device)
    if device == torch.device("cuda"):  # accelerate and torchrun say which of a machine's processes this is
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    return build(
        models.load_model(section.model, device=device),
        training_videos(training_sources(config.data)),
        section.store,
        codec=section.codec,
        views=section.views,
        stride=section.stride,
        batch_size=section.batch_size,
        device=device,
        precision=section.precision,
    )


def verify_store(
    path: str | Path, *, teacher: str | None = None, sample: int = 32, device: str = "auto"
) -> VerifyReport:
    """Check a store's checksums and make a sample anew: with its teacher, or from the maps it was imported from.

    Raises:
        UserError: if the teacher, a video or the imported maps are no longer where they were, or are others.
    """
    store = TargetStore.open(path)
    if "imported" in store.notes:
        return verify_imported(store, sample=sample)
    reference = teacher or store.notes.get("teacher")
    if reference is None:
        raise UserError(f"{path}: the store does not say where its teacher is; name it with --teacher MODEL")
    where = models.resolve_device(device)
    return verify(
        store, models.load_model(reference, device=where), list(_stored_videos(store)), sample=sample, device=where
    )


def _stored_videos(store: TargetStore) -> Iterator[Video]:
    """Yield the videos that a store was made from, from where it says they are."""
    for name, frames in store.plan.videos.items():
        note = store.notes["videos"][name]
        num_frames, fps, size = open_size(note["path"])
        span = range(frames[0], frames[-1] + 1)
        yield Video(name, Path(note["path"]), num_frames, fps, size, span, None, note["dataset"])


def describe_models(name: str | None = None) -> Iterator[str]:
    """Yield the lines of a table: each model and variant, or those of one model, with what they cost."""
    asked, _, variant = (name or "").partition(":")
    pairs = [
        (each, one)
        for each in ([asked] if asked else models.list_models())
        for one in ([variant] if variant else models.list_variants(each))
    ]
    for index, (each, one) in enumerate(pairs):
        with torch.device("meta"):  # neither memory nor time
            model: Any = models.create_model(each, variant=one)
        if index == 0:
            yield f"{'model':<30}{'weights':>12}{'GFLOPs a map':>14}{'frames':>8}{'clip':>10}{'map':>10}"
        clip, saliency = ("x".join(map(str, size)) for size in (model.size, model.map_size))
        yield (
            f"{each + ':' + one:<30}{models.count_weights(model):>12,}{models.gflops_per_map(model):>14,.2f}"
            f"{model.num_frames:>8}{clip:>10}{saliency:>10}"
        )


def publish_weights(name: str | None, source: str, out: str) -> str:
    """Write a model's weights under the keys of its authors' code; say what was read and written.

    `source` is a run folder or a file of ours, which say themselves which variant they hold, or anything else that
    the model `name` takes as weights.

    Raises:
        UserError: if no model is named, the source is of another or does not fit, `out` exists or ends in neither
            .pth nor .safetensors, or the authors have no keys for the model.
    """
    if name is None:
        raise UserError(
            f"{source}: say which model it is of, such as "
            "saldistill models teacher/salfom --to-published IN OUT.pth"
        )
    if Path(out).suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out}: expected a name that ends in .pth or .safetensors")
    refuse_existing(out, "the weight file")
    if Path(source).is_dir() or models.is_ours(source):
        model: Any = models.load_model(source)
        found, variant = model.identity["name"], model.identity["variant"]
        if name not in (found, f"{found}:{variant}"):
            raise UserError(f"{source}: holds {found}:{variant}, not {name}")
        told = f"{source}: all weights of {found}:{variant} loaded"
    else:
        model = models.create_model(name, weights=source)
        told = model.loaded
    models.save_published(model, out)
    return f"{told}; written to {out} under the authors' keys"


def convert_weights(name: str | None, source: str, out: str) -> str:
    """Read a published weight file into a model and write it in this project's format; say what was loaded.

    Raises:
        UserError: if no model is named, the file does not fit it, or `out` exists or is no .safetensors file.
    """
    if name is None:
        raise UserError(
            f"{source}: say which model the file is of, such as saldistill models teacher/salfom --convert IN OUT"
        )
    if Path(out).suffix != ".safetensors":
        raise UserError(f"{out}: expected a name that ends in .safetensors")
    refuse_existing(out, "the weight file")
    model: Any = models.create_model(name, weights=source)
    models.save_model(model, out, notes={"converted_from": Path(source).name})
    return f"{model.loaded}; written to {out}"
