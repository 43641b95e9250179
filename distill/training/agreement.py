"""Checks that all processes of a run, on one machine or several, have the same config, data and checkpoint.

Without them, different files on two machines would train something that no config describes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from distill.data.clip_dataset import ClipDataset
from distill.errors import UserError
from distill.files import flatten
from distill.targets.fingerprint import describe_video
from distill.targets.store import first_few
from distill.training.checkpoint import newest_checkpoint, read_state
from distill.training.config import RunConfig
from distill.training.processes import name_of, on_every, on_main
from distill.training.teachers import Teacher


def check_agreement(accelerator: Accelerator, what: str, values: Mapping[str, str], remedy: str) -> None:
    """Check that all processes have the same values; every process calls this.

    Args:
        accelerator: the accelerator of the run.
        what: what the values describe, for the message.
        values: the values by name, whose order counts.
        remedy: what to do otherwise.

    Raises:
        UserError: on every process, naming the first one that differs from the main process, and in what.
    """
    digest = hashlib.sha256(json.dumps(list(values.items())).encode()).hexdigest()
    if len(set(gather_object([digest]))) == 1:
        return
    [expected] = broadcast_object_list([dict(values)])
    names = [name for name in {**expected, **values} if values.get(name) != expected.get(name)]
    difference = None
    if names or list(values) != list(expected):
        where = first_few(names) or "the order"
        difference = f"{name_of(accelerator)} differs from the main process in {where}"
    differences = [each for each in gather_object([difference]) if each is not None]
    raise UserError(f"{what}: {differences[0]}; {remedy}")


def check_same_checkpoint(accelerator: Accelerator, run: Path, checkpoint: Path | None) -> None:
    """Check that every process reads the checkpoint that the main process resumes from.

    Args:
        accelerator: the accelerator of the run.
        run: the run folder.
        checkpoint: the main process's checkpoint; None if it starts a new run.

    Raises:
        UserError: on every process, if one has no or another checkpoint, or has one and the main process has none.
    """
    expected = None if checkpoint is None else on_main(accelerator, lambda: read_state(checkpoint).checksum())
    remedy = f"share the folder {run} between the nodes, or give each a copy of the main process's"

    def compare() -> None:
        if checkpoint is None:
            if (other := newest_checkpoint(run)) is not None:
                raise UserError(f"{other}: the main process has no checkpoint of this run; {remedy}")
        elif not (checkpoint / "state.json").exists():
            raise UserError(f"{checkpoint}: missing; every process resumes from it; {remedy}")
        elif read_state(checkpoint).checksum() != expected:
            raise UserError(f"{checkpoint}: is not the main process's checkpoint of that name; {remedy}")

    on_every(accelerator, compare)


def check_same_data(accelerator: Accelerator, clips: ClipDataset, teachers: Sequence[Teacher]) -> None:
    """Check that all processes train on the same videos, by name, number of frames and bytes, and target stores.

    Raises:
        UserError: they do not.
    """
    if accelerator.num_processes == 1:
        return
    values = {}
    for number, source in enumerate(clips.sources):
        for video in source.videos:
            described = {} if video.path.is_dir() else describe_video(video, content=False)
            frames = [video.num_frames, len(video.frames), *video.frames[:1], *video.frames[-1:]]
            labelled = video.truth is not None
            content = f"{described} {frames} {video.fps} {video.size} {labelled}"
            values[f"data.train[{number}] {video.name}"] = content
    for teacher in teachers:
        for name, store in teacher.stores.items():
            values[f"the target store of {name}"] = json.dumps(store.fingerprint)
    remedy = "each node needs the same data at the same path"
    check_agreement(accelerator, "training data", values, remedy)


def check_same_config(config: RunConfig, accelerator: Accelerator) -> None:
    """Check that all processes run the same config, other than devices.

    Raises:
        UserError: they do not.
    """
    values = {key: str(value) for key, value in flatten(config.model_dump(mode="json")).items()}
    values = {key: value for key, value in values.items() if not key.endswith("device")}
    check_agreement(accelerator, "config", values, "give every process the same config and settings")
