"""One suite over every model there is, by its smallest variant, and the door that they come through."""

import fnmatch
import hashlib
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.models import (
    count_weights,
    create_model,
    gflops_per_map,
    list_models,
    list_variants,
    load_model,
    load_weights_into,
    read_header,
    resolve_device,
    save_model,
    weights_fingerprint,
)

MODELS = list_models()
ALL = [f"{name}:{variant}" for name in MODELS for variant in list_variants(name)]


def smallest(name: str) -> str:
    """A model's smallest variant; a reference that names a variant is itself."""
    if ":" in name:
        return name
    variants = list_variants(name)
    return f"{name}:{next(variant for variant in ('micro', 'tiny', variants[-1]) if variant in variants)}"


# the smallest variant of each model, and each whose name says that it is one of another make, such as micro-swin
SMALL = sorted({smallest(name) for name in MODELS} | {each for each in ALL if ":micro" in each})


def clip_for(model: nn.Module, batch: int = 2) -> Tensor:
    return torch.randint(0, 256, (batch, 3, model.num_frames, *model.size), dtype=torch.uint8)


def awake(name: str) -> nn.Module:
    """The smallest variant in evaluation mode, with a last layer far from its nearly uniform start."""
    model = create_model(smallest(name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model


# ---------------------------------------------------------------------------------------------- every model


@pytest.mark.parametrize("name", SMALL)
def test_output_is_finite_log_saliency_of_the_declared_shape(name: str) -> None:
    model = awake(name)
    with torch.no_grad():
        out = model(clip_for(model))
    assert out.shape == (2, len(model.target_frames), *model.map_size)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.flatten(1).std(dim=1).min() > 1e-3
    assert all(0 <= frame < model.num_frames for frame in model.target_frames)


@pytest.mark.parametrize("name", SMALL)
def test_uint8_and_float_agree(name: str) -> None:
    model = awake(name)
    clip = clip_for(model)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), model(clip.float() / 255), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_forward_is_head_of_features(name: str) -> None:
    model = awake(name)
    clip = clip_for(model)
    with torch.no_grad():
        features = model.forward_features(clip)
        assert all(isinstance(value, Tensor) and len(value) == 2 for value in features.values())
        assert torch.equal(model(clip), model.forward_head(features))


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_is_its_clips(name: str) -> None:
    model = awake(name)
    clip = clip_for(model)
    with torch.no_grad():
        each = torch.cat([model(clip[:1]), model(clip[1:])])
        torch.testing.assert_close(model(clip), each, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SMALL)
def test_every_frame_matters(name: str) -> None:
    model = awake(name)
    clip = clip_for(model, 1)
    with torch.no_grad():
        before = model(clip)
        for frame in range(model.num_frames):
            changed = clip.clone()
            changed[:, :, frame] = 255 - changed[:, :, frame]
            assert not torch.equal(model(changed), before), f"frame {frame} changes nothing"


@pytest.mark.parametrize("name", SMALL)
def test_a_gradient_reaches_every_weight(name: str) -> None:
    model = awake(name).train()
    out = model(clip_for(model))
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
        excused = any(fnmatch.fnmatch(key, pattern) for pattern in model.no_gradient)
        assert reached != excused, f"{key}: gradient {'reaches it' if reached else 'is missing'}"


@pytest.mark.parametrize("name", SMALL)
def test_file_round_trip(name: str, tmp_path: Path) -> None:
    model = awake(name)
    save_model(model, tmp_path / "model.safetensors", notes={"step": 12})
    again = load_model(tmp_path / "model.safetensors")
    clip = clip_for(model)
    with torch.no_grad():
        assert torch.equal(model(clip), again(clip))
    assert weights_fingerprint(again) == weights_fingerprint(model)
    assert again.identity == model.identity
    assert again.reference == str(tmp_path / "model.safetensors")
    assert not again.training
    header = read_header(tmp_path / "model.safetensors")
    assert header["notes"] == {"step": 12}
    assert header["spec"]["size"] == list(model.size)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", SMALL)
def test_seed_decides_the_initial_weights(name: str) -> None:
    prints = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        prints.append(weights_fingerprint(create_model(smallest(name))))
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", SMALL)
def test_wrong_size_names_one_that_works(name: str) -> None:
    with pytest.raises(UserError, match=r"size \(37, 61\)") as error:
        create_model(smallest(name), size=(37, 61))
    found = re.search(r"such as \((\d+), (\d+)\)", str(error.value))
    assert found
    size = (int(found[1]), int(found[2]))
    assert create_model(smallest(name), size=size).size == size


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("frames", [0, 7])
def test_a_number_of_frames_works_or_names_one_that_does(name: str, frames: int) -> None:
    try:
        model = create_model(smallest(name), num_frames=frames)
    except UserError as error:
        found = re.search(rf"num_frames {frames}: .* such as (\d+)", str(error))
        assert found
        model = create_model(smallest(name), num_frames=int(found[1]))
    model.eval()
    assert model.num_frames > 0
    with torch.no_grad():
        assert model(clip_for(model, 1)).isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_wrong_clip_says_what_is_expected(name: str) -> None:
    model = create_model(smallest(name))
    T, (H, W) = model.num_frames, model.size
    for shape in [(1, 3, T, H, W + 16), (1, 3, T - 1, H, W), (1, 1, T, H, W), (3, T, H, W)]:
        with pytest.raises(ValueError, match=re.escape(f"clip of shape {shape}, expected (B, 3, {T}, {H}, {W})")):
            model(torch.zeros(shape))


@pytest.mark.parametrize("name", SMALL)
def test_arguments_of_other_sizes_build(name: str) -> None:
    model = create_model(smallest(name), size=[64, 96])  # as YAML and JSON write it
    assert model.size == (64, 96)
    assert model.identity["arguments"] == {"size": [64, 96]}


@pytest.mark.parametrize("reference", ALL)
@torch.no_grad()
def test_every_variant_states_what_it_emits(reference: str) -> None:
    with torch.device("meta"):
        model = create_model(reference).eval()
        out = model(torch.zeros(1, 3, model.num_frames, *model.size))
    assert out.shape == (1, len(model.target_frames), *model.map_size)
    assert out.dtype == torch.float32


# ---------------------------------------------------------------------------------------------- the door


def test_models_are_found_by_their_files() -> None:
    assert {"student/stream", "student/thtdnet", "teacher/salfom"} <= set(MODELS)
    assert sorted(MODELS) == MODELS


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            ("teacher/salfon", {}),
            r"no model 'teacher/salfon'; did you mean 'teacher/salfom'\? There are student/stream,",
        ),
        (
            ("teacher/salfom:tcfe3", {}),
            r"teacher/salfom: no variant 'tcfe3'; did you mean 'tcfe.*There are base, tcfe2,",
        ),
        (
            ("teacher/salfom:micro", {"frames": 8}),
            r"no argument 'frames'; did you mean 'num_frames'\? There are num_frames",
        ),
        (("teacher/salfom:micro", {"width": "wide"}), r"argument width = 'wide': input should be a valid integer"),
        (("teacher/salfom:micro", {"size": 32}), r"argument size = 32: input should be a valid tuple"),
        (("teacher/salfom:micro", {"widths": [8, 8]}), r"widths \(8, 8\): expected six numbers"),
        (
            ("teacher/salfom:micro", {"variant": "tiny"}),
            r"teacher/salfom:micro: asked for variant 'tiny' at the same",
        ),
        (("teacher/salfom:micro", {"heads": 0}), r"heads 0: expected at least 1"),
        (("teacher/salfom:micro", {"drop_path": 1.5}), r"drop_path 1\.5: expected a rate from 0 to below 1"),
        (("student/thtdnet:micro", {"window": [2, 0, 2]}), r"window 0: expected at least 1"),
        (
            ("student/thtdnet:micro", {"heads": [3, 3, 3, 3]}),
            r"heads \(3, 3, 3, 3\): each must divide .* \(8, 16, 32, 64\)",
        ),
        (("teacher/salfom:micro", {"weights": "absent.pth"}), r"absent\.pth: no such weight file"),
    ],
)
def test_wrong_requests_list_what_there_is(call: tuple[str, dict], sentence: str) -> None:
    name, arguments = call
    with pytest.raises(UserError, match=sentence):
        create_model(name, **arguments)


def test_variant_by_name_or_by_argument() -> None:
    assert create_model("teacher/salfom", variant="micro").identity == create_model("teacher/salfom:micro").identity


def test_weights_of_ours_and_of_others(tmp_path: Path) -> None:
    model = awake("teacher/salfom")
    save_model(model, tmp_path / "ours.safetensors")
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    for file in ("ours.safetensors", "plain.pth"):
        again = create_model("teacher/salfom:micro", weights=tmp_path / file)
        assert weights_fingerprint(again) == weights_fingerprint(model)
        assert again.loaded.startswith(str(tmp_path / file))


def test_weights_move_to_another_size(tmp_path: Path) -> None:
    model = awake("teacher/salfom")
    save_model(model, tmp_path / "small.safetensors")
    larger = create_model("teacher/salfom:micro", size=(48, 64), weights=tmp_path / "small.safetensors")
    assert torch.equal(larger.decoder.fusion.conv1.weight, model.decoder.fusion.conv1.weight)


def test_run_folder_prefers_the_best_then_the_newest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run with weights"):
        load_model(tmp_path)
    models = {step: awake("teacher/salfom") for step in (9, 10, 11)}
    for step in (9, 10):
        save_model(models[step], tmp_path / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
    assert weights_fingerprint(load_model(tmp_path)) == weights_fingerprint(models[10])
    save_model(models[11], tmp_path / "best.safetensors")
    assert weights_fingerprint(load_model(tmp_path)) == weights_fingerprint(models[11])


def test_weights_of_another_model_name_both(tmp_path: Path) -> None:
    save_model(create_model("student/thtdnet:micro"), tmp_path / "student.safetensors")
    teacher = create_model("teacher/salfom:micro")
    with pytest.raises(
        UserError, match=r"holds student/thtdnet:micro, not teacher/salfom:micro: \d+ tensors do not"
    ):
        load_weights_into(teacher, tmp_path / "student.safetensors")
    save_model(create_model("teacher/salfom:micro", tcfe_depth=3), tmp_path / "deeper.safetensors")
    with pytest.raises(UserError, match="holds teacher/salfom:micro tcfe_depth=3, not teacher/salfom:micro: 39"):
        load_weights_into(teacher, tmp_path / "deeper.safetensors")


def test_references_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing: no model, run folder, .* the models are student/stream,"):
        load_model("nothing")
    with pytest.raises(UserError, match="no such weight file"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match=r"absent\.onnx"):
        load_model(tmp_path / "absent.onnx")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="its header names no model"):
        load_model(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-2])
    with pytest.raises(UserError, match="not a readable"):
        load_model(tmp_path / "cut.safetensors")


def test_name_alone_is_the_untrained_model_the_same_each_time(caplog: pytest.LogCaptureFixture) -> None:
    model = load_model("teacher/salfom:micro")
    drawn = torch.rand(1)
    assert weights_fingerprint(load_model("teacher/salfom:micro")) == weights_fingerprint(model)
    assert model.reference == "teacher/salfom:micro"
    assert "random weights, never trained" in caplog.text
    assert torch.rand(1) != drawn  # the caller's random numbers go on


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_count_and_gflops_of_the_paper() -> None:
    with torch.device("meta"):
        model = create_model("teacher/salfom")
    assert count_weights(model) == 402_520_368
    assert gflops_per_map(model) == pytest.approx(3039, abs=0.5)


def test_gflops_count_attention() -> None:
    short, long = (
        gflops_per_map(create_model("teacher/salfom:micro", size=size)) for size in ((32, 48), (128, 192))
    )
    assert long > 16.5 * short  # sixteen times the tokens: linear layers alone would cost sixteen times as much


def test_fingerprint_sees_one_bit(tmp_path: Path) -> None:
    model = create_model("teacher/salfom:micro")
    before = weights_fingerprint(model)
    with torch.no_grad():
        model.decoder.fusion.conv1.weight[0, 0, 0, 0] += 1e-6
    assert weights_fingerprint(model) != before


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device '{wrong}' is not there; this machine has cpu"):
            resolve_device(wrong)


def test_exported_student_answers_like_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Edge:
        num_frames, size, target_frames, map_size = 8, (32, 48), (7,), (2, 3)
        metadata: ClassVar[dict] = {"notes": {"stride": 2}}

        def __init__(self, path: Path, threads: int | None = None) -> None:
            assert path.name == "student.onnx"

        def __call__(self, clip: np.ndarray) -> np.ndarray:
            assert clip.dtype == np.uint8
            maps = np.zeros((len(clip), 1, 2, 3), dtype=np.float32)
            maps[:, :, 0, 1] = 0.5
            return maps

    monkeypatch.setattr("student.edge.EdgeModel", Edge)
    (tmp_path / "student.onnx").write_bytes(b"exported")
    model = load_model(tmp_path / "student.onnx")
    assert model.notes == {"stride": 2}
    out = model(clip_for(model))
    assert out.shape == (2, 1, *model.map_size)
    assert out[0, 0, 0, 1].item() == pytest.approx(math.log(0.5))
    assert out[0, 0, 1, 2].item() == pytest.approx(math.log(1e-12))
    assert model.reference == str(tmp_path / "student.onnx")
    assert weights_fingerprint(model) == hashlib.sha256(b"exported").hexdigest()
    with pytest.raises(UserError, match="does not tell its operations"):
        gflops_per_map(model)


def test_a_teacher_needs_no_student() -> None:
    program = (
        "import sys; sys.modules['student'] = None; from distill.models import create_model, list_models;"
        "assert list_models() == ['teacher/salfom']; assert 'teacher.salfom' not in sys.modules;"
        "create_model('teacher/salfom:micro'); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent.parent)
