"""The training loop, for teachers, students and distillation, on one process or several (accelerate).

    saldistill train @teacher/demo
    accelerate launch scripts/train_teacher.py configs/teacher/demo.yaml

All randomness of a step (clips, their positions, mirroring, stochastic depth) is a function of the seed and the
step. A checkpoint therefore only holds weights, optimiser state and the step, and a resumed run is bit-identical to
an uninterrupted one.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill.data.loader import make_loader
from distill.errors import RunError, Terminated, UserError
from distill.files import write_json
from distill.models.device import memory_needed, moved
from distill.training import run_folder, setup, sharding
from distill.training.agreement import check_same_checkpoint, check_same_config
from distill.training.checkpoint import (
    LoopState,
    load_average,
    load_checkpoint,
    newest_intact_checkpoint,
    save_checkpoint,
)
from distill.training.config import RunConfig, save_config
from distill.training.ema import Ema
from distill.training.encoder_layers import train_mode
from distill.training.gate_report import GATES_FILE
from distill.training.model_pins import pin_models
from distill.training.objective import ClipBatch, StepLoss
from distill.training.pictures import ValidationPictures
from distill.training.processes import on_every, on_main
from distill.training.read_ahead import read_ahead
from distill.training.schedule import learning_rate_factor
from distill.training.step_log import StepLog
from distill.training.step_results import read_results
from distill.training.team import Team
from distill.training.trackers import Trackers, check_trackers
from distill.training.validation import check_runtime, validate

Stop = Callable[[int, int], bool]

LESS_MEMORY = "use a smaller batch with training.accumulate, training.recompute=true or training.precision=bf16"


def train(config: RunConfig, *, stop: Stop | None = None, runtime: str | None = None) -> Path:
    """Train as configured, resuming an interrupted run if `config.resume` is auto; return the run folder.

    Args:
        config: the run.
        stop: called after every batch with (step, batch within the step), both from 0; True stops the run after
            that step, as Ctrl-C does.
        runtime: what runs the network in the validation after the last step, see `InferenceSettings`. Earlier
            validations run in PyTorch, because each has other weights.

    Raises:
        UserError: the config does not fit the machine, the data, the teacher, the folder or the runtime.
        RunError: the loss or the gradient is not finite, or a batch does not fit the device's memory.
        KeyboardInterrupt: the run was stopped; its state is saved. Terminated if SIGTERM stopped it.
    """
    check_runtime(config, runtime)
    accelerator = setup.build_accelerator(config)
    check_same_config(config, accelerator)
    config = on_main(accelerator, partial(pin_models, config)) or config
    with ExitStack() as claims:  # until the run ends
        on_main(accelerator, lambda: check_trackers(config.tracking))
        on_main(accelerator, lambda: claims.enter_context(run_folder.claim_run(config)))
        size = f"training.batch_size {config.training.batch_size}"
        claims.enter_context(memory_needed(size, accelerator.device, LESS_MEMORY))
        parts = setup.build_parts(config, accelerator)
        loop = prepare_loop(config, accelerator, parts, runtime=runtime)
        out = Path(config.out)
        trackers = claims.enter_context(Trackers())
        on_main(accelerator, lambda: open_folder(config, loop, trackers))
        with (
            StepLog(
                out,
                start=loop.done,
                steps=parts.steps,
                quiet=not accelerator.is_main_process,
                trackers=trackers,
            ) as log,
            interruptible() as interruption,
        ):
            loop.run(log, interruption, stop)
        if accelerator.is_main_process:
            summary = run_folder.summary(out, parts.steps, loop.state.seconds, accelerator.device)
            write_json(out / "summary.json", summary)
            trackers.log(run_folder.final_record(out, summary))
    return out


@dataclass
class Interruption:
    """Whether a signal asks the run to stop after the current step, and what to raise then."""

    error: type[KeyboardInterrupt] | None = None
    at_once: bool = False
    """Whether a signal stops the run at once, because its state is saved."""


@dataclass(frozen=True)
class Loop:
    """A run that is ready for its next step."""

    config: RunConfig
    accelerator: Accelerator
    parts: setup.Parts
    learner: nn.Module
    """`parts.learner` as accelerate prepared it."""
    optimizer: Any
    """`parts.optimizer` as accelerate prepared it."""
    ema: Ema | None
    done: int
    """Number of steps that are already done."""
    state: LoopState
    """What a checkpoint stores in addition to weights and optimiser state."""
    runtime: str | None = None
    """What runs the network in the validation after the last step; None runs it in PyTorch."""

    def run(self, log: StepLog, interruption: Interruption, stop: Stop | None) -> None:
        """Run all steps that are left.

        Raises:
            KeyboardInterrupt: the run was stopped; its state is saved.
        """
        config, accelerator, parts, out = self.config, self.accelerator, self.parts, Path(self.config.out)
        done, steps = self.done, self.parts.steps
        for line in [*(each.describe() for each in parts.teachers), *log.trackers.describe()]:
            log.message(line)
        if done:
            log.message(f"{out}: resuming after step {done} of {steps}")
            # the main process decides: other nodes may have no log
            if self.is_validated_after(done) and not on_main(
                accelerator, lambda: run_folder.was_validated(out, done)
            ):
                self.score(done, log, interruption)  # a crash may have prevented it
        numbers = clip_numbers(config, accelerator, done, steps)
        pinned, workers = accelerator.device.type == "cuda", config.data.workers
        numbers = read_ahead(numbers, parts.clips, parts.teachers)
        batches = iter(make_loader(parts.clips, numbers, workers=workers, pin_memory=pinned))
        for step in range(done, steps):
            start = time.perf_counter()
            record, stopped = self.step(step, batches, interruption, stop)
            seconds = time.perf_counter() - start
            self.state.seconds += seconds
            epoch = (step + 1) * parts.clips_per_step / len(parts.clips)
            log.step({**record, "epoch": epoch, "clips_per_second": parts.clips_per_step / seconds})

            stopped = stopped and step + 1 < steps
            if stopped or self.is_saved_after(step + 1):
                self.save(step + 1)
            accelerator.wait_for_everyone()
            if stopped:
                log.message(f"stopped after step {step + 1} of {steps}; to resume, add resume=auto")
                raise interruption.error or KeyboardInterrupt
            if self.is_validated_after(step + 1):
                self.score(step + 1, log, interruption)

    def step(
        self, step: int, batches: Iterator[ClipBatch], interruption: Interruption, stop: Stop | None
    ) -> tuple[dict[str, Any], bool]:
        """Run one optimiser step over `accumulate` batches; return its log record and whether to stop after it."""
        config, accelerator, objective = self.config, self.accelerator, self.parts.objective
        rate = config.optimizer.lr * learning_rate_factor(
            step, steps=self.parts.steps, **config.schedule.model_dump()
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)  # layer_decay

        step_batches = [to_device(next(batches), accelerator.device) for _ in range(config.training.accumulate)]
        # not earlier: the loader draws random numbers when it starts, which in a resumed run is in this step
        torch.manual_seed(mix_seeds(config.seed, step, accelerator.process_index))
        own_counts = torch.stack([objective.counts(batch) for batch in step_batches]).sum(0)
        counts = accelerator.reduce(moved(own_counts, accelerator.device))
        losses: list[StepLoss] = []
        stopped = False
        for index, batch in enumerate(step_batches):
            last = index + 1 == len(step_batches)
            with nullcontext() if last else accelerator.no_sync(self.learner):
                losses.append(self.backward(batch, counts, self.progress(step)))
            stopped |= interruption.error is not None or (stop is not None and stop(step, index))
        norm = accelerator.clip_grad_norm_(self.learner.parameters(), config.training.clip_norm or math.inf)
        results = read_results(accelerator, losses, norm, counts, stopped=stopped)
        for value, batch in zip(results.losses, step_batches, strict=True):
            if not math.isfinite(value):
                self.fail(step, f"the loss is {value}", batch)
        scaled = accelerator.scaler is not None  # fp16's scaler skips steps with an infinite gradient
        if not scaled and not math.isfinite(results.norm):
            self.fail(step, f"the gradient's norm is {results.norm}", *step_batches)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(step + 1)

        record: dict[str, Any] = {"step": step + 1, "lr": rate, "gradient_norm": results.norm}
        record |= {"loss": results.loss, "maps": objective.record(results.counts), "terms": results.terms}
        if weights := objective.weights(self.progress(step)):
            record["weights"] = weights
        if self.parts.teachers:
            record["teacher"] = results.teacher
        return record, results.stopped

    def backward(self, batch: ClipBatch, counts: Tensor, progress: float) -> StepLoss:
        """Run forward and backward passes of one batch, the teachers next to the student; return the loss."""
        finish = {teacher.role.name: teacher.begin(batch) for teacher in self.parts.teachers}
        with self.accelerator.autocast():
            log_saliency, heads = self.learner(batch["clip"], batch.get("fit_box"))
        teachers = {name: output() for name, output in finish.items()}
        result = self.parts.objective(batch, log_saliency, teachers, counts, heads=heads, progress=progress)
        # accelerate averages gradients over processes, but the terms are already divided by the counts of all
        self.accelerator.backward(result.loss * self.accelerator.num_processes)
        return result

    def progress(self, step: int) -> float:
        """Return the position in the run, from 0 (first step) to 1 (last step)."""
        return step / max(1, self.parts.steps - 1)

    def fail(self, step: int, what: str, *batches: ClipBatch) -> NoReturn:
        """Raise a RunError, before an optimiser step would ruin the weights."""
        names = ", ".join(clip_names(batch) for batch in batches)
        advice = "try a lower optimizer.lr, a training.clip_norm, or training.precision=fp32"
        if self.done and step == self.done:  # the steps before were finite
            advice = (
                f"this is the first step after resuming, so the checkpoint of step {self.done} may be damaged: "
                "remove it to resume from an older one"
            )
        raise RunError(f"step {step + 1}: {what}, on clips {names}; the last checkpoint is kept; {advice}")

    def is_validated_after(self, step: int) -> bool:
        """Return whether a validation is due after `step` steps."""
        every = self.config.training.validate_every or self.parts.steps
        return bool(self.parts.validation) and (step == self.parts.steps or step % every == 0)

    def is_saved_after(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step` steps."""
        due = step == self.parts.steps or step % self.config.training.checkpoint_every == 0
        return due or self.is_validated_after(step)

    def save(self, step: int) -> None:
        """Write a checkpoint; every process calls this."""
        if self.accelerator.scaler is not None:
            self.state.scaler = self.accelerator.scaler.state_dict()
        save_checkpoint(
            Path(self.config.out),
            step,
            self.parts.model,
            self.parts.learner,
            self.parts.optimizer,
            self.state,
            run_folder.notes(self.config, step),
            self.ema,
            keep=self.config.training.keep,
            is_main=self.accelerator.is_main_process,
        )

    def score(self, step: int, log: StepLog, interruption: Interruption) -> None:
        """Validate the weights after `step` steps on the main process and keep them if they are the best so far.

        A checkpoint precedes each validation, which a resumed run repeats if it was interrupted.
        """
        interruption.at_once = True
        try:
            if interruption.error is not None:
                raise interruption.error
            self.validate(step, log)
        except KeyboardInterrupt:
            log.message(f"stopped in the validation after step {step}; to resume, add resume=auto")
            raise
        finally:
            interruption.at_once = False

    def validate(self, step: int, log: StepLog) -> None:
        """Validate the weights after `step` steps; see `score`."""
        config, accelerator, model = self.config, self.accelerator, self.parts.model
        with self.ema.applied() if self.ema is not None else nullcontext():
            sharding.gather(self.parts.learner.model, model.network)
            if accelerator.is_main_process:
                model.network.to(accelerator.device)
                runtime = self.runtime if step == self.parts.steps else None
                pictures = ValidationPictures(self.parts.validation) if log.trackers else None
                with accelerator.autocast():  # as in training
                    found = validate(config, model, self.parts.validation, accelerator.device, runtime, pictures)
                scores = found.per_video
                run_folder.keep_best(config, model, step, scores)
                log.validation({"step": step, "scores": scores, "runtime": found.how["runtime"]}, pictures)
                for note in found.undefined_notes():
                    log.message(f"step {step}: {note}")
        accelerator.wait_for_everyone()


def prepare_loop(
    config: RunConfig, accelerator: Accelerator, parts: setup.Parts, *, runtime: str | None = None
) -> Loop:
    """Return the loop, restored from the run's newest intact checkpoint if it has one.

    Raises:
        UserError: every checkpoint is damaged, was written by another number of processes, or is missing on a node.
    """
    processes = accelerator.num_processes
    done, state = 0, LoopState(seconds=0.0, processes=processes)
    if not config.training.shard:
        parts.learner.to(accelerator.device)  # before the optimiser's state is restored, which follows the weights
    checkpoint = on_main(accelerator, lambda: newest_intact_checkpoint(Path(config.out)))
    check_same_checkpoint(accelerator, Path(config.out), checkpoint)
    if checkpoint is not None:
        restored = on_every(
            accelerator, lambda: load_checkpoint(checkpoint, parts.model, parts.learner, parts.optimizer)
        )
        done, state = restored.step, restored.memory
        if state.processes != processes:
            raise UserError(
                f"{config.out}: the run was started on {state.processes} processes, got {processes}; use the "
                "same number, which determines the clips of a step"
            )
    if accelerator.scaler is not None and state.scaler is not None:
        accelerator.scaler.load_state_dict(state.scaler)
    learner = parts.learner if config.training.shard else accelerator.prepare(parts.learner)
    # otherwise it would move Adam's step counts to the GPU, and each step would wait for every one of them
    optimizer = accelerator.prepare(parts.optimizer, device_placement=[False])
    ema = None if config.training.ema is None else Ema(parts.learner.model, config.training.ema)
    if ema is not None and checkpoint is not None:
        on_every(accelerator, lambda: load_average(checkpoint, parts.model, parts.learner, ema))
    train_mode(learner)  # only once, because validation restores the mode of every module
    return Loop(config, accelerator, parts, learner, optimizer, ema, done, state, runtime)


def open_folder(config: RunConfig, loop: Loop, trackers: Trackers) -> None:
    """Create the run folder, unless it is resumed, and start the trackers, unless the run is finished.

    This follows all checks: a run that cannot start leaves no folder behind.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    save_config(config, out / "config.yaml")
    for teacher in loop.parts.teachers:
        if isinstance(teacher, Team) and teacher.report is not None:
            write_json(out / GATES_FILE, teacher.report.as_dict())
    if loop.done < loop.parts.steps or not (out / "summary.json").exists():
        trackers.start(config.tracking, out, done=loop.done, config=config.model_dump(mode="json"))


def clip_numbers(config: RunConfig, accelerator: Accelerator, done: int, steps: int) -> Iterator[list[int]]:
    """Yield the clip numbers of this process's batches, starting with step `done`.

    Clips are numbered across epochs; each step takes the next ones and splits them over the processes.
    """
    size, accumulate = config.training.batch_size, config.training.accumulate
    for batch in range(done * accumulate, steps * accumulate):
        first = (batch * accelerator.num_processes + accelerator.process_index) * size
        yield list(range(first, first + size))


def to_device(batch: ClipBatch, device: torch.device) -> ClipBatch:
    """Return a batch with its tensors on a device, except flags: which maps there are is decided on the host."""
    return {key: value.to(device, non_blocking=True) if _is_data(value) else value for key, value in batch.items()}


def _is_data(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype != torch.bool


def clip_names(batch: ClipBatch) -> str:
    """Return a batch's clips by video and last frame, e.g. `002 (frame 17), 002 (frame 300)`."""
    pairs = zip(batch["video"], batch["frames"].tolist(), strict=True)
    return ", ".join(f"{video} (frame {frames[-1] + 1})" for video, frames in pairs)


def mix_seeds(*numbers: int) -> int:
    """Return a hash of several numbers as a seed, so that neighbouring numbers give unrelated seeds."""
    mixed = 0
    for number in numbers:
        mixed = ((mixed + number + 1) * 6364136223846793005 + 1442695040888963407) % 2**63
    return mixed


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Yield what the first Ctrl-C or SIGTERM sets; the second one ends the program at once."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption  # only the main thread may handle signals
        return
    errors = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

    def on_signal(number: int, frame: object) -> None:
        interruption.error = errors[signal.Signals(number)]
        if interruption.at_once:
            raise interruption.error
        for each in errors:
            signal.signal(each, end_at_once)

    def end_at_once(number: int, frame: object) -> None:
        raise errors[signal.Signals(number)]

    previous = {number: signal.signal(number, on_signal) for number in errors}
    try:
        yield interruption
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
