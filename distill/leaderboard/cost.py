"""What the models of a leaderboard cost on this machine, all measured in one interleaved run.

Networks are exported for it, so that networks and .onnx files run in the same runtime, ONNX Runtime on the CPU.
"""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.benchmark.models import benchmark_models
from distill.benchmark.onnx_files import export_temporary, is_onnx
from distill.errors import UserError
from distill.extras import extras_named
from distill.leaderboard.entries import Entry
from distill.models.loaded import LoadedModel
from distill.models.pretrained import is_pretrained, pretrained_folder, pretrained_model
from distill.models.protocols import is_streaming

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """Cost of a model; None where it is unknown.

    Attributes:
        milliseconds: median time of one map.
        p99: 99th percentile of it.
        memory_mb: growth of a fresh process that loads the .onnx file and calls it once.
        file_mb: size of the .onnx file.
        state_mb: what a streaming network keeps between frames; 0 for one that sees whole clips.
        weights: number of weights.
        gmacs: multiply-adds per map, in 10^9.
        unknown: why it could not be measured; empty if it was.
    """

    milliseconds: float | None = None
    p99: float | None = None
    memory_mb: float | None = None
    file_mb: float | None = None
    state_mb: float | None = None
    weights: int | None = None
    gmacs: float | None = None
    unknown: str = ""


def measure_costs(
    entries: Sequence[Entry], *, rounds: int = 5, threads: int | None = None
) -> tuple[dict[str, Cost], dict[str, Any]]:
    """Return the cost of each model by the name of its entry, and the setting of the run.

    Maps and baselines have none. A network that cannot be exported has unknown costs, with a warning.

    Args:
        entries: the entries.
        rounds: interleaved rounds.
        threads: CPU threads; defaults to PyTorch's number.
    """
    models = {entry.name: entry.model for entry in entries if entry.model is not None}
    costs: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for name, model in models.items():
            try:
                with extras_named():
                    files[name] = file_of(model, Path(folder))
            except UserError as error:
                log.warning("%s: its cost is unknown: %s", name, error)
                costs[name] = Cost(unknown=str(error).partition(";")[0])
        if not files:
            return costs, {}
        log.info("measuring the cost of %s in %d interleaved rounds", ", ".join(files), rounds)
        table = benchmark_models(list(files.values()), rounds=rounds, threads=threads, device="cpu")
    for (name, _), row in zip(files.items(), table, strict=True):
        keys = ("milliseconds", "p99", "memory_mb", "file_mb", "weights", "gmacs")
        costs[name] = Cost(**{key: row[key] for key in keys}, state_mb=state_bytes(models[name]) / 1e6)
    return costs, table.setting


def file_of(model: LoadedModel, folder: Path) -> Path:
    """Return the .onnx file of a model: its own, that of a pretrained model, or a temporary export in a folder.

    Raises:
        UserError: it cannot be exported.
    """
    if is_onnx(model.reference):
        return Path(model.reference)
    if is_pretrained(model.reference):
        return pretrained_folder() / pretrained_model(model.reference).onnx.name
    return export_temporary(model, folder)


def state_bytes(model: LoadedModel) -> int:
    """Return the bytes of a streaming network's state for one video, in float32; 0 for other networks."""
    network = model.network
    return 4 * sum(map(math.prod, network.state_shapes.values())) if is_streaming(network) else 0
