"""Compare training configs over several seeds, scored on the same test videos.

    python scripts/experiment.py configs/experiments/hevc_gaze.yaml

An experiment file names the arms (one run config each), the arms that they start from and the teachers that they
learn from. The folder `out` holds all results: one run per arm and seed, the target stores and the scores. Finished
parts are skipped, so that the same command resumes after Ctrl-C; several processes can share the work with
different `--arms`.

Arms are compared by their scores on the same frames, averaged over seeds, with bootstrap intervals over scenes
(distill/evaluation/statistics.py). The intervals show how well a difference generalises to other scenes; the range
over the seeds shows how much it varies between training runs. Test sources of different names, such as videos and
stills, are test sets of their own: scored, tabulated and compared separately.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from distill.data.clips import Video
from distill.data.text import plural
from distill.data.video.guard import cores
from distill.errors import UserError
from distill.evaluation.references import folder_name, same_scene, score
from distill.evaluation.scores import (
    Scores,
    compare_scores,
    mean_scores,
    read_scores,
    without_nan,
)
from distill.files import write_json, write_text
from distill.inference.settings import InferenceSettings
from distill.limits import MAX_SEEDS
from distill.locks import lock_file
from distill.models.device import resolve_device
from distill.models.references import load_model
from distill.paths import path_inside
from distill.reports.experiment_tables import score_tables
from distill.targets.build import build
from distill.targets.importer import import_maps
from distill.targets.store import TargetStore, first_few
from distill.training import config_errors
from distill.training.config import RunConfig, ScoredSource, load_config
from distill.training.config_errors import OutText, Pair, Section, Seed, quoted
from distill.training.sources import (
    scored_videos,
    taught_sources,
    training_sources,
    training_videos,
    warn_of_trained_frames,
)
from distill.training.teacher_section import TeacherSection
from distill.training.train import train
from distill.training.yaml_text import read_yaml

Names = Annotated[
    list[str], Field(min_length=1), BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]
"""One name or several."""


class TeacherSource(Section):
    """Source of a target store; exactly one field is set."""

    maps: str | None = None
    """Folder of external saliency maps, as read by `saldistill cache import`."""
    model: str | None = None
    """Model that computes maps of the training videos."""
    arm: Names | None = None
    """Arm or arms whose models, one per seed, compute maps of the training videos; their mean density is stored."""

    @model_validator(mode="after")
    def _one(self) -> "TeacherSource":
        if sum(source is not None for source in (self.maps, self.model, self.arm)) != 1:
            raise ValueError("give exactly one of 'maps', 'model' and 'arm'")
        return self


Seeds = Annotated[list[Seed], Field(min_length=1, max_length=MAX_SEEDS)]


class Arm(Section):
    """One training config, which runs once per seed."""

    config: str
    """Run config; the experiment sets its seed, folders, device and, with `after`, the weights to start from."""
    overrides: list[str] = Field(default=[])
    """Settings `key=value` that differ from the config, as on the command line."""
    teacher: Names | None = None
    """Names of the experiment's teachers whose target stores it reads: one for the config's only teacher, or each
    for the config's teacher of the same name."""
    after: str | None = None
    """Earlier arm from whose weights this one starts (`model.weights`): of the same seed, or of its only one."""
    seeds: Seeds | None = None
    """Seeds of this arm; defaults to the experiment's."""


class Experiment(Section):
    """Arms to train, score and compare."""

    out: OutText
    """Folder for all runs, target stores and results."""
    seeds: Seeds
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
        names = list(self.arms)
        for number, (name, arm) in enumerate(self.arms.items()):
            for teacher in arm.teacher or []:
                config_errors.one_of(teacher, self.teachers, "teacher")
            if arm.after is not None:
                config_errors.one_of(arm.after, names, "arm")
                if arm.after not in names[:number]:
                    raise ValueError(
                        f"arms.{name}.after: '{arm.after}' comes later in the file; put it before '{name}'"
                    )
                given = self.seeds_of(arm.after)
                lacking = [seed for seed in self.seeds_of(name) if seed not in given]
                if lacking and len(given) > 1:
                    raise ValueError(
                        f"arms.{name}.after: '{arm.after}' has no seed {lacking[0]}; add it to its seeds, or "
                        "give it a single seed, from which all start"
                    )
        compared = [arm for pair in self.compare for arm in pair]
        for name in compared + [arm for each in self.teachers.values() for arm in each.arm or []]:
            config_errors.one_of(name, self.arms, "arm")
        for name in [*self.arms, *self.teachers]:
            path_inside(self.out, name, "arms and teachers")
        return self

    def seeds_of(self, arm: str) -> list[int]:
        """Return the seeds of an arm's runs."""
        return self.arms[arm].seeds or self.seeds

    def runs(self, arms: Iterable[str]) -> list[tuple[str, int]]:
        """Return the runs of some arms, as pairs of arm and seed."""
        return [(arm, seed) for arm in arms for seed in self.seeds_of(arm)]

    def seed_before(self, arm: str, seed: int) -> int:
        """Return the seed of the run from whose weights another one starts."""
        seeds = self.seeds_of(arm)
        return seed if seed in seeds else seeds[0]

    def run_folder(self, arm: str, seed: int) -> Path:
        """Return the folder of a run."""
        return Path(self.out) / "runs" / f"{arm}-{seed}"

    def store_folder(self, teacher: str) -> Path:
        """Return the folder of a teacher's target store."""
        return Path(self.out) / "teachers" / teacher

    def run_config(self, name: str, seed: int, device: str) -> RunConfig:
        """Return the config of an arm's run."""
        arm = self.arms[name]
        overrides = [
            *arm.overrides,
            f"out={quoted(self.run_folder(name, seed))}",
            f"seed={seed}",
            f"device={quoted(device)}",
        ]
        overrides.append("resume=auto")
        for teacher in arm.teacher or []:
            key = store_key(arm, teacher, f"arms.{name}.teacher")
            overrides.append(f"{key}={quoted(self.store_folder(teacher))}")
        if arm.after is not None:
            start = self.run_folder(arm.after, self.seed_before(arm.after, seed))
            overrides.append(f"model.weights={quoted(start)}")
        return load_config(arm.config, overrides)

    def section_of(self, teacher: str, config: RunConfig) -> TeacherSection | None:
        """Return the section of a run config that reads a teacher's target store, if there is one."""
        folder = str(self.store_folder(teacher))
        return next((section for section in config.teacher_sections if section.store == folder), None)


def store_key(arm: Arm, teacher: str, where: str) -> str:
    """Return the key of an arm's config for the target store of one of its teachers.

    Raises:
        UserError: the config has several teachers, none of that name; or one, and the arm has several.
    """
    content = read_yaml(arm.config)
    content = content if isinstance(content, dict) else {}
    if isinstance(team := content.get("teachers"), dict):
        require_teacher(teacher, list(team), f"{where}: {arm.config}")
        return f"teachers.{teacher}.store"
    sections = content.get("teacher")
    if not isinstance(sections, list):
        if len(arm.teacher or []) > 1:
            raise UserError(
                f"{where}: {arm.config} has one teacher; expected one name, got {', '.join(arm.teacher or [])}"
            )
        return "teacher.store"
    names = [section.get("name") if isinstance(section, dict) else None for section in sections]
    require_teacher(teacher, names, f"{where}: {arm.config}")
    return f"teacher.{names.index(teacher)}.store"


def require_teacher(teacher: str, names: Sequence[object], where: str) -> None:
    """Raise a UserError unless a config's teachers include one of a name."""
    if teacher not in names:
        raise UserError(f"{where} has no teacher called '{teacher}'; expected one of {', '.join(map(str, names))}")


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
        arms: train only these arms; those that they start from or learn from must already be trained.
        device: device to run on.

    Returns:
        Path of the table, `out`/results.md; None if other arms are not trained yet.

    Raises:
        UserError: an arm is unknown, a config does not fit the data, or an arm that another needs is not trained.
    """
    chosen = list(experiment.arms) if arms is None else arms
    for name in chosen:
        if name not in experiment.arms:
            raise UserError(f"--arms: unknown arm '{name}'; expected names from {', '.join(experiment.arms)}")
    configs = {name: experiment.run_config(name, experiment.seeds_of(name)[0], device) for name in experiment.arms}
    tests = common_test_sets(experiment, configs)
    scored = [video for videos in tests.values() for video in videos]
    for name, seed in experiment.runs(chosen):
        print(f"\n{name}, seed {seed} (arm {chosen.index(name) + 1} of {len(chosen)})", flush=True)
        for teacher in experiment.arms[name].teacher or []:
            make_store(experiment, teacher, configs, device)
        if not is_done(folder := experiment.run_folder(name, seed)):
            if (after := experiment.arms[name].after) is not None:
                require_done(experiment, after, experiment.seed_before(after, seed), f"the arm '{name}'")
            warn_of_trained_frames(training_sources(configs[name].data), scored, f"arms.{name}")
            train(experiment.run_config(name, seed, device))
        print(f"   {folder}", flush=True)
    runs = [experiment.run_folder(*run) for run in experiment.runs(experiment.arms)]
    if missing := [run for run in runs if not is_done(run)]:
        print(f"\nNot scored yet: {plural(len(missing), 'run')} not finished, e.g. {missing[0]}.", flush=True)
        return None
    return write_results(experiment, tests, device)


def common_test_sets(experiment: Experiment, configs: Mapping[str, RunConfig]) -> dict[str, list[Video]]:
    """Return the test sets of all arms, by the name of their sources; every arm is scored on all of them.

    Raises:
        UserError: there is none, or two configs have different ones of the same name.
    """
    sets: dict[str, list[ScoredSource]] = {}
    for name, config in configs.items():
        own: dict[str, list[ScoredSource]] = {}
        for source in config.data.test:
            own.setdefault(source.label, []).append(source)
        for label, sources in own.items():
            if sets.setdefault(label, sources) != sources:
                raise UserError(
                    f"arms.{name}: the sources of data.test called '{label}' differ from those of other arms; make "
                    "them equal, or give them another name"
                )
    if not sets:
        raise UserError("arms: expected a config with data.test, the videos to score on; add it")
    found = {label: scored_videos(sources) for label, sources in sets.items()}
    merged = iter(same_scene([video for videos in found.values() for video in videos], experiment.scenes))
    return {label: list(islice(merged, len(videos))) for label, videos in found.items()}


def require_done(experiment: Experiment, arm: str, seed: int, role: str) -> Path:
    """Return the folder of a run that another one needs.

    Raises:
        UserError: it is not finished; the error says that `role` needs it.
    """
    run = experiment.run_folder(arm, seed)
    if not is_done(run):
        raise UserError(f"{run}: this run is not trained yet, and {role} needs it; train the arm '{arm}' first")
    return run


def is_done(run: Path) -> bool:
    """Return whether a run is finished."""
    return (run / "summary.json").is_file()


def make_store(experiment: Experiment, name: str, configs: Mapping[str, RunConfig], device: str) -> None:
    """Build a teacher's target store unless it is complete; wait if another process is building it.

    It covers what the teacher is to teach in any arm: stills, labelled and unlabelled videos.

    Raises:
        UserError: the store is one of other sources or lacks videos, or an arm that is the teacher is not trained.
    """
    teacher, out = experiment.teachers[name], experiment.store_folder(name)
    pairs = [(config, experiment.section_of(name, config)) for config in configs.values()]
    students = [(config, section) for config, section in pairs if section is not None]
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{name}.building").open("w") as lock:  # not the store's own claim, which import_maps takes
        lock_file(lock.fileno(), wait=True)
        sources = [teacher.maps] if teacher.maps is not None else []
        runs = experiment.runs(teacher.arm or [])
        sources += [str(out.with_name(part_name(name, teacher, *run))) for run in runs]
        videos = videos_to_label(students) if teacher.maps is None else []
        if out.is_dir() and (store := TargetStore.open(out)).complete:
            if sources and store.notes.get("imported") != sources:
                raise UserError(
                    f"{out}: built from {', '.join(store.notes.get('imported', []))}, expected "
                    f"{', '.join(sources)}; remove it, or choose another out"
                )
            if lacking := [video.name for video in videos if not covers(store, video)]:
                raise UserError(
                    f"{out}: lacks maps of {first_few(lacking)}, which the arms now train on; remove "
                    f"{' and '.join([str(out), *sources])} to build it again, or choose another out"
                )
            return
        print(f"   building the target store of {name}: {out}", flush=True)
        section = students[0][1]
        if teacher.model is not None:
            store_maps(teacher.model, out, videos, section, device)
        for run, part in zip(runs, sources[len(sources) - len(runs) :], strict=True):
            folder = require_done(experiment, *run, f"the teacher '{name}'")
            store_maps(str(folder), Path(part), videos, section, device)
        if sources:
            import_maps(sources, out)


def part_name(name: str, teacher: TeacherSource, arm: str, seed: int) -> str:
    """Return the name of the target store of one run of a teacher, which is the mean of several."""
    return f"{name}-{seed}" if len(teacher.arm or []) == 1 else f"{name}-{arm}-{seed}"


def covers(store: TargetStore, video: Video) -> bool:
    """Return whether a store has maps of all frames in use of a video."""
    return all(store.plan.locate(video.name, frame, "plain") is not None for frame in video.frames)


def videos_to_label(students: Sequence[tuple[RunConfig, TeacherSection]]) -> list[Video]:
    """Return the union of the training videos that a teacher teaches in several runs."""
    found = [
        source
        for config, section in students
        for source in taught_sources(training_sources(config.data), config.data, section).values()
    ]
    return training_videos(found)


def store_maps(model: str, out: Path, videos: Sequence[Video], section: TeacherSection, device: str) -> None:
    """Build a target store with a model at the stride of its training, and the other settings of a section."""
    loaded = load_model(model, device=resolve_device(device))
    settings = section.settings(resolve_device(device))
    build(loaded, videos, out, replace(settings, stride=loaded.stride), codec=section.codec)


def write_results(experiment: Experiment, tests: Mapping[str, list[Video]], device: str) -> Path:
    """Score the runs that are not scored yet, compare the arms, and write the results; return `out`/results.md.

    With one test set, the results have no level of their own for it.
    """
    out = Path(experiment.out)
    found = {
        name: results_of(experiment, videos, out / "scores" / (name if len(tests) > 1 else ""), device)
        for name, videos in tests.items()
    }
    values = {name: result for name, (result, _) in found.items()}
    only = next(iter(values.values()))
    content = {"experiment": experiment.model_dump(mode="json")}
    write_json(out / "results.json", content | ({"tests": values} if len(tests) > 1 else only))
    text = "\n".join(f"## {name}\n\n{table}" if len(tests) > 1 else table for name, (_, table) in found.items())
    write_text(out / "results.md", text)
    print("\n" + text, flush=True)
    return out / "results.md"


def results_of(
    experiment: Experiment, videos: list[Video], folder: Path, device: str
) -> tuple[dict[str, Any], str]:
    """Return the results on one test set as JSON values and as tables; the scores are kept in a folder."""

    def scored(reference: str, name: str, folder: Path) -> Scores:
        if not (folder / "scores.json").exists():
            found, _ = score(reference, videos, InferenceSettings(stride=None, device=device), workers=cores())
            found.save(folder)
        return replace(read_scores(folder), name=name)

    seeds = {
        name: [
            scored(str(experiment.run_folder(name, seed)), f"{name}-{seed}", folder / f"{name}-{seed}")
            for seed in experiment.seeds_of(name)
        ]
        for name in experiment.arms
    }
    references = [
        scored(reference, reference, path_inside(folder / "beside", folder_name(reference), "beside"))
        for reference in experiment.beside
    ]
    means = {name: mean_scores(name, runs) for name, runs in seeds.items()}
    pairs = [compare_scores(means[first], means[second]) for first, second in experiment.compare]
    results = {
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
    stills = all(video.num_frames == 1 for video in videos)
    return results, score_tables(seeds, references, pairs, unit="image" if stills else "video")
