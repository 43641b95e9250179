from pathlib import Path

import pytest

from distill.errors import UserError
from distill.training.config import RunConfig, load_config, save_config

RUN = """
out: runs/x
model: {name: teacher/salfom, variant: micro}
data:
  train: [{dataset: synthetic}]
losses:
  - {name: kldiv}
  - {name: cc, weight: 2}
optimizer: {lr: 3e-4}
training: {steps: 10}
"""


def read(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, list(overrides))


def complaints(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, *overrides)
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    assert read(tmp_path, RUN).optimizer.lr == 3e-4


def test_overrides_reach_into_mappings_and_lists(tmp_path: Path) -> None:
    config = read(tmp_path, RUN, "training.steps=7", "losses.1.weight=5e-1", "losses[0].temperature=2", "seed=3")
    assert (config.training.steps, config.losses[1].weight, config.losses[0].temperature) == (7, 0.5, 2)
    assert config.seed == 3


def test_every_mistake_is_reported_at_once_with_its_path(tmp_path: Path) -> None:
    text = RUN.replace("weight: 2", "weight: heavy").replace("lr: 3e-4", "lr: -1").replace("steps: 10", "stepz: 10")
    assert complaints(tmp_path, text) == [
        "run.yaml: losses[1].weight: expected a number, got 'heavy'",
        "run.yaml: optimizer.lr: expected greater than 0, got -1",
        "run.yaml: training.stepz: unknown key (did you mean 'steps'?); this section has: steps, epochs, "
        "batch_size, accumulate, clip_norm, precision, freeze, recompute, shard, ema, compile, validate_every, "
        "checkpoint_every, best",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "losses.0.name=kldev",
            "losses[0].name: unknown loss 'kldev' (did you mean 'kldiv'?); there are: kldiv, cc",
        ),
        ("data.train.0.dataset=dhfk1", "data.train[0].dataset: unknown data set 'dhfk1' (did you mean 'dhf1k'?)"),
        ("model.name=teacher/salfon", "model: unknown model 'teacher/salfon' (did you mean 'teacher/salfom'?)"),
        ("model.variant=tiney", "model: unknown variant of teacher/salfom 'tiney' (did you mean 'tiny'?)"),
        ("seed=-1", "seed: expected greater than or equal to 0, got -1"),
        ("optimizer.lr=.inf", "optimizer.lr: expected a finite number, got inf"),
        (
            "optimizer.name=adan",
            "optimizer.name: expected one of adam, adamw, sgd, got 'adan' (did you mean 'adam'?)",
        ),
        ("training.steps=1.5", "training.steps: expected a whole number, got 1.5"),
        ("training.freeze=decoder", "training.freeze: expected encoder or a number of its blocks, got 'decoder'"),
        ("training.freeze=0", "training.freeze: expected encoder or a number of its blocks, got 0"),
        ("training.freeze=true", "training.freeze: expected encoder or a number of its blocks, got true"),
        ("training.ema=1", "training.ema: expected less than 1, got 1"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay: expected greater than 0, got 0"),
        ("data.train.0.share=[0.9, 0.9]", "data.train[0]: share: expected [from, to] such as [0, 0.9]"),
        ("data.train.0.share=[0, 90]", "data.train[0].share[1]: expected less than or equal to 1, got 90"),
        ("training.epochs=2", "training: give exactly one of 'steps' and 'epochs'"),
        ("data.flip=perhaps", "data.flip: expected true or false, got 'perhaps'"),
        ("losses.1.temperature=2", "losses[1]: temperature belongs to kldiv and reverse_kldiv, not to cc"),
        ("losses.1={name: log_mse}", "losses[1]: log_mse compares with a teacher alone; use against: teacher"),
        ("losses.1={name: hint}", "losses[1]: hint compares with a teacher alone; use against: teacher"),
        (
            "losses.1={name: hint, against: teacher, student: stage4}",
            "losses[1]: hint needs 'student' and 'teacher', the names of the features to compare",
        ),
        ("losses.1.teacher=encoder", "losses[1]: 'teacher', the name of features, belongs to hint, not to cc"),
        ("losses.1.ramp=[0, 0.5]", "losses[1]: ramp and shape say how the weight changes; give 'final_weight'"),
        (
            "losses.1={name: cc, final_weight: 0, ramp: [0.5, 0.1]}",
            "losses[1]: ramp: expected [from, until] such as [0, 0.1], got [0.5, 0.1]",
        ),
        (
            "losses=[{name: cc, student: stage4}]",
            "losses: none is of the model's own map; add one, whose weight may come later (ramp)",
        ),
        ("losses.1.against=teacher", "losses: a term is against: teacher, but there is no section 'teacher'"),
        ("losses.1={name: kldiv}", "losses: the same term stands there twice; add up its weights"),
        ("teacher.store=runs/t", "teacher: no loss is against: teacher; add one or remove the section"),
        ("teacher={source: online}", "teacher: source: online needs 'model', the teacher to run"),
        ("model=teacher/salfom", "model: expected a mapping, got 'teacher/salfom'"),
        ("data.train=[]", "data.train: expected"),
        ("data.train.0.frames=[0, 5]", "data.train[0].frames[0]: expected greater than or equal to 1, got 0"),
    ],
)
def test_a_mistake_says_what_was_expected(tmp_path: Path, override: str, sentence: str) -> None:
    lines = complaints(tmp_path, RUN, override)
    assert len(lines) == 1
    assert lines[0].removeprefix("run.yaml: ").startswith(sentence)


def test_a_hint_needs_a_teacher_that_is_there(tmp_path: Path) -> None:
    hint = "losses.1={name: hint, against: teacher, student: stage4, teacher: encoder}"
    [line] = complaints(tmp_path, RUN, hint, "teacher.store=runs/t")
    assert (
        "a hint needs the teacher's features, and a store holds its maps alone; use teacher.source: online" in line
    )
    assert read(tmp_path, RUN, hint, "teacher={source: online, model: runs/t}").losses[1].teacher == "encoder"


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    assert complaints(tmp_path, RUN.replace("out: runs/x", "")) == ["run.yaml: out: missing; this key is needed"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.steps", "'training.steps': expected an override of the form key=value"),
        ("losses.5.weight=1", "losses.5.weight: '5' is no entry of a list of 2; entries count from 0"),
        ("optimizer.lr.x=1", "optimizer.lr.x: 'optimizer.lr' is 0.0003 and has no keys"),
    ],
)
def test_an_override_that_leads_nowhere_says_so(tmp_path: Path, override: str, sentence: str) -> None:
    assert complaints(tmp_path, RUN, override)[0].startswith(sentence)


def test_a_file_that_is_no_config_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such config file"):
        load_config(tmp_path / "none.yaml")
    assert complaints(tmp_path, "- a\n- b\n") == ["run.yaml: expected a YAML mapping (key: value), found a list"]
    assert complaints(tmp_path, "a: [1\n")[0].startswith("run.yaml: not valid YAML at line 2")
    assert complaints(tmp_path, "seed: 1\nseed: 2\n")[0].endswith("line 2, column 1: the key 'seed' stands twice")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a config"):
        load_config(tmp_path / "bytes.yaml")


def test_the_saved_config_gives_the_same_run(tmp_path: Path) -> None:
    config = read(tmp_path, RUN, "data.train.0.frames=[2, 9]", "training.precision=bf16")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
