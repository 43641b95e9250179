"""Checkpoints of a run, written atomically, checked, and restored from the newest one that is not damaged.

    RUN/best.safetensors                           weights with the best validation score
    RUN/checkpoints/step-000120/model.safetensors  weights after step 120
                               /state.safetensors  optimiser state
                               /heads.safetensors  projections and side maps, if the losses need any
                               /ema.safetensors    moving average of the weights, with training.ema
                               /state.json         step, optimiser settings, the state of the loop, and checksums

A folder is written under a temporary name, flushed to disk and renamed; then all but the newest `training.keep` are
removed. state.json holds the checksum of every other file and of its own content. Random state and the position in
the data are not stored, because they are functions of the seed and the step.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.optim import Optimizer

from distill.errors import UserError, reading
from distill.files import atomic_folder
from distill.models.loaded import LoadedModel
from distill.models.references import checkpoint_folders
from distill.models.tensor_files import (
    DAMAGED,
    check_finite,
    check_tensors,
    load_tensors,
    read_metadata,
    save_tensors,
)
from distill.models.weight_files import load_weights_into, save_model
from distill.training import sharding
from distill.training.ema import Ema
from distill.training.heads import Learner
from distill.validation import read_json

log = logging.getLogger(__name__)

Setting = bool | int | float | str | None


class LoopState(BaseModel):
    """What a checkpoint stores in addition to weights and optimiser state."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = 0.0
    """Duration of the steps so far."""
    processes: int
    """Number of processes, which determines the clips of a step."""
    scaler: dict[str, int | float] | None = None
    """State of fp16's gradient scaler."""


class State(BaseModel):
    """Content of state.json."""

    model_config = ConfigDict(extra="forbid")

    step: int = Field(ge=0)
    """Number of finished steps."""
    memory: LoopState
    optimizer: list[dict[str, Setting | list[Setting]]]
    """Settings of the optimiser's groups."""
    files: dict[str, str] = Field({})
    """Checksum of each other file of the checkpoint; version 0.1.0 wrote none."""
    sha256: str | None = None
    """Checksum of the rest of this file."""

    def checksum(self) -> str:
        """Return the checksum that the file must record."""
        content = self.model_dump(exclude={"sha256"}, exclude_unset=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def newest_checkpoint(run: Path) -> Path | None:
    """Return the run's newest checkpoint folder; None if it has no checkpoint."""
    return next(iter(checkpoint_folders(run)), None)


def newest_intact_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint without damage, and log if a newer one is damaged; None if there is none at all.

    Raises:
        UserError: every checkpoint is damaged.
    """
    damage = ""
    for folder in checkpoint_folders(run):
        try:
            check_checkpoint(folder)
        except UserError as error:
            damage = damage or str(error)
            continue
        if damage:
            log.warning("%s; resuming from the older checkpoint %s", damage, folder.name)
        return folder
    if damage:
        raise UserError(
            f"{damage}; no older checkpoint can be read: remove {run / 'checkpoints'} to start the run again"
        )
    return None


def check_checkpoint(folder: Path) -> None:
    """Read all files of a checkpoint and compare them with their checksums.

    Raises:
        UserError: one is missing or damaged.
    """
    state = read_state(folder)
    for name, checksum in state.files.items():
        check_tensors(folder / name, checksum=checksum)
    if not state.files:  # version 0.1.0: their headers at least
        for path in sorted(folder.glob("*.safetensors")):
            read_metadata(path)


def read_state(folder: Path) -> State:
    """Return the content of a checkpoint's state.json.

    Raises:
        UserError: it is missing or damaged, or names other files than those of a checkpoint.
    """
    path = folder / "state.json"
    state = read_json(path, State, "the state of a run")
    names = {"model.safetensors", "state.safetensors", "heads.safetensors", "ema.safetensors"}
    if state.sha256 != (state.checksum() if state.files or state.sha256 else None) or not names >= set(state.files):
        raise UserError(f"{path}: its content does not match its checksum; {DAMAGED}")
    return state


def save_checkpoint(
    run: Path,
    step: int,
    model: LoadedModel,
    learner: Learner,
    optimizer: Optimizer,
    loop_state: LoopState,
    notes: dict[str, Any],
    ema: Ema | None = None,
    *,
    keep: int = 1,
    is_main: bool = True,
) -> None:
    """Write the state after `step` steps and remove older checkpoints; every process calls this.

    Args:
        run: the run folder.
        step: number of finished steps.
        model: the unsharded model, which is saved.
        learner: the model and its heads, or a sharded copy of them (`sharding.py`).
        optimizer: the unwrapped optimiser.
        loop_state: other state of the loop.
        notes: notes of the weight file, as JSON values.
        ema: moving average of the learner's model.
        keep: number of checkpoints to keep, this one included.
        is_main: whether this process writes.
    """
    folder = run / "checkpoints" / f"step-{step:06d}"
    if is_main and folder.exists():
        shutil.rmtree(folder)  # damaged: the run was resumed from an older one
    with atomic_folder(folder) if is_main else nullcontext() as temporary:
        sharding.gather(learner.model, model.network)
        tensors, groups = _flatten(optimizer)
        heads = {key: sharding.unsharded(value) for key, value in learner.heads.state_dict().items()}
        files = {}
        if temporary is not None:
            files["model.safetensors"] = save_model(model, temporary / "model.safetensors", notes=notes)
            files["state.safetensors"] = save_tensors(tensors, temporary / "state.safetensors")
            if heads:
                files["heads.safetensors"] = save_tensors(heads, temporary / "heads.safetensors")
        if ema is not None:
            with ema.applied():
                sharding.gather(learner.model, model.network)
                if temporary is not None:
                    path = temporary / "ema.safetensors"
                    files[path.name] = save_model(model, path, notes={**notes, "ema": ema.decay})
        if temporary is not None:
            state = State(step=step, memory=loop_state, optimizer=groups, files=files)
            content = state.model_dump(exclude_unset=True) | {"sha256": state.checksum()}
            (temporary / "state.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if is_main:
        folders = checkpoint_folders(run)
        kept = folders[folders.index(folder) :][:keep]
        for other in folders:
            if other not in kept:
                shutil.rmtree(other)


def load_checkpoint(folder: Path, model: LoadedModel, learner: Learner, optimizer: Optimizer) -> State:
    """Restore weights and optimiser state in place; return the rest.

    Raises:
        UserError: the checkpoint is damaged or belongs to another model.
    """
    state = read_state(folder)
    load_weights_into(model, folder / "model.safetensors", checksum=state.files.get("model.safetensors"))
    sharding.scatter(model.network, learner.model)
    path = folder / "state.safetensors"
    tensors = load_tensors(path, checksum=state.files.get(path.name))
    with reading(path, "the optimiser state of this run"):
        _unflatten(optimizer, tensors, state.optimizer)
    if learner.heads:
        path = folder / "heads.safetensors"
        heads = load_tensors(path, checksum=state.files.get(path.name))
        check_finite(heads.items(), path)
        with reading(path, "the heads of this run"), torch.no_grad():
            for key, target in learner.heads.state_dict().items():
                target.copy_(sharding.shard_like(heads[key], target))
    return state


def load_average(folder: Path, model: LoadedModel, learner: Learner, ema: Ema) -> None:
    """Restore the moving average in place.

    Raises:
        UserError: it is missing, damaged, or belongs to another model.
    """
    with ema.applied():
        checksum = read_state(folder).files.get("ema.safetensors")
        load_weights_into(model, folder / "ema.safetensors", checksum=checksum)
        sharding.scatter(model.network, learner.model)


def _flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return an optimiser's state as tensors named `parameter.moment`, and the settings of its groups."""
    state = optimizer.state_dict()
    tensors = {
        f"{parameter}.{moment}": sharding.unsharded(torch.as_tensor(value))
        for parameter, moments in state["state"].items()
        for moment, value in moments.items()
        if value is not None
    }
    return tensors, json.loads(json.dumps(state["param_groups"]))  # lists in place of tuples


def _unflatten(optimizer: Optimizer, tensors: dict[str, Tensor], groups: Sequence[dict[str, Any]]) -> None:
    """Restore an optimiser from the result of `_flatten`, if it has the same weights and kinds of settings."""
    own = json.loads(json.dumps(optimizer.state_dict()["param_groups"]))
    # whether one kernel updates all weights depends on the device
    groups = [{**given, "fused": expected.get("fused")} for given, expected in zip(groups, own, strict=True)]
    for given, expected in zip(groups, own, strict=True):
        wrong = [key for key, value in given.items() if key in expected and _kind(value) != _kind(expected[key])]
        if wrong or given["params"] != expected["params"]:
            raise ValueError(f"its settings are not those of the run's optimiser: {', '.join(wrong) or 'params'}")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, moment = name.split(".")
        weight = weights[int(parameter)]
        if value.ndim and value.shape != weight.shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)} instead of {tuple(weight.shape)}")
        state.setdefault(int(parameter), {})[moment] = sharding.shard_like(value, weight)
    optimizer.load_state_dict({"state": state, "param_groups": list(groups)})


def _kind(value: Any) -> Any:
    """Return the kind of a setting's value: a type's name, or a list of them."""
    if isinstance(value, list):
        return [_kind(each) for each in value]
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
