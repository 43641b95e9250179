"""Run folders: config.yaml, log.jsonl, checkpoints/, best.safetensors, summary.json, gates.json and trackers."""

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distill.claims import lock
from distill.errors import UserError
from distill.files import clear_leftovers, flatten, refuse_existing
from distill.memory import peak_memory_mib
from distill.models.loaded import LoadedModel
from distill.models.tensor_files import check_tensors
from distill.models.weight_files import read_notes, save_model
from distill.training import trackers
from distill.training.config import RunConfig, load_config
from distill.training.step_log import read_log

FREE_TO_CHANGE = (
    "out",
    "resume",
    "device",
    "tracking",
    "teacher.device",
    "data.workers",
    "training.checkpoint_every",
    "training.keep",
    "training.recompute",
    "training.shard",
)
"""Keys that may change when a run is resumed, because no weight depends on them."""


@contextmanager
def claim_run(config: RunConfig) -> Iterator[None]:
    """Claim the run folder for the duration of the block, and remove what killed runs left in it.

    Raises:
        UserError: another process trains in this folder, or as `check_folder`.
    """
    out = Path(config.out)
    if not out.exists():
        check_folder(out, config)  # before the lock, which creates the parents
    with lock(Path(os.path.realpath(out))) as locked:  # one lock, whichever links lead to the folder
        if not locked:
            raise UserError(
                f"{out}: another process is training in this folder; wait for it, or choose another out=FOLDER"
            )
        check_folder(out, config)
        for name in ("config.yaml", "log.jsonl", "best.safetensors", "summary.json", trackers.RUNS):
            clear_leftovers(out / name)
        for leftover in out.glob("checkpoints/.step-*.tmp"):
            shutil.rmtree(leftover)
        yield


def check_folder(out: Path, config: RunConfig) -> None:
    """Check that the folder is free, or holds the same run to resume.

    Raises:
        UserError: a run exists and `resume` is not auto, or its config differs; the folder holds something other
            than a run.
    """
    if config.resume == "never":
        refuse_existing(out, "a run", remedy="resume=auto resumes it, out=FOLDER starts another")
    stored = out / "config.yaml"
    if not stored.exists():
        refuse_existing(out, "something other than a run (no config.yaml)", remedy="choose another out=FOLDER")
        return
    changed = changed_keys(load_config(stored), config)
    differences = [f"{key} was {before} and is now {now}" for key, (before, now) in changed.items()]
    if differences:
        raise UserError(
            f"{out}: the config differs from the run's: {'; '.join(differences)}; resume with the run's config, or "
            "start another run with out=FOLDER"
        )
    if (best := out / "best.safetensors").exists():
        try:
            check_tensors(best)
        except UserError as error:
            raise UserError(
                f"{error}; without this file, the run resumes and keeps the best of its other steps"
            ) from error


def changed_keys(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return the values of the keys that differ between two configs, apart from those in FREE_TO_CHANGE."""
    first, second = _comparable(before), _comparable(now)
    return {
        key: (first.get(key), second.get(key))
        for key in {**first, **second}
        if first.get(key) != second.get(key) and key not in FREE_TO_CHANGE
    }


def _comparable(config: RunConfig) -> dict[str, Any]:
    """Return the keys of a config with their values; those of several teachers start with `teacher.NAME`."""
    config = config if config.teachers is None else config.with_teachers(device=None)
    values = config.model_dump(mode="json")
    if isinstance(config.teacher, list):
        values["teacher"] = {each["name"]: {**each, "device": None} for each in values["teacher"]}
    return flatten(values)


def keep_best(config: RunConfig, model: LoadedModel, step: int, scores: dict[str, float]) -> None:
    """Write best.safetensors if the score that selects it is finite and beats the one recorded in that file."""
    path, metric = Path(config.out) / "best.safetensors", config.training.best
    best = (best_notes(path) or {}).get("validation", {}).get(metric)
    if math.isfinite(scores[metric]) and (best is None or scores[metric] > best):
        more = {"validation": scores} | ({} if config.training.ema is None else {"ema": config.training.ema})
        save_model(model, path, notes=notes(config, step, **more))


def best_notes(path: Path) -> dict[str, Any] | None:
    """Return the notes of the best weights, with `step` and `validation` scores; None if there are none yet."""
    return read_notes(path) if path.exists() else None


def was_validated(out: Path, step: int) -> bool:
    """Return whether the log has the validation after `step` steps."""
    return any(line["kind"] == "validation" and line["step"] == step for line in read_log(out / "log.jsonl"))


def notes(config: RunConfig, step: int, **more: Any) -> dict[str, Any]:
    """Return the notes of a weight file: step, clip stride and training data."""
    train = config.data.model_dump(mode="json", include={"train"}, exclude_none=True)["train"]
    trained_on = [{key: value for key, value in source.items() if key != "root"} for source in train]
    return {"step": step, "stride": config.data.stride, "trained_on": trained_on, **more}


def summary(out: Path, steps: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Return the cost of a finished run; peak memory excludes the loader's workers."""
    best = best_notes(out / "best.safetensors")
    record: dict[str, Any] = {"steps": steps, "seconds": seconds, "device": str(device)}
    record["best"] = None if best is None else {"step": best.get("step"), **best.get("validation", {})}
    record["peak_memory_mib"] = peak_memory_mib()
    if device.type == "cuda":
        record["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return record


def final_record(out: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Return what trackers log at the end of a run: its summary, and the scores of the last validation."""
    lines = [line for line in read_log(out / "log.jsonl") if line["kind"] == "validation"]
    return {"kind": "final", "step": summary["steps"], **summary, "last": lines[-1]["scores"] if lines else None}
