"""Checkpoints of a run, written atomically and restored from the newest one.

    RUN/best.safetensors                           weights with the best validation score
    RUN/checkpoints/step-000120/model.safetensors  weights after step 120
                               /state.safetensors  optimiser state
                               /heads.safetensors  projections and side maps, if the losses need any
                               /state.json         step, optimiser settings and the state of the loop
                               /ema.safetensors    moving average of the weights, with training.ema

A folder is written under a temporary name, flushed to disk and renamed; older ones are removed afterwards. Random
state and the position in the data are not stored, because they are functions of the seed and the step.
"""

import json
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from distill.errors import UserError
from distill.files import atomic_folder
from distill.models.loaded import LoadedModel
from distill.models.weight_files import load_weights_into, save_model
from distill.training import sharding
from distill.training.ema import Ema
from distill.training.heads import Learner


def newest_checkpoint(run: Path) -> Path | None:
    """Return the run's newest checkpoint folder; None if it has no checkpoint."""
    folders = [folder for folder in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", folder.name)]
    return max(folders, key=lambda folder: int(folder.name.removeprefix("step-")), default=None)


def save_checkpoint(
    run: Path,
    step: int,
    model: LoadedModel,
    learner: Learner,
    optimizer: Optimizer,
    loop_state: dict[str, Any],
    notes: dict[str, Any],
    ema: Ema | None = None,
    *,
    is_main: bool = True,
) -> None:
    """Write the state after `step` steps and remove older checkpoints; every process calls this.

    Args:
        run: the run folder.
        step: number of finished steps.
        model: the unsharded model, which is saved.
        learner: the model and its heads, or a sharded copy of them (`sharding.py`).
        optimizer: the unwrapped optimiser.
        loop_state: other state of the loop, as JSON values.
        notes: notes of the weight file, as JSON values.
        ema: moving average of the learner's model.
        is_main: whether this process writes.
    """
    folder = run / "checkpoints" / f"step-{step:06d}"
    older = [other for other in folder.parent.glob("step-*") if other != folder]
    with atomic_folder(folder) if is_main else nullcontext() as temporary:
        sharding.gather(learner.model, model.network)
        tensors, groups = _flatten(optimizer)
        heads = {key: sharding.unsharded(value).contiguous() for key, value in learner.heads.state_dict().items()}
        if temporary is not None:
            save_model(model, temporary / "model.safetensors", notes=notes)
            save_file(tensors, temporary / "state.safetensors")
            if heads:
                save_file(heads, temporary / "heads.safetensors")
            state = {"step": step, "memory": loop_state, "optimizer": groups}
            (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
        if ema is not None:
            with ema.applied():
                sharding.gather(learner.model, model.network)
                if temporary is not None:
                    save_model(model, temporary / "ema.safetensors", notes={**notes, "ema": ema.decay})
    if is_main:
        for other in older:
            shutil.rmtree(other)


def load_checkpoint(
    folder: Path, model: LoadedModel, learner: Learner, optimizer: Optimizer
) -> tuple[int, dict[str, Any]]:
    """Restore weights and optimiser state in place; return the number of finished steps and the loop's state.

    Raises:
        UserError: the checkpoint is damaged or belongs to another model.
    """
    load_weights_into(model, folder / "model.safetensors")
    sharding.scatter(model.network, learner.model)
    try:
        state = json.loads((folder / "state.json").read_text())
        tensors = load_file(folder / "state.safetensors")
        heads = load_file(folder / "heads.safetensors") if learner.heads else {}
        with torch.no_grad():
            for key, target in learner.heads.state_dict().items():
                target.copy_(sharding.shard_like(heads[key], target))
        _unflatten(optimizer, tensors, state["optimizer"])
        return state["step"], state["memory"]
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged checkpoint ({error}); remove it and resume again") from error


def load_average(folder: Path, model: LoadedModel, learner: Learner, ema: Ema) -> None:
    """Restore the moving average in place.

    Raises:
        UserError: it is missing, damaged, or belongs to another model.
    """
    with ema.applied():
        load_weights_into(model, folder / "ema.safetensors")
        sharding.scatter(model.network, learner.model)


def _flatten(optimizer: Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Return an optimiser's state as tensors named `parameter.moment`, and the settings of its groups."""
    state = optimizer.state_dict()
    tensors = {
        f"{parameter}.{moment}": sharding.unsharded(torch.as_tensor(value)).contiguous()
        for parameter, moments in state["state"].items()
        for moment, value in moments.items()
        if value is not None
    }
    return tensors, state["param_groups"]


def _unflatten(optimizer: Optimizer, tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, moment = name.split(".")
        state.setdefault(int(parameter), {})[moment] = sharding.shard_like(value, weights[int(parameter)])
    optimizer.load_state_dict({"state": state, "param_groups": groups})
