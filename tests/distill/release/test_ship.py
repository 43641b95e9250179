"""From a run folder to a pretrained model: files, record, card."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.places import REPOSITORY, SAMPLE

from distill.cli.main import main
from distill.data.picture_hashes import hash_videos
from distill.deploy import half_storage
from distill.deploy.quantize import load_source
from distill.errors import UserError
from distill.inference.predictor import load
from distill.models import pretrained, weight_files
from distill.models.references import load_model
from distill.models.tensor_files import load_tensors
from distill.models.training_hashes import training_hashes
from distill.models.weight_files import read_header
from distill.release import records, ship
from distill.release.facts import read_facts
from distill.reports.model_card import model_card, zoo, zoo_scores
from distill.training.config import RunConfig, load_config, save_config
from distill.training.train import train

VIDEO = str(SAMPLE / "video" / "068.AVI")
FACTS = REPOSITORY / "student" / "pretrained" / "facts.yaml"


def config(out: Path) -> RunConfig:
    return RunConfig.model_validate(
        {
            "out": str(out),
            "device": "cpu",
            "model": {"name": "student/stream", "variant": "micro", "arguments": {"num_frames": 2}},
            "data": {
                "train": [{"dataset": "dhf1k", "root": str(SAMPLE), "videos": ["002"], "frames": [1, 40]}],
                "validation": [
                    {"dataset": "dhf1k", "root": str(SAMPLE), "videos": ["002"], "frames": [601, 610], "every": 5}
                ],
                "workers": 0,
                "stride": 2,
            },
            "losses": [{"name": "kldiv"}],
            "optimizer": {"name": "adam", "lr": 1e-3},
            "training": {"steps": 2, "batch_size": 2},
        }
    )


HALF_FROM = 4096
"""In place of `weight_files.HALF_FROM`: the small model has no larger tensor."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with the config file that it was started with."""
    folder = tmp_path_factory.mktemp("run")
    save_config(config(folder / "run").model_copy(update={"seed": 7}), folder / "mine.yaml")
    return train(config(folder / "run"))


@pytest.fixture(scope="module")
def shipped(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pretrained models with the run as `stream-small`."""
    folder = tmp_path_factory.mktemp("pretrained")
    shutil.copy(FACTS, folder)
    with pytest.MonkeyPatch.context() as patch:
        for module in (weight_files, half_storage):
            patch.setattr(module, "HALF_FROM", HALF_FROM)
        patch.setattr(pretrained, "pretrained_folder", lambda: folder)
        patch.setattr(ship, "pretrained_folder", lambda: folder)
        sources = ship.Sources(config=str(run.parent / "mine.yaml"))
        ship.ship([run], "stream-small", sources, video=VIDEO)
    return folder


@pytest.fixture
def folder(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in place of student/pretrained."""
    copy = tmp_path / "pretrained"
    shutil.copytree(shipped, copy)
    for module in (pretrained, ship):
        monkeypatch.setattr(module, "pretrained_folder", lambda: copy)
    monkeypatch.chdir(tmp_path)
    return copy


def test_shipped_run_gives_the_maps_of_the_run_from_half_the_bytes(folder: Path, run: Path) -> None:
    record = pretrained.pretrained_model("stream-small")
    frames = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), dtype=np.uint8)
    expected = load(run, device="cpu").predict(frames)
    assert np.abs(load("stream-small", device="cpu").predict(frames) - expected).max() <= ship.MAX_ERROR
    exported = load(pretrained.checked_file(record.onnx), device="cpu").predict(frames)
    assert np.abs(exported - expected).max() <= 2 * ship.MAX_ERROR
    assert (record.weights.precision, record.onnx.precision) == ("fp16", "fp16")
    assert record.weights.max_error is not None
    assert record.weights.bytes < 0.8 * (run / "best.safetensors").stat().st_size
    tensors = load_tensors(folder / record.weights.name).values()
    assert {value.dtype for value in tensors if value.numel() >= HALF_FROM} == {torch.float16}
    assert torch.float16 not in {value.dtype for value in tensors if value.numel() < HALF_FROM}
    assert {path.name for path in folder.iterdir()} == {
        *("facts.yaml", "models.json", "training_hashes.json", "stream-small.safetensors", "stream-small.onnx")
    }


def test_runs_of_several_seeds_are_shipped_as_the_mean_of_their_weights(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    other = train(config(tmp_path / "run").model_copy(update={"seed": 8}))
    record = ship.ship([run, other], "stream-nano", ship.Sources(), video=VIDEO)
    states = [load_tensors(each / "best.safetensors") for each in (run, other)]
    for name, value in load_tensors(folder / record.weights.name).items():
        torch.testing.assert_close(value.float(), (states[0][name].float() + states[1][name].float()) / 2)
    assert record.training.best.startswith("the mean of 2 runs (run, run): those of step 2")
    assert record.training.minutes >= pretrained.pretrained_model("stream-small").training.minutes

    longer = tmp_path / "longer"
    shutil.copytree(other, longer)
    text = (longer / "config.yaml").read_text()
    (longer / "config.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    with pytest.raises(
        UserError, match=r"longer: optimizer.lr differs from that of .*; expected runs of one config"
    ):
        ship.ship([run, longer], "stream-nano", ship.Sources(), video=VIDEO)


def test_record_states_input_training_and_data_with_terms(folder: Path) -> None:
    record = pretrained.pretrained_model("stream-small")
    assert record.architecture == "student/stream:micro"
    assert (record.input.size, record.input.map_size, record.input.stride) == ((64, 96), (16, 24), 2)
    assert record.training.command.endswith("mine.yaml seed=0")
    assert record.training.best.startswith("those of step 2, chosen by validation CC = ")
    assert record.training.best.endswith("on dhf1k (002, frames 601 to 610)")
    (data,) = record.training.data
    assert (data.licence, data.used) == ("CC BY 4.0", "dhf1k (002, frames 1 to 40)")
    assert str(REPOSITORY) not in (folder / "models.json").read_text()
    notes = read_header(folder / record.weights.name).notes.model_dump()
    assert (notes["pretrained"], notes["licence"], notes["stride"]) == ("stream-small", "Apache-2.0", 2)
    metadata = load_model(folder / record.onnx.name).network.edge.metadata
    assert (metadata["licence"], metadata["mode"], metadata["stored"]) == ("Apache-2.0", "step", "fp16")
    with pytest.raises(
        UserError, match=r"stream-small\.onnx: its weights are stored in fp16, so its layers cannot"
    ):
        load_source(folder / record.onnx.name)


def test_hashes_of_the_training_video_are_shipped(folder: Path, sample: Path) -> None:
    shipped_hashes = training_hashes()["stream-small"]
    trained, other = hash_videos([sample / "video" / "002.AVI", sample / "video" / "068.AVI"])
    assert shipped_hashes.videos == 1
    assert shipped_hashes.hash_set().holds(trained)
    assert not shipped_hashes.hash_set().holds(other)


def test_scores_and_benchmark_are_added_later_and_appear_in_card_and_tables(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["dhf1k:" + str(SAMPLE), "--videos", "002", "--frames", "601-640", "--every", "20"]
    models = ["centre-prior", "stream-small", "observers"]
    assert main(["evaluate", *models, *data, "--metrics", "nss,cc", "-o", "scores", "--device", "cpu"]) == 0
    row = {"runtime": "ONNX Runtime", "precision": "fp32", "batch_size": 1}
    rows = [
        {"model": "mobilenetv2_100.onnx", "milliseconds": 4.0, **row},
        {"model": "pretrained/stream-small.onnx", "milliseconds": 3.0, **row},
    ]
    Path("cost.json").write_text(json.dumps({"setting": {"threads": 2, "device": "cpu (x)"}, "rows": rows}))
    ship.update("stream-small", ship.Sources(scores={"public_test": ["scores"]}, benchmark="cost.json"))
    record = pretrained.pretrained_model("stream-small")
    (table,) = record.scores
    names = ["stream-small", "centre prior", "one half of the observers against the other"]
    assert [each.name for each in table.rows][:3] == names
    assert table.rows[3].name.startswith("TinyHD-M")
    assert table.rows[3].means["nss"] == 3.03
    assert table.what == "mean over 1 video, 2 frames (one of every 20 frames in use, from the first)"
    assert (record.cost.milliseconds, record.cost.ratio) == (3.0, 0.75)
    card = model_card("stream-small", record)
    nss = table.rows[0].means["nss"]
    assert f"| **stream-small** | {nss:.2f} | " in card
    for text in ("3.03", "0.75 times mobilenetv2_100 (4.00 ms)", "CC BY 4.0", record.weights.sha256, "mine.yaml"):
        assert text in card
    for heading in ("Data", "Known limits", "Intended use", "What was chosen on what", "Files"):
        assert f"\n## {heading}\n" in card
    assert f"| `stream-small` | `student/stream:micro` | {nss:.2f} |" in zoo({"stream-small": record})
    both = zoo_scores({"stream-small": record, "other": record})
    assert both.count("| centre prior |") == 1
    capsys.readouterr()


@pytest.mark.parametrize(("cc", "good"), [(0.595, True), (0.58, False)])
def test_int8_is_taken_only_if_it_loses_little_cc_with_the_ground_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cc: float, good: bool
) -> None:
    plain, path = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    plain.touch()
    monkeypatch.setattr(ship, "quantize_files", lambda plain, on, *, out, **_: shutil.copy(plain, out))
    monkeypatch.setattr(ship, "score", lambda each, *_, **__: (FakeScores(0.6 if each == plain else cc), None))
    monkeypatch.setattr(ship, "videos_of_argument", lambda *_, **__: [])
    assert ship.quantize_if_good(plain, path, ship.Int8("calibration", "validation")) is good
    assert path.exists() is good
    assert ("no INT8: CC falls by 0.0200 on validation" in caplog.text) is not good


def test_int8_that_cannot_be_made_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UserError("the maps lose too much")

    monkeypatch.setattr(ship, "quantize_files", refuse)
    int8 = ship.Int8("calibration", "validation")
    assert not ship.quantize_if_good(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", int8)
    assert "no INT8: the maps lose too much" in caplog.text


class FakeScores:
    def __init__(self, cc: float) -> None:
        self.per_video = {"cc": cc}


def test_too_large_files_leave_everything_as_it_was(
    folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(ship, "MAX_BYTES", 1000)
    monkeypatch.setattr(ship, "write_onnx", lambda *_: pretrained.pretrained_model("stream-small").onnx)
    with pytest.raises(UserError, match=r"the pretrained files take .* MB, but at most 0.001 MB are shipped"):
        ship.ship([run], "stream-small", ship.Sources(), video=VIDEO)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_unknown_names_and_data_without_licence_are_one_sentence(folder: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stream-big: not among the models of .*: stream-small, stream-nano"):
        ship.ship([run], "stream-big", ship.Sources(), video=VIDEO)
    with pytest.raises(UserError, match=r"stream-nano: not in .*models\.json; ship its run first"):
        ship.update("stream-nano", ship.Sources())
    with pytest.raises(UserError, match="--scores x: unknown key; expected one of public_test, stills"):
        ship.update("stream-small", ship.Sources(scores={"x": ["scores"]}))
    with pytest.raises(UserError, match=r"nothing: no summary\.json; expected the folder of a finished run"):
        records.read_training([Path("nothing")], read_facts(FACTS))
    with pytest.raises(UserError, match=r"here: facts\.yaml has no licence for the data in data/mine; expected"):
        read_facts(FACTS).data_of("data/mine", "here")


def test_data_of_earlier_runs_and_teachers_is_listed(run: Path, tmp_path: Path) -> None:
    changes = {"model": {"name": "student/stream", "variant": "micro", "weights": str(run / "best.safetensors")}}
    values = {**config(tmp_path / "second").model_dump(mode="json"), **changes}
    values["data"]["train"] = [{"dataset": "folder", "root": "../somewhere/unlabelled"}]
    second = RunConfig.model_validate(values)
    (tmp_path / "second").mkdir()
    save_config(second, tmp_path / "second" / "config.yaml")
    assert [each.resolve() for each in records.ancestors(tmp_path / "second", read_facts(FACTS))] == [run.resolve()]
    configs = {each: load_config(each / "config.yaml") for each in (tmp_path / "second", run)}
    assert [each.licence for each in records.data_of(configs, read_facts(FACTS))] == ["CC BY", "CC BY 4.0"]
    assert records.shown("../shared/data/stills") == "data/stills"
    assert records.shown("/somewhere/else/data/stills") == "data/stills"


def test_runs_behind_a_target_store_are_found_and_foreign_maps_need_a_licence(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = {
        "mean": {"imported": [str(tmp_path / "one"), str(tmp_path / "two")]},
        "one": {"teacher": str(run)},
        "two": {"teacher": "student/stream:micro"},
        "foreign": {"imported": ["data/other-maps"]},
    }
    for name in notes:
        (tmp_path / name).mkdir()
        (tmp_path / name / "store.json").touch()
    monkeypatch.setattr(records.TargetStore, "open", lambda path: SimpleNamespace(notes=notes[Path(path).name]))
    facts = read_facts(FACTS)
    assert records.runs_behind(tmp_path / "mean", facts) == [run]
    with pytest.raises(UserError, match=r"foreign: facts\.yaml has no licence for the data in data/other-maps"):
        records.runs_behind(tmp_path / "foreign", facts)
    values = config(tmp_path / "third").model_dump(mode="json")
    values["teacher"] = {"store": str(tmp_path / "mean"), "mirror": True}
    values["losses"].append({"name": "cc", "against": "teacher"})
    (tmp_path / "third").mkdir()
    third = RunConfig.model_validate(values)
    save_config(third, tmp_path / "third" / "config.yaml")
    assert list(records.ancestors(tmp_path / "third", facts)) == [run]
    assert records.describe_teacher(third.teacher_sections[0], facts) == "maps of run (from a target store)"
