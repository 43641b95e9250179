"""Parts of the GPU report that train: steps of the teacher, the target store, and runs of the students."""

import os
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distill.benchmark.gpu_rows import Case, Plan, Row, attempt, free, measure_group
from distill.benchmark.kernels import profile_kernels
from distill.benchmark.rows import Call, timed, wait
from distill.data.clips import Video
from distill.data.sets.find import find_videos
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.cost import gflops_if_known
from distill.models.device import PRECISIONS
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.models.references import load_model
from distill.saliency import normalise_density
from distill.shipped import shipped_path
from distill.targets.build import fill
from distill.targets.store import TargetStore
from distill.training import encoder_layers
from distill.training.config import RunConfig
from distill.training.losses import LOSSES
from distill.training.step_log import read_log
from distill.training.train import train

TEACHER = "teacher/salfom:base"

STUDENTS: dict[str, dict[str, Any]] = {
    "student/stream:small": {"arguments": {"targets": "last"}, "batch": 8},
    "student/thtdnet:base": {"arguments": {}, "batch": 4},
}
"""Student -> its arguments, with which it predicts the teacher's frame, and clips per step."""

VIDEO = "068"
"""The video of the sample that is read, 540 frames of 640 x 360."""


def training(plan: Plan) -> Iterator[Row]:
    """Measure a training step of the teacher (KL - CC, Adam), with and without recomputing the encoder."""
    reference = plan.choose(TEACHER, "teacher/salfom:micro")
    for recompute in (False, True):
        model = load_model(reference, device=plan.device)
        network, mode = model.network, "recompute" if recompute else "plain"
        if recompute:
            encoder_layers.recompute(network)
        encoder_layers.train_mode(network)
        gflops = gflops_if_known(model)
        for precision in plan.choose(("bf16", "fp32"), ("fp32",)):
            rows = [
                {"what": "step", "model": reference, "precision": precision, "batch": batch, "mode": mode}
                for batch in plan.choose((1, 2, 4), (1, 2))
            ]
            cases = [
                Case(
                    row,
                    partial(_step, network, plan.device, row["batch"], precision),
                    row["batch"],
                    None if gflops is None else (4 if recompute else 3) * gflops,  # backward is twice forward
                    partial(_step_memory, plan.device),
                )
                for row in rows
            ]
            yield from measure_group(plan, cases, precision)
        del model, network, cases
        free(plan.device)


def _step(network: SaliencyModel, device: torch.device, batch: int, precision: str) -> Call:
    """Return a call that runs one optimiser step; its learning rate keeps the weights as they are."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, network.num_frames, *network.size)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    maps = (batch, len(network.target_frames), *network.map_size)
    target = normalise_density(torch.rand(maps, generator=generator).to(device))
    optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=1e-30)
    dtype = PRECISIONS[precision]

    def step() -> None:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            predicted = network(clip)
        loss = LOSSES["kldiv"](predicted, target).mean() + LOSSES["cc"](predicted, target).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        wait(device)

    return timed(step)


def _step_memory(device: torch.device, call: Call) -> float | None:
    """Return the allocator's peak in MB during a step: weights, gradients, Adam's state and activations."""
    if device.type != "cuda":
        return None
    free(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) / 1e6


def sample_video(frames: int) -> Video:
    """Return the first frames of a real video, which comes with the project."""
    (video,) = find_videos("dhf1k", str(shipped_path("@sample")), split=None, videos=[VIDEO], frames=(1, frames))
    return video


def cache(plan: Plan) -> Iterator[Row]:
    """Measure filling a target store from a video, decoding and writing included, and how long the GPU waits."""
    video = sample_video(plan.choose(320, 12))
    for reference in plan.choose((TEACHER, "teacher/salfom:umt-b8-d12"), ("teacher/salfom:micro",)):
        model = load_model(reference, device=plan.device)
        for batch in plan.choose((8, 16, 32), (4,)):
            row = {"what": "store", "model": reference, "precision": "bf16", "batch": batch}
            yield attempt(plan, row, partial(_filling, plan, model, video, batch))
        del model
        free(plan.device)


def _filling(plan: Plan, model: LoadedModel, video: Video, batch: int) -> Row:
    settings = InferenceSettings(batch_size=batch, device=plan.device, precision="bf16")
    network, frames = model.network, list(video.frames)
    list(slide(network, video, frames[:batch], settings))  # the first call chooses kernels
    with tempfile.TemporaryDirectory() as folder:

        def work(name: str, count: int) -> None:
            _fill_store(Path(folder) / name, network, video, frames[:count], settings)

        seconds = timed(partial(work, "timed", len(frames)))()
        profiled = profile_kernels(partial(work, "profiled", max(batch, len(frames) // 2)), plan.device)
    unit = seconds / len(frames)
    waits = f"the GPU waits for {1 - profiled.busy:.1%} of the time, profiled"
    return {"milliseconds": 1000 * unit, "per_second": 1 / unit, "busy": profiled.busy, "note": waits}


def _fill_store(
    path: Path, network: SaliencyModel, video: Video, frames: list[int], settings: InferenceSettings
) -> TargetStore:
    """Return a target store of the frames of a video, filled by the network."""
    store = TargetStore.create(
        path,
        fingerprint={},
        videos={video.name: frames},
        map_size=network.map_size,
        batch_size=settings.batch_size,
    )
    for _ in fill(store, network, {video.name: video}, settings):
        pass
    return store


def students(plan: Plan) -> Iterator[Row]:
    """Measure whole training runs of the students, with a cached and with an online teacher."""
    frames = plan.choose(160, 16)
    teacher = plan.choose(TEACHER, "teacher/salfom:micro")
    video = sample_video(frames)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = load_model(teacher, device=plan.device)
        settings = InferenceSettings(batch_size=8, device=plan.device, precision="bf16")
        _fill_store(folder / "store", model.network, video, list(video.frames), settings)
        del model
        free(plan.device)
        for student, chosen in plan.choose(
            STUDENTS, {"student/thtdnet:micro": {"arguments": {}, "batch": 2}}
        ).items():
            for source in ("cached", "online"):
                row = {
                    "what": "run",
                    "model": student,
                    "precision": "bf16",
                    "batch": chosen["batch"],
                    "mode": source,
                }
                config = _run(plan, folder, student, chosen, teacher, source)
                yield attempt(plan, row, partial(_training_run, config))


def _run(plan: Plan, folder: Path, student: str, chosen: dict[str, Any], teacher: str, source: str) -> RunConfig:
    """Return a run of a student on the video; batches are decoded by as many workers as there are free cores."""
    name, _, variant = student.partition(":")
    section = {"source": source, "precision": "bf16", "accept": True}
    section |= {"model": teacher} if source == "online" else {"store": str(folder / "store")}
    frames = [1, plan.choose(160, 16)]
    return RunConfig.model_validate(
        {
            "out": str(folder / f"{variant}-{source}-{len(list(folder.iterdir()))}"),
            "device": str(plan.device),
            "model": {"name": name, "variant": variant, "arguments": chosen["arguments"]},
            "data": {
                "train": [{"dataset": "dhf1k", "root": "@sample", "videos": [VIDEO], "frames": frames}],
                "workers": plan.choose(max(1, min(12, (os.cpu_count() or 1) - 2)), 0),
            },
            "teacher": section,
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": plan.choose(24, 2), "batch_size": chosen["batch"], "precision": "bf16"},
        }
    )


def _training_run(config: RunConfig) -> Row:
    """Return the median rate of the second half of a run's steps."""
    run = train(config)
    rates = [line["clips_per_second"] for line in read_log(run / "log.jsonl") if line["kind"] == "train"]
    rate = statistics.median(rates[len(rates) // 2 :])
    return {"milliseconds": 1000 / rate, "per_second": rate, "note": f"{config.data.workers} workers"}
