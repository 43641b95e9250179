"""Experiments: from the file over runs and target stores to the table."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from helpers.places import REPOSITORY
from helpers.still_files import still_set
from helpers.video_files import write_grey

from distill.errors import UserError
from distill.evaluation.scores import Row, Scores, compare_scores, mean_scores
from distill.experiment import common_test_sets, load_experiment, run_experiment
from distill.models.references import load_model
from distill.reports.experiment_tables import aligned_table, score_tables
from distill.targets.store import TargetStore
from distill.training.config import load_config
from distill.training.step_log import read_log

SHIPPED = sorted((REPOSITORY / "configs/experiments").glob("*.yaml"))


def run(folder: Path, name: str, *losses: dict, teacher: bool = False, clips: int = 2) -> str:
    source = {"dataset": "synthetic", "videos": ["blob0"], "frames": [1, 12]}
    config = {
        "out": "unused",
        "model": {"name": "student/stream", "variant": "micro"},
        "data": {
            "workers": 0,
            "stride": 2,
            "train": [source | {"clips_per_video": clips}],
            "test": [{"dataset": "synthetic", "videos": ["blob1", "blob2"], "every": 16}],
        },
        "losses": list(losses),
        "training": {"steps": 2},
    }
    if teacher:
        config["teacher"] = {"source": "cached", "store": "unused", "mirror": True}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    truth = {"name": "kldiv"}
    distilled = {"name": "kldiv", "against": "teacher"}
    values = {
        "out": str(tmp_path / "out"),
        "seeds": [0, 1],
        "teachers": {"assistant": {"arm": "truth"}, "untrained": {"model": "student/stream:micro"}},
        "arms": {
            "truth": {"config": run(tmp_path, "truth", truth)},
            "both": {"config": run(tmp_path, "both", truth, distilled, teacher=True), "teacher": "assistant"},
            "other": {"config": run(tmp_path, "other", distilled, teacher=True), "teacher": "untrained"},
        },
        "compare": [["truth", "both"]],
        "beside": ["centre-prior"],
        "scenes": [],
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_experiment_trains_distils_scores_and_compares(experiment: Path, tmp_path: Path) -> None:
    found = load_experiment(experiment)
    assert run_experiment(found, arms=["truth"], device="cpu") is None  # other arms are missing
    weights = tmp_path / "out/runs/truth-0/checkpoints"
    before = weights.stat().st_mtime_ns
    table = run_experiment(found, device="cpu")
    assert table is not None
    assert weights.stat().st_mtime_ns == before  # not trained again
    text = table.read_text()
    for line in ("| truth ", "| both ", "| other ", "| centre-prior ", "| both minus truth "):
        assert line in text
    results = json.loads((tmp_path / "out/results.json").read_text())
    seeds = [each["cc"] for each in results["arms"]["both"]["seeds"]]
    assert len(seeds) == 2
    assert results["arms"]["both"]["mean"]["cc"] == pytest.approx(sum(seeds) / 2)
    difference = results["differences"][0]
    assert difference["mean"]["nss"] == pytest.approx(
        results["arms"]["both"]["mean"]["nss"] - results["arms"]["truth"]["mean"]["nss"]
    )
    note = json.loads((tmp_path / "out/teachers/assistant-1/store.json").read_text())
    assert note["fingerprint"]["input"]["stride"] == 2  # the model's stride, not the learner's
    with pytest.raises(
        UserError, match=r"assistant: built from .*assistant-0, .*assistant-1, expected .*-1; remove"
    ):
        run_experiment(load_experiment(experiment, ["seeds=[1]"]), device="cpu")
    for part in ("teachers/assistant", "teachers/assistant-0", "teachers/assistant-1", "teachers/untrained"):
        assert (tmp_path / "out" / part / "store.json").is_file()
    config = yaml.safe_load((tmp_path / "out/runs/both-1/config.yaml").read_text())
    assert (config["seed"], config["teacher"]["store"]) == (1, str(tmp_path / "out/teachers/assistant"))


def test_teacher_labels_what_all_its_arms_train_on(experiment: Path, tmp_path: Path) -> None:
    """Labelled videos, stills and unlabelled videos of two students; the assistant saw only the first."""
    stills = still_set(tmp_path / "stills")
    (tmp_path / "plain").mkdir()
    write_grey(tmp_path / "plain/grey.mp4", range(50, 62), (36, 64), 30.0)
    for name, *sources in (
        ("both", {"dataset": "stills", "root": str(stills)}),
        ("other", {"dataset": "folder", "root": str(tmp_path / "plain"), "ratio": 1}),
    ):
        path = tmp_path / f"{name}.yaml"
        values = yaml.safe_load(path.read_text())
        values["data"]["train"] += sources
        path.write_text(yaml.safe_dump(values))
    found = load_experiment(experiment, ["arms.other.teacher=assistant", "arms.truth.seeds=[1]", "seeds=[0]"])
    run_experiment(found, arms=["truth", "other"], device="cpu")
    store = TargetStore.open(tmp_path / "out/teachers/assistant")
    assert set(store.plan.videos) == {"blob0", "a", "b", "c", "grey"}
    assert store.notes["imported"] == [str(tmp_path / "out/teachers/assistant-1")]  # of the arm's own seeds
    [line, *_] = read_log(tmp_path / "out/runs/other-0/log.jsonl")
    assert line["maps"]["teacher"] == line["maps"]["all"]

    values["data"]["train"][0]["videos"] = ["blob0", "blob3"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(
        UserError, match=r"assistant: lacks maps of blob3, which .* train on; remove .*assistant-1 to"
    ):
        run_experiment(found, device="cpu")


def test_arm_starts_from_the_weights_of_an_earlier_arm(experiment: Path, tmp_path: Path) -> None:
    """Stills first, videos last: a run of no learning rate keeps the weights that it started from."""
    values = yaml.safe_load(experiment.read_text())
    config = yaml.safe_load(Path(values["arms"]["truth"]["config"]).read_text())
    config["optimizer"] = {"name": "sgd", "lr": 1e-12}
    (tmp_path / "last.yaml").write_text(yaml.safe_dump(config))
    values["arms"] = {
        "first": values["arms"]["truth"],
        "last": {"config": str(tmp_path / "last.yaml"), "after": "first"},
    }
    values |= {"teachers": {}, "compare": [["first", "last"]], "seeds": [1]}
    experiment.write_text(yaml.safe_dump(values, sort_keys=False))
    found = load_experiment(experiment)
    with pytest.raises(
        UserError, match=r"first-1: this run is not trained yet, and the arm 'last' needs it; train"
    ):
        run_experiment(found, arms=["last"], device="cpu")
    run_experiment(found, device="cpu")
    before, after = (load_model(tmp_path / f"out/runs/{name}-1").network for name in ("first", "last"))
    for first, last in zip(before.parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(last, first)
    assert found.run_config("last", 1, "cpu").model.weights == str(tmp_path / "out/runs/first-1")


def test_all_seeds_start_from_the_only_run_of_an_earlier_arm(experiment: Path, tmp_path: Path) -> None:
    """One long first stage can serve all seeds of a second one."""
    values = yaml.safe_load(experiment.read_text())
    one = values["arms"]["truth"]["config"]
    values["arms"] = {"first": {"config": one, "seeds": [4]}, "last": {"config": one, "after": "first"}}
    values |= {"teachers": {}, "compare": [], "seeds": [1, 2]}
    experiment.write_text(yaml.safe_dump(values, sort_keys=False))
    found = load_experiment(experiment)
    for seed in (1, 2):
        assert found.run_config("last", seed, "cpu").model.weights == str(tmp_path / "out/runs/first-4")


def test_test_sets_are_scored_and_compared_separately(experiment: Path, tmp_path: Path) -> None:
    gaze = {name: [[4, 5], [9, 9], [20, 30]] for name in ("a", "b", "c")}
    stills = still_set(tmp_path / "stills", gaze)
    values = yaml.safe_load(experiment.read_text())
    config = yaml.safe_load(Path(values["arms"]["truth"]["config"]).read_text())
    config["data"]["test"][0]["name"] = "videos"
    config["data"]["test"].append({"dataset": "stills", "root": str(stills)})
    path = tmp_path / "truth.yaml"
    path.write_text(yaml.safe_dump(config))
    values["arms"] = {name: {"config": str(path)} for name in ("one", "two")}
    values |= {"teachers": {}, "compare": [["one", "two"]], "scenes": ["blob*"], "seeds": [0]}
    experiment.write_text(yaml.safe_dump(values, sort_keys=False))
    table = run_experiment(load_experiment(experiment), device="cpu")
    assert table is not None
    of_videos, of_stills = table.read_text().split("## stills\n")
    assert of_videos.startswith("## videos\n")
    assert "mean over videos, 1 seed" in of_videos
    assert "95 % interval over 1 scene]" in of_videos  # both match one pattern
    assert "mean over images, 1 seed" in of_stills
    assert "95 % interval over 3 images]" in of_stills
    results = json.loads((tmp_path / "out/results.json").read_text())["tests"]
    assert results.keys() == {"videos", "stills"}
    for name, folder in (("videos", "videos"), ("stills", "stills")):
        scores = json.loads((tmp_path / "out/scores" / folder / "one-0/scores.json").read_text())
        assert results[name]["arms"]["one"]["mean"]["cc"] == pytest.approx(scores["per_video"]["cc"])
    assert (tmp_path / "out/scores/stills/beside/centre-prior/scores.json").is_file()


def test_stage_without_test_sets_is_scored_on_those_of_the_others(experiment: Path, tmp_path: Path) -> None:
    found = load_experiment(experiment)
    configs = {name: found.run_config(name, 0, "cpu") for name in found.arms}
    stage = configs["truth"].model_copy(update={"data": configs["truth"].data.model_copy(update={"test": []})})
    [(name, videos)] = common_test_sets(found, {**configs, "truth": stage}).items()
    assert (name, [video.name for video in videos]) == ("synthetic", ["blob1", "blob2"])
    [source] = configs["both"].data.test
    other = source.model_copy(update={"every": 2})
    changed = stage.model_copy(update={"data": stage.data.model_copy(update={"test": [other]})})
    with pytest.raises(
        UserError, match=r"arms\.both: the sources of data\.test called 'synthetic' differ from those"
    ):
        common_test_sets(found, {**configs, "truth": changed})
    with pytest.raises(UserError, match=r"expected a config with data\.test"):
        common_test_sets(found, {"truth": stage})


def test_arm_reads_several_stores_by_the_names_of_its_teachers(experiment: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    values = yaml.safe_load(path.read_text())
    values["teacher"] = [{"name": name, "store": "unused", "mirror": True} for name in ("assistant", "untrained")]
    path.write_text(yaml.safe_dump(values))
    found = load_experiment(experiment, ["arms.both.teacher=[untrained, assistant]", "seeds=[0]"])
    run_experiment(found, arms=["truth", "both"], device="cpu")
    config = found.run_config("both", 0, "cpu")
    assert [each.store for each in config.teacher_sections] == [
        str(tmp_path / "out/teachers" / name) for name in ("assistant", "untrained")
    ]
    [line, *_] = read_log(tmp_path / "out/runs/both-0/log.jsonl")
    assert line["terms"].keys() == {"truth/kldiv", "assistant/kldiv", "untrained/kldiv"}
    values["teacher"][0]["name"] = "another"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(
        UserError, match=r"arms\.both\.teacher: .* no teacher called 'assistant'; expected one of another, untr"
    ):
        run_experiment(found, device="cpu")
    values["teacher"] = {"store": "unused"}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"both\.yaml has one teacher; expected one name, got untrained, assistant"):
        run_experiment(found, device="cpu")


def test_teacher_can_be_the_mean_of_several_arms(experiment: Path, tmp_path: Path) -> None:
    overrides = [
        "teachers.assistant.arm=[truth, other]",
        "arms.truth.seeds=[0]",
        "arms.other.seeds=[1]",
        "seeds=[0]",
    ]
    found = load_experiment(experiment, overrides)
    run_experiment(found, arms=["truth", "other"], device="cpu")
    run_experiment(found, arms=["both"], device="cpu")
    store = TargetStore.open(tmp_path / "out/teachers/assistant")
    assert [Path(each).name for each in store.notes["imported"]] == ["assistant-truth-0", "assistant-other-1"]


def test_arm_that_trains_on_test_frames_is_reported(
    experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "truth.yaml"
    values = yaml.safe_load(path.read_text())
    values["data"]["train"][0] |= {"videos": ["blob0", "blob1"]}
    path.write_text(yaml.safe_dump(values))
    run_experiment(load_experiment(experiment, ["seeds=[0]"]), arms=["truth"], device="cpu")
    assert "arms.truth: trains on frames of 1 of the 2 videos to score (blob1)" in caplog.text


def test_untrained_teacher_arm_is_refused(experiment: Path) -> None:
    with pytest.raises(
        UserError, match="truth-0: this run is not trained yet, and the teacher 'assistant' needs it"
    ):
        run_experiment(load_experiment(experiment), arms=["both"], device="cpu")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiment_matches_its_configs(path: Path) -> None:
    experiment = load_experiment(path)
    assert f"python scripts/experiment.py configs/experiments/{path.name}" in path.read_text()
    runs = {name: load_config(REPOSITORY / arm.config, arm.overrides) for name, arm in experiment.arms.items()}
    assert all((not runs[name].teacher_sections) == (arm.teacher is None) for name, arm in experiment.arms.items())
    tests = {source.label: source for run in runs.values() for source in run.data.test}
    assert tests
    assert all(source == tests[source.label] for run in runs.values() for source in run.data.test)
    for one, other in experiment.compare:  # the same budget, unless they are stages of one recipe
        if experiment.arms[other].after == one:
            continue
        assert runs[one].training == runs[other].training
        assert runs[one].model == runs[other].model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compare=[[truth, boht]]", "unknown arm 'boht' .did you mean 'both'"),
        ("arms.both.teacher=nobody", "unknown teacher 'nobody'"),
        ("teachers.assistant={}", "give exactly one of 'maps', 'model' and 'arm'"),
        ("seeds=[]", "seeds"),
        ("arm={}", "unknown key"),
        ("seeds=[yes]", r"seeds\[0\]: expected an integer, got true"),
        ("seeds=['1']", r"seeds\[0\]: expected an integer, got '1'"),
        ("seeds=[-1]", r"seeds\[0\]: expected a number >= 0, got -1"),
        ("seeds=3", "seeds: expected a list, got 3"),
        ("compare={truth: both}", "compare: expected a list, got a mapping"),
        ("compare=[[truth]]", r"compare\[0\]"),
        ("beside=centre-prior", "beside: expected a list, got 'centre-prior'"),
        ("out=", "out: expected text, got nothing"),
        ("out=''", "out: expected a path, got an empty text"),
        ("arms.truth.after=both", "arms.truth.after: 'both' comes later in the file; put it before 'truth'"),
        ("arms.both.after=truht", "unknown arm 'truht' .did you mean 'truth'"),
        (
            "arms.both={config: x, after: truth, seeds: [5]}",
            r"arms.both.after: 'truth' has no seed 5; add it to its seeds, or give it a single seed",
        ),
        ("arms.both.teacher=[]", "arms.both.teacher: expected at least 1 items"),
    ],
)
def test_mistake_is_named(experiment: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_experiment(experiment, [override])


@pytest.mark.parametrize("name", ["../x", "/x", ".", "a//b", "a\nb", ""])
@pytest.mark.parametrize("section", ["arms", "teachers"])
def test_names_that_leave_the_folder_are_refused(experiment: Path, section: str, name: str) -> None:
    values = yaml.safe_load(experiment.read_text())
    values[section][name] = next(iter(values[section].values()))
    experiment.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=r"arms and teachers: the name .* cannot become a path"):
        load_experiment(experiment)


def test_unknown_arm_is_named(experiment: Path) -> None:
    with pytest.raises(UserError, match="unknown arm 'none'; expected names from truth, both, other"):
        run_experiment(load_experiment(experiment), arms=["none"])


def test_mean_scores_is_taken_per_frame() -> None:
    def scores(*values: float) -> Scores:
        rows = [Row(video, frame, {"cc": value}) for (video, frame), value in zip(PLACES, values, strict=True)]
        return Scores("seed", ("cc",), rows)

    first = mean_scores("first", [scores(0.1, 0.3, 0.5), scores(0.3, 0.5, 0.7)])
    assert [row.values["cc"] for row in first.rows] == pytest.approx([0.2, 0.4, 0.6])
    assert first.per_video["cc"] == pytest.approx((0.3 + 0.6) / 2)
    second = mean_scores("second", [scores(0.2, 0.4, 0.9)])
    assert compare_scores(first, second).difference.per_video["cc"] == pytest.approx((0.0 + 0.3) / 2)


def test_undefined_scores_are_shown_as_a_dash_with_their_count() -> None:
    def scores(name: str, *values: float) -> Scores:
        rows = [Row(video, frame, {"nss": value}) for (video, frame), value in zip(PLACES, values, strict=True)]
        return Scores(name, ("nss",), rows)

    broken, whole = scores("one-0", *[math.nan] * 3), scores("two-0", 0.1, 0.2, math.nan)
    text = score_tables({"one": [broken], "two": [whole]}, [broken], [compare_scores(broken, whole)])
    assert "nan" not in text
    assert "| one " in text
    assert "[-, -]" in text
    assert "one-0: NSS is undefined on 3 of 3 frames" in text
    assert "two-0: NSS is undefined on 1 of 3 frames" in text


def test_run_configs_take_any_folder_name(experiment: Path) -> None:
    name = "runs: [2024] #1"
    found = load_experiment(experiment, [f"out='{name}'"])
    assert found.run_config("both", 0, "cpu").out == f"{name}/runs/both-0"


PLACES = [("a", 0), ("a", 8), ("b", 0)]


def test_table_columns_are_aligned() -> None:
    assert aligned_table(["", "NSS"], [["both", "1.2"]]) == "|      | NSS |\n| ---- | --- |\n| both | 1.2 |\n"
