"""Loading models: names, references, weights, files and devices."""

import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.model_cases import MODELS, awake, clip_for
from helpers.places import REPOSITORY

from distill.errors import UserError
from distill.models.cost import count_weights, gflops_per_map
from distill.models.device import resolve_device
from distill.models.references import load_mean, load_model
from distill.models.registry import create_model
from distill.models.weight_files import load_weights_into, save_model, weights_fingerprint


def test_list_models_finds_models_by_their_files() -> None:
    assert {"student/stream", "student/thtdnet", "teacher/salfom"} <= set(MODELS)
    assert sorted(MODELS) == MODELS


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            ("teacher/salfon", {}),
            r"no model 'teacher/salfon'; did you mean 'teacher/salfom'\? Available: student/stream,",
        ),
        (
            ("teacher/salfom:tcfe3", {}),
            r"teacher/salfom: no variant 'tcfe3'; did you mean 'tcfe.*Available: base, tcfe2,",
        ),
        (
            ("teacher/salfom:micro", {"frames": 8}),
            r"no argument 'frames'; did you mean 'num_frames'\? Available: num_frames",
        ),
        (("teacher/salfom:micro", {"width": "wide"}), r"argument width = 'wide': input should be a valid integer"),
        (("teacher/salfom:micro", {"size": 32}), r"argument size = 32: input should be a valid tuple"),
        (("teacher/salfom:micro", {"widths": [8, 8]}), r"widths \(8, 8\): expected six numbers"),
        (
            ("teacher/salfom:micro", {"variant": "tiny"}),
            r"teacher/salfom:micro: variant 'tiny' was given as well",
        ),
        (("teacher/salfom:micro", {"heads": 0}), r"heads 0: expected at least 1"),
        (("teacher/salfom:micro", {"drop_path": 1.5}), r"drop_path 1\.5: expected a rate in"),
        (("student/thtdnet:micro", {"window": [2, 0, 2]}), r"window 0: expected at least 1"),
        (
            ("student/thtdnet:micro", {"heads": [3, 3, 3, 3]}),
            r"heads \(3, 3, 3, 3\): each must divide .* \(8, 16, 32, 64\)",
        ),
        (("teacher/salfom:micro", {"weights": "absent.pth"}), r"absent\.pth: no such weight file"),
    ],
)
def test_create_model_with_invalid_arguments_names_valid_ones(call: tuple[str, dict], sentence: str) -> None:
    name, arguments = call
    with pytest.raises(UserError, match=sentence):
        create_model(name, **arguments)


def test_create_model_takes_variant_in_name_or_as_argument() -> None:
    assert create_model("teacher/salfom", variant="micro").identity == create_model("teacher/salfom:micro").identity


def test_create_model_loads_own_and_plain_weight_files(tmp_path: Path) -> None:
    model = awake("teacher/salfom")
    save_model(model, tmp_path / "ours.safetensors")
    torch.save(model.network.state_dict(), tmp_path / "plain.pth")
    for file in ("ours.safetensors", "plain.pth"):
        again = create_model("teacher/salfom:micro", weights=tmp_path / file)
        assert weights_fingerprint(again.network) == weights_fingerprint(model.network)
        assert again.loaded.startswith(str(tmp_path / file))


def test_create_model_loads_weights_of_another_size(tmp_path: Path) -> None:
    model = awake("teacher/salfom")
    save_model(model, tmp_path / "small.safetensors")
    larger = create_model("teacher/salfom:micro", size=(48, 64), weights=tmp_path / "small.safetensors")
    assert torch.equal(larger.network.decoder.fusion.conv1.weight, model.network.decoder.fusion.conv1.weight)


def test_load_model_of_run_folder_prefers_best_then_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights in this folder"):
        load_model(tmp_path)
    models = {step: awake("teacher/salfom") for step in (9, 10, 11)}
    for step in (9, 10):
        save_model(models[step], tmp_path / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    assert weights_fingerprint(load_model(tmp_path).network) == weights_fingerprint(models[10].network)
    save_model(models[11], tmp_path / "best.safetensors")
    assert weights_fingerprint(load_model(tmp_path).network) == weights_fingerprint(models[11].network)


def test_load_weights_of_another_model_names_both(tmp_path: Path) -> None:
    save_model(create_model("student/thtdnet:micro"), tmp_path / "student.safetensors")
    teacher = create_model("teacher/salfom:micro")
    with pytest.raises(
        UserError, match=r"contains student/thtdnet:micro, not teacher/salfom:micro: \d+ tensors do not"
    ):
        load_weights_into(teacher, tmp_path / "student.safetensors")
    save_model(create_model("teacher/salfom:micro", tcfe_depth=3), tmp_path / "deeper.safetensors")
    with pytest.raises(UserError, match="contains teacher/salfom:micro tcfe_depth=3, not teacher/salfom:micro: 39"):
        load_weights_into(teacher, tmp_path / "deeper.safetensors")


def test_load_model_with_invalid_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no model, run folder, .* the models are student/stream,"):
        load_model("nothing")
    with pytest.raises(UserError, match="no such weight file"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match=r"absent\.onnx"):
        load_model(tmp_path / "absent.onnx")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no saldistill header"):
        load_model(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-2])
    with pytest.raises(UserError, match=r"cannot be read as a \.safetensors file"):
        load_model(tmp_path / "cut.safetensors")


def test_load_model_by_name_is_untrained_and_reproducible(caplog: pytest.LogCaptureFixture) -> None:
    model = load_model("teacher/salfom:micro")
    drawn = torch.rand(1)
    assert weights_fingerprint(load_model("teacher/salfom:micro").network) == weights_fingerprint(model.network)
    assert model.reference == "teacher/salfom:micro"
    assert "untrained, with random weights" in caplog.text
    assert torch.rand(1) != drawn  # the caller's random state is unchanged


def test_save_model_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = awake("teacher/salfom")
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    before = path.read_bytes()

    def fail(tensors: dict, name: Path, metadata: dict) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_and_gflops_of_salfom_match_the_paper() -> None:
    with torch.device("meta"):
        model = create_model("teacher/salfom")
    assert count_weights(model.network) == 402_520_368
    assert gflops_per_map(model) == pytest.approx(3039, abs=0.5)


def test_gflops_include_attention() -> None:
    short, long = (
        gflops_per_map(create_model("teacher/salfom:micro", size=size)) for size in ((32, 48), (128, 192))
    )
    assert long > 16.5 * short  # sixteen times the tokens: linear layers alone would cost sixteen times as much


def test_fingerprint_of_one_changed_weight_differs(tmp_path: Path) -> None:
    model = create_model("teacher/salfom:micro").network
    before = weights_fingerprint(model)
    with torch.no_grad():
        model.decoder.fusion.conv1.weight[0, 0, 0, 0] += 1e-6
    assert weights_fingerprint(model) != before


def test_resolve_device_unavailable_names_available_ones() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device '{wrong}': not available on this machine; expected auto, cpu"):
            resolve_device(wrong)


def test_load_model_of_onnx_file_behaves_like_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Edge:
        mode, num_frames, size, target_frames, map_size = "clip", 8, (32, 48), (7,), (2, 3)
        has_checksum, fit = True, "stretch"
        metadata: ClassVar[dict] = {"notes": {"stride": 2}}

        def __init__(self, path: Path, threads: int | None = None, **_: bool) -> None:
            self.path = path

        def __call__(self, clip: np.ndarray) -> np.ndarray:
            assert clip.dtype == np.uint8
            maps = np.zeros((len(clip), 1, 2, 3), dtype=np.float32)
            maps[:, :, 0, 1] = 0.5
            return maps

    monkeypatch.setattr("student.edge.EdgeModel", Edge)
    (tmp_path / "student.onnx").write_bytes(b"exported")
    model = load_model(tmp_path / "student.onnx")
    assert model.notes == {"stride": 2}
    out = model.network(clip_for(model.network))
    assert out.shape == (2, 1, *model.network.map_size)
    assert out[0, 0, 0, 1].item() == pytest.approx(math.log(0.5))
    assert out[0, 0, 1, 2].item() == pytest.approx(math.log(1e-12))
    assert model.reference == str(tmp_path / "student.onnx")
    assert weights_fingerprint(model.network) == hashlib.sha256(b"exported").hexdigest()
    with pytest.raises(UserError, match=r"operations of an \.onnx file cannot be counted"):
        gflops_per_map(model)


def test_registry_without_student_package_works() -> None:
    program = (
        "import sys; sys.modules['student'] = None; from distill.models.networks import list_models;"
        "from distill.models.registry import create_model;"
        "assert list_models() == ['teacher/salfom']; assert 'teacher.salfom' not in sys.modules;"
        "create_model('teacher/salfom:micro')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_load_mean_of_models_has_the_mean_of_their_weights(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "longer")]
    for seed, (path, frames) in enumerate(zip(paths, (5, 5, 7), strict=True)):
        torch.manual_seed(seed)
        save_model(create_model("student/stream:micro", num_frames=frames), path)
    first, second = (load_model(path).network.state_dict() for path in paths[:2])
    for name, value in load_mean(paths[:2]).network.state_dict().items():
        torch.testing.assert_close(
            value, (first[name] + second[name]) / 2 if value.is_floating_point() else first[name]
        )
    with pytest.raises(
        UserError, match=r"longer.* is student/stream:micro num_frames=7, but .*; only weights of the same"
    ):
        load_mean(paths[1:])
