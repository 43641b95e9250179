"""Runs with sources of several kinds: ground truth, some teacher's maps, or both; and several teachers."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.model_cases import loaded
from helpers.places import REPOSITORY
from helpers.runs import config, launch, losses
from helpers.stores import TinyTeacher, build_small
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.cli.main import main
from distill.data.augment import Crop
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clips import ClipSpec, Video, Window
from distill.data.loader import make_loader
from distill.data.sets import synthetic
from distill.errors import UserError
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.saliency import density
from distill.targets.store import TargetStore
from distill.training.checkpoint import newest_checkpoint
from distill.training.config import RunConfig, load_config, save_config
from distill.training.losses import LOSSES, hint
from distill.training.objective import Objective, StepLoss
from distill.training.setup import build_clips, build_store, build_stores
from distill.training.sources import training_sources
from distill.training.step_log import read_log
from distill.training.teachers import CachedTeacher, OnlineTeacher, Role, TeacherOutput
from distill.training.terms import LossSection
from distill.training.train import train

B, N, h, w = 4, 3, 6, 8


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def term(name: str, against: str = "truth", **more: Any) -> LossSection:
    return LossSection.model_validate({"name": name, "against": against, **more})


# ---------------------------------------------------------------- averages and counts

LABELLED = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]).bool()
BASE = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0]]).bool()  # a partial store
HINTS = torch.tensor([[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]]).bool()  # an online teacher of two clips
TERMS = [
    term("kldiv"),
    term("kldiv", "base", weight=2),
    term("temporal", "base"),
    term("kldiv", "other"),
    term("hint", "other", student="stage4", teacher="encoder"),
]


def mixed_batch() -> dict[str, Tensor]:
    where = LABELLED[..., None, None]
    return {
        "density": density(random(B, N, h, w, seed=1)) * where,
        "fixations": (random(B, N, h, w, seed=2) > 1).float() * where,
        "labelled": LABELLED,
        "base_present": BASE,
        "other_present": HINTS,
    }


STUDENT = random(B, N, h, w, seed=3)
HEADS = {"stage4-other-encoder": random(B, 5, 2, 3, 4, seed=4)}
OUTPUTS = {
    "base": TeacherOutput(random(B, N, h, w, seed=5), {}, BASE),
    "other": TeacherOutput(random(B, N, h, w, seed=6), {"encoder": random(B, 5, 4, 6, 8, seed=7)}, HINTS),
}


def part(rows: slice, counts: Tensor, student: Tensor = STUDENT) -> StepLoss:
    """Return the loss of some clips of the batch; a teacher without a clip among them returns no features."""
    outputs = {}
    for name, output in OUTPUTS.items():
        present = output.present[rows]
        found = {key: value[rows] for key, value in output.features.items()} if present.any() else {}
        outputs[name] = TeacherOutput(output.maps[rows], found, present)
    batch = {key: value[rows] for key, value in mixed_batch().items()}
    heads = {key: value[rows] for key, value in HEADS.items()}
    return Objective(TERMS)(batch, student[rows], outputs, counts, heads=heads)


def test_each_term_averages_over_the_maps_that_have_what_it_needs() -> None:
    batch, objective = mixed_batch(), Objective(TERMS)
    counts = objective.counts(batch)
    assert counts.tolist() == [5, 12, 5, 2, 1, 2, 6, 4, 2, 3]
    assert objective.record(counts) == {
        "all": 12,
        "truth": 5,
        "base": 5,
        "base/pairs": 2,
        "other": 6,
        "other/clips": 2,
    }
    found = part(slice(0, B), counts)
    base, other = (density(OUTPUTS[name].maps) for name in ("base", "other"))
    pairs = LOSSES["temporal"](STUDENT, base)
    wanted = {
        "truth/kldiv": LOSSES["kldiv"](STUDENT, batch["density"])[LABELLED].sum() / 5,
        "base/kldiv": LOSSES["kldiv"](STUDENT, base)[BASE].sum() / 5,
        "base/temporal": (pairs[0, 0] + pairs[0, 1]) / 2,
        "other/kldiv": LOSSES["kldiv"](STUDENT, other)[2:].sum() / 6,
        "other/hint:stage4-encoder": hint(HEADS["stage4-other-encoder"], OUTPUTS["other"].features["encoder"])[
            2:
        ].sum()
        / 2,
    }
    assert found.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found.terms[name].item() == pytest.approx(value.item(), rel=1e-5)
    total = sum(wanted.values()) + wanted["base/kldiv"]  # of weight 2
    assert found.loss.item() == pytest.approx(total.item(), rel=1e-5)
    both = LABELLED & BASE
    scored = LOSSES["kldiv"](base.log(), batch["density"])[both].sum() / 2
    assert found.teacher["base/truth/kldiv"].item() == pytest.approx(scored.item(), rel=1e-4)
    entropy = -(base * base.log()).sum((-2, -1))[BASE].mean()
    assert found.teacher["base/entropy"].item() == pytest.approx(entropy.item(), rel=1e-5)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2), (1, 3)])
def test_terms_do_not_depend_on_how_the_clips_are_split_into_batches(sizes: tuple[int, ...]) -> None:
    objective = Objective(TERMS)
    counts, ends = objective.counts(mixed_batch()), torch.tensor([0, *sizes]).cumsum(0).tolist()
    rows = [slice(first, last) for first, last in pairwise(ends)]
    parts = [{key: value[each] for key, value in mixed_batch().items()} for each in rows]
    assert torch.equal(sum(objective.counts(batch) for batch in parts), counts)
    whole, apart = (student.requires_grad_() for student in (STUDENT.clone(), STUDENT.clone()))
    at_once = part(slice(0, B), counts, whole)
    found = [part(each, counts, apart) for each in rows]
    at_once.loss.backward()
    sum(each.loss for each in found).backward()
    torch.testing.assert_close(apart.grad, whole.grad)
    for name, value in {**at_once.terms, **at_once.teacher}.items():
        assert sum({**each.terms, **each.teacher}[name] for each in found).item() == pytest.approx(value.item())


def test_maps_without_a_target_have_no_gradient() -> None:
    """The last map of the first clip is unlabelled, but has a target of base; the clip 1 has one gap."""
    student = STUDENT.clone().requires_grad_()
    objective = Objective([term("kldiv", "base"), term("cc", "base"), term("temporal", "base")])
    objective(mixed_batch(), student, OUTPUTS, objective.counts(mixed_batch())).loss.backward()
    assert student.grad is not None
    assert torch.equal(student.grad.abs().amax(dim=(-2, -1)) > 0, BASE)


def test_step_without_a_target_gives_zero_loss_and_gradient() -> None:
    student = STUDENT.clone().requires_grad_()
    nothing = torch.zeros(B, N, dtype=torch.bool)
    outputs = {name: output._replace(features={}, present=nothing) for name, output in OUTPUTS.items()}
    batch = {**mixed_batch(), "labelled": nothing, "base_present": nothing, "other_present": nothing}
    objective = Objective(TERMS)
    counts = objective.counts(batch)
    result = objective(batch, student, outputs, counts, heads=HEADS)
    result.loss.backward()
    assert result.loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0
    assert all(value.item() == 0 for value in (*result.terms.values(), *result.teacher.values()))


# ---------------------------------------------------------------- config

TWO = [
    {"name": "base", "store": "runs/a"},
    {"name": "far", "model": "runs/b", "source": "online", "sources": ["extra"], "weight": 0.5},
]
SOURCES = [{"dataset": "synthetic"}, {"dataset": "synthetic", "name": "extra", "videos": ["blob5"]}]


def run_of(folder: Path, **changes: Any) -> RunConfig:
    values = {
        "data": {"train": SOURCES, "workers": 0},
        "teacher": TWO,
        "losses": [{"name": "kldiv"}, {"name": "kldiv", "against": "teacher", "weight": 2}],
        "training": {"steps": 2},
    }
    return config(folder / "run", **{**values, **changes})


def test_loss_against_teacher_is_one_term_per_teacher_with_its_weight(tmp_path: Path) -> None:
    losses_ = [
        {"name": "kldiv"},
        {"name": "kldiv", "against": "teacher", "weight": 2, "final_weight": 1},
        {"name": "cc", "against": "base"},
        {"name": "hint", "against": "teacher", "student": "a", "teacher": "b"},
    ]
    terms = run_of(tmp_path, losses=losses_).terms
    assert [(each.label, each.weight, each.final_weight) for each in terms] == [
        ("truth/kldiv", 1, None),
        ("base/kldiv", 2, 1),
        ("far/kldiv", 1, 0.5),
        ("base/cc", 1, None),
        ("far/hint:a-b", 0.5, None),  # only an online teacher has features
    ]
    assert terms[-1].head == "a-far-b"


def test_one_teacher_is_a_section_or_a_list_of_one(tmp_path: Path) -> None:
    plain = run_of(tmp_path, teacher={"store": "runs/a"})
    listed = run_of(tmp_path, teacher=[{"store": "runs/a"}])
    assert plain.terms == listed.terms
    assert plain.teacher_sections == listed.teacher_sections
    assert [each.label for each in plain.terms] == ["truth/kldiv", "teacher/kldiv"]
    assert plain.terms[1] == plain.losses[1]


def test_config_with_several_teachers_is_read_back_equal(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    save_config(run, tmp_path / "run.yaml")
    assert load_config(tmp_path / "run.yaml") == run
    changed = load_config(tmp_path / "run.yaml", ["teacher.1.weight=2", "teacher.0.partial=true"])
    assert [each.weight for each in changed.teacher_sections] == [1, 2]
    assert changed.with_teachers(accept=True).teacher_sections[1].accept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": [TWO[0], {"store": "x"}]},
            "teacher: each of several teachers needs a 'name' other than 'teacher'",
        ),
        ({"teacher": [TWO[0], TWO[0]]}, "teacher: two teachers are called 'base'; give each another name"),
        ({"teacher": []}, "teacher: expected at least 1 items, got 0"),
        ({"teacher": [{**TWO[0], "name": "truth"}]}, "teacher[0]: name: 'truth' has another meaning in the log"),
        ({"teacher": [{**TWO[0], "name": "all"}]}, "teacher[0]: name: 'all' has another meaning in the log"),
        ({"teacher": [{**TWO[0], "name": "a.b"}]}, "teacher[0].name: expected a name of letters, digits, _ and -"),
        ({"teacher": [{**TWO[0], "weihgt": 1}]}, "teacher[0].weihgt: unknown key (did you mean 'weight'?)"),
        ({"teacher": [{**TWO[0], "weight": -1}]}, "teacher[0].weight: expected a number >= 0, got -1"),
        ({"teacher": [{"name": "base"}]}, "teacher[0]: source: cached needs 'store'"),
        ({"teacher": "runs/a"}, "teacher: expected a mapping, got 'runs/a'"),
        (
            {"teacher": {**TWO[0], "sources": ["extr"]}},
            "teacher.sources: unknown source 'extr' (did you mean 'extra'?)",
        ),
        ({"teacher": {**TWO[0], "sources": []}}, "teacher.sources: expected at least 1 items, got 0"),
        (
            {"data": {"train": [SOURCES[0], SOURCES[0]]}, "teacher": {**TWO[0], "sources": ["synthetic"]}},
            "teacher.sources: 2 sources are called 'synthetic'; give each its own data.train[].name",
        ),
        ({"data": {"train": [SOURCES[1], SOURCES[1]]}}, "data: train: two sources are called 'extra'"),
        (
            {"losses": [{"name": "cc", "against": "bsae"}]},
            "unknown value of 'against' 'bsae' (did you mean 'base'?)",
        ),
        ({"losses": [{"name": "cc", "against": "base"}]}, "teacher: no loss is against: far; add one or remove"),
        (
            {"losses": [{"name": "cc", "against": "teacher"}, {"name": "cc", "against": "far"}]},
            "losses: two terms are the same; merge them",
        ),
        (
            {"losses": [{"name": "hint", "against": "base", "student": "a", "teacher": "b"}]},
            "losses: hint needs the teacher's features, and a target store holds maps only",
        ),
    ],
)
def test_mistake_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = {"out": "x", "model": {"name": "student/stream"}, "data": {"train": SOURCES}, "teacher": TWO}
    values |= {"losses": [{"name": "kldiv", "against": "teacher"}], "training": {"steps": 1}, **changes}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "[one]" not in str(caught.value)


# ---------------------------------------------------------------- what a teacher reads and runs on

SPEC = ClipSpec(num_frames=2, size=(16, 20), target_frames=(0, 1), map_size=(8, 10))


@pytest.fixture
def videos() -> list[Video]:
    return [synthetic.video("one", 1, (14, 36, 64)), synthetic.video("two", 2, (9, 36, 64))]


def sources_of(videos: list[Video], clips: int = 6) -> list[ClipSource]:
    return [ClipSource([replace(video, source=number)], clips) for number, video in enumerate(videos)]


def batch_of(clips: ClipDataset) -> dict[str, Any]:
    return next(iter(make_loader(clips, [list(range(len(clips)))], workers=0)))


@pytest.mark.parametrize("flip", [False, True])
def test_partial_store_gives_targets_for_its_frames_only(flip: bool, tmp_path: Path, videos: list[Video]) -> None:
    store = build_small(tmp_path / "store", [replace(videos[0], frames=range(5, 14))], codec="exact")
    teacher = CachedTeacher(store, SPEC, mirror=True, role=Role("base", partial=True))
    teacher.require_any(videos)
    teacher.require(videos, flip=flip)
    assert teacher.coverage(videos) == (9, 23)
    clips = ClipDataset(
        sources_of(videos, 12), SPEC, seed=0, flip=flip, crop=Crop((0.4, 0.9)), extras=[teacher.reader]
    )
    batch = batch_of(clips)
    output = teacher.begin(batch)()
    for number, name in enumerate(batch["video"]):
        for n, frame in enumerate(batch["frames"][number].tolist()):
            assert output.present[number, n] == (name == "one" and frame >= 5)
    assert 0 < output.present.float().mean() < 1
    assert torch.isfinite(output.maps).all()


def test_store_without_partial_is_refused_and_one_that_covers_nothing_always(
    tmp_path: Path, videos: list[Video]
) -> None:
    store = build_small(tmp_path / "store", videos[:1])
    with pytest.raises(
        UserError, match=r"lacks 9 maps that this run needs, e\.g\. two, frame 1; run .* teacher\.partial"
    ):
        CachedTeacher(store, SPEC).require(videos)
    for partial in (False, True):
        teacher = CachedTeacher(store, SPEC, role=Role(partial=partial))
        with pytest.raises(
            UserError, match=r"store: the target store covers none of the 1 training videos \(two\)"
        ):
            teacher.require_any(videos[1:])


def test_maps_of_a_partial_store_that_are_still_missing_are_refused(tmp_path: Path, videos: list[Video]) -> None:
    """Otherwise the targets of a run would depend on how far another process has come."""
    model = TinyTeacher()
    model.interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "store", videos[:1], model)
    teacher = CachedTeacher(TargetStore.open(tmp_path / "store"), SPEC, role=Role(partial=True))
    with pytest.raises(UserError, match=r"lacks 6 maps .*, e\.g\. one, frame 9"):
        teacher.require(videos)


def test_teacher_does_not_read_a_source_that_it_does_not_teach(tmp_path: Path, videos: list[Video]) -> None:
    """Two sources may have videos of one name, of which the store knows one."""
    store = build_small(tmp_path / "store", videos[:1])
    teacher = CachedTeacher(store, SPEC, role=Role("base", sources=frozenset({1})))
    for source, expected in ((0, False), (1, True)):
        sample = teacher.reader(Window(replace(videos[0], source=source), 7))
        assert sample["base_present"].tolist() == [expected] * 2
        assert bool(sample["base_map"].any()) == expected


class Counting(nn.Module):
    """A teacher with features that counts the clips it runs on."""

    num_frames, size, target_frames, map_size = 2, (24, 32), (0, 1), (12, 16)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv3d(3, 4, 1)
        self.clips = 0

    def forward_features(self, clip: Tensor) -> dict[str, Tensor]:
        self.clips += len(clip)
        return {"encoder": self.layer(clip.float() / 255)}

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        return nn.functional.avg_pool2d(features["encoder"].mean(1), 2)

    def forward(self, clip: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(clip))


@pytest.mark.parametrize("crop", [None, Crop((0.4, 0.9))])
def test_online_teacher_runs_only_on_the_clips_that_it_teaches(crop: Crop | None, videos: list[Video]) -> None:
    def output_of(sources: frozenset[int] | None) -> tuple[TeacherOutput, dict[str, Any], int]:
        network = Counting()
        with torch.no_grad():
            network.layer.weight.copy_(random(4, 3, 1, 1, 1, seed=8))
            network.layer.bias.zero_()
        teacher = OnlineTeacher(loaded(network), features=("encoder",), role=Role(sources=sources))
        clips = ClipDataset(sources_of(videos), SPEC, seed=0, flip=True, crop=crop, extras=[teacher.reader])
        batch = batch_of(clips)
        return teacher.begin(batch)(), batch, network.clips

    whole, batch, clips = output_of(None)
    some, _, fewer = output_of(frozenset({1}))
    rows = torch.tensor([name == "two" for name in batch["video"]])
    assert (clips, fewer) == (12, 6)
    assert torch.equal(some.present, rows[:, None].expand(-1, 2))
    torch.testing.assert_close(some.maps[rows], whole.maps[rows])
    torch.testing.assert_close(some.features["encoder"][rows], whole.features["encoder"][rows])
    assert not some.maps[~rows].any()
    assert not some.features["encoder"][~rows].any()
    none, _, no_clips = output_of(frozenset({7}))
    assert (no_clips, none.features, none.present.any().item()) == (0, {}, False)


def test_online_teacher_chooses_its_clips_without_waiting_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on the device `meta` have no values, so that reading one is an error; the flags are on the host."""
    teacher = OnlineTeacher(loaded(Counting()), features=("encoder",), role=Role(sources=frozenset({1})))
    teacher.device = torch.device("meta")
    ran = []

    def forward(clip: Tensor, *boxes: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        ran.append(len(clip))
        maps = torch.zeros(len(clip), len(SPEC.target_frames), *teacher.spec.map_size, device="meta")
        return maps, {"encoder": torch.zeros(len(clip), 4, 2, 3, 3, device="meta")}

    monkeypatch.setattr(teacher, "_forward", forward)
    present = torch.tensor([[True], [False], [True]]).expand(-1, len(SPEC.target_frames))
    batch = {"teacher_clip": torch.zeros(3, 3, 2, 8, 8, device="meta"), "teacher_present": present}
    output = teacher.begin(batch)()
    assert ran == [2]
    assert (len(output.maps), len(output.features["encoder"])) == (3, 3)


def test_clips_are_mirrored_only_if_every_teacher_can(
    tmp_path: Path, videos: list[Video], caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(tmp_path)
    both = CachedTeacher(build_small(tmp_path / "a", videos, views=("plain", "flipped")), SPEC, role=Role("base"))
    plain = build_small(tmp_path / "b", videos)
    for mirror in (True, False):
        other = CachedTeacher(plain, SPEC, mirror=mirror, role=Role("far"))
        clips = build_clips(run, sources_of(videos), SPEC, [both, other])
        assert any(clips.window(number).flipped for number in range(12)) == mirror
        assert ("the target store of far has no flipped view" in caplog.text) != mirror


# ---------------------------------------------------------------- whole runs

MODEL = {"name": "student/thtdnet", "variant": "micro"}
HINT = {"name": "hint", "against": "teacher", "student": "stage4", "teacher": "encoder"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    torch.manual_seed(1)
    save_model(create_model("teacher/salfom", variant="micro"), path)
    return str(path)


def mixed_run(out: Path, weights: str, folder: Path, **changes: Any) -> RunConfig:
    """A run on labelled, unlabelled and both kinds of clips, with a partial store and an online teacher."""
    sample = str(REPOSITORY / "tests/data/dhf1k")
    values: dict[str, Any] = {
        "model": MODEL,
        "data": {
            "train": [
                {"dataset": "synthetic", "videos": ["blob0"], "frames": [1, 20], "clips_per_video": 4},
                {"dataset": "synthetic", "videos": ["blob1"], "frames": [1, 20], "name": "truth-only"},
                {"dataset": "dhf1k", "root": sample, "videos": ["068"], "frames": [20, 40], "name": "unlabelled"},
            ],
            "workers": 0,
        },
        "teacher": [
            {
                "name": "base",
                "model": weights,
                "store": str(folder / "store"),
                "sources": ["synthetic", "unlabelled"],
                "partial": True,
                "mirror": True,
            },
            {"name": "far", "model": weights, "source": "online", "sources": ["unlabelled"], "weight": 0.5},
        ],
        "losses": [{"name": "kldiv"}, {"name": "kldiv", "against": "teacher"}, HINT],
        "training": {"steps": 3, "batch_size": 4, "clip_norm": 1.0},
        "optimizer": {"name": "sgd", "lr": 1e-2},
    }
    return config(out, **{**values, **changes})


@pytest.fixture(scope="module")
def straight(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    run = mixed_run(folder / "run", teacher, folder)
    section = {"model": teacher, "store": str(folder / "store"), "views": ["plain", "flipped"]}
    labelled = {**run.data.model_dump(), "train": [run.data.train[0].model_dump()]}
    build_store(
        mixed_run(
            folder / "run", teacher, folder, data=labelled, teacher=section, losses=[run.losses[1].model_dump()]
        )
    )
    return train(run)


def test_log_says_how_many_maps_had_a_truth_and_a_target(straight: Path) -> None:
    lines = [line for line in read_log(straight / "log.jsonl") if line["kind"] == "train"]
    names = {"all", "truth", "base", "far", "far/clips"}
    assert all(line["maps"].keys() == names for line in lines)
    assert all(line["maps"]["all"] == 4 for line in lines)
    totals = {name: sum(line["maps"][name] for line in lines) for name in names}  # two epochs of six clips
    assert totals == {"all": 12, "truth": 10, "base": 8, "far": 2, "far/clips": 2}
    assert lines[0]["terms"].keys() == {"truth/kldiv", "base/kldiv", "far/kldiv", "far/hint:stage4-encoder"}
    for line in lines:
        wanted = sum(value * (0.5 if name.startswith("far/") else 1) for name, value in line["terms"].items())
        assert line["loss"] == pytest.approx(wanted, rel=1e-5)
        for name in ("far/kldiv", "far/hint:stage4-encoder"):
            assert (line["terms"][name] != 0) == (line["maps"]["far"] > 0)


def test_mixed_run_resumes_bit_identically(straight: Path, teacher: str, tmp_path: Path) -> None:
    run = mixed_run(tmp_path / "run", teacher, straight.parent)
    with pytest.raises(KeyboardInterrupt):
        train(run, stop=lambda step, batch: step == 0)
    elsewhere = run.with_teachers(device="cpu")  # free to change
    train(elsewhere.model_copy(update={"resume": "auto"}))
    assert losses(straight) == losses(tmp_path / "run")
    folders = [newest_checkpoint(each) for each in (straight, tmp_path / "run")]
    for name in ("model", "heads"):
        ours, theirs = (load_file(folder / f"{name}.safetensors") for folder in folders if folder is not None)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    with pytest.raises(UserError, match=r"teacher\.far\.weight was 0\.5 and is now 1"):
        train(run.with_teachers(weight=1.0).model_copy(update={"resume": "auto"}))


@pytest.mark.parametrize(("size", "accumulate"), [(2, 2), (1, 4)])
def test_mixed_run_does_not_depend_on_accumulation(
    size: int, accumulate: int, straight: Path, teacher: str, tmp_path: Path
) -> None:
    training = {"steps": 3, "batch_size": size, "accumulate": accumulate, "clip_norm": 1.0}
    run = train(mixed_run(tmp_path / "run", teacher, straight.parent, training=training))
    for here, there in zip(losses(straight), losses(run), strict=True):
        assert there[1] == pytest.approx(here[1], abs=1e-5)
        assert there[2] == pytest.approx(here[2], abs=1e-5)  # each term
        assert there[4] == pytest.approx(here[4], rel=1e-4)  # the gradient's norm


def test_mixed_run_on_two_processes_equals_one(straight: Path, teacher: str, tmp_path: Path) -> None:
    """In most steps, one of the processes has no clip of the online teacher, and so no features for the hint."""
    training = {"steps": 3, "batch_size": 2, "clip_norm": 1.0}
    save_config(mixed_run(tmp_path / "run", teacher, straight.parent, training=training), tmp_path / "run.yaml")
    launch(str(REPOSITORY / "scripts" / "distill.py"), str(tmp_path / "run.yaml"))
    for here, there in zip(losses(straight), losses(tmp_path / "run"), strict=True):
        assert there[1] == pytest.approx(here[1], abs=1e-5)
        assert there[2] == pytest.approx(here[2], abs=1e-5)  # each term
        assert there[4] == pytest.approx(here[4], rel=1e-4)  # the gradient's norm
    counts = [[line.get("maps") for line in read_log(run / "log.jsonl")] for run in (straight, tmp_path / "run")]
    assert counts[0] == counts[1]


def test_run_names_each_teacher(straight: Path, teacher: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    train(mixed_run(tmp_path / "run", teacher, straight.parent, training={"steps": 1}))
    printed = capfd.readouterr()
    text = " ".join((printed.out + printed.err).split())
    store = straight.parent / "store"
    assert f"teacher base: {teacher}, from {store} (log8; views: plain, flipped); " in text
    assert "sources: synthetic, unlabelled; partial: 20 of 41 maps" in text
    assert f"teacher far: {teacher}, computed online in fp32 on cpu; weight 0.5; sources: unlabelled" in text


def test_run_is_refused_without_consent_to_a_partial_store(straight: Path, teacher: str, tmp_path: Path) -> None:
    whole = mixed_run(tmp_path / "run", teacher, straight.parent).with_teachers(partial=False)
    with pytest.raises(UserError, match=r"videos\.068 is not in the store; .* set teacher\.partial=true"):
        train(whole)
    with pytest.raises(UserError, match=r"lacks 42 maps that this run needs, e\.g\. 068, frame 20"):
        train(whole.with_teachers(accept=True))
    elsewhere = whole.with_teachers(sources=["unlabelled"])
    for run in (elsewhere, elsewhere.with_teachers(partial=True)):
        with pytest.raises(UserError, match=r"covers none of the 1 training videos \(068\); it has blob0; "):
            train(run)
    assert not (tmp_path / "run").exists()


def test_each_teacher_has_its_own_heads(teacher: str, tmp_path: Path) -> None:
    """Two hints from features of one name and different shapes."""
    section = [
        {"name": name, "model": model, "source": "online"}
        for name, model in (("far", teacher), ("small", "teacher/salfom:micro-swin"))
    ]
    run = train(
        mixed_run(
            tmp_path / "run",
            teacher,
            tmp_path,
            teacher=section,
            training={"steps": 1},
            losses=[{"name": "kldiv"}, HINT, {"name": "cc", "against": "teacher", "student": "stage2"}],
        )
    )
    folder = newest_checkpoint(run)
    assert folder is not None
    heads = load_file(folder / "heads.safetensors")
    assert {key.split(".")[0] for key in heads} == {"stage4-far-encoder", "stage4-small-encoder", "stage2"}
    [line] = losses(run)
    assert set(line[2]) == {
        "truth/kldiv",
        "far/hint:stage4-encoder",
        "small/hint:stage4-encoder",
        "far/cc:stage2",
        "small/cc:stage2",
    }


def test_cache_build_builds_the_store_of_each_teacher_over_its_sources(
    teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    section = [
        {"name": "one", "model": teacher, "store": str(tmp_path / "one"), "sources": ["synthetic"]},
        {"name": "two", "model": teacher, "store": str(tmp_path / "two"), "views": ["plain", "flipped"]},
        {"name": "imported", "store": str(tmp_path / "three")},
    ]
    run = run_of(tmp_path, teacher=section)
    save_config(run, tmp_path / "run.yaml")
    assert main(["cache", "build", str(tmp_path / "run.yaml")]) == 0
    printed = capsys.readouterr().out
    assert printed.index(str(tmp_path / "one")) < printed.index(str(tmp_path / "two"))
    stores = build_stores(run)  # already complete
    assert [store.path.name for store in stores] == ["one", "two"]
    assert [len(store.plan.videos) for store in stores] == [8, 8]
    assert [store.plan.views for store in stores] == [("plain",), ("plain", "flipped")]


def test_source_without_any_supervision_is_reported(
    teacher: str, straight: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section = {"store": str(straight.parent / "store"), "sources": ["synthetic"]}
    train(
        mixed_run(
            tmp_path / "run",
            teacher,
            tmp_path,
            teacher=section,
            losses=[{"name": "kldiv"}, {"name": "kldiv", "against": "teacher"}],
            training={"steps": 1},
        )
    )
    assert "data.train[2]: no video has ground truth or a teacher, so its clips have no loss" in caplog.text
    assert "data.train[1]" not in caplog.text


def test_sources_are_numbered(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    assert [{video.source for video in source.videos} for source in training_sources(run.data)] == [{0}, {1}]
    assert run.data.numbers_of(["extra"]) == {1}
    assert run.data.numbers_of(None) == {0, 1}
