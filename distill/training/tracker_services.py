"""TensorBoard, W&B and MLflow: accelerate's trackers with a run's folders, resumption and pictures.

Each class adds to accelerate's tracker what a run needs and accelerate leaves open: where the files belong, how a
resumed run continues, which steps the service has already, and the status with which a run ends.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

import numpy as np
from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

from distill.errors import shorten
from distill.files import flatten

PROJECT = "saldistill"
"""Default name of the W&B project and of the MLflow experiment."""

MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # training waits while MLflow retries, by default for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to --json
}
"""Environment variables of MLflow that hold while it is called, where the user sets none."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker knows of a run.

    Attributes:
        folder: absolute path of the run folder.
        done: number of steps that are already done.
        id: identifier of the service's run to continue; None starts another.
    """

    folder: Path
    done: int = 0
    id: str | None = None


class Service(Protocol):
    """A tracker, with accelerate's methods and those that the classes here add."""

    @property
    def id(self) -> str | None:
        """Identifier of the service's run, by which a resumed run continues it; None if it needs none."""

    def start(self) -> None:
        """Connect to the service, or open its files."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Store the run's config, keys separated by dots."""

    def reached(self) -> dict[str, int]:
        """Return the last step of each kind of log line that the service has, where it reports it."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers by name."""

    def log_images(self, values: dict[str, np.ndarray], step: int) -> None:
        """Log pictures (1, H, W, 3) uint8 RGB by name."""

    def close(self, *, interrupted: bool, failed: bool) -> None:
        """End the run and close the files."""

    def describe(self) -> str:
        """Return where the run can be seen, for a message."""


class TensorBoard(TensorBoardTracker):
    """TensorBoard event files in `OUT/tensorboard`; those of a resumed run replace the steps that it repeats."""

    id = None

    def __init__(self, run: TrackedRun) -> None:
        super().__init__("tensorboard", run.folder, purge_step=run.done + 1)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log the config as a table, which TensorBoard shows under Text."""
        rows = "".join(f"| {key} | {_as_text(value)} |\n" for key, value in values.items())
        self.writer.add_text("config", f"| key | value |\n|---|---|\n{rows}")

    def reached(self) -> dict[str, int]:
        """Return nothing: `purge_step` hides the steps that are logged again."""
        return {}

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers by name, other than the step, TensorBoard's horizontal axis."""
        super().log({name: value for name, value in values.items() if name.partition("/")[2] != "step"}, step=step)

    def log_images(self, values: dict[str, np.ndarray], step: int) -> None:
        """Log pictures (1, H, W, 3) uint8 RGB by name."""
        super().log_images(values, step=step, dataformats="NHWC")

    def close(self, *, interrupted: bool, failed: bool) -> None:
        """Close the files."""
        self.finish()

    def describe(self) -> str:
        """Return the command that shows the run."""
        return f"tensorboard --logdir {quote(self.logging_dir)}"


class WandB(WandBTracker):
    """A W&B run with its files in `OUT/wandb`: offline, unless the environment variable WANDB_MODE says otherwise.

    W&B drops what is logged for an earlier step than the last one. A run that is resumed online therefore logs
    such lines at the last step, and charts use the step of the line, `train/step`, instead.
    """

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.folder = run.folder
        super().__init__(
            os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.id,
            resume="allow",
            name=os.environ.get("WANDB_NAME", run.folder.name),
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off"),  # or it would print over the progress bar
        )

    @property
    def id(self) -> str | None:
        """Identifier of the W&B run; None if W&B is disabled."""
        return None if self.run.disabled else str(self.run.id)

    def start(self) -> None:
        """Start the W&B run; charts show the step of the log lines."""
        super().start()
        for kind in ("train", "validation", "final"):
            self.run.define_metric(f"{kind}/step", hidden=True)
            self.run.define_metric(f"{kind}/*", step_metric=f"{kind}/step")

    def reached(self) -> dict[str, int]:
        """Return the last step of each kind, which W&B reports online."""
        return _steps_in(dict(self.run.summary))

    def log(self, values: dict[str, Any], step: int) -> None:
        """Log numbers or W&B's pictures by name."""
        super().log(values, step=max(step, self.run.step))

    def close(self, *, interrupted: bool, failed: bool) -> None:
        """End the W&B run, which uploads the rest of it online."""
        self.run.finish(exit_code=1 if failed or interrupted else 0)

    def describe(self) -> str:
        """Return the address of the run, or the command that uploads it."""
        if self.run.disabled:
            return "disabled by WANDB_MODE"
        offline = f"offline; wandb sync {quote(str(self.folder))}/wandb/offline-run-*"
        return offline if self.run.offline else str(self.run.url)


class MLflow(MLflowTracker):
    """An MLflow run, in a store in `OUT/mlflow` unless the variable MLFLOW_TRACKING_URI names another."""

    def __init__(self, run: TrackedRun) -> None:
        self.folder = run.folder / "mlflow"
        with mlflow_environment(self.folder) as own_store:
            artifacts = (self.folder / "artifacts").as_uri() if own_store else None
        super().__init__(PROJECT, logging_dir=artifacts, run_id=run.id, run_name=run.folder.name)

    @property
    def id(self) -> str | None:
        """Identifier of the MLflow run."""
        return str(self.active_run.info.run_id)

    def start(self) -> None:
        """Start or continue the MLflow run."""
        if "MLFLOW_LOGGING_LEVEL" not in os.environ:
            logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports each table that it creates
        with mlflow_environment(self.folder) as own_store:
            if own_store:
                self.folder.mkdir(exist_ok=True)
            super().start()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log the config as parameters, cut to the length that MLflow accepts."""
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

        cut = {_mlflow_name(key): shorten(_as_text(value), MAX_PARAM_VAL_LENGTH) for key, value in values.items()}
        with mlflow_environment(self.folder):
            super().store_init_configuration(cut)

    def reached(self) -> dict[str, int]:
        """Return the last step of each kind."""
        import mlflow

        with mlflow_environment(self.folder):
            return _steps_in(mlflow.get_run(self.active_run.info.run_id).data.metrics)

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers by name; characters that MLflow does not accept become `_`."""
        with mlflow_environment(self.folder):
            super().log({_mlflow_name(name): value for name, value in values.items()}, step=step)

    def log_images(self, values: dict[str, np.ndarray], step: int) -> None:
        """Log pictures (1, H, W, 3) uint8 RGB by name."""
        import mlflow

        with mlflow_environment(self.folder):
            for name, pictures in values.items():
                mlflow.log_image(pictures[0], key=name, step=step)

    def close(self, *, interrupted: bool, failed: bool) -> None:
        """End the MLflow run."""
        import mlflow

        with mlflow_environment(self.folder):
            mlflow.end_run("FAILED" if failed else "KILLED" if interrupted else "FINISHED")

    def describe(self) -> str:
        """Return the command that shows the run, or the address of its store."""
        import mlflow

        with mlflow_environment(self.folder) as own_store:
            uri = mlflow.get_tracking_uri()
        return f"mlflow ui --backend-store-uri {quote(uri)}" if own_store else f"run {self.id} in {uri}"


SERVICES: Mapping[str, type[Any]] = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""Name in `tracking`, which is also the package's, -> the tracker."""


@contextmanager
def mlflow_environment(folder: Path) -> Iterator[bool]:
    """Set MLflow's defaults in the block; yield whether the run's own store in `folder` is in use."""
    import mlflow

    own_store = not mlflow.is_tracking_uri_set()
    defaults = dict(MLFLOW_DEFAULTS)
    if own_store:
        defaults["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        defaults["_MLFLOW_SERVER_ARTIFACT_ROOT"] = str(folder / "artifacts")  # otherwise it creates ./mlruns
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield own_store
    finally:
        for name in missing:
            del os.environ[name]


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config by the keys that override it, e.g. `losses.0.weight`."""
    return flatten({name: _numbered(value) for name, value in config.items()})


def _numbered(value: Any) -> Any:
    """Return nested sections with lists of sections as mappings from their number."""
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        value = {str(number): each for number, each in enumerate(value)}
    return {key: _numbered(each) for key, each in value.items()} if isinstance(value, dict) else value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mlflow_name(name: str) -> str:
    """Return a name for MLflow: with `_` in place of what it does not accept, and cut to its limit."""
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH

    return shorten(re.sub(r"[^\w.\-/ :]", "_", name, flags=re.ASCII), MAX_ENTITY_KEY_LENGTH)


def _steps_in(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the last step of each kind of log line from the last values of a service."""
    return {name.removesuffix("/step"): int(value) for name, value in values.items() if name.endswith("/step")}
