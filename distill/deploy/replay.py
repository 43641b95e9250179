"""Replay golden vectors in a loaded model, and compare its maps with PyTorch's."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.deploy.calibration_clips import agreement
from distill.deploy.golden_vectors import TOLERANCES, GoldenVectors
from distill.runtimes.onnx_check import peak_maps


@dataclass(frozen=True)
class Replay:
    """Differences from the golden vectors, and the time of each call.

    Attributes:
        max_error: largest difference of a map, for maps whose maximum is 1; NaN if a map is not finite.
        cc: mean linear correlation of the maps.
        lowest_cc: lowest one.
        state_error: largest difference of a next state; None if the runtime keeps the state, and in clip mode.
        seconds: of each call.
    """

    max_error: float
    cc: float
    lowest_cc: float
    state_error: float | None
    seconds: list[float]

    def problem(self, precision: str) -> str | None:
        """Return what exceeds the tolerance of a precision, or None."""
        tolerance = TOLERANCES[precision]
        if not self.max_error <= tolerance.max_error:  # NaN fails too
            return f"max error {self.max_error:.2g}, at most {tolerance.max_error:g} in {precision}"
        if not self.cc >= tolerance.min_cc:
            return f"CC {self.cc:.4f}, at least {tolerance.min_cc:g} in {precision}"
        return None


def replay(edge: Any, vectors: GoldenVectors) -> Replay:
    """Run the calls of golden vectors.

    Args:
        edge: a `student.edge.EdgeModel` in any runtime.
        vectors: of the same model.

    Raises:
        ValueError: the runtime cannot run the model.
    """
    state: dict[str, Any] = {}
    maps, seconds, state_errors = [], [], []
    for call in range(len(vectors.calls)):
        images = vectors.inputs(call)
        if edge.mode == "clip":
            started = time.perf_counter()
            found = edge(images)
            seconds.append(time.perf_counter() - started)
        else:
            if vectors.resets(call):
                state = edge.initial_state()
            started = time.perf_counter()
            found, state = edge.step(images, state)
            seconds.append(time.perf_counter() - started)
            state_errors += [
                float(np.abs(state[name][0] - expected[call]).max())
                for name, expected in vectors.states.items()
                if name in edge.state_shapes
            ]
        maps.append(found[0])
    expected_maps = peak_maps(vectors.maps, vectors.metadata["output"]["values"])
    found_maps = peak_maps(np.stack(maps), "peak")
    with np.errstate(invalid="ignore"):
        error = float(np.abs(found_maps - expected_maps).max())
    h, w = expected_maps.shape[-2:]
    cc = agreement(found_maps.reshape(-1, h, w), expected_maps.reshape(-1, h, w))
    return Replay(error, float(cc.mean()), float(cc.min()), max(state_errors) if state_errors else None, seconds)
