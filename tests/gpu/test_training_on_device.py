"""Training on a GPU: precisions, gradient scaling, resuming, moving average, compiling, recomputing."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.devices import CUDA, DEVICES, cases
from helpers.runs import STEPS, config, losses, weights
from safetensors.torch import load_file

from distill.data.loader import make_loader
from distill.errors import RunError
from distill.training import setup
from distill.training.config import RunConfig
from distill.training.objective import Objective
from distill.training.terms import LossSection
from distill.training.train import prepare_loop, to_device, train

WHOLE = {"model": {"name": "teacher/salfom", "variant": "micro"}}
"""Without stochastic depth, whose random numbers differ between devices."""

TRAINING = {"steps": STEPS, "batch_size": 2, "accumulate": 2, "clip_norm": 1.0, "checkpoint_every": 2}

PRECISIONS = cases(("fp32", "bf16"), ("fp32", "bf16", "fp16"))

TOLERANCE = {"fp32": 1e-3, "bf16": 0.05, "fp16": 0.01}
"""Largest difference of the losses of five steps from those on the CPU in fp32."""


def run_on(folder: Path, device: str, *, whole: bool = True, **changes: Any) -> RunConfig:
    """Return a run; `changes` are keys of its training section."""
    resume = changes.pop("resume", "never")
    given = {"training": {**TRAINING, **changes}, "device": device, "resume": resume}
    return config(folder, **given, **(WHOLE if whole else {}))


def loss_values(run: Path) -> list[float]:
    return [line[1] for line in losses(run)]


def state(run: Path, step: int = STEPS) -> dict[str, Any]:
    return json.loads((run / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the CPU in fp32."""
    run = train(run_on(tmp_path_factory.mktemp("reference") / "run", "cpu", ema=0.9))
    AcceleratorState._reset_state(reset_partial_state=True)  # which holds the device and the precision
    return run


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], None]:
    """A function that gives runs a gradient scaler with an initial scale; the CPU's runs have none of their own."""

    def give(device: str, scale: float) -> None:
        real = setup.build_accelerator

        def build(run: RunConfig) -> Accelerator:
            accelerator = real(run)
            accelerator.scaler = torch.amp.GradScaler(device, init_scale=scale)
            return accelerator

        monkeypatch.setattr(setup, "build_accelerator", build)

    return give


@pytest.mark.parametrize(("device", "precision"), PRECISIONS)
def test_run_has_the_losses_of_the_cpu(device: str, precision: str, reference: Path, tmp_path: Path) -> None:
    run = train(run_on(tmp_path / "run", device, precision=precision))
    assert loss_values(run) == pytest.approx(loss_values(reference), abs=TOLERANCE[precision])
    assert all(each.dtype == torch.float32 for each in weights(run).values() if each.is_floating_point())


@pytest.mark.parametrize("device", DEVICES)
def test_moving_average_is_that_of_the_cpu(device: str, reference: Path, tmp_path: Path) -> None:
    run = train(run_on(tmp_path / "run", device, ema=0.9))
    name = f"checkpoints/step-{STEPS:06d}/ema.safetensors"
    ours, theirs = load_file(run / name), load_file(reference / name)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        # Adam's first steps move a weight by lr, 1e-3, in the direction of a gradient that may be rounding error
        torch.testing.assert_close(value, theirs[key], atol=5e-3, rtol=0, msg=key)
    assert any(not torch.equal(value, weights(run)[key]) for key, value in ours.items())


@pytest.mark.parametrize(("device", "precision"), PRECISIONS)
def test_resumed_run_equals_an_uninterrupted_one(device: str, precision: str, tmp_path: Path) -> None:
    """With stochastic depth, whose random numbers a resumed run repeats."""
    options = {"whole": False, "precision": precision, "ema": 0.9}
    straight = train(run_on(tmp_path / "straight", device, **options))
    with pytest.raises(KeyboardInterrupt):
        train(run_on(tmp_path / "stopped", device, **options), stop=lambda step, batch: step == 2)
    stopped = train(run_on(tmp_path / "stopped", device, resume="auto", **options))
    tolerance = 0 if device == "cpu" else 1e-3  # some CUDA kernels add in no fixed order
    assert loss_values(stopped) == pytest.approx(loss_values(straight), abs=tolerance)
    for key, value in weights(stopped).items():
        torch.testing.assert_close(value, weights(straight)[key], atol=5 * tolerance, rtol=0, msg=key)


@pytest.mark.parametrize(("device", "precision"), cases(("fp32",), ("fp16",)))
def test_resumed_scaler_continues_its_state(
    device: str, precision: str, scaled: Callable[[str, float], None], tmp_path: Path
) -> None:
    scaled(device, 256.0)
    straight = train(run_on(tmp_path / "straight", device, precision=precision))
    with pytest.raises(KeyboardInterrupt):
        train(run_on(tmp_path / "stopped", device, precision=precision), stop=lambda step, batch: step == 2)
    assert state(tmp_path / "stopped", 3)["memory"]["scaler"]["_growth_tracker"] == 3
    scaled(device, 2.0)  # must be replaced by the checkpoint's
    stopped = train(run_on(tmp_path / "stopped", device, precision=precision, resume="auto"))
    found = state(stopped)["memory"]["scaler"]
    assert found == state(straight)["memory"]["scaler"]
    assert (found["scale"], found["_growth_tracker"]) == (256.0, STEPS)


@pytest.mark.parametrize(("device", "precision"), cases(("fp32",), ("fp16",)))
def test_step_with_an_infinite_gradient_is_skipped(
    device: str, precision: str, scaled: Callable[[str, float], None], tmp_path: Path
) -> None:
    scaled(device, 2.0**127)
    changes = {"precision": precision, "steps": 1, "clip_norm": None}
    run = train(run_on(tmp_path / "run", device, **changes))
    name = "checkpoints/step-000001/model.safetensors"
    first = setup.build_model(run_on(tmp_path / "other", device, **changes)).network.state_dict()
    assert all(torch.equal(value, first[key]) for key, value in load_file(run / name).items())
    assert state(run, 1)["memory"]["scaler"]["scale"] == 2.0**126
    assert math.isfinite(loss_values(run)[0])


@pytest.mark.parametrize("device", DEVICES)
def test_resumed_optimiser_lies_where_a_new_one_does(device: str, tmp_path: Path) -> None:
    """Adam's step counts stay on the CPU: on the GPU, every step would wait for each of them."""
    run = run_on(tmp_path / "run", device, steps=2)
    train(run)
    again = run_on(tmp_path / "run", device, steps=2, resume="auto")
    accelerator = setup.build_accelerator(again)
    loop = prepare_loop(again, accelerator, setup.build_parts(again, accelerator))
    assert loop.done == 2
    states = [*loop.parts.optimizer.state.items()]
    assert states
    for weight, moments in states:
        assert weight.device.type == moments["exp_avg"].device.type == device
        assert moments["step"].device.type == "cpu"
        assert moments["step"].item() == 2


@pytest.mark.parametrize("device", DEVICES)
def test_recomputing_changes_no_loss(device: str, tmp_path: Path) -> None:
    plain = train(run_on(tmp_path / "plain", device, whole=False, steps=2))
    lean = train(run_on(tmp_path / "lean", device, whole=False, steps=2, recompute=True))
    assert loss_values(lean) == pytest.approx(loss_values(plain), abs=1e-4)


@pytest.mark.parametrize(("device", "precision"), cases((), ("fp32", "bf16")))
def test_compiled_run_has_the_losses_of_an_eager_one(device: str, precision: str, tmp_path: Path) -> None:
    """On the CPU, tests/distill/training/test_options.py does the same."""
    options = {"steps": 2, "accumulate": 1, "precision": precision}
    eager = train(run_on(tmp_path / "eager", device, **options))
    fast = train(run_on(tmp_path / "compiled", device, compile=True, **options))
    assert loss_values(fast) == pytest.approx(loss_values(eager), abs=1e-3 if precision == "fp32" else 0.02)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_copied_from_pinned_memory(device: str, tmp_path: Path) -> None:
    run = run_on(tmp_path / "run", device)
    parts = setup.build_parts(run, setup.build_accelerator(run))
    for workers in (0, 1):
        (batch,) = make_loader(parts.clips, iter([[0, 1]]), workers=workers, pin_memory=device == "cuda")
        assert batch["clip"].is_pinned() == (device == "cuda")
        there = to_device(batch, torch.device(device))["clip"]
        assert there.device.type == device
        for index in range(2):
            assert torch.equal(there[index].cpu(), parts.clips[index]["clip"])


@pytest.mark.parametrize("device", DEVICES)
def test_counting_maps_does_not_wait_for_the_device(device: str) -> None:
    labelled = torch.tensor([[True], [False], [True]], device=device)
    objective = Objective([LossSection(name="kldiv", against="truth"), LossSection(name="cc", against="teacher")])
    batch = {"labelled": labelled, "teacher_present": torch.tensor([[True], [True], [False]], device=device)}
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = objective.counts(batch)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert (found.dtype, found.device.type) == (torch.float32, device)
    assert found.tolist() == [2, 3, 2, 0, 2, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_out_of_memory_in_training_is_one_sentence(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(self: Objective, *_: Any, **__: Any) -> None:
        torch.empty(2**50, dtype=torch.uint8, device=device)

    monkeypatch.setattr(Objective, "__call__", too_large)
    with pytest.raises(RunError) as caught:
        train(run_on(tmp_path / "run", device, batch_size=3))
    start = "training.batch_size 3: out of memory on "
    assert str(caught.value).startswith(start + ("the CPU; use" if device == "cpu" else "cuda"))
    assert str(caught.value).endswith("training.recompute=true or training.precision=bf16")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", [CUDA])
def test_run_after_out_of_memory_succeeds(device: str, tmp_path: Path) -> None:
    """The memory of the failed batch is free again; a limit of the process stands for a small card."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    model = {"model": {"name": "teacher/salfom", "variant": "tiny"}}
    large = {"steps": 1, "batch_size": 256, "accumulate": 1}
    try:
        with pytest.raises(RunError, match=r"training\.batch_size 256: out of memory on cuda"):
            train(config(tmp_path / "large", device=device, training=large, **model))
        torch.cuda.empty_cache()
        train(config(tmp_path / "small", device=device, training={**large, "batch_size": 1}, **model))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
