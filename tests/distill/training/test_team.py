"""Teams of teachers: what they read, mix and log, and mistakes in their config."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers.model_cases import loaded
from helpers.runs import assert_same_run, config
from helpers.stores import TinyTeacher, build_small
from torch import Tensor, nn

from distill import saliency
from distill.cli.main import main
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec, Video
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.errors import UserError
from distill.training.config import RunConfig, load_config, save_config
from distill.training.gate_table import GateTable, decide_gates, motion
from distill.training.objective import Objective
from distill.training.step_log import read_log
from distill.training.teachers import CachedTeacher, OnlineTeacher, Role, TeacherOutput
from distill.training.team import Team
from distill.training.team_section import MemberSection, TeamSection
from distill.training.terms import LossSection
from distill.training.train import train

SPEC = ClipSpec(num_frames=2, size=(16, 20), target_frames=(0, 1), map_size=(8, 10))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SALDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def videos() -> list[Video]:
    return [synthetic.video(name, seed, (12, 36, 64)) for seed, name in enumerate(["one", "two", "three"])]


def sources_of(videos: list[Video]) -> list[ClipSource]:
    return [ClipSource([replace(video, source=number)], 6) for number, video in enumerate(videos)]


def member(name: str, **more: Any) -> MemberSection:
    return MemberSection.model_validate({"store": "x", **more}).model_copy(update={"name": name})


def cached(path: Path, name: str, videos: list[Video], seed: int, **role: Any) -> CachedTeacher:
    store = build_small(path / name, videos, TinyTeacher(seed), codec="exact")
    return CachedTeacher(store, SPEC, role=Role(name, **role))


def decide(teachers: list[CachedTeacher], members: list[MemberSection], videos: list[Video]) -> GateTable:
    labels = [video.name for video in videos]
    return decide_gates(teachers, members, sources_of(videos), labels, sharpness=1, map_size=SPEC.map_size)


def batch_of(team: Team, videos: list[Video]) -> dict[str, Any]:
    clips = ClipDataset(sources_of(videos), SPEC, seed=0, flip=False, extras=[team.reader])
    return next(iter(make_loader(clips, [list(range(len(clips)))], workers=0)))


def density_of(teacher: CachedTeacher, video: str, frame: int) -> Tensor:
    maps = torch.from_numpy(teacher.store.read(video, frame))[None, None]
    return saliency.resize_density(saliency.density(maps), SPEC.map_size)[0, 0]


# ---------------------------------------------------------------- the mixed map


@pytest.mark.parametrize("mixture", ["density", "log"])
def test_ungated_team_is_the_weighted_mean_of_its_teachers(
    mixture: str, tmp_path: Path, videos: list[Video]
) -> None:
    teachers = [cached(tmp_path, name, videos, seed) for seed, name in enumerate(["a", "b"])]
    members = [member("a", weight=1), member("b", weight=3)]
    team = Team(teachers, members, TeamSection(mixture=mixture), SPEC)
    batch = batch_of(team, videos)
    output = team.begin(batch)()
    assert output.weights is not None
    assert output.present.all()
    torch.testing.assert_close(output.weights, torch.ones(18, 2))
    torch.testing.assert_close(output.shares["b"], torch.full((18, 2), 0.75))
    a, b = (density_of(each, batch["video"][4], batch["frames"][4, 1].item()) for each in teachers)
    expected = 0.25 * a + 0.75 * b if mixture == "density" else saliency.density(0.25 * a.log() + 0.75 * b.log())
    torch.testing.assert_close(saliency.density(output.maps[4, 1]), expected, rtol=1e-4, atol=1e-6)


def test_teacher_without_a_map_leaves_the_frame_to_the_others(tmp_path: Path, videos: list[Video]) -> None:
    teachers = [
        cached(tmp_path, "a", videos[:2], 0, partial=True),
        cached(tmp_path, "b", videos[1:2], 1, sources=frozenset({1})),
    ]
    team = Team(teachers, [member("a"), member("b")], TeamSection(), SPEC)
    batch = batch_of(team, videos)
    output = team.begin(batch)()
    shares = {"one": (1, 0), "two": (0.5, 0.5), "three": (0, 0)}
    for row, name in enumerate(batch["video"]):
        assert output.present[row].tolist() == [name != "three"] * 2
        assert (output.shares["a"][row, 0].item(), output.shares["b"][row, 0].item()) == shares[name]
    assert output.maps.isfinite().all()


def test_gated_maps_count_less_in_the_loss_and_the_log_has_each_teachers_weight() -> None:
    maps, present = torch.randn(2, 2, 4, 5), torch.tensor([[True, True], [True, False]])
    weights = torch.tensor([[1.0, 0.5], [0.25, 0.0]])
    shares = {"a": weights / 4, "b": weights * 3 / 4}
    objective = Objective([LossSection(name="kldiv", against="teacher")])
    batch = {"labelled": torch.zeros(2, 2, dtype=torch.bool), "teacher_present": present}
    student, counts = torch.randn(2, 2, 4, 5), objective.counts(batch)
    found = objective(batch, student, {"teacher": TeacherOutput(maps, {}, present, weights, shares)}, counts)
    each = objective.terms[0](student, saliency.density(maps))
    assert found.loss.item() == pytest.approx((each * weights).sum().item() / 3, rel=1e-5)
    assert found.teacher["a/weight"].item() == pytest.approx(1.75 / 4 / 3)
    assert found.teacher["b/weight"].item() == pytest.approx(1.75 * 3 / 4 / 3)


class Blob(nn.Module):
    """An online teacher whose map is a point."""

    num_frames, size, target_frames, map_size = 2, (16, 20), (0, 1), (8, 10)

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, clip: Tensor) -> Tensor:
        maps = torch.full((len(clip), 2, *self.map_size), -50.0)
        maps[..., 4, self.column] = 0
        return maps


def test_online_teachers_are_gated_by_their_agreement_in_each_batch(videos: list[Video]) -> None:
    columns = {"a": 2, "b": 2, "c": 7}
    teachers = [OnlineTeacher(loaded(Blob(column)), role=Role(name)) for name, column in columns.items()]
    members = [member(name, gate="agreement") for name in columns]
    team = Team(teachers, members, TeamSection(), SPEC)
    output = team.begin(batch_of(team, videos))()
    # a and the mean of b and c: JSD of (1, 0) and (1/2, 1/2); c agrees with neither
    divergence = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)) - 0.5
    assert output.weights is not None
    assert output.weights.unique().tolist() == pytest.approx([1 - divergence], abs=1e-4)
    assert output.shares["c"].abs().max() < 1e-4
    strict = Team(teachers, [member(name, gate="agreement", abstain=0.9) for name in columns], TeamSection(), SPEC)
    assert strict.begin(batch_of(strict, videos))().weights.max() == 0  # type: ignore[union-attr]


# ---------------------------------------------------------------- gates that are decided before a run


class Informed(TinyTeacher):
    """A teacher of the synthetic videos: a blob where the video's is, if it is good; elsewhere if it is not."""

    def __init__(self, good: bool) -> None:
        super().__init__(int(good))
        self.good = good

    def forward(self, clip: Tensor) -> Tensor:
        grey = clip[:, :, -1].float().mean(1)[:, ::2, ::2]
        return (grey if self.good else -grey)[:, None] / 10


def informed(path: Path, videos: list[Video]) -> list[CachedTeacher]:
    stores = {
        name: build_small(path / name, videos, Informed(name == "good"), codec="exact") for name in ("good", "bad")
    }
    return [CachedTeacher(store, SPEC, role=Role(name)) for name, store in stores.items()]


def test_truth_prefers_the_teacher_that_predicts_gaze_also_in_videos_without_it(
    tmp_path: Path, videos: list[Video]
) -> None:
    videos = [*videos, replace(synthetic.video("new", 9, (12, 36, 64)), truth=None)]
    members = [member("good", gate="truth"), member("bad", gate="truth")]
    table = decide(informed(tmp_path, videos), members, videos)
    for video in videos:
        good, bad = table.of(video.name, [0, 5, 11]).T
        assert good.tolist() == [1, 1, 1]
        assert (bad < 0.6).all()
    report = table.report
    assert (report.frames, report.graded, report.without_teacher) == (48, 36, 0)
    assert report.teachers["good"].gain > report.teachers["bad"].gain  # type: ignore[operator]
    assert report.teachers["good"].by_source["new"] > 0.6
    assert report.teachers["good"].mean_weight + report.teachers["bad"].mean_weight == pytest.approx(1)
    assert "good" in str(report)


def test_teacher_below_the_threshold_abstains_and_a_frame_without_any_has_no_target(
    tmp_path: Path, videos: list[Video]
) -> None:
    members = [member("good", gate="truth", abstain=0.0), member("bad", gate="truth", abstain=99.0)]
    teachers = informed(tmp_path, videos)
    table = decide(teachers, members, videos)
    assert table.report.teachers["bad"].abstained == table.report.teachers["bad"].maps == 36
    assert table.report.teachers["bad"].mean_weight == 0
    table.values["two"][:, 0] = 0
    team = Team(teachers, members, TeamSection(), SPEC, table)
    batch = batch_of(team, videos)
    assert [bool(each) for each in team.begin(batch)().present[:, 0]] == [name != "two" for name in batch["video"]]


def test_agreement_gates_of_a_table_are_those_of_a_batch(tmp_path: Path, videos: list[Video]) -> None:
    members = [member(name, gate="agreement") for name in ("good", "bad")]
    teachers = informed(tmp_path, videos)
    team = Team(teachers, members, TeamSection(), SPEC, decide(teachers, members, videos))
    by_batch = Team(teachers, members, TeamSection(), SPEC)
    first, second = (each.begin(batch_of(each, videos))() for each in (team, by_batch))
    torch.testing.assert_close(first.weights, second.weights)
    torch.testing.assert_close(first.maps, second.maps)
    assert first.weights.std() > 0  # type: ignore[union-attr]


def test_decisions_are_kept_until_something_that_they_depend_on_changes(
    tmp_path: Path, videos: list[Video], cache: Path
) -> None:
    members = [member("good", gate="truth"), member("bad", gate="truth")]
    teachers = informed(tmp_path, videos)
    first = decide(teachers, members, videos)
    [file] = cache.glob("gates/*.npz")
    changed = file.stat().st_mtime_ns
    second = decide(teachers, members, videos)
    assert file.stat().st_mtime_ns == changed
    assert second.report == first.report
    np.testing.assert_array_equal(second.values["two"], first.values["two"])
    decide(teachers, [members[0], member("bad", gate="agreement")], videos)
    assert len(list(cache.glob("gates/*.npz"))) == 2
    file.write_bytes(b"damaged")
    assert decide(teachers, members, videos).report == first.report


def test_truth_needs_two_labelled_recordings(tmp_path: Path, videos: list[Video]) -> None:
    members = [member("good", gate="truth"), member("bad")]
    unlabelled = [videos[0], *(replace(video, truth=None) for video in videos[1:])]
    with pytest.raises(
        UserError, match=r"teachers\.good\.gate: truth grades .* covers 1 recording with fixations; expected"
    ):
        decide(informed(tmp_path, videos), members, unlabelled)


def test_motion_of_a_still_video_is_0_and_of_a_moving_blob_is_not(videos: list[Video]) -> None:
    moved = motion(videos[0], [0, 1, 5])
    assert moved[0] == 0
    assert (moved[1:] > 0).all()
    assert motion(replace(videos[0], num_frames=1), [0]).tolist() == [0]


# ---------------------------------------------------------------- runs


@pytest.fixture
def team_run(tmp_path: Path) -> RunConfig:
    videos = [synthetic.video(f"blob{seed}", seed) for seed in range(8)]
    for name, good in (("good", True), ("bad", False)):
        build_small(tmp_path / name, videos, Informed(good))
    members = {name: {"store": str(tmp_path / name), "gate": "truth", "mirror": True} for name in ("good", "bad")}
    return config(
        tmp_path / "run",
        model={"name": "student/stream", "variant": "micro"},
        teachers=members,
        losses=[{"name": "kldiv"}, {"name": "kldiv", "against": "teacher"}],
    )


def test_run_logs_weights_writes_its_gates_and_resumes_bit_identically(
    team_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(team_run)
    lines = [line["teacher"] for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "train"]
    for line in lines:
        assert line["good/weight"] > line["bad/weight"] > 0
        assert line["good/weight"] + line["bad/weight"] == pytest.approx(1, abs=1e-4)
    assert "gate truth" in capsys.readouterr().err
    again = team_run.model_copy(update={"out": str(tmp_path / "again"), "resume": "auto"})
    with pytest.raises(KeyboardInterrupt):
        train(again, stop=lambda step, batch: step == 2)
    train(again)
    assert_same_run(tmp_path / "run", tmp_path / "again")

    assert main(["cache", "info", str(tmp_path / "run")]) == 0
    assert "good" in capsys.readouterr().out
    assert main(["cache", "info", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["teachers"]["good"]["mean_weight"] > found["teachers"]["bad"]["mean_weight"]


def test_resolved_config_of_a_team_is_read_back_as_an_equal_run(team_run: RunConfig, tmp_path: Path) -> None:
    save_config(team_run, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == team_run
    moved = team_run.with_teachers(device="cpu")
    assert [each.device for each in moved.teacher_sections] == ["cpu", "cpu"]
    assert [each.name for each in moved.teacher_sections] == ["good", "bad"]


def test_every_teacher_that_abstains_everywhere_is_an_error(team_run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every teacher is absent or abstains in all 384 frames; lower 'abstain'"):
        train(team_run.with_teachers(abstain=99.0))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- mistakes

TEAM = {"a": {"store": "x"}, "b": {"store": "y"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": {"store": "x"}}, "teachers: give one of 'teacher' and 'teachers', not both"),
        ({"teachers": None, "team": {"mixture": "log"}}, "team: needs 'teachers', the teachers by name"),
        ({"teachers": {}}, "teachers: expected at least 1 items, got 0"),
        ({"teachers": {"a": {"store": "x", "gate": "agreement"}}}, "agreement compares teachers, and there is one"),
        (
            {"teachers": {"a": {"store": "x", "gate": "truth"}}},
            "teachers.a: gate: truth compares teachers with this gate, and there is one; give it to another",
        ),
        (
            {"teachers": {"a": {"store": "x", "gate": "truth"}, "b": {"store": "y"}}},
            "teachers.a: gate: truth compares teachers with this gate, and there is one",
        ),
        (
            {"teachers": {"a": {"store": "x", "gate": "truth"}, "b": {"model": "y"}}},
            "teachers.a: gate: truth compares stored maps, and 'b' runs online; give 'b' a 'store'",
        ),
        (
            {"teachers": {**TEAM, "c": {"store": "x", "gate": "agreement", "abstain": 1.5}}},
            "teachers.c: abstain: expected an agreement from 0 to 1, got 1.5",
        ),
        (
            {"teachers": {**TEAM, "c": {"model": "m", "gate": "truth"}}},
            "teachers.c: gate: truth grades the teacher's maps before the run; give it a 'store'",
        ),
        ({"teachers": {**TEAM, "c": {"store": "x", "abstain": 0}}}, "teachers.c: abstain: needs a gate"),
        (
            {"teachers": {**TEAM, "c": {"store": "x", "gate": "truht"}}},
            "teachers.c.gate: expected one of none, agre",
        ),
        ({"teachers": {**TEAM, "c": {"store": "x", "name": "d"}}}, "teachers.c: name: the key in 'teachers' is"),
        ({"teachers": {**TEAM, "truth": {"store": "x"}}}, "teachers: 'truth' has another meaning in the log"),
        ({"teachers": {**TEAM, "c": {"store": "x", "sources": ["q"]}}}, "teachers.c.sources: unknown source 'q'"),
        (
            {"teachers": {name: {**each, "weight": 0} for name, each in TEAM.items()}},
            "teachers: every weight is 0; give at least one teacher a weight",
        ),
        ({"losses": [{"name": "cc", "against": "a"}]}, "losses: cc is against: a, but a team is one target"),
        (
            {"losses": [{"name": "hint", "against": "teacher", "student": "a", "teacher": "b"}]},
            "losses: hint needs the features of one teacher",
        ),
        ({"losses": [{"name": "cc"}]}, "teacher: no loss is against: teacher"),
    ],
)
def test_mistake_in_a_team_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {"out": "x", "model": {"name": "student/stream"}, "data": {"train": [{"dataset": "synthetic"}]}}
    values |= {"losses": [{"name": "kldiv", "against": "teacher"}], "training": {"steps": 1}, "teachers": TEAM}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)


def test_distil_accepts_a_team_and_info_explains_a_run_without_decided_gates(
    team_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = team_run.with_teachers(gate="none")
    save_config(plain, tmp_path / "team.yaml")
    assert main(["distill", str(tmp_path / "team.yaml"), "training.steps=1", "-q"]) == 0
    assert main(["cache", "info", str(tmp_path / "run")]) == 2
    assert "is a run without gates.json, in which no gate was decided" in capsys.readouterr().err


def test_video_of_two_sources_counts_for_a_teacher_of_the_second(tmp_path: Path, videos: list[Video]) -> None:
    teachers = [
        cached(tmp_path, "a", videos[:1], 0),
        cached(tmp_path, "b", videos[:1], 1, sources=frozenset({1})),
    ]
    sources = [ClipSource([replace(videos[0], source=number)], 2) for number in (0, 1)]
    members = [member("a", gate="agreement"), member("b", gate="agreement")]
    table = decide_gates(teachers, members, sources, ["one", "two"], sharpness=1, map_size=SPEC.map_size)
    assert (table.of("one", [0, 11]) > 0).all()
