"""Trackers of a run: what log.jsonl logs, also in TensorBoard, W&B and MLflow.

log.jsonl is the record of a run, and a tracker is a copy. A tracker that fails during a run is therefore dropped
with a warning, and the run continues. No tracker draws random numbers that the run depends on.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from distill.errors import UserError, shorten
from distill.extras import install_line, is_installed
from distill.files import flatten, write_json
from distill.validation import read_json

if TYPE_CHECKING:
    from distill.training.pictures import ValidationPictures
    from distill.training.tracker_services import Service

log = logging.getLogger(__name__)

RUNS = "tracking.json"
"""File of a run folder with the identifiers of the W&B and MLflow runs, which a resumed run continues."""


def check_trackers(names: Sequence[str]) -> None:
    """Check at the start of a run that the packages of its trackers are installed.

    Raises:
        UserError: one is not.
    """
    for name in names:
        if not is_installed(name):
            raise UserError(
                f"tracking: {name} is not installed; install it with: {install_line(name)}, or remove it from "
                "tracking"
            )


class Trackers:
    """The trackers of a run: none before `start`, which only the main process calls."""

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self._reached: dict[str, dict[str, int]] = {}

    def start(self, names: Sequence[str], out: Path, *, done: int, config: dict[str, Any]) -> None:
        """Start the trackers, or continue their runs.

        Args:
            names: keys of SERVICES.
            out: the run folder, which exists.
            done: number of steps that are already done.
            config: the run's config as JSON values, stored where a tracker starts another run.

        Raises:
            UserError: a tracker cannot start, and no step is done yet. In a resumed run this is a warning.
        """
        for name in dict.fromkeys(names):
            try:
                self._start(name, out.absolute(), done, config)
            except Exception as error:
                self._services.pop(name, None)
                if not done:
                    raise UserError(
                        f"tracking: {name} cannot start: {_sentence(error)}; correct this and add resume=auto, or "
                        "remove it from tracking"
                    ) from error
                _warn(name, error)

    def __bool__(self) -> bool:
        """Return whether there is a tracker."""
        return bool(self._services)

    def __enter__(self) -> Self:
        """Return the trackers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the trackers' runs with the status of the run."""
        interrupted = isinstance(error, KeyboardInterrupt)
        self.close(interrupted=interrupted, failed=error is not None and not interrupted)

    def describe(self) -> list[str]:
        """Return for each tracker where the run can be seen."""
        lines: list[str] = []
        self._each(lambda name, service: lines.append(f"tracking: {name}: {service.describe()}"))
        return lines

    def log(self, record: dict[str, Any]) -> None:
        """Log the finite numbers of a log line as `kind/key/...`, such as `train/terms/truth/cc`."""
        kind, step = record["kind"], record["step"]
        values = {
            f"{kind}/{name}": value
            for name, value in flatten(record, "/").items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        self._each(lambda name, service: service.log(values, step), kind, step)

    def log_pictures(self, pictures: "ValidationPictures", step: int) -> None:
        """Log the pictures of the validation after `step` steps."""
        try:
            drawn = pictures.draw() if self else {}
        except Exception as error:
            log.warning("tracking: no pictures of the validation after step %d: %s", step, _sentence(error))
            return
        self._each(lambda name, service: service.log_images(drawn, step), "validation", step)

    def close(self, *, interrupted: bool, failed: bool) -> None:
        """End the trackers' runs."""
        self._each(lambda name, service: service.close(interrupted=interrupted, failed=failed))
        self._services.clear()

    def _start(self, name: str, out: Path, done: int, config: dict[str, Any]) -> None:
        """Start a tracker, or continue its run; note the identifier of its run and which steps it has."""
        from distill.training.tracker_services import SERVICES, TrackedRun, flat_config

        path = out / RUNS
        runs = read_json(path, dict[str, str], "the trackers' runs") if path.exists() else {}
        service: Service = SERVICES[name](TrackedRun(out, done, runs.get(name)))
        service.start()
        self._services[name] = service
        if service.id is not None and runs.get(name) != service.id:
            write_json(path, runs | {name: service.id})
        if name in runs:
            self._reached[name] = service.reached()
        elif service.id is not None or not done:
            service.store_init_configuration(flat_config(config))

    def _each(self, work: Callable[[str, "Service"], object], kind: str = "", step: int = 0) -> None:
        """Do some work with each tracker that lacks a step of a kind of log line; drop those that fail."""
        for name, service in list(self._services.items()):
            if kind and step <= self._reached.get(name, {}).get(kind, 0):
                continue  # logged before the run was interrupted, with the same numbers
            try:
                work(name, service)
            except Exception as error:
                del self._services[name]
                _warn(name, error)
                try:
                    service.close(interrupted=False, failed=True)
                except Exception as again:
                    log.debug("tracking: %s: %s", name, again)


def _warn(name: str, error: Exception) -> None:
    log.warning(
        "tracking: %s failed and is switched off: %s; the run continues, and log.jsonl has every number",
        name,
        _sentence(error),
    )


def _sentence(error: Exception) -> str:
    """Return the first line of an error."""
    lines = str(error).strip().splitlines()
    return shorten(lines[0], 300) if lines else type(error).__name__
