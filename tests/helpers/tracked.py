"""Read back what trackers stored of a run: numbers as {name: [(step, value), ...]}, config, pictures."""

import io
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

Curves = dict[str, list[tuple[int, float]]]


def curves(tracker: str, run: Path) -> Curves:
    """Return all numbers that a tracker has of a run, in the order in which it has them."""
    return {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}[tracker](run)


def config(tracker: str, run: Path) -> dict[str, Any]:
    """Return the config that a tracker has of a run; MLflow and TensorBoard have texts."""
    if tracker == "tensorboard":
        text = event_accumulator(run).Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
        rows = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
        return {row[0]: row[1] if len(row) > 1 else "" for row in rows}
    if tracker == "mlflow":
        return dict(mlflow_run(run).data.params)
    records = [record for file in wandb_files(run) for record in wandb_records(file)]
    updates = [item for record in records if record.HasField("config") for item in record.config.update]
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def pictures(tracker: str, run: Path) -> dict[tuple[str, int], np.ndarray]:
    """Return the pictures that a tracker has of a run, by name (with `_` in place of `/`) and step."""
    found = {}
    if tracker == "tensorboard":
        events = event_accumulator(run)
        for name in events.Tags()["images"]:
            for event in events.Images(name):
                found[name, event.step] = np.array(Image.open(io.BytesIO(event.encoded_image_string)))
    elif tracker == "wandb":
        for path in run.glob("wandb/*/files/media/images/pictures/*.png"):
            name, step, _ = path.name.rsplit("_", 2)
            found[f"pictures/{name}", int(step)] = np.array(Image.open(path))
    else:
        for path in run.glob("mlflow/artifacts/*/artifacts/images/*.png"):
            name, _, step, *_ = path.name.split("+")
            found[name.replace("~", "/"), int(step)] = np.array(Image.open(path))
    return found


def event_accumulator(run: Path) -> Any:
    """Return the content of a run's TensorBoard files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return events.Reload()


def mlflow_run(run: Path) -> Any:
    """Return the only MLflow run in a run folder."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.absolute()}/mlflow/mlflow.db")
    (found,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return found


def wandb_files(run: Path) -> list[Path]:
    """Return the W&B files of a run folder, in order: one per start of the run."""
    return sorted(run.glob("wandb/*run-*/*.wandb"))


def wandb_records(path: Path) -> list[Any]:
    """Return the records of a W&B file, once W&B's process has flushed its last one, a moment after `finish`."""
    deadline = time.monotonic() + 60
    while True:
        records = [Record.FromString(content) for content in _leveldb_records(path.read_bytes())]
        if records and records[-1].HasField("exit"):
            return records
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def _leveldb_records(content: bytes) -> Iterator[bytes]:
    """Yield the complete records of a file in LevelDB's log format: blocks of 32 KiB with parts of records."""
    place, part = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += 7
        if place + length > len(content):
            return
        part += content[place : place + length]
        place += length
        if kind in (1, 4):  # whole, or the last part
            yield part
            part = b""


def _tensorboard(run: Path) -> Curves:
    events = event_accumulator(run)
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def _wandb(run: Path) -> Curves:
    found: Curves = {}
    for file in wandb_files(run):
        for record in wandb_records(file):
            if record.HasField("history"):
                row = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                for name, value in row.items():
                    kind = name.partition("/")[0]
                    if kind in ("train", "validation", "final"):
                        found.setdefault(name, []).append((row[f"{kind}/step"], value))
    return found


def _mlflow(run: Path) -> Curves:
    from mlflow import MlflowClient

    client, found = MlflowClient(f"sqlite:///{run.absolute()}/mlflow/mlflow.db"), mlflow_run(run)
    return {
        name: [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
