"""The full pipeline on one real video: teacher, target store, student, scores, export and report.

    saldistill demo

Runs @teacher/demo and @distill/demo with the functions behind the verbs. Every step records
its result in OUT/results.json. Finished steps are skipped, and an interrupted training or store resumes.
"""

import json
import logging
import platform
import shutil
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat

from distill.benchmark.models import benchmark_models
from distill.data.clips import Video
from distill.data.video.guard import cores
from distill.errors import RunError, UserError
from distill.evaluation.references import score
from distill.files import write_json
from distill.inference.predict import predict
from distill.inference.settings import InferenceSettings
from distill.models.device import resolve_device
from distill.models.pretrained import DEFAULT_MODEL, pretrained_models
from distill.models.references import load_model
from distill.paths import path_inside
from distill.reports.demo import (
    DEMO_METRICS,
    describe_frames,
    format_duration,
    score_table,
    text_table,
    verdict_of,
    write_demo_report,
)
from distill.runtimes.export import export
from distill.targets.info import info
from distill.targets.verify import verify_store
from distill.training.config import RunConfig, load_config
from distill.training.config_errors import quoted
from distill.training.setup import build_store
from distill.training.sources import scored_videos, training_sources, training_videos
from distill.training.step_log import read_log
from distill.training.train import train
from distill.validation import read_json

TEACHER = "@teacher/demo"
STUDENT = "@distill/demo"

LOSS_TOLERANCE = 1e-3
"""Largest accepted relative difference between the losses with stored maps and with the teacher online."""


def run_demo(out: str | Path = "runs/demo", *, device: str = "auto") -> Path:
    """Run all steps that are not finished yet and return the path of the report.

    Raises:
        UserError: `out` contains runs of other configs.
    """
    out = Path(out)
    teacher, student, store = out / "teacher", out / "student", out / "targets"
    onnx, overlay, report = out / "student.onnx", out / "overlay.mp4", out / "report.html"
    common = ["resume=auto", f"device={quoted(device)}"]
    teacher_config = load_config(TEACHER, [f"out={quoted(teacher)}", *common])
    of_teacher = [f"teacher.model={quoted(teacher)}", f"teacher.store={quoted(store)}"]
    student_config = load_config(STUDENT, [f"out={quoted(student)}", *of_teacher, *common])
    configs = [config.model_dump(mode="json", exclude={"device"}) for config in (teacher_config, student_config)]
    test_videos = scored_videos(student_config.data.test)
    logging.getLogger("distill.data").setLevel(logging.WARNING)  # each step would log the same two videos
    files = {name: each.weights.sha256 for name, each in pretrained_models().items() if name == DEFAULT_MODEL}
    shipped: dict[str, str | Path] = {name: name for name in files}
    steps = FinishedSteps(out / "results.json", [*configs, files])

    steps.run(
        "a",
        f"Train the teacher, {teacher_config.model.name}:{teacher_config.model.variant}, on ground truth only.",
        lambda: str(train(teacher_config)),
        output=teacher,
    )
    steps.run(
        "b",
        f"Score the teacher and a centre prior on held-out {describe_frames(test_videos)}.",
        lambda: score_all({"centre prior": "centre-prior", "teacher": teacher}, test_videos, device),
    )
    videos = training_videos(training_sources(student_config.data))
    frames = sum(len(video.frames) for video in videos)
    steps.run(
        "c",
        f"Store the teacher's maps of all {frames} training frames ({len(videos)} videos), and recompute a sample "
        "to verify them.",
        lambda: store_targets(student_config),
        output=store,
    )
    steps.run(
        "d",
        f"Distil the student, {student_config.model.name}:{student_config.model.variant}, from ground truth and "
        "the stored maps; for the video without ground truth, from the maps only.",
        lambda: str(train(student_config)),
        output=student,
    )
    steps.run(
        "e",
        "Repeat the student's first steps with stored maps and with the teacher online: the losses must agree.",
        lambda: compare_sources(student_config, out / "online_against_cached"),
    )
    steps.run(
        "f",
        f"Score the student{''.join(f' and the pretrained {name}' for name in shipped)} on the same frames, and "
        "measure the cost of all models.",
        lambda: {
            "scores": score_all({"student": student}, test_videos, device)["student"],
            "shipped": score_all(shipped, test_videos, device),
            "costs": measure_costs({"teacher": teacher, "student": student, **shipped}, device),
        },
    )
    steps.run(
        "g",
        "Export the student to ONNX, compare it with PyTorch, and draw the overlay of video "
        f"{videos[-1].name} with the exported file.",
        lambda: export_and_run(student, onnx, videos[-1], overlay),
        output=overlay,
    )

    def write_results() -> str:
        write_summary(out / "demo.json", steps.results, device)
        return write_demo_report(out, steps.results, student_config, test_videos[0])

    steps.run("h", "Write the report.", write_results, output=report)
    print(f"\n{text_table(*score_table(steps.results))}\n\n{verdict_of(steps.results).sentence}")
    print(f"Report: {report}. Overlay video: {overlay}.")
    return report


class SavedStep(BaseModel):
    """A finished step in results.json."""

    step: str
    seconds: FiniteFloat
    result: Any
    made: str | None


class SavedSteps(BaseModel):
    """The content of results.json."""

    settings: Any
    steps: dict[str, SavedStep]


class FinishedSteps:
    """Results and durations of finished steps, kept in a JSON file so that no step runs twice.

    A step is skipped if the file has its result and its output still exists. Before a finished step runs again, its
    output and those of all later steps are removed, since they depend on it.

    Args:
        path: the file.
        settings: everything that the results depend on, as a JSON value.

    Raises:
        UserError: the file has results of other settings.
    """

    def __init__(self, path: Path, settings: Any) -> None:
        self.path, self.settings = path, settings
        self.results: dict[str, Any] = {}
        if path.exists():
            saved = read_json(path, SavedSteps, "results of the demo", "remove it to repeat the demo")
            if saved.settings != json.loads(json.dumps(settings)):
                raise UserError(
                    f"{path.parent}: contains a demo with other configs; remove the folder or choose another --out"
                )
            self.results = saved.model_dump()["steps"]

    def run(self, name: str, description: str, work: Callable[[], Any], *, output: Path | None = None) -> Any:
        """Print the step, run it unless it is finished, and return its result (a JSON value)."""
        print(f"\n{name}. {description}", flush=True)
        if name in self.results:
            if output is None or output.exists():
                print(f"   Already done in {format_duration(self.results[name]['seconds'])}: {output or self.path}")
                return self.results[name]["result"]
            self.remove_from(name)
        started = time.perf_counter()
        try:
            result = work()
        except KeyboardInterrupt:
            print(f"\nInterrupted in step {name}. Finished steps are kept; the same command resumes.", flush=True)
            raise
        self.results[name] = {
            "step": description,
            "seconds": time.perf_counter() - started,
            "result": result,
            "made": None if output is None else str(output),
        }
        self.write()
        return result

    def remove_from(self, name: str) -> None:
        """Remove the results and outputs of a step and of all later steps."""
        names = list(self.results)
        for later in names[names.index(name) :]:
            made = self.results.pop(later)["made"]
            if made is None:
                continue
            output = path_inside(self.path.parent, Path(made).name, self.path)
            if output.is_dir():
                shutil.rmtree(output)
            else:
                output.unlink(missing_ok=True)
        self.write()

    def write(self) -> None:
        """Write the file."""
        write_json(self.path, {"settings": self.settings, "steps": self.results})


# ------------------------------------------------------------------------------------------------ the steps


def score_all(references: dict[str, str | Path], videos: list[Video], device: str) -> dict[str, dict[str, float]]:
    """Score models and baselines; return label -> metric -> mean over frames."""
    settings, means = InferenceSettings(stride=None, device=device), {}
    for label, reference in references.items():
        scores, _ = score(reference, videos, settings, metrics=DEMO_METRICS)
        print(scores.table(), flush=True)
        means[label] = scores.pooled
    return means


def store_targets(config: RunConfig) -> dict[str, Any]:
    """Build the target store and verify a sample of it."""
    store = build_store(config)
    print(info(store))
    check = verify_store(store.path, sample=24, device=config.device)
    print(check)
    if not check.ok:
        raise RunError(f"{store.path}: the stored maps differ from the teacher's; remove the folder and try again")
    return {"verify": str(check)}


def compare_sources(config: RunConfig, folder: Path, *, steps: int = 4) -> dict[str, list[float]]:
    """Train a few steps with stored maps and with the teacher online; return the losses of both."""
    shutil.rmtree(folder, ignore_errors=True)  # scratch runs, maybe unfinished or of an earlier teacher
    losses = {}
    for source in ("cached", "online"):
        run = folder / source
        short = config.model_copy(
            update={
                "out": str(run),
                "data": config.data.model_copy(update={"validation": []}),
                "teacher": config.with_teachers(source=source).teacher,
                "training": config.training.model_copy(update={"steps": steps}),
            }
        )
        train(short)
        losses[source] = [line["loss"] for line in read_log(run / "log.jsonl") if line["kind"] == "train"]
    pairs = list(zip(losses["cached"], losses["online"], strict=True))
    differences = [abs(online - cached) / abs(cached) for cached, online in pairs]
    rows = [
        [f"step {step}", *pair, f"{difference:.1e}"]
        for step, (pair, difference) in enumerate(zip(pairs, differences, strict=True), 1)
    ]
    print(text_table(["", "stored maps", "teacher online", "relative difference"], rows, digits=6))
    if max(differences) > LOSS_TOLERANCE:
        raise RunError(
            f"{folder}: the losses with stored maps and with the teacher online differ by {max(differences):.1e}; "
            f"expected at most {LOSS_TOLERANCE:.0e}, the error of the codec"
        )
    return losses


def measure_costs(references: dict[str, str | Path], device: str) -> dict[str, dict[str, Any]]:
    """Benchmark models together; return label -> weights, GFLOPs and milliseconds per map."""
    measured = benchmark_models(list(references.values()), device=device, memory=False)
    print(measured)
    return dict(zip(references, measured, strict=True))


def export_and_run(student: Path, onnx: Path, video: Video, overlay: Path) -> dict[str, Any]:
    """Export the student, verify the file on real frames, and draw the whole video with it."""
    onnx.unlink(missing_ok=True)  # of an earlier student
    check = export(load_model(student), onnx, frames=video.path, batches=(1, 2))
    print(check)
    prediction = predict(load_model(onnx), video.path, out=overlay, overwrite=True)
    print(prediction)
    costs = measure_costs({"student": student, "exported": onnx}, "cpu")
    return {"export": check.as_dict(), "costs": costs, "frames": prediction.frames, "seconds": prediction.seconds}


def write_summary(path: Path, results: dict[str, Any], device: str) -> None:
    """Write the results table as JSON, with the machine and the date; scripts/update_readme_table.py reads it."""
    columns, rows = score_table(results)
    machine = f"{platform.machine()}, {cores()} CPU cores, models on {resolve_device(device)}"
    duration = format_duration(sum(step["seconds"] for step in results.values()))
    summary = {"machine": machine, "date": date.today().isoformat(), "duration": duration}
    write_json(path, {**summary, "columns": columns, "rows": rows})
