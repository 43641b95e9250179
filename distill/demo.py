"""The whole way of the data on one real video: teacher, stored maps, student, scores, export, report.

    ./scripts/demo            or, in the repository's folder:    saldistill demo

It calls what the verbs call, with the runs of configs/teacher/demo.yaml and configs/distill/demo.yaml. Each step
writes what it found into results.json. A step that stands there is not done again; one that was interrupted goes on
where it stopped.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.benchmark.models import benchmark
from distill.data.clips import Video
from distill.deploy.export import export
from distill.errors import RunError, UserError
from distill.evaluation.references import score
from distill.files import write_json
from distill.inference.predict import predict
from distill.models.references import load_model
from distill.reports.demo import (
    DEMO_METRICS,
    describe_frames,
    format_duration,
    score_table,
    text_table,
    verdict_of,
    write_demo_report,
)
from distill.targets.info import info
from distill.targets.verify import verify_store
from distill.training.config import RunConfig, load_config
from distill.training.setup import build_store
from distill.training.sources import scored_videos, training_sources, training_videos
from distill.training.step_log import read_log
from distill.training.train import train

TEACHER = Path("configs/teacher/demo.yaml")
STUDENT = Path("configs/distill/demo.yaml")

SAME_LOSS = 1e-3
"""How far, relatively, the loss with stored maps may be from the loss with the teacher online."""


class Diary:
    """What the steps found and how long each took, kept in a file so that no step is done twice.

    A step is passed over when its result stands in the file and what it made is still there. When a step that was
    done has to be done again, what it and those after it made is removed first, for they build on it.

    Args:
        path: the file.
        settings: what the results depend on, a JSON value.

    Raises:
        UserError: if the file's results were made with other settings.
    """

    def __init__(self, path: Path, settings: Any) -> None:
        self.path, self.settings = path, settings
        self.results: dict[str, Any] = {}
        if path.exists():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["settings"] != json.loads(json.dumps(settings)):
                raise UserError(
                    f"{path.parent}: this demo was made with other configs; remove the folder, or choose another "
                    "with --out"
                )
            self.results = before["steps"]

    def step(self, name: str, sentence: str, work: Callable[[], Any], *, makes: Path | None = None) -> Any:
        """Say what comes, do it or take it from the file, and return its result (a JSON value)."""
        print(f"\n{name}. {sentence}", flush=True)
        if name in self.results:
            if makes is None or makes.exists():
                print(f"   Done before, in {format_duration(self.results[name]['seconds'])}: {makes or self.path}")
                return self.results[name]["result"]
            self.forget_from(name)
        began = time.perf_counter()
        try:
            result = work()
        except KeyboardInterrupt:
            print(f"\nStopped in step {name}. What is done is kept: the same command goes on.", flush=True)
            raise
        seconds = time.perf_counter() - began
        made = None if makes is None else str(makes)
        self.results[name] = {"step": sentence, "seconds": seconds, "result": result, "made": made}
        self.write()
        return result

    def forget_from(self, name: str) -> None:
        """Remove a step's result and what it made, and those of all steps after it."""
        names = list(self.results)
        for later in names[names.index(name) :]:
            made = self.results.pop(later)["made"]
            if made is not None and Path(made).is_dir():
                shutil.rmtree(made)
            elif made is not None:
                Path(made).unlink(missing_ok=True)
        self.write()

    def write(self) -> None:
        """Put the results on the disk."""
        write_json(self.path, {"settings": self.settings, "steps": self.results})


def run_demo(out: str | Path = "runs/demo", *, device: str = "auto") -> Path:
    """Do all steps that are not done yet; return the path of the report.

    Raises:
        UserError: outside the repository's folder, or when `out` holds runs of other configs.
    """
    out = Path(out)
    if not (TEACHER.is_file() and STUDENT.is_file()):
        raise UserError(f"{Path.cwd()}: the demo needs {TEACHER} and {STUDENT}; run it in the repository's folder")
    teacher, student, store = out / "teacher", out / "student", out / "targets"
    onnx, film = out / "student.onnx", out / "overlay.mp4"
    common = ["resume=auto", f"device={device}"]
    teaching = load_config(TEACHER, [f"out={teacher}", *common])
    learning = load_config(
        STUDENT, [f"out={student}", f"teacher.model={teacher}", f"teacher.store={store}", *common]
    )
    configs = (teaching, learning)
    held_out = scored_videos(learning.data.test)
    logging.getLogger("distill.data").setLevel(logging.WARNING)  # the steps find the same two videos many times
    diary = Diary(out / "results.json", [config.model_dump(mode="json", exclude={"device"}) for config in configs])

    diary.step(
        "a",
        f"Train the teacher, {teaching.model.name}:{teaching.model.variant}, on the gaze alone.",
        lambda: str(train(teaching)),
        makes=teacher,
    )
    diary.step(
        "b",
        f"Score it, beside a centre prior, on {describe_frames(held_out)}, which it is not trained on.",
        lambda: scores_of({"centre prior": "centre-prior", "teacher": teacher}, held_out, device),
    )
    videos = training_videos(training_sources(learning.data))
    frames = sum(len(video.frames) for video in videos)
    diary.step(
        "c",
        f"Compute the teacher's map of each of the {frames} training frames ({len(videos)} videos), store them, "
        "and compare a sample with maps computed anew.",
        lambda: store_targets(learning),
        makes=store,
    )
    diary.step(
        "d",
        f"Distil the student, {learning.model.name}:{learning.model.variant}, from the gaze and the stored maps; "
        "the video without gaze teaches through the maps alone.",
        lambda: str(train(learning)),
        makes=student,
    )
    diary.step(
        "e",
        "Take the student's first steps once with the stored maps and once with the teacher running beside it: the "
        "losses must agree.",
        lambda: compare_sources(learning, out / "online_against_cached"),
    )
    diary.step(
        "f",
        "Score the student on the same frames, and measure what each model costs.",
        lambda: {
            "scores": scores_of({"student": student}, held_out, device)["student"],
            "costs": costs_of({"teacher": teacher, "student": student}, device),
        },
    )
    diary.step(
        "g",
        "Export the student to ONNX, check the file against PyTorch, and let the file itself draw the whole video.",
        lambda: export_and_run(student, onnx, held_out[0], film),
        makes=film,
    )
    diary.step(
        "h",
        "Write the report.",
        lambda: write_demo_report(out, diary.results, learning, held_out[0]),
        makes=out / "report.html",
    )
    columns, rows = score_table(diary.results)
    print(f"\n{text_table(columns, rows)}\n\n{verdict_of(diary.results).sentence}")
    print(f"The report is {out / 'report.html'}, the overlay video {film}.")
    return out / "report.html"


# ------------------------------------------------------------------------------------------------ the steps


def scores_of(references: dict[str, str | Path], videos: list[Video], device: str) -> dict[str, dict[str, float]]:
    """Score runs, or baselines by name: label -> metric -> mean over frames."""
    found = {}
    for label, reference in references.items():
        scores, _ = score(reference, videos, metrics=DEMO_METRICS, device=device)
        print(scores.table(), flush=True)
        found[label] = scores.pooled
    return found


def store_targets(config: RunConfig) -> dict[str, Any]:
    """Build the store of the teacher's maps and verify a sample of it."""
    store = build_store(config)
    print(info(store))
    checked = verify_store(store.path, sample=24, device=config.device)
    print(checked)
    if not checked.ok:
        raise RunError(f"{store.path}: the stored maps do not agree with the teacher's")
    return {"verify": str(checked)}


def compare_sources(config: RunConfig, folder: Path, *, steps: int = 4) -> dict[str, list[float]]:
    """Train for a few steps from each source of teacher maps; return both lists of losses."""
    shutil.rmtree(folder, ignore_errors=True)  # a few steps of scratch work, half done or of an earlier teacher
    losses = {}
    for source in ("cached", "online"):
        run = folder / source
        short = config.model_copy(
            update={
                "out": str(run),
                "data": config.data.model_copy(update={"validation": []}),
                "teacher": config.teacher.model_copy(update={"source": source}) if config.teacher else None,
                "training": config.training.model_copy(update={"steps": steps}),
            }
        )
        train(short)
        losses[source] = [line["loss"] for line in read_log(run / "log.jsonl") if line["kind"] == "train"]
    differences = [abs(on - off) / abs(off) for off, on in zip(losses["cached"], losses["online"], strict=True)]
    rows = [
        [f"step {step + 1}", cached, online, f"{abs(online - cached) / abs(cached):.1e}"]
        for step, (cached, online) in enumerate(zip(losses["cached"], losses["online"], strict=True))
    ]
    print(text_table(["", "stored maps", "teacher online", "relative difference"], rows, digits=6))
    if max(differences) > SAME_LOSS:
        raise RunError(
            f"{folder}: with the teacher online the loss is another than with its stored maps, by up to "
            f"{max(differences):.1e} of it; {SAME_LOSS:.0e} is what the codec may cost"
        )
    return losses


def costs_of(references: dict[str, Path], device: str) -> dict[str, dict[str, Any]]:
    """Measure models side by side: label -> weights, GFLOPs and milliseconds a map."""
    measured = benchmark(list(references.values()), device=device, memory=False)
    print(measured)
    return dict(zip(references, measured, strict=True))


def export_and_run(student: Path, onnx: Path, video: Video, film: Path) -> dict[str, Any]:
    """Export the student, checked on real frames, and let the exported file draw the overlay of the whole video."""
    onnx.unlink(missing_ok=True)  # of an earlier student
    model = load_model(student)
    checked = export(model, onnx, frames=video.path)
    print(checked)
    prediction = predict(load_model(onnx).network, video.path, out=film, overwrite=True)
    print(prediction)
    costs = costs_of({"student": student, "exported": onnx}, "cpu")
    return {"export": checked.as_dict(), "costs": costs, "frames": prediction.frames, "seconds": prediction.seconds}
