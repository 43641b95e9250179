"""From the words of a command to the parts that do the work: what the verbs and the demo have in common."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distill import models
from distill.build import scored_videos, training_sources, training_videos
from distill.cache import VerifyReport, build, verify
from distill.config import RunConfig, load_config
from distill.data import DATASETS, find_videos
from distill.data.clips import Video
from distill.data.video import open_size
from distill.errors import UserError
from distill.evaluate import BASELINES, PUBLISHED, Scores, evaluate, model_maps
from distill.files import refuse_existing
from distill.targets.store import TargetStore


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


def stride_of(model: Any) -> int:
    """Return how many frames lay between a clip's frames when a model was trained; 1 where nobody noted it."""
    return int((getattr(model, "notes", None) or {}).get("stride", 1))


def score(
    reference: str | Path,
    videos: list[Video],
    *,
    every: int = 1,
    metrics: tuple[str, ...] = PUBLISHED,
    stride: int | None = None,
    batch_size: int = 8,
    device: str = "auto",
) -> Scores:
    """Score a model, or a baseline by its name, on videos; `stride` as in training when None."""
    name = str(reference)
    if name in BASELINES:
        return evaluate(BASELINES[name], videos, every=every, metrics=metrics, name=name)
    where = models.resolve_device(device)
    model = models.load_model(reference, device=where)
    maps = model_maps(model, batch_size=batch_size, stride=stride or stride_of(model), device=where)
    return evaluate(maps, videos, every=every, metrics=metrics, name=name)


def build_store(config: RunConfig) -> TargetStore:
    """Compute and store the teacher's maps of a config's training videos; go on where an earlier call stopped.

    Raises:
        UserError: if the config names no teacher or no store.
    """
    section = config.teacher
    if section is None or section.model is None or section.store is None:
        raise UserError("teacher: a store is made from 'model', the teacher, in the folder 'store'; name both")
    device = models.resolve_device(config.device)
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
    """Check a store's checksums and recompute a sample with its teacher, which it remembers.

    Raises:
        UserError: if the teacher or a video is no longer where it was, or is another.
    """
    store = TargetStore.open(path)
    if "videos" not in store.notes:
        raise UserError(f"{path}: its maps were imported; there is no teacher to compute them anew")
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
