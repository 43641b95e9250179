"""Turn a training run into a pretrained model: weights in fp16, a checked .onnx file, and its record.

    python scripts/ship_pretrained.py RUN --name stream-small --config configs/pretrained/small.yaml

The files go to student/pretrained, and the record into its models.json, from which `scripts/generate_docs.py`
writes the model cards and tables. facts.yaml in that folder has what no run knows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distill.data.video.open import open_video
from distill.deploy.half_storage import store_halves
from distill.deploy.quantize import quantize_files
from distill.errors import UserError
from distill.evaluation.references import score
from distill.files import file_hash, put_in_place, temporary_folder, write_json
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.cost import count_weights, gflops_if_known
from distill.models.identity import Identity
from distill.models.loaded import LoadedModel
from distill.models.pretrained import (
    RECORDS,
    Cost,
    Input,
    PretrainedModel,
    ShippedFile,
    as_json,
    pretrained_folder,
    pretrained_models,
)
from distill.models.protocols import is_streaming
from distill.models.references import load_mean, load_model, notes_with_run
from distill.models.training_hashes import training_hashes, write_training_hashes
from distill.models.weight_files import save_model
from distill.paths import path_inside
from distill.release.facts import Facts, read_facts
from distill.release.records import configs_behind, read_cost, read_score_table, read_training
from distill.release.training_hashes import hash_training_data
from distill.runtimes.export import export
from distill.saliency import peak_map
from distill.training.sources import videos_of_argument

log = logging.getLogger(__name__)

FACTS = "facts.yaml"

MAX_BYTES = 16_000_000
"""Size of all pretrained files together."""

MAX_ERROR = 1e-3
"""Largest accepted difference of a map, in [0, 1], because of weights in fp16."""

MAX_CC_LOSS = 0.01
"""Largest accepted loss of CC, with the maps in fp32 and with the ground truth, in INT8."""

FRAMES = 96
"""Frames of a real video on which maps are compared."""


@dataclass(frozen=True)
class Int8:
    """Data for a file in INT8.

    Attributes:
        calibration: frames to calibrate on, as `saldistill quantize --on`.
        validation: DATASET:ROOT or a config's test videos, on which CC is compared with fp32.
        calibration_split: split of the calibration data.
        validation_split: split of the validation data.
        every: score every n-th frame.
    """

    calibration: str
    validation: str
    calibration_split: str | None = None
    validation_split: str | None = None
    every: int = 8


@dataclass(frozen=True)
class Sources:
    """Files that a record is written from.

    Attributes:
        config: config that the run was started with.
        experiment: experiment that the run is an arm of, in place of a config.
        learnt_from: other runs behind the run that neither its config nor its target stores name.
        scores: key of facts.yaml -> folders of `saldistill evaluate -o` or of an experiment.
        benchmark: file of `saldistill benchmark --json`.
        extra_names: other references under which the model was evaluated or measured.
    """

    config: str | None = None
    experiment: str | None = None
    learnt_from: Sequence[str] = ()
    scores: Mapping[str, Sequence[str]] = field(default_factory=dict)
    benchmark: str | None = None
    extra_names: Sequence[str] = ()


def ship(
    runs: Sequence[str | Path], name: str, sources: Sources, *, video: str, int8: Int8 | None = None
) -> PretrainedModel:
    """Write the files of a pretrained model, and its record; nothing is replaced before all checks have passed.

    Args:
        runs: the folder of a finished run, or those of all seeds of one arm, whose mean weights are shipped.
        name: name of the model, one of facts.yaml.
        sources: what the record is written from.
        video: a real video, on which maps are compared.
        int8: also try INT8, and ship it in place of fp32 if the loss is small.

    Raises:
        UserError: facts or training data are missing, a check fails, or the files of all models are too large.
    """
    folder = pretrained_folder()
    facts = read_facts(folder / FACTS)
    if name not in facts.models:
        raise UserError(f"{name}: not among the models of {folder / FACTS}: {', '.join(facts.models)}")
    model = load_mean(runs)
    training = read_training(
        [Path(run) for run in runs],
        facts,
        chosen=facts.models[name].chosen,
        config_file=sources.config,
        experiment=sources.experiment,
        learnt_from=sources.learnt_from,
    )
    behind = configs_behind([Path(run) for run in runs], facts, learnt_from=sources.learnt_from)
    hashes = {**training_hashes(), name: hash_training_data(behind.values())}
    notes = {**notes_with_run(model), "licence": facts.licence, "pretrained": name}
    maps = maps_of(model, video)
    with temporary_folder(folder / name) as made:
        weights = write_weights(model, made / f"{name}.safetensors", notes, maps, video)
        rounded = load_model(made / weights.name)
        onnx = write_onnx(rounded, made / f"{name}.onnx", facts.licence, maps, video, int8)
        record = PretrainedModel(
            summary=facts.models[name].summary,
            model=Identity.model_validate(model.identity),
            licence=facts.licence,
            weights=weights,
            onnx=onnx,
            input=describe_input(model),
            cost=cost_of(model),
            scores=[],
            training=training,
            intended_use=facts.intended_use,
            limits=facts.limits,
        )
        record = with_measurements(record, name, [name, *map(str, runs)], sources, facts)
        models = {**pretrained_models(), name: record}
        check_size(models)
        for file in (weights, onnx):
            put_in_place(made / file.name, path_inside(folder, file.name, name), overwrite=True)
        write_training_hashes(hashes)
        write_json(folder / RECORDS, as_json(models))
    return record


def update(name: str, sources: Sources) -> PretrainedModel:
    """Add scores and a benchmark to the record of a model that is shipped already.

    Raises:
        UserError: there is no such model, or a file does not belong to it.
    """
    folder, models = pretrained_folder(), pretrained_models()
    if name not in models:
        raise UserError(f"{name}: not in {folder / RECORDS}; ship its run first")
    record = with_measurements(models[name], name, [name], sources, read_facts(folder / FACTS))
    write_json(folder / RECORDS, as_json({**models, name: record}))
    return record


def with_measurements(
    record: PretrainedModel, name: str, references: Sequence[str], sources: Sources, facts: Facts
) -> PretrainedModel:
    """Return a record with scores and times, in place of those of the same data."""
    references = [*references, *sources.extra_names]
    tables = {table.key: table for table in record.scores}
    for key, folders in sources.scores.items():
        tables[key] = read_score_table(key, [Path(each) for each in folders], name, references, facts)
    cost = record.cost
    if sources.benchmark is not None:
        cost = read_cost(Path(sources.benchmark), references, cost)
    ordered = [tables[key] for key in facts.scores if key in tables]
    return record.model_copy(update={"scores": ordered, "cost": cost})


def check_size(models: Mapping[str, PretrainedModel]) -> None:
    """Raise a UserError if the files of all models are too large for the wheel."""
    sizes = {file.name: file.bytes for each in models.values() for file in (each.weights, each.onnx)}
    if (total := sum(sizes.values())) > MAX_BYTES:
        listed = ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items())
        raise UserError(
            f"the pretrained files take {total / 1e6:.1f} MB, but at most {MAX_BYTES / 1e6:g} MB are shipped: "
            f"{listed}; ship a smaller model, or INT8 (--int8)"
        )


# ------------------------------------------------------------------------------------------------- files


def write_weights(
    model: LoadedModel, path: Path, notes: dict[str, Any], maps: np.ndarray, video: str
) -> ShippedFile:
    """Write the weights in fp16 if the maps stay equal, else in fp32."""
    for half in (True, False):
        save_model(model, path, notes=notes, half=half)
        error, cc = compare(maps, maps_of(load_model(path), video))
        precision = "fp16" if half else "fp32"
        log.info("%s in %s: largest difference of a map %.1e, CC %.6f", path.name, precision, error, cc)
        if error <= MAX_ERROR:
            return shipped(path, precision, error, cc)
    raise UserError(f"{path.name}: the maps of the written weights differ by {error:.1e} from the run's own")


def write_onnx(
    model: LoadedModel, path: Path, licence: str, maps: np.ndarray, video: str, int8: Int8 | None
) -> ShippedFile:
    """Write the exported model: INT8 if asked for and good enough, else fp32, stored in fp16 if possible."""
    plain = path.with_stem(f"{path.stem}-fp32")
    log.info("%s", export(model, plain, frames=video, licence=licence))
    if int8 is not None and quantize_if_good(plain, path, int8):
        return shipped(path, "int8", *compare(maps, maps_of(load_model(path), video)))
    store_halves(plain, path)
    error, cc = compare(maps, maps_of(load_model(path), video))
    log.info("%s, stored in fp16: largest difference of a map %.1e, CC %.6f", path.name, error, cc)
    if error <= MAX_ERROR:
        return shipped(path, "fp16", error, cc)
    plain.replace(path)
    return shipped(path, "fp32", *compare(maps, maps_of(load_model(path), video)))


def quantize_if_good(plain: Path, path: Path, int8: Int8) -> bool:
    """Write the file in INT8 if it loses little CC with the maps in fp32 and with the ground truth."""
    try:
        quantize_files(plain, int8.calibration, out=path, on_split=int8.calibration_split, max_loss=MAX_CC_LOSS)
    except UserError as error:
        log.warning("no INT8: %s", error)
        return False
    videos = videos_of_argument(int8.validation, split=int8.validation_split)
    settings = InferenceSettings(stride=None, device="cpu")
    found = [
        score(each, videos, settings, metrics=("cc",), every=int8.every)[0].per_video["cc"]
        for each in (plain, path)
    ]
    loss = found[0] - found[1]
    log.info("CC on %s: fp32 %.4f, INT8 %.4f", int8.validation, *found)
    if loss <= MAX_CC_LOSS:
        return True
    log.warning("no INT8: CC falls by %.4f on %s, at most %.2f is accepted", loss, int8.validation, MAX_CC_LOSS)
    path.unlink()
    return False


def maps_of(model: LoadedModel, video: str) -> np.ndarray:
    """Return the peak maps (n, h, w) of the first frames of a video."""
    reader = open_video(video)
    settings = InferenceSettings(stride=None, device="cpu").for_model(model)
    frames = range(min(FRAMES, reader.num_frames))
    batches = [maps.numpy() for _, maps in slide(model.network, reader, frames, settings)]
    return np.stack([peak_map(each) for batch in batches for each in batch])


def compare(maps: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """Return the largest difference of two arrays of maps, and the mean correlation of their maps."""
    pairs = zip(maps.reshape(len(maps), -1), others.reshape(len(others), -1), strict=True)
    return float(np.abs(maps - others).max()), float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))


def shipped(path: Path, precision: Any, error: float, cc: float) -> ShippedFile:
    """Return the record of a file."""
    return ShippedFile(
        name=path.name,
        sha256=file_hash(path),
        bytes=path.stat().st_size,
        precision=precision,
        max_error=float(f"{error:.2g}"),
        cc=round(cc, 6),
    )


def describe_input(model: LoadedModel) -> Input:
    """Return what the model takes."""
    network = model.network
    return Input(
        size=network.size,
        fit=str(getattr(network, "fit", "stretch")),
        stride=model.stride,
        map_size=network.map_size,
        reach=network.reach if is_streaming(network) else network.num_frames,
    )


def cost_of(model: LoadedModel) -> Cost:
    """Return the model's number of weights, and multiply-adds per map in step mode."""
    gflops = gflops_if_known(model, mode="step" if is_streaming(model.network) else "clip")
    return Cost(weights=count_weights(model.network), gmacs=None if gflops is None else round(gflops / 2, 4))
