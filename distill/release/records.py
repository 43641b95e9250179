"""Parts of a pretrained model's record, read from the files of runs, evaluations and benchmarks."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat

from distill.data.text import plural
from distill.errors import UserError
from distill.evaluation.baselines import BASELINES
from distill.evaluation.observers import NAME as OBSERVERS
from distill.evaluation.scores import Scores, read_scores
from distill.files import file_hash, flatten
from distill.models.hub import PREFIX
from distill.models.pretrained import Cost, DataUse, ScoreRow, ScoreTable, Training
from distill.release.facts import Facts
from distill.targets.store import TargetStore
from distill.training.config import RunConfig, SourceSection, load_config
from distill.training.run_folder import FREE_TO_CHANGE, best_notes, changed_keys
from distill.training.teacher_section import TeacherSection
from distill.validation import read_json

CONFIG = "config.yaml"

SCORES = "scores.json"

STORE_FILE = "store.json"

MAX_NAMED = 4
"""Videos of a source that are named; of more, the number is given."""

REFERENCE_NETWORK = "mobilenetv2_100"
"""Part of the name of the benchmark row that speeds are compared with."""


class Summary(BaseModel):
    """The part of a run's summary.json that is read."""

    steps: int
    seconds: FiniteFloat
    device: str


class BenchmarkRow(BaseModel):
    """The part of a row of `saldistill benchmark --json` that is read."""

    model: str
    runtime: str
    precision: str
    batch_size: int
    milliseconds: FiniteFloat


class Benchmark(BaseModel):
    """The part of a file of `saldistill benchmark --json` that is read."""

    setting: dict[str, Any]
    rows: list[BenchmarkRow]


# ------------------------------------------------------------------------------------------------- training


def read_training(
    runs: Sequence[Path],
    facts: Facts,
    *,
    chosen: Sequence[str] = (),
    config_file: str | None = None,
    experiment: str | None = None,
    learnt_from: Sequence[str | Path] = (),
) -> Training:
    """Return how a run was trained, on what, and how it can be repeated.

    Args:
        runs: a finished run folder, or those of several seeds whose mean weights are shipped.
        facts: terms of the data.
        chosen: what was chosen on which data, in addition to the step of the weights.
        config_file: config that the run was started with; its differences from the run's are overrides.
        experiment: experiment file that the run is an arm of.
        learnt_from: other runs behind this one that neither its config nor its target stores name.

    Raises:
        UserError: a run is not finished, the runs differ in more than the seed, or facts.yaml lacks the terms of
            some data.
    """
    summaries = [read_summary(run) for run in runs]
    config = load_config(runs[0] / CONFIG)
    for run in runs[1:]:
        check_same(runs[0], run)
    configs = configs_behind(runs, facts, learnt_from=learnt_from)
    return Training(
        command=command(config, config_file, experiment),
        config=without_paths(config.model_dump(mode="json", exclude_defaults=True)),
        config_sha256=file_hash(runs[0] / CONFIG),
        steps=summaries[0].steps,
        minutes=round(sum(each.seconds for each in summaries) / 60, 1),
        device=summaries[0].device,
        best=describe_mean(runs) + describe_best(runs[0], config),
        chosen=list(chosen),
        data=data_of(configs, facts),
        teachers=[describe_teacher(each, facts) for each in config.teacher_sections],
    )


def read_summary(run: Path) -> Summary:
    """Return the summary of a finished run.

    Raises:
        UserError: the run is not finished.
    """
    if not (run / "summary.json").exists():
        raise UserError(f"{run}: no summary.json; expected the folder of a finished run")
    return read_json(run / "summary.json", Summary, "the summary of a run")


def check_same(run: Path, other: Path) -> None:
    """Raise a UserError if the configs of two runs differ in more than the seed."""
    configs = (load_config(each / CONFIG) for each in (run, other))
    changed = [key for key in changed_keys(*configs) if key != "seed"]
    if changed:
        raise UserError(
            f"{other}: {changed[0]} differs from that of {run}; expected runs of one config that differ only in "
            "their seed, whose weights have a mean"
        )


def describe_mean(runs: Sequence[Path]) -> str:
    """Return the start of a sentence on mean weights, for several runs."""
    return f"the mean of {len(runs)} runs ({', '.join(run.name for run in runs)}): " if len(runs) > 1 else ""


def configs_behind(
    runs: Sequence[Path], facts: Facts, *, learnt_from: Sequence[str | Path] = ()
) -> dict[Path, RunConfig]:
    """Return the configs of runs and of all runs behind them, by run folder; see `read_training`."""
    named = [*runs, *(Path(each) for each in learnt_from)]
    return {each: load_config(each / CONFIG) for each in [*named, *(a for r in named for a in ancestors(r, facts))]}


def ancestors(run: Path, facts: Facts) -> Iterator[Path]:
    """Yield the run folders that a run starts from or learns from, and theirs."""
    config = load_config(run / CONFIG)
    found = [config.model.weights, *(teacher.model for teacher in config.teacher_sections)]
    named = [folder for name in filter(None, found) for folder in (Path(name), Path(name).parent)]
    stores = [teacher.store for teacher in config.teacher_sections if teacher.store]
    behind = [each for store in stores for each in runs_behind(store, facts)]
    for folder in [*named, *behind]:
        if (folder / CONFIG).is_file() and folder.resolve() != run.resolve():
            yield folder
            yield from ancestors(folder, facts)


def runs_behind(store: str | Path, facts: Facts) -> list[Path]:
    """Return the run folders whose maps are in a target store.

    Raises:
        UserError: it holds maps that other software made, and facts.yaml has no licence for them.
    """
    if not (Path(store) / STORE_FILE).is_file():
        return []
    notes = TargetStore.open(store).notes
    runs = []
    for source in notes.get("imported") or ():
        if not (Path(source) / STORE_FILE).is_file():
            facts.data_of(source, store)
        runs += runs_behind(source, facts)
    teacher = notes.get("teacher")
    return [*runs, Path(teacher)] if isinstance(teacher, str) and (Path(teacher) / CONFIG).is_file() else runs


def describe_teacher(teacher: TeacherSection, facts: Facts) -> str:
    """Return a teacher as text."""
    how = "computed online" if teacher.source == "online" else "from a target store"
    weight = f", weight {teacher.weight:g}" if teacher.weight != 1 else ""
    runs = runs_behind(teacher.store, facts) if teacher.store and teacher.source != "online" else []
    names = [run.name for run in runs] or [shown(teacher.model or teacher.store or "a teacher")]
    mean = f"the mean of {plural(len(names), 'model')}, " if len(names) > 1 else ""
    return f"maps of {mean}{', '.join(names)} ({how}{weight})"


def describe_best(run: Path, config: RunConfig) -> str:
    """Return which step's weights are shipped, and what chose it."""
    notes = best_notes(run / "best.safetensors")
    average = ", averaged (EMA)" if config.training.ema is not None else ""
    if notes is None:
        return f"those after the last step{average}; nothing was chosen by a score"
    score = (notes.get("validation") or {}).get(config.training.best)
    value = f" = {score:.3f}" if isinstance(score, float) else ""
    where = " and ".join(describe_source(source) for source in config.data.validation)
    metric = f"validation {config.training.best.upper()}{value} on {where}" if where else "the end of the run"
    return f"those of step {notes.get('step')}{average}, chosen by {metric}"


def describe_source(source: SourceSection) -> str:
    """Return a source of a config as text, e.g. `hevc-gaze (split train, share 0.85 to 1 of seed 1)`."""
    parts = [f"split {source.split}"] if source.split else []
    if source.share is not None:
        parts.append(f"share {source.share[0]:g} to {source.share[1]:g} of seed {source.share_seed}")
    if source.videos is not None:
        names = source.videos if len(source.videos) <= MAX_NAMED else [plural(len(source.videos), "video")]
        parts.append(", ".join(names))
    if source.frames is not None:
        parts.append(f"frames {source.frames[0]} to {source.frames[1]}")
    name = Path(source.root).name if source.root else source.dataset
    return f"{name} ({', '.join(parts)})" if parts else f"all of {name}"


def data_of(configs: dict[Path, RunConfig], facts: Facts) -> list[DataUse]:
    """Return the data of runs with their terms, each once."""
    uses: dict[str, list[str]] = {}
    terms = {}
    for run, config in configs.items():
        for index, source in enumerate(config.data.train):
            if source.root is None:
                continue
            fact = facts.data_of(source.root, f"{run / CONFIG}: data.train.{index}.root")
            terms[fact.title] = fact
            used = describe_source(source)
            if used not in uses.setdefault(fact.title, []):
                uses[fact.title].append(used)
        if config.model.weights == "imagenet":
            fact = facts.data["imagenet"]
            terms[fact.title] = fact
            uses.setdefault(fact.title, ["as initial weights of the backbone"])
    return [
        DataUse(title=title, used="; ".join(used), licence=terms[title].licence, citation=terms[title].citation)
        for title, used in uses.items()
    ]


def command(config: RunConfig, config_file: str | None, experiment: str | None) -> str:
    """Return the command that repeats a run: its experiment, or its config and the settings that differ from it."""
    if experiment is not None:
        return f"python scripts/experiment.py {shown(experiment)}"
    verb = "distill" if config.teacher_sections else "train"
    if config_file is None:
        return f"saldistill {verb} config.yaml"
    before, now = (flatten(each.model_dump(mode="json")) for each in (load_config(config_file), config))
    changed = [
        f"{key}={json.dumps(now[key])}"
        for key in now
        if now[key] != before.get(key) and key not in FREE_TO_CHANGE and not is_path(key)
    ]
    return " ".join([f"saldistill {verb} {shown(config_file)}", *changed])


def is_path(key: str) -> bool:
    """Return whether a config key holds a path, which differs between machines."""
    return key.rsplit(".", 1)[-1] in ("root", "store", "out", "weights") or key.startswith("teacher")


def without_paths(config: Any) -> Any:
    """Return a config whose paths are relative or reduced to their last parts."""
    if isinstance(config, dict):
        return {
            key: without_paths(value) for key, value in config.items() if key not in ("out", "resume", "device")
        }
    if isinstance(config, list):
        return [without_paths(each) for each in config]
    return shown(config) if isinstance(config, str) and "/" in config else config


def shown(path: str) -> str:
    """Return a path without the folders of one machine; a repository of the Hugging Face Hub stays as it is."""
    if path.startswith(PREFIX):
        return path
    parts = [part for part in Path(path).parts if part not in ("/", "..", ".")]
    return "/".join(parts[-2:]) if Path(path).is_absolute() or ".." in Path(path).parts else "/".join(parts)


# ------------------------------------------------------------------------------------------------- scores, cost


def read_score_table(
    key: str, folders: Sequence[Path], name: str, references: Sequence[str], facts: Facts
) -> ScoreTable:
    """Return the scores in folders of `saldistill evaluate -o`: the model's first, then the others.

    Args:
        key: key of facts.yaml's scores.
        folders: folders of scores, or of one such folder per model.
        name: name of the pretrained model.
        references: references that the model may have been evaluated under, e.g. its name and its run folder.
        facts: titles and published scores.

    Raises:
        UserError: the key is unknown, or no scores in the folder are the model's.
    """
    if key not in facts.scores:
        raise UserError(f"--scores {key}: unknown key; expected one of {', '.join(facts.scores)} (facts.yaml)")
    found = [read_scores(each) for folder in folders for each in score_folders(folder)]
    same = {str(Path(each)) for each in references} | set(references)
    own = found if len(found) == 1 else [scores for scores in found if scores.name in same]
    if len(own) != 1:
        raise UserError(
            f"--scores {key}: expected the scores of {name} first, found "
            f"{', '.join(each.name for each in found) or 'none'}; evaluate {' or '.join(references)}"
        )
    others = [scores for scores in found if scores is not own[0]]
    rows = [score_row(own[0], name)]
    rows += [score_row(scores, title_of(scores.name)) for scores in others]
    fact = facts.scores[key]
    rows_by_video = Counter(row.video for row in own[0].rows)
    what = f"{plural(len(rows_by_video), 'video')}, {plural(len(own[0].rows), 'frame')}"
    if (frames := own[0].how.get("frames", "")) and not frames.startswith("every frame"):
        what += f" ({frames})"
    if set(rows_by_video.values()) == {1}:
        what = plural(len(rows_by_video), "image")
    return ScoreTable(key=key, title=fact.title, what=f"mean over {what}", rows=[*rows, *fact.rows()])


def score_folders(folder: Path) -> list[Path]:
    """Return a folder of scores itself, or the folders of scores in it."""
    return [folder] if (folder / SCORES).exists() else sorted(path.parent for path in folder.glob(f"*/{SCORES}"))


def score_row(scores: Scores, name: str) -> ScoreRow:
    """Return means over videos and their intervals, rounded to four digits."""
    means = {metric: None if value != value else round(value, 4) for metric, value in scores.per_video.items()}
    intervals = {
        metric: None if low != low else (round(low, 4), round(high, 4))
        for metric, (low, high) in scores.intervals["per_video"].items()
    }
    return ScoreRow(name=name, means=means, intervals=intervals)


def title_of(name: str) -> str:
    """Return the name of a baseline or of another model for a table."""
    if name in BASELINES:
        return name.replace("-", " ")
    return f"one half of the {OBSERVERS} against the other" if name.startswith(OBSERVERS) else shown(name)


def read_cost(path: Path, references: Sequence[str], cost: Cost) -> Cost:
    """Return a cost with the times of a benchmark.

    Args:
        path: file of `saldistill benchmark --json`.
        references: references that the model may have been measured under; the row of ONNX Runtime counts.
        cost: weights and operations.

    Raises:
        UserError: the file has no row of the model or of the network that it is compared with.
    """
    benchmark = read_json(path, Benchmark, "measurements of `saldistill benchmark --json`")
    rows = [row for row in benchmark.rows if row.runtime == "ONNX Runtime"]
    own = [row for row in rows if row.model in references or Path(row.model).stem in references]
    others = [row for row in rows if REFERENCE_NETWORK in row.model]
    if not own or not others:
        raise UserError(
            f"{path}: expected rows of ONNX Runtime for {references[0]} and for {REFERENCE_NETWORK}, found "
            f"{', '.join(row.model for row in rows) or 'none'}"
        )
    row, other, setting = own[0], others[0], benchmark.setting
    how = (
        f"ONNX Runtime {setting.get('onnxruntime', '')}, {row.precision}, batch size {row.batch_size}, "
        f"{setting.get('threads')} CPU threads, {setting.get('device')}, one interleaved run"
    )
    return cost.model_copy(
        update={
            "milliseconds": round(row.milliseconds, 2),
            "ratio": round(row.milliseconds / other.milliseconds, 3),
            "compared_with": f"{Path(other.model).stem} ({other.milliseconds:.2f} ms)",
            "how": how,
        }
    )
