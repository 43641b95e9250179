"""An experiment: trainings that differ in one thing each, over several seeds, compared on data that no choice saw.

    python scripts/experiment.py configs/experiments/hevc_gaze.yaml

Its file names the arms, each with the config of a run, and whose maps they learn from. Everything lies in the
folder `out`: a run for each arm and seed, the teachers' stores, the scores. What is there already is passed over,
so that the same command goes on after Ctrl-C; several processes can share the work, each with other `--arms`.

Arms are compared by the mean of their seeds' scores on the same frames, with intervals over redrawn scenes
(distill/evaluation/statistics.py). They say how sure a difference is for other scenes; the seeds' spread beside the
means says how much a training run again would change.
"""

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean as mean

from pydantic import Field, model_validator

from distill.data.clips import Video
from distill.data.video.guard import cores
from distill.errors import UserError
from distill.evaluation.metrics import METRICS
from distill.evaluation.references import same_scene, score
from distill.evaluation.scores import Comparison, Row, Scores, compare_scores, read_scores, without_nan
from distill.files import write_json, write_text
from distill.inference.settings import InferenceSettings
from distill.models.references import load_model
from distill.targets.importer import import_maps
from distill.targets.store import TargetStore
from distill.training import config_errors
from distill.training.config import RunConfig, Section, load_config
from distill.training.setup import build_store
from distill.training.sources import scored_videos
from distill.training.train import train


class TeacherSource(Section):
    """Where a store of maps comes from: give one of them."""

    maps: str | None = None
    """A folder of somebody's maps, as `saldistill cache import` reads it."""
    model: str | None = None
    """A model, whose maps of the learning arm's training videos are computed."""
    arm: str | None = None
    """An arm, whose seeds' models are averaged: the mean of their maps, as densities."""

    @model_validator(mode="after")
    def _one(self) -> "TeacherSource":
        if sum(source is not None for source in (self.maps, self.model, self.arm)) != 1:
            raise ValueError("give exactly one of 'maps', 'model' and 'arm'")
        return self


class Arm(Section):
    """One kind of training."""

    config: str
    """The run's YAML; seed, folder and store are set here."""
    teacher: str | None = None
    """One of the experiment's teachers."""


class Experiment(Section):
    """What is compared with what."""

    out: str
    """The folder of everything."""
    seeds: list[int] = Field(min_length=1)
    teachers: dict[str, TeacherSource] = Field(default={})
    arms: dict[str, Arm] = Field(min_length=1)
    compare: list[tuple[str, str]] = Field(default=[])
    """Pairs of arms: the second minus the first."""
    beside: list[str] = Field(default=[])
    """Baselines and models that are scored as well."""
    scenes: list[str] = Field(default=[])
    """Patterns of names: videos of one pattern are one scene for the intervals."""

    @model_validator(mode="after")
    def _complete(self) -> "Experiment":
        named = [arm.teacher for arm in self.arms.values() if arm.teacher is not None]
        if unknown := [name for name in named if name not in self.teachers]:
            raise ValueError(f"arms: there is no teacher '{unknown[0]}' under teachers")
        wanted = [arm for pair in self.compare for arm in pair]
        wanted += [teacher.arm for teacher in self.teachers.values() if teacher.arm is not None]
        if unknown := [name for name in wanted if name not in self.arms]:
            raise ValueError(f"there is no arm '{unknown[0]}' under arms")
        return self


def load_experiment(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment from YAML, with `key=value` overrides.

    Raises:
        UserError: naming every mistake.
    """
    return config_errors.load(Experiment, path, overrides)


def run_experiment(experiment: Experiment, *, arms: list[str] | None = None, device: str = "auto") -> Path | None:
    """Train the arms that are not trained yet, and when all are, score and compare them.

    Args:
        experiment: what to do.
        arms: only these arms, for another process to do the others; those that they learn from must be there.
        device: where everything runs.

    Returns:
        The table, `out`/results.md; None while arms of other processes are missing.

    Raises:
        UserError: an unknown arm, a config or data that do not fit, or a teacher that has not been trained.
    """
    chosen = list(experiment.arms) if arms is None else arms
    for name in chosen:
        if name not in experiment.arms:
            raise UserError(f"--arms: there is no arm '{name}'; there are {', '.join(experiment.arms)}")
    configs = {name: config_of(experiment, name, experiment.seeds[0], device) for name in experiment.arms}
    check_teachers(experiment, configs)
    videos = tested_videos(experiment, configs)
    for number, name in enumerate(chosen, 1):
        for seed in experiment.seeds:
            print(f"\n{name}, seed {seed} (arm {number} of {len(chosen)})", flush=True)
            teacher = experiment.arms[name].teacher
            if teacher is not None:
                make_store(experiment, teacher, configs[name], device)
            if not is_done(folder := run_of(experiment, name, seed)):
                train(config_of(experiment, name, seed, device))
            print(f"   {folder}", flush=True)
    waiting = [
        str(folder)
        for name in experiment.arms
        for seed in experiment.seeds
        if not is_done(folder := run_of(experiment, name, seed))
    ]
    if waiting:
        print(f"\nNot scored yet: {len(waiting)} runs are missing, {waiting[0]} for one.", flush=True)
        return None
    return write_results(experiment, videos, device)


def check_teachers(experiment: Experiment, configs: Mapping[str, RunConfig]) -> None:
    """Refuse arms that share a store which is made of their training videos, and train on different ones."""
    for teacher, source in experiment.teachers.items():
        taught = [name for name, arm in experiment.arms.items() if arm.teacher == teacher]
        if source.maps is None and any(
            configs[name].data.train != configs[taught[0]].data.train for name in taught
        ):
            raise UserError(
                f"arms: {', '.join(taught)} learn from '{teacher}' and train on different videos; give each "
                "an entry of its own under teachers"
            )


def tested_videos(experiment: Experiment, configs: Mapping[str, RunConfig]) -> list[Video]:
    """Return the videos that all arms are scored on."""
    tests = [config.data.test for config in configs.values()]
    if any(test != tests[0] for test in tests) or not tests[0]:
        raise UserError("arms: all configs must name the same videos under data.test, at least one")
    return same_scene(scored_videos(tests[0]), experiment.scenes)


def run_of(experiment: Experiment, arm: str, seed: int) -> Path:
    """Return the folder of a run."""
    return Path(experiment.out) / "runs" / f"{arm}-{seed}"


def store_of(experiment: Experiment, teacher: str) -> Path:
    """Return the folder of a teacher's maps."""
    return Path(experiment.out) / "teachers" / teacher


def is_done(run: Path) -> bool:
    """Tell whether a run came to its end."""
    return (run / "summary.json").is_file()


def config_of(experiment: Experiment, name: str, seed: int, device: str) -> RunConfig:
    """Return the config of an arm's run."""
    arm = experiment.arms[name]
    overrides = [f"out={run_of(experiment, name, seed)}", f"seed={seed}", f"device={device}", "resume=auto"]
    if arm.teacher is not None:
        overrides.append(f"teacher.store={store_of(experiment, arm.teacher)}")
    return load_config(arm.config, overrides)


def make_store(experiment: Experiment, name: str, learner: RunConfig, device: str) -> None:
    """Make a teacher's store unless it is there and complete; wait for a process that is making it.

    Args:
        experiment: whose teacher.
        name: of the teacher.
        learner: whose training videos are wanted.
        device: where models compute.

    Raises:
        UserError: an arm that is to teach is not trained, or the store there is of other seeds.
    """
    teacher, out = experiment.teachers[name], store_of(experiment, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.with_name(f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = [teacher.maps] if teacher.maps is not None else []
        if teacher.arm is not None:
            sources = [str(out.with_name(f"{name}-{seed}")) for seed in experiment.seeds]
        if out.is_dir() and (store := TargetStore.open(out)).complete:
            if sources and store.notes.get("imported") != sources:
                raise UserError(
                    f"{out}: was made from {', '.join(store.notes.get('imported', []))}, not from "
                    f"{', '.join(sources)}; remove it, or choose another out"
                )
            return
        print(f"   the maps of {name}: {out}", flush=True)
        if teacher.model is not None:
            maps_of_model(teacher.model, out, learner, device)
        if teacher.arm is not None:
            for seed, part in zip(experiment.seeds, sources, strict=True):
                run = run_of(experiment, teacher.arm, seed)
                if not is_done(run):
                    raise UserError(f"{run}: teaches as '{name}', and is not trained yet; train its arm first")
                maps_of_model(str(run), Path(part), learner, device)
        if sources:
            import_maps(sources, out)


def maps_of_model(model: str, out: Path, learner: RunConfig, device: str) -> None:
    """Store a model's maps of the videos that a learner trains on, seen at the stride that it was trained at."""
    assert learner.teacher is not None
    stride = load_model(model).stride
    teacher = learner.teacher.model_copy(
        update={"model": model, "store": str(out), "views": ["plain"], "stride": stride}
    )
    build_store(learner.model_copy(update={"teacher": teacher, "device": device}))


def write_results(experiment: Experiment, videos: list[Video], device: str) -> Path:
    """Score what is not scored yet, compare, and write results.json and results.md."""
    out = Path(experiment.out)

    def scored(reference: str, name: str, folder: Path) -> Scores:
        if not (folder / "scores.json").exists():
            found, _ = score(reference, videos, InferenceSettings(stride=None, device=device), workers=cores())
            found.save(folder)
        return replace(read_scores(folder), name=name)

    seeds = {
        name: [
            scored(str(run_of(experiment, name, seed)), f"{name}-{seed}", out / "scores" / f"{name}-{seed}")
            for seed in experiment.seeds
        ]
        for name in experiment.arms
    }
    beside = [
        scored(reference, reference, out / "scores" / "beside" / reference.strip("/").replace("/", "_"))
        for reference in experiment.beside
    ]
    means = {name: mean_of(name, runs) for name, runs in seeds.items()}
    pairs = [compare_scores(means[first], means[second]) for first, second in experiment.compare]
    write_json(
        out / "results.json",
        {
            "experiment": experiment.model_dump(mode="json"),
            "arms": {
                name: {
                    "mean": without_nan(means[name].per_video),
                    "seeds": [without_nan(run.per_video) for run in runs],
                }
                for name, runs in seeds.items()
            },
            "beside": {each.name: without_nan(each.per_video) for each in beside},
            "differences": [
                {
                    "of": pair.second,
                    "from": pair.first,
                    "mean": without_nan(pair.difference.per_video),
                    "interval": without_nan(pair.difference.intervals["per_video"]),
                }
                for pair in pairs
            ],
        },
    )
    text = tables(seeds, beside, pairs)
    write_text(out / "results.md", text)
    print("\n" + text, flush=True)
    return out / "results.md"


def mean_of(name: str, seeds: Sequence[Scores]) -> Scores:
    """Return the scores of several seeds on the same frames as one: the mean of each frame's."""
    rows = [
        Row(
            first.video,
            first.frame,
            {metric: mean([row.values[metric] for row in same]) for metric in first.values},
        )
        for same in zip(*(each.rows for each in seeds), strict=True)
        for first in same[:1]
    ]
    return replace(seeds[0], name=name, rows=rows)


def tables(
    seeds: Mapping[str, Sequence[Scores]], beside: Sequence[Scores], differences: Sequence[Comparison]
) -> str:
    """Lay out, in Markdown, the means over videos of arms and of what stands beside them, and the differences."""
    metrics = next(iter(seeds.values()))[0].metrics
    titles = [METRICS[metric].title for metric in metrics]
    lines = []
    for name, runs in seeds.items():
        cells = []
        for metric in metrics:
            values = [run.per_video[metric] for run in runs]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}")
        lines.append([name, *cells])
    lines += [[each.name, *(f"{each.per_video[metric]:.3f}" for metric in metrics)] for each in beside]
    count = len(next(iter(seeds.values())))
    text = markdown([f"mean over videos, of {count} seeds (their range)", *titles], lines)
    if not differences:
        return text
    lines = []
    for pair in differences:
        means, ends = pair.difference.per_video, pair.difference.intervals["per_video"]
        lines.append(
            [f"{pair.second} minus {pair.first}"]
            + [f"{means[m]:+.3f} [{ends[m][0]:+.3f}, {ends[m][1]:+.3f}]" for m in metrics]
        )
    scenes = differences[0].difference.count_recordings
    return text + "\n" + markdown([f"difference [95% over {scenes} scenes]", *titles], lines)


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, its columns aligned for reading as text."""
    widths = [max(len(row[column]) for row in [head, *lines]) for column in range(len(head))]
    rows = [head, ["-" * width for width in widths], *lines]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |\n"
        for row in rows
    )
