"""The training loop: one for teachers, students and distillation, on one process or many (accelerate).

    saldistill train configs/teacher/demo.yaml
    accelerate launch scripts/train_teacher.py configs/teacher/demo.yaml

Everything random in step s is a function of (seed, s): which clips, where they lie, whether they are mirrored,
which blocks are dropped. So a checkpoint is weights, moments and a step, and a resumed run equals the straight run
to the bit.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from distill.data.clips import ClipSpec, Video
from distill.data.loader import make_loader
from distill.errors import RunError, UserError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_sources import model_maps
from distill.files import write_json
from distill.inference.settings import InferenceSettings
from distill.models.protocols import SaliencyModel
from distill.training import run_folder, setup, sharding
from distill.training.checkpoint import load_average, load_checkpoint, newest_checkpoint, save_checkpoint
from distill.training.config import RunConfig, save_config
from distill.training.ema import Ema
from distill.training.encoder_layers import train_mode
from distill.training.objective import Objective, StepLoss
from distill.training.schedule import learning_rate_factor
from distill.training.sources import scored_videos, training_sources
from distill.training.step_log import StepLog
from distill.training.teachers import Teacher

Stop = Callable[[int, int], bool]


def train(config: RunConfig, *, stop: Stop | None = None) -> Path:
    """Run a config to its end, or to Ctrl-C; return the run's folder.

    Args:
        config: what to do.
        stop: asked after every batch with (step, batch within the step), both from 0; True ends the run after that
            step, as Ctrl-C does.

    Raises:
        UserError: if the config does not fit the machine, the data, the teacher or the folder.
        RunError: if the loss stops being a number.
        KeyboardInterrupt: after the state was saved, when the run was stopped.
    """
    out = Path(config.out)
    accelerator = setup.build_accelerator(config)
    is_main = accelerator.is_main_process
    on_main(accelerator, lambda: run_folder.check_folder(out, config))

    sources = training_sources(config.data)
    validation = scored_videos(config.data.validation)
    model = setup.build_model(config)
    spec = ClipSpec.of(model.network, stride=config.data.stride)
    teacher = setup.build_teacher(config, sources, spec, accelerator.device)
    clips = setup.build_clips(config, sources, spec, teacher)
    objective = setup.build_objective(config.losses)
    learner = setup.build_learner(config, model, teacher, spec, sources)
    trained = setup.shard(config, learner, accelerator)  # the learner itself, unless its weights lie in parts
    optimizer = setup.build_optimizer(config.optimizer, trained.model, trained.heads)
    steps = setup.count_steps(config, len(clips), accelerator.num_processes)
    clips_per_step = config.training.batch_size * config.training.accumulate * accelerator.num_processes
    validate_every = config.training.validate_every or steps

    done: int = 0
    # what a checkpoint remembers beside weights and moments
    memory: dict[str, Any] = {"seconds": 0.0, "processes": accelerator.num_processes}
    newest = newest_checkpoint(out)
    if newest is not None:
        done, memory = load_checkpoint(newest, model, trained, optimizer)
        if memory["processes"] != accelerator.num_processes:
            raise UserError(
                f"{out}: the run was started on {memory['processes']} processes and cannot go on with "
                f"{accelerator.num_processes}: a step would take other clips; start it as before"
            )
    if is_main:  # only now: a run that cannot start leaves no folder behind
        out.mkdir(parents=True, exist_ok=True)
        save_config(config, out / "config.yaml")
    if accelerator.scaler is not None and "scaler" in memory:
        accelerator.scaler.load_state_dict(memory["scaler"])
    prepared = trained if config.training.shard else accelerator.prepare(trained)
    stepper = accelerator.prepare(optimizer)
    ema = None if config.training.ema is None else Ema(trained.model, config.training.ema)
    if ema is not None and newest is not None:
        load_average(newest, model, trained, ema)
    train_mode(prepared)  # once: validation hands every part back in the mode it was in
    loop = Loop(config, accelerator, prepared, stepper, objective, teacher, steps)

    with (
        StepLog(out, start=done, steps=steps, quiet=not is_main) as log,
        interruptible() as interrupted,
    ):
        if teacher is not None:
            log.message(teacher.describe())
        if done:
            log.message(f"{out}: goes on after step {done} of {steps}")

        def score(step: int) -> None:
            """Validate the weights after `step` steps, on the main process; the others wait."""
            with ema.applied() if ema is not None else nullcontext():
                sharding.gather(trained.model, model.network)
                if is_main:
                    with accelerator.autocast():  # as in training
                        scores = validate(
                            config, model.network.to(accelerator.device), validation, accelerator.device
                        )
                    run_folder.keep_best(config, model, step, scores)
                    log.validation({"step": step, "scores": scores})
            accelerator.wait_for_everyone()

        def is_scored(step: int) -> bool:
            return bool(validation) and (step == steps or step % validate_every == 0)

        if done and is_scored(done) and not run_folder.was_validated(out, done):
            score(done)  # the checkpoint is written first, so a crash in validation costs the validation alone
        batches = iter(
            make_loader(clips, clip_numbers(config, accelerator, done, steps), workers=config.data.workers)
        )
        for step in range(done, steps):
            began = time.perf_counter()
            record, stopped = loop.step(step, batches, interrupted, stop)
            if ema is not None:
                ema.update(step + 1)
            seconds = time.perf_counter() - began
            memory["seconds"] += seconds
            epoch = (step + 1) * clips_per_step / len(clips)
            log.step({**record, "epoch": epoch, "clips_per_second": clips_per_step / seconds})

            finished = step + 1 == steps
            stopped = stopped and not finished
            scored = is_scored(step + 1) and not stopped
            if accelerator.scaler is not None:
                memory["scaler"] = accelerator.scaler.state_dict()
            if scored or finished or stopped or (step + 1) % config.training.checkpoint_every == 0:
                notes = run_folder.notes(config, step + 1)
                save_checkpoint(out, step + 1, model, trained, optimizer, memory, notes, ema, is_main=is_main)
            accelerator.wait_for_everyone()
            if scored:
                score(step + 1)
            if stopped:
                log.message(f"stopped after step {step + 1} of {steps}; the same command with resume=auto goes on")
                raise KeyboardInterrupt
    if is_main:
        write_json(out / "summary.json", run_folder.summary(out, steps, memory["seconds"], accelerator.device))
    return out


@dataclass(frozen=True)
class Loop:
    """What every step needs."""

    config: RunConfig
    accelerator: Accelerator
    model: nn.Module
    """A learner (distill/hints.py) as accelerate prepared it."""
    optimizer: Any
    objective: Objective
    teacher: Teacher | None
    steps: int

    def step(
        self, step: int, batches: Iterator[Mapping[str, Any]], interrupted: threading.Event, stop: Stop | None
    ) -> tuple[dict[str, Any], bool]:
        """Take one optimiser step over `accumulate` batches; return its log record and whether to stop after it."""
        config, accelerator = self.config, self.accelerator
        rate = config.optimizer.lr * learning_rate_factor(step, steps=self.steps, **config.schedule.model_dump())
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)  # layer_decay

        portions = [to_device(next(batches), accelerator.device) for _ in range(config.training.accumulate)]
        # the loader draws random numbers when it starts, which in a resumed run is here: the seed comes after it
        torch.manual_seed(mix_seeds(config.seed, step, accelerator.process_index))
        counts = accelerator.reduce(torch.stack([self.objective.counts(batch) for batch in portions]).sum(0))
        outcomes: list[StepLoss] = []
        stopped = False
        for index, batch in enumerate(portions):
            last = index + 1 == len(portions)
            with nullcontext() if last else accelerator.no_sync(self.model):
                outcomes.append(self.backward(step, batch, counts))
            stopped |= interrupted.is_set() or (stop is not None and stop(step, index))
        record: dict[str, Any] = {"step": step + 1, "lr": rate}
        norm = accelerator.clip_grad_norm_(self.model.parameters(), config.training.clip_norm or math.inf)
        record["gradient_norm"] = float(sharding.whole(norm))
        scaled = accelerator.scaler is not None  # fp16's scaler passes over such a step by itself
        if not scaled and not math.isfinite(record["gradient_norm"]):
            self.fail(step, f"the gradient's norm is {record['gradient_norm']}", *portions)
        self.optimizer.step()
        self.optimizer.zero_grad()

        record["loss"] = self.total([outcome.loss.detach() for outcome in outcomes])
        record["terms"] = {name: self.total([each.terms[name] for each in outcomes]) for name in outcomes[0].terms}
        if weights := self.objective.weights(self.progress(step)):
            record["weights"] = weights
        if self.teacher is not None:
            of_teacher = outcomes[0].teacher
            record["teacher"] = {name: self.total([each.teacher[name] for each in outcomes]) for name in of_teacher}
        return record, self.total([torch.tensor(float(stopped), device=accelerator.device)]) > 0

    def backward(self, step: int, batch: dict[str, Any], counts: Tensor) -> StepLoss:
        """Run one batch forward and back."""
        finish = None if self.teacher is None else self.teacher.begin(batch)
        with self.accelerator.autocast():
            log_saliency, heads = self.model(batch["clip"])
        teacher_maps, features = (None, None) if finish is None else finish()
        outcome = self.objective(
            batch,
            log_saliency,
            teacher_maps,
            counts,
            heads=heads,
            features=features,
            progress=self.progress(step),
        )
        value = outcome.loss.item()
        if not math.isfinite(value):
            self.fail(step, f"the loss is {value}", batch)
        # accelerate averages gradients over processes; the terms are divided by the counts of all processes already
        self.accelerator.backward(outcome.loss * self.accelerator.num_processes)
        return outcome

    def progress(self, step: int) -> float:
        """Return how far the run is: 0 in its first step, 1 in its last."""
        return step / max(1, self.steps - 1)

    def fail(self, step: int, what: str, *batches: Mapping[str, Any]) -> NoReturn:
        """End the run before a step that would ruin the weights."""
        names = ", ".join(clip_names(batch) for batch in batches)
        raise RunError(
            f"step {step + 1}: {what}, on clips {names}; the last checkpoint is kept; try a lower optimizer.lr, a "
            "training.clip_norm, or training.precision=fp32"
        )

    def total(self, shares: list[Tensor]) -> float:
        """Add up the shares of a mean over the step's batches and processes."""
        return float(self.accelerator.reduce(torch.stack(shares).sum()))


def on_main(accelerator: Accelerator, check: Callable[[], None]) -> None:
    """Let the main process check something, and every process hear what it found.

    Raises:
        UserError: on every process, if the check raised it on the main one.
    """
    found: list[str | None] = [None]
    if accelerator.is_main_process:
        try:
            check()
        except UserError as error:
            found = [str(error)]
    [sentence] = broadcast_object_list(found)
    if sentence is not None:
        raise UserError(sentence)


def clip_numbers(config: RunConfig, accelerator: Accelerator, done: int, steps: int) -> Iterator[list[int]]:
    """Yield the clip numbers of this process's batches, from step `done` on.

    Clips are numbered without end, one epoch after the other; a step takes the next ones, each process its share.
    """
    size, accumulate = config.training.batch_size, config.training.accumulate
    for portion in range(done * accumulate, steps * accumulate):
        first = (portion * accelerator.num_processes + accelerator.process_index) * size
        yield list(range(first, first + size))


def validate(
    config: RunConfig, network: SaliencyModel, videos: list[Video], device: torch.device
) -> dict[str, float]:
    """Score the model on the validation frames: the mean over videos of the mean over a video's frames."""
    metrics = tuple(dict.fromkeys(("nss", "cc", config.training.best)))
    settings = InferenceSettings(batch_size=config.training.batch_size, stride=config.data.stride, device=device)
    return evaluate(model_maps(network, settings), videos, metrics=metrics, progress=False).per_video


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch's tensors."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }


def clip_names(batch: Mapping[str, Any]) -> str:
    """Name a batch's clips by video and last frame: `002 (frame 17), 002 (frame 300)`."""
    pairs = zip(batch["video"], batch["frames"].tolist(), strict=True)
    return ", ".join(f"{video} (frame {frames[-1] + 1})" for video, frames in pairs)


def mix_seeds(*numbers: int) -> int:
    """Return one seed of several numbers, far from the seeds of their neighbours."""
    mixed = 0
    for number in numbers:
        mixed = ((mixed + number + 1) * 6364136223846793005 + 1442695040888963407) % 2**63
    return mixed


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one ends the program at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread
        return

    def remember(number: int, frame: Any) -> None:
        event.set()
        signal.signal(number, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
