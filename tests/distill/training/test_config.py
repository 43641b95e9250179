from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

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


def errors(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text, *overrides)
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).splitlines()]


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    assert read(tmp_path, RUN).optimizer.lr == 3e-4


def test_overrides_reach_into_mappings_and_lists(tmp_path: Path) -> None:
    config = read(tmp_path, RUN, "training.steps=7", "losses.1.weight=5e-1", "losses[0].temperature=2", "seed=3")
    assert (config.training.steps, config.losses[1].weight, config.losses[0].temperature) == (7, 0.5, 2)
    assert config.seed == 3


def test_every_mistake_is_reported_at_once_with_its_path(tmp_path: Path) -> None:
    text = RUN.replace("weight: 2", "weight: heavy").replace("lr: 3e-4", "lr: -1").replace("steps: 10", "stepz: 10")
    assert errors(tmp_path, text) == [
        "run.yaml: losses[1].weight: expected a number, got 'heavy'",
        "run.yaml: optimizer.lr: expected a number > 0, got -1",
        "run.yaml: training.stepz: unknown key (did you mean 'steps'?); expected one of steps, epochs, "
        "batch_size, accumulate, clip_norm, precision, freeze, recompute, shard, ema, compile, validate_every, "
        "checkpoint_every, best",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "losses.0.name=kldev",
            "losses[0].name: unknown loss 'kldev' (did you mean 'kldiv'?); expected one of kldiv, cc",
        ),
        (
            "training.best=kldiv",
            "training.best: unknown selection metric 'kldiv'; expected one of auc_judd, nss, cc, sim",
        ),
        ("data.train.0.dataset=dhfk1", "data.train[0].dataset: unknown data set 'dhfk1' (did you mean 'dhf1k'?)"),
        ("model.name=teacher/salfon", "model: unknown model 'teacher/salfon' (did you mean 'teacher/salfom'?)"),
        ("model.variant=tiney", "model: unknown variant of teacher/salfom 'tiney' (did you mean 'tiny'?)"),
        ("seed=-1", "seed: expected a number >= 0, got -1"),
        ("optimizer.lr=.inf", "optimizer.lr: expected a finite number, got inf"),
        (
            "optimizer.name=adan",
            "optimizer.name: expected one of adam, adamw, sgd, got 'adan' (did you mean 'adam'?)",
        ),
        ("training.steps=1.5", "training.steps: expected an integer, got 1.5"),
        ("training.freeze=decoder", "training.freeze: expected encoder or a number of blocks, got 'decoder'"),
        ("training.freeze=0", "training.freeze: expected encoder or a number of blocks, got 0"),
        ("training.freeze=true", "training.freeze: expected encoder or a number of blocks, got true"),
        ("training.ema=1", "training.ema: expected a number < 1, got 1"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay: expected a number > 0, got 0"),
        ("data.train.0.share=[0.9, 0.9]", "data.train[0]: share: expected [from, to] such as [0, 0.9]"),
        ("data.train.0.share=[0, 90]", "data.train[0].share[1]: expected a number <= 1, got 90"),
        ("training.epochs=2", "training: give exactly one of 'steps' and 'epochs'"),
        ("data.flip=perhaps", "data.flip: expected true or false, got 'perhaps'"),
        ("losses.1.temperature=2", "losses[1]: cc has no temperature; kldiv and reverse_kldiv have one"),
        ("losses.1={name: log_mse}", "losses[1]: log_mse compares with a teacher only; use against: teacher"),
        ("losses.1={name: hint}", "losses[1]: hint compares with a teacher only; use against: teacher"),
        (
            "losses.1={name: hint, against: teacher, student: stage4}",
            "losses[1]: hint needs 'student' and 'teacher', the names of the features to compare",
        ),
        (
            "losses.1={name: nss, against: teacher}",
            "losses[1]: nss compares with fixations, which a teacher lacks; use against: truth",
        ),
        ("losses.1.teacher=encoder", "losses[1]: cc compares maps; remove 'teacher', which names features"),
        ("losses.1.ramp=[0, 0.5]", "losses[1]: ramp and shape need 'final_weight', the weight at the end"),
        (
            "losses.1={name: cc, final_weight: 0, ramp: [0.5, 0.1]}",
            "losses[1]: ramp: expected [from, to] such as [0, 0.1], got [0.5, 0.1]",
        ),
        ("losses=[{name: cc, student: stage4}]", "losses: no term compares the model's own map; add one"),
        ("losses.1.against=teacher", "losses: a term is against: teacher, but the section 'teacher' is missing"),
        ("losses.1={name: kldiv}", "losses: two terms are the same; merge them and add up their weights"),
        ("teacher.store=runs/t", "teacher: no loss is against: teacher; add one or remove the section"),
        ("teacher={source: online}", "teacher: source: online needs 'model', the teacher to run"),
        ("model=teacher/salfom", "model: expected a mapping, got 'teacher/salfom'"),
        ("data.train=[]", "data.train: expected"),
        ("data.train.0.frames=[0, 5]", "data.train[0].frames[0]: expected a number >= 1, got 0"),
        # overrides that lead nowhere
        ("training.steps", "'training.steps': expected an override key=value"),
        ("losses.5.weight=1", "losses.5.weight: '5' is not an index into a list of 2; indices start at 0"),
        ("optimizer.lr.x=1", "optimizer.lr.x: 'optimizer.lr' is 0.0003 and has no keys"),
    ],
)
def test_mistake_names_the_key_and_what_was_expected(tmp_path: Path, override: str, sentence: str) -> None:
    lines = errors(tmp_path, RUN, override)
    assert len(lines) == 1
    assert lines[0].removeprefix("run.yaml: ").startswith(sentence)


def test_hint_with_cached_teacher_is_refused(tmp_path: Path) -> None:
    hint = "losses.1={name: hint, against: teacher, student: stage4, teacher: encoder}"
    [line] = errors(tmp_path, RUN, hint, "teacher.store=runs/t")
    assert (
        "hint needs the teacher's features, and a target store holds maps only; use teacher.source: online" in line
    )
    assert read(tmp_path, RUN, hint, "teacher={source: online, model: runs/t}").losses[1].teacher == "encoder"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (RUN.replace("out: runs/x", ""), "run.yaml: out: missing; this key is required"),
        ("- a\n- b\n", "run.yaml: expected a YAML mapping (key: value), got a list"),
        ("a: [1\n", "run.yaml: invalid YAML at line 2"),
        ("seed: 1\nseed: 2\n", "run.yaml: invalid YAML at line 2, column 1: duplicate key 'seed'"),
    ],
)
def test_malformed_file_is_described(tmp_path: Path, text: str, sentence: str) -> None:
    [line] = errors(tmp_path, text)
    assert line.startswith(sentence)


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config file not found"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the config"):
        load_config(tmp_path / "bytes.yaml")


def test_saved_config_loads_as_an_equal_run(tmp_path: Path) -> None:
    config = read(tmp_path, RUN, "data.train.0.frames=[2, 9]", "training.precision=bf16")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_every_key_has_a_description() -> None:
    """The reference of the config keys is generated from these."""

    def check(section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            for part in (field.annotation, *get_args(field.annotation)):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    check(part)

    check(RunConfig)
