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
        "checkpoint_every, keep, best",
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


# --------------------------------------------------------------------------------------- strict types and bounds


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.steps=yes", "training.steps: expected an integer, got true"),
        ("training.steps='5'", "training.steps: expected an integer, got '5'"),
        ("training.steps=010", "training.steps: expected an integer, got '010'"),
        ("training.steps=1:30", "training.steps: expected an integer, got '1:30'"),
        ("training.steps=0x10", "training.steps: expected an integer, got '0x10'"),
        ("training.steps=5.5", "training.steps: expected an integer, got 5.5"),
        ("training.steps=1e300", "training.steps: expected an integer, got 1e+300"),
        ("optimizer.lr=yes", "optimizer.lr: expected a number, got true"),
        ("optimizer.lr='1'", "optimizer.lr: expected a number, got '1'"),
        ("losses.0.weight=no", "losses[0].weight: expected a number, got false"),
        ("data.flip=1", "data.flip: expected true or false, got 1"),
        ("data.flip='yes'", "data.flip: expected true or false, got 'yes'"),
        ("seed=true", "seed: expected an integer, got true"),
        ("out=3", "out: expected text, got 3"),
        ("out=", "out: expected text, got nothing"),
        ("out=''", "out: expected a path, got an empty text"),
        ("data.train.0.videos=a.mp4", "data.train[0].videos: expected a list, got 'a.mp4'"),
        ("data.train.0.videos=[1]", "data.train[0].videos[0]: expected text, got 1"),
        ("data.train.0.videos={a: b}", "data.train[0].videos: expected a list, got a mapping"),
        ("data.train.0.frames={1: 2}", "data.train[0].frames: expected a list, got a mapping"),
        ("data.train.0.frames=[1, 2, 3]", "data.train[0].frames: expected at most 2 items, got 3"),
        ("data.train.0.share=[0, yes]", "data.train[0].share[1]: expected a number, got true"),
        ("data.stride=yes", "data.stride: expected a positive number of frames, or a rate such as 30fps, got True"),
        ("model.arguments={1: 2}", "model.arguments[1]: expected text as the key, got 1; put it in quotes"),
        ("model.arguments={weights: a.pth}", "model.arguments: 'weights' is not an argument of the network; set"),
        ("model.arguments={variant: tiny}", "model.arguments: 'variant' is not an argument of the network; set"),
        ("model.arguments={width: .nan}", "model.arguments: expected finite numbers, got nan"),
        # bounds
        (
            "data.train.0.clips_per_video=1e12",
            "data.train[0].clips_per_video: clips: 1,000,000,000,000 is over the",
        ),
        (
            "data.train.0.ratio=1e12",
            "data.train[0].ratio: clips: 1,000,000,000,000.0 is over the limit of 1,000,000",
        ),
        (
            "data.train.0.frames=[1, 99999999999]",
            "data.train[0].frames[1]: frames: 99,999,999,999 is over the limit",
        ),
        (
            "data.workers=100000",
            "data.workers: processes: 100,000 is over the limit of 256 (set in distill/limits.py)",
        ),
        ("data.stride=99999", "data.stride: frames: 99,999 is over the limit of 1,000"),
        ("data.stride=9999fps", "data.stride: frames per second: 9,999.0 is over the limit of 1,000"),
        ("data.stride=0.0001fps", "data.stride: expected a positive number of frames, or a rate such as 30fps"),
        ("training.batch_size=1e9", "training.batch_size: clips: 1,000,000,000 is over the limit of 1,024"),
        ("training.accumulate=1e9", "training.accumulate: batches: 1,000,000,000 is over the limit"),
        ("training.steps=1e9", "training.steps: optimiser steps: 1,000,000,000 is over the limit"),
        (
            "training.validate_every=1e9",
            "training.validate_every: optimiser steps: 1,000,000,000 is over the limit",
        ),
        ("schedule.warmup_steps=1e9", "schedule.warmup_steps: optimiser steps: 1,000,000,000 is over the limit"),
        ("model.arguments={size: [1000000, 2]}", "model.arguments: size: 1,000,000 is over the limit of 8,192"),
        (f"seed={'9' * 5000}", "seed: invalid YAML at line 1, column 1: expected an integer, got '9999"),
        (f"seed={'9' * 30}", "seed: invalid YAML at line 1, column 1: a number of over 20 digits (MAX_DIGITS)"),
        (f"seed=!!int 0x{'f' * 9999}", "seed: invalid YAML at line 1, column 1: a number of over 20 digits"),
        (f"{'a.' * 60}b=1", "a.a."),
        ("data.train.²=1", "data.train.²: '²' is not an index into a list of 1"),
    ],
)
def test_wrong_type_or_number_over_a_bound_is_refused(tmp_path: Path, override: str, sentence: str) -> None:
    [line] = errors(tmp_path, RUN, override)
    assert line.removeprefix("run.yaml: ").startswith(sentence)
    assert len(line) < 300


def test_whole_numbers_dates_and_padded_names_are_read_as_meant(tmp_path: Path) -> None:
    videos = "data.train.0.videos=[001, 2024-01-01, 2024-99-99, 1:30]"
    config = read(tmp_path, RUN, "training.steps=1e3", "seed=5.0", "optimizer.lr=1", videos)
    assert (config.training.steps, config.seed, config.optimizer.lr) == (1000, 5, 1.0)
    assert type(config.training.steps) is int
    assert config.data.train[0].videos == ["001", "2024-01-01", "2024-99-99", "1:30"]


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{n}: &b{n} [{', '.join([f'*b{n - 1}' if n else '*a'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "line 6, column 5: over 200000 values, aliases written out (MAX_YAML_VALUES)"),
        ("a: &a [*a]", "line 1, column 8: alias *a refers to a list or mapping that contains it"),
        ("a: *a", "line 1, column 4: found undefined alias 'a'"),
        ("x: &x {a: 1}\ny:\n  <<: *x", "line 3, column 3: merge keys (<<) are not supported; write the keys out"),
        ("[" * 100_000, "line 1, column 51: nested over 50 deep (MAX_YAML_DEPTH)"),
        ("a:\n\tb: 1", "line 2, column 1: found character '\\t' that cannot start any token; indent with spaces"),
        ("a: !!int abc", "line 1, column 4: expected an integer, got 'abc'"),
        ("a: !!float abc", "line 1, column 4: expected a number, got 'abc'"),
        ("a: !!bool abc", "line 1, column 4: expected true or false, got 'abc'"),
        ("a: !!int [1]", "line 1, column 4: expected a scalar node, but found sequence"),
        ("a: !!timestamp 2024-99-99", "line 1, column 4: tag !!timestamp is not supported"),
        ("a: !!binary aGVsbG8=", "line 1, column 4: tag !!binary is not supported"),
        ("a: !!set {a, b}", "line 1, column 4: tag !!set is not supported"),
        ("a: !!omap [a: b]", "line 1, column 4: tag !!omap is not supported"),
        ("a: !mine b", "line 1, column 4: tag !mine is not supported"),
        ("a: !!python/object/apply:os.getcwd []", "line 1, column 4: tag !!python/object/apply:os.getcwd is not"),
        ('a: "b\\0c"', "line 1, column 4: text with the control character '\\x00'; remove it"),
        ('a: "b\\ud800c"', "line 1, column 4: text with the control character '\\ud800'; remove it"),
        ("a: b\n\x01: c", "line 2, column 1: the character '\\x01' is not allowed; remove it"),
        ("? [a]\n: b", "line 1, column 3: expected a plain key"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("a: 'x", "line 1, column 6: found unexpected end of stream"),
    ],
)
def test_hostile_yaml_is_one_sentence_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    [line] = errors(tmp_path, text)
    assert line.startswith(f"run.yaml: invalid YAML at {sentence}")
    assert len(line) < 300


def test_yaml_file_over_the_size_limit_is_not_read(tmp_path: Path) -> None:
    [line] = errors(tmp_path, f"a: {'x' * 600_000}")
    assert line == "run.yaml: over the limit of 524,288 bytes (MAX_YAML_BYTES in distill/limits.py)"


def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(UserError, match="line 2, column 4: byte 0xff is not UTF-8"):
        load_config(tmp_path / "bytes.yaml")
    with pytest.raises(UserError, match="Is a directory"):
        load_config(tmp_path)


def test_many_mistakes_are_counted_and_long_values_cut(tmp_path: Path) -> None:
    lines = errors(tmp_path, RUN, f"data.train.0.videos=[{', '.join(['1'] * 1000)}]", f"{'x' * 5000}=1")
    assert lines[-1] == "run.yaml: 951 more mistakes"
    assert all(len(line) < 300 for line in lines)


def test_override_of_an_aliased_list_changes_one_place(tmp_path: Path) -> None:
    text = RUN.replace("train: [{dataset: synthetic}]", "train: &v [{dataset: synthetic}]\n  test: *v")
    config = read(tmp_path, text, "data.train.0.split=test")
    assert (config.data.train[0].split, config.data.test[0].split) == ("test", None)


def test_saved_config_keeps_text_that_looks_like_a_number(tmp_path: Path) -> None:
    config = read(tmp_path, RUN, "data.train.0.videos=['3e-4', '1', 'yes', '~', 2024-01-01, '<<', '']", "out='1e5'")
    save_config(config, tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


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
