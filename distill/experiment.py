"""Compare training configs over several seeds, scored on the same test videos.

    python scripts/experiment.py configs/experiments/hevc_gaze.yaml

An experiment file names the arms (one run config each) and the teachers that they learn from. The folder `out`
holds all results: one run per arm and seed, the target stores and the scores. Finished parts are skipped, so that
the same command resumes after Ctrl-C; several processes can share the work with different `--arms`.

Arms are compared by their scores on the same frames, averaged over seeds, with bootstrap intervals over scenes
(distill/evaluation/statistics.py). The intervals show how well a difference generalises to other scenes; the range
over the seeds shows how much it varies between training runs.
"""

import fcntl
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean as mean

from pydantic import Field, model_validator

from distill.data.clips import Video
from distill.data.text import plural
from distill.data.video.guard import cores
from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.references import folder_name, same_scene, score
from distill.evaluation.scores import (
    UNDEFINED,
    Comparison,
    Scores,
    compare_scores,
    mean_scores,
    read_scores,
    without_nan,
)
from distill.files import write_json, write_text
from distill.inference.settings import InferenceSettings
from distill.limits import MAX_SEEDS
from distill.models.references import load_model
from distill.paths import path_inside
from distill.targets.importer import import_maps
from distill.targets.store import TargetStore
from distill.training import config_errors
from distill.training.config import RunConfig, load_config
from distill.training.config_errors import Pair, PathText, Section, Seed, quoted
from distill.training.setup import build_store
from distill.training.sources import scored_videos
from distill.training.train import train


class TeacherSource(Section):
    """Source of a target store; exactly one field is set."""

    maps: str | None = None
    """Folder of external saliency maps, as read by `saldistill cache import`."""
    model: str | None = None
    """Model that computes maps of the training videos."""
    arm: str | None = None
    """Arm whose models, one per seed, compute maps of the training videos; their mean density is stored."""

    @model_validator(mode="after")
    def _one(self) -> "TeacherSource":
        if sum(source is not None for source in (self.maps, self.model, self.arm)) != 1:
            raise ValueError("give exactly one of 'maps', 'model' and 'arm'")
        return self


class Arm(Section):
    """One training config, which runs once per seed."""

    config: str
    """Run config; the experiment sets its seed, folders and device."""
    teacher: str | None = None
    """Name of one of the experiment's teachers."""


class Experiment(Section):
    """Arms to train, score and compare."""

    out: PathText
    """Folder for all runs, target stores and results."""
    seeds: list[Seed] = Field(min_length=1, max_length=MAX_SEEDS)
    """Seeds of the runs of each arm."""
    teachers: dict[str, TeacherSource] = Field(default={})
    """Target stores to build, by name."""
    arms: dict[str, Arm] = Field(min_length=1)
    """Arms by name."""
    compare: list[Pair[str]] = Field(default=[])
    """Pairs of arms; the difference is the second minus the first."""
    beside: list[str] = Field(default=[])
    """Baselines and models to score next to the arms."""
    scenes: list[str] = Field(default=[])
    """Patterns of video names; videos that match the same pattern count as one scene for the intervals."""

    @model_validator(mode="after")
    def _names_exist(self) -> "Experiment":
        for arm in self.arms.values():
            if arm.teacher is not None:
                config_errors.one_of(arm.teacher, self.teachers, "teacher")
        compared = [arm for pair in self.compare for arm in pair]
        for name in compared + [each.arm for each in self.teachers.values() if each.arm is not None]:
            config_errors.one_of(name, self.arms, "arm")
        for name in [*self.arms, *self.teachers]:
            path_inside(self.out, name, "arms and teachers")
        return self

    def run_folder(self, arm: str, seed: int) -> Path:
        """Return the folder of a run."""
        return Path(self.out) / "runs" / f"{arm}-{seed}"

    def store_folder(self, teacher: str) -> Path:
        """Return the folder of a teacher's target store."""
        return Path(self.out) / "teachers" / teacher

    def run_config(self, name: str, seed: int, device: str) -> RunConfig:
        """Return the config of an arm's run."""
        arm = self.arms[name]
        overrides = [f"out={quoted(self.run_folder(name, seed))}", f"seed={seed}", f"device={quoted(device)}"]
        overrides.append("resume=auto")
        if arm.teacher is not None:
            overrides.append(f"teacher.store={quoted(self.store_folder(arm.teacher))}")
        return load_config(arm.config, overrides)


def load_experiment(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Return the experiment of a YAML file, with `key=value` overrides.

    Raises:
        UserError: the file is invalid; the error lists every mistake.
    """
    return config_errors.load(Experiment, path, overrides)


def run_experiment(experiment: Experiment, *, arms: list[str] | None = None, device: str = "auto") -> Path | None:
    """Train the arms that are not trained yet; once all are trained, score and compare them.

    Args:
        experiment: the experiment.
        arms: train only these arms; an arm that is a teacher of theirs must already be trained.
        device: device to run on.

    Returns:
        Path of the table, `out`/results.md; None if other arms are not trained yet.

    Raises:
        UserError: an arm is unknown, a config does not fit the data, or an arm that is a teacher is not trained.
    """
    chosen = list(experiment.arms) if arms is None else arms
    for name in chosen:
        if name not in experiment.arms:
            raise UserError(f"--arms: unknown arm '{name}'; expected names from {', '.join(experiment.arms)}")
    configs = {name: experiment.run_config(name, experiment.seeds[0], device) for name in experiment.arms}
    check_teachers(experiment, configs)
    videos = common_test_videos(experiment, configs)
    for number, name in enumerate(chosen, 1):
        for seed in experiment.seeds:
            print(f"\n{name}, seed {seed} (arm {number} of {len(chosen)})", flush=True)
            teacher = experiment.arms[name].teacher
            if teacher is not None:
                make_store(experiment, teacher, configs[name], device)
            if not is_done(folder := experiment.run_folder(name, seed)):
                train(experiment.run_config(name, seed, device))
            print(f"   {folder}", flush=True)
    runs = [experiment.run_folder(name, seed) for name in experiment.arms for seed in experiment.seeds]
    if missing := [run for run in runs if not is_done(run)]:
        print(f"\nNot scored yet: {plural(len(missing), 'run')} not finished, e.g. {missing[0]}.", flush=True)
        return None
    return write_results(experiment, videos, device)


def check_teachers(experiment: Experiment, configs: Mapping[str, RunConfig]) -> None:
    """Check that arms with the same teacher train on the same videos, whose maps are in one target store."""
    for teacher, source in experiment.teachers.items():
        students = [name for name, arm in experiment.arms.items() if arm.teacher == teacher]
        if source.maps is None and any(
            configs[name].data.train != configs[students[0]].data.train for name in students
        ):
            raise UserError(
                f"arms: {', '.join(students)} learn from '{teacher}' but train on different videos; give each arm "
                "its own entry under teachers"
            )


def common_test_videos(experiment: Experiment, configs: Mapping[str, RunConfig]) -> list[Video]:
    """Return the test videos, which must be the same for all arms."""
    tests = [config.data.test for config in configs.values()]
    if any(test != tests[0] for test in tests) or not tests[0]:
        raise UserError("arms: expected the same non-empty data.test in all configs; edit the run configs")
    return same_scene(scored_videos(tests[0]), experiment.scenes)


def is_done(run: Path) -> bool:
    """Return whether a run is finished."""
    return (run / "summary.json").is_file()


def make_store(experiment: Experiment, name: str, student: RunConfig, device: str) -> None:
    """Build a teacher's target store unless it is complete; wait if another process is building it.

    Args:
        experiment: the experiment.
        name: name of the teacher.
        student: config whose training videos need maps.
        device: device to run models on.

    Raises:
        UserError: the teacher is an arm that is not trained, or the store was built from other seeds.
    """
    teacher, out = experiment.teachers[name], experiment.store_folder(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{name}.building").open("w") as lock:  # not the lock of a claim, which import_maps takes
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = [teacher.maps] if teacher.maps is not None else []
        if teacher.arm is not None:
            sources = [str(out.with_name(f"{name}-{seed}")) for seed in experiment.seeds]
        if out.is_dir() and (store := TargetStore.open(out)).complete:
            if sources and store.notes.get("imported") != sources:
                raise UserError(
                    f"{out}: built from {', '.join(store.notes.get('imported', []))}, expected "
                    f"{', '.join(sources)}; remove it, or choose another out"
                )
            return
        print(f"   building the target store of {name}: {out}", flush=True)
        if teacher.model is not None:
            store_maps(teacher.model, out, student, device)
        if teacher.arm is not None:
            for seed, part in zip(experiment.seeds, sources, strict=True):
                run = experiment.run_folder(teacher.arm, seed)
                if not is_done(run):
                    raise UserError(
                        f"{run}: the teacher '{name}' is not trained yet; train the arm '{teacher.arm}' first"
                    )
                store_maps(str(run), Path(part), student, device)
        if sources:
            import_maps(sources, out)


def store_maps(model: str, out: Path, student: RunConfig, device: str) -> None:
    """Build a target store of a student's training videos with a model, at the stride of the model's training."""
    changes = {"model": model, "store": str(out), "views": ["plain"], "stride": load_model(model).stride}
    build_store(student.with_teachers(**changes).model_copy(update={"device": device}))


def write_results(experiment: Experiment, videos: list[Video], device: str) -> Path:
    """Score the runs that are not scored yet, compare the arms, and write the results; return `out`/results.md."""
    out = Path(experiment.out)

    def scored(reference: str, name: str, folder: Path) -> Scores:
        if not (folder / "scores.json").exists():
            found, _ = score(reference, videos, InferenceSettings(stride=None, device=device), workers=cores())
            found.save(folder)
        return replace(read_scores(folder), name=name)

    seeds = {
        name: [
            scored(str(experiment.run_folder(name, seed)), f"{name}-{seed}", out / "scores" / f"{name}-{seed}")
            for seed in experiment.seeds
        ]
        for name in experiment.arms
    }
    references = [
        scored(reference, reference, path_inside(out / "scores" / "beside", folder_name(reference), "beside"))
        for reference in experiment.beside
    ]
    means = {name: mean_scores(name, runs) for name, runs in seeds.items()}
    pairs = [compare_scores(means[first], means[second]) for first, second in experiment.compare]
    results = {
        "experiment": experiment.model_dump(mode="json"),
        "arms": {
            name: {
                "mean": without_nan(means[name].per_video),
                "seeds": [without_nan(run.per_video) for run in runs],
            }
            for name, runs in seeds.items()
        },
        "beside": {each.name: without_nan(each.per_video) for each in references},
        "differences": [
            {
                "of": pair.second,
                "from": pair.first,
                "mean": without_nan(pair.difference.per_video),
                "interval": without_nan(pair.difference.intervals["per_video"]),
            }
            for pair in pairs
        ],
        "undefined": {
            each.name: each.undefined for each in [*(run for runs in seeds.values() for run in runs), *references]
        },
    }
    write_json(out / "results.json", results)
    text = tables(seeds, references, pairs)
    write_text(out / "results.md", text)
    print("\n" + text, flush=True)
    return out / "results.md"


def tables(
    seeds: Mapping[str, Sequence[Scores]], references: Sequence[Scores], differences: Sequence[Comparison]
) -> str:
    """Return Markdown tables of the mean scores of arms and references, and of the differences between arms."""
    first = next(iter(seeds.values()))
    metrics = first[0].metrics
    titles = [METRICS[metric].title for metric in metrics]
    lines = []
    for name, runs in seeds.items():
        cells = []
        for metric in metrics:
            values = [run.per_video[metric] for run in runs]
            known = all(map(math.isfinite, values))
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 and known else ""
            cells.append(f"{number(mean(values))}{spread}")
        lines.append([name, *cells])
    lines += [[each.name, *(number(each.per_video[metric]) for metric in metrics)] for each in references]
    text = markdown([f"mean over videos, {plural(len(first), 'seed')} (range)", *titles], lines)
    every = [run for runs in seeds.values() for run in runs] + list(references)
    text += "".join(f"\n{each.name}: {note}.\n" for each in every for note in each.undefined_notes())
    if not differences:
        return text
    lines = []
    for pair in differences:
        means, ends = pair.difference.per_video, pair.difference.intervals["per_video"]
        cells = [f"{number(means[m], '+')} [{number(ends[m][0], '+')}, {number(ends[m][1], '+')}]" for m in metrics]
        lines.append([f"{pair.second} minus {pair.first}", *cells])
    scenes = differences[0].difference.count_recordings
    return text + "\n" + markdown([f"difference [95 % interval over {scenes} scenes]", *titles], lines)


def number(value: float, sign: str = "") -> str:
    """Return a score with three decimals; a dash if it is undefined."""
    return f"{value:{sign}.3f}" if math.isfinite(value) else UNDEFINED


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *lines]) for column in range(len(head))]
    rows = [head, ["-" * width for width in widths], *lines]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    )
