"""ONNX files in the benchmark: generated inputs, cost, layers, and networks in both runtimes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.model_cases import loaded
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distill.benchmark import models as module
from distill.benchmark import onnx_files
from distill.benchmark import rows as rows_module
from distill.benchmark.models import benchmark_models
from distill.benchmark.onnx_files import OnnxFile, benchmark_layers, module_of, multiply_adds, operator_times
from distill.cli.main import main
from distill.errors import UserError


def save(
    path: Path, nodes: list, inputs: dict[str, tuple], weights: dict[str, np.ndarray], out: str = "out"
) -> Path:
    """Write an ONNX file of the given operators; an input is (type, shape)."""
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def convolution(path: Path, shape: list, kind: int = TensorProto.FLOAT) -> Path:
    """Write a convolution of 3 to 4 channels that keeps the size, and a ReLU."""
    nodes = [] if kind == TensorProto.FLOAT else [helper.make_node("Cast", ["image"], ["x"], "enter/cast", to=1)]
    image = "image" if kind == TensorProto.FLOAT else "x"
    nodes += [
        helper.make_node("Conv", [image, "w", "b"], ["y"], "body.0.conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["out"], "body.1/Relu"),
    ]
    weights = {"w": np.ones((4, 3, 3, 3), np.float32), "b": np.zeros(4, np.float32)}
    return save(path, nodes, {"image": (kind, shape)}, weights)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ROUND_SECONDS", 0.001)
    monkeypatch.setattr(module, "MATRIX", {"cpu": 64})


# ------------------------------------------------------------------------------------------------ one file


def test_draw_generates_declared_inputs(tmp_path: Path) -> None:
    kinds = {"a": TensorProto.FLOAT16, "b": TensorProto.UINT8, "c": TensorProto.INT64, "d": TensorProto.BOOL}
    nodes = [helper.make_node("Cast", [name], [f"{name}_"], to=1) for name in kinds]
    nodes += [helper.make_node("Sum", [f"{name}_" for name in kinds], ["out"])]
    path = save(tmp_path / "t.onnx", nodes, {name: (kind, ["n", 500]) for name, kind in kinds.items()}, {})
    file = OnnxFile(path, threads=1)
    feed = file.draw(2)
    assert {name: (values.dtype, values.shape) for name, values in feed.items()} == {
        name: (np.dtype(kind), (2, 500))
        for name, kind in {"a": np.float16, "b": np.uint8, "c": np.int64, "d": np.bool_}.items()
    }
    assert (feed["b"].min(), feed["b"].max()) == (0, 255)
    assert set(feed["c"].flat) == {0, 1}
    assert feed["a"].min() >= 0
    assert feed["a"].max() <= 1
    assert file.seconds(feed) > 0
    np.testing.assert_array_equal(file.draw(2)["b"], feed["b"])  # deterministic


def test_describe_external_file(tmp_path: Path) -> None:
    file = OnnxFile(convolution(tmp_path / "c.onnx", ["n", 3, 8, 10]))
    found = file.describe(file.draw(2), 2)
    assert found["weights"] == 4 * 3 * 9 + 4
    assert found["gflops"] == pytest.approx(2e-9 * 4 * 8 * 10 * 27)  # of one of the batch
    assert (found["precision"], found["mode"]) == ("fp32", None)
    assert found["file_mb"] == pytest.approx((tmp_path / "c.onnx").stat().st_size / 1e6)


def test_describe_counts_external_weights(tmp_path: Path) -> None:
    model = onnx.load(convolution(tmp_path / "c.onnx", [1, 3, 8, 10]))
    onnx.save(model, tmp_path / "e.onnx", save_as_external_data=True, location="e.bin", size_threshold=0)
    file = OnnxFile(tmp_path / "e.onnx")
    found = file.describe(file.draw(1), 1)
    assert found["file_mb"] == pytest.approx(
        sum((tmp_path / name).stat().st_size for name in ("e.onnx", "e.bin")) / 1e6
    )
    assert found["weights"] == 4 * 3 * 9 + 4
    assert found["gflops"] == pytest.approx(2e-9 * 4 * 8 * 10 * 27)


@pytest.mark.parametrize(
    ("node", "shape", "weights", "expected"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["out"]), [2, 5, 7], (7, 3), 2 * 5 * 7 * 3),
        (helper.make_node("MatMul", ["x", "w"], ["out"]), [5, 7], (7,), 5 * 7),
        (helper.make_node("Gemm", ["x", "w"], ["out"], transB=1), [5, 7], (3, 7), 5 * 7 * 3),
        (helper.make_node("Gemm", ["x", "w"], ["out"], transA=1), [7, 5], (7, 3), 5 * 7 * 3),
        (helper.make_node("Conv", ["x", "w"], ["out"], group=4), [1, 4, 8, 8], (4, 1, 3, 3), 4 * 36 * 9),
        (helper.make_node("ConvTranspose", ["x", "w"], ["out"]), [1, 4, 8, 8], (4, 6, 2, 2), 4 * 64 * 6 * 4),
        (helper.make_node("Sigmoid", ["x"], ["out"]), [5, 7], (1,), 0),
    ],
)
def test_multiply_adds_of_operator(tmp_path: Path, node: Any, shape: list, weights: tuple, expected: int) -> None:
    path = save(tmp_path / "m.onnx", [node], {"x": (TensorProto.FLOAT, shape)}, {"w": np.ones(weights, np.float32)})
    assert multiply_adds(onnx.load(path), {"x": shape}) == expected


def test_multiply_adds_with_unknown_shape_is_none(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),  # as many as there are
        helper.make_node("Cast", ["places"], ["values"], to=1),
        helper.make_node("MatMul", ["w", "values"], ["out"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": (TensorProto.FLOAT, [5, 7])}, {"w": np.ones((3, 2), np.float32)})
    assert multiply_adds(onnx.load(path), {"x": (5, 7)}) is None


def test_onnx_file_invalid_input_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"\x08\x0anonsense")
    for name, message in (("nowhere.onnx", "no such file"), ("damaged.onnx", "ONNX Runtime cannot load it")):
        with pytest.raises(UserError, match=rf"{name}: {message}"):
            OnnxFile(tmp_path / name)
    free = convolution(tmp_path / "free.onnx", ["n", 3, "height", None])
    with pytest.raises(UserError, match=r"input image: has open dimensions, .* e\.g\. --shape image=1x3x224x224"):
        OnnxFile(free).draw(1)
    assert OnnxFile(free, shapes={"image": (9, 9, 8, 6)}).draw(2)["image"].shape == (2, 3, 8, 6)
    with pytest.raises(UserError, match="image: expected a shape of 4 dimensions, got 8x6"):
        OnnxFile(free, shapes={"image": (8, 6)}).draw(1)
    product = helper.make_node("MatMul", ["x", "w"], ["out"])
    weights = {"w": np.ones((7, 3), np.float32)}
    path = save(tmp_path / "product.onnx", [product], {"x": (TensorProto.FLOAT, ["n", "k"])}, weights)
    file = OnnxFile(path, shapes={"x": (1, 5)})
    with pytest.raises(UserError, match=r"product\.onnx: cannot run on x \(1, 5\): "):
        file.seconds(file.draw(1))
    fixed = convolution(tmp_path / "fixed.onnx", [1, 3, 8, 8])
    assert OnnxFile(fixed).draw(1)["image"].shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match=r"does not take a batch of 4: image is \(1, 3, 8, 8\)"):
        OnnxFile(fixed).draw(4)
    text = helper.make_node("StringNormalizer", ["x"], ["out"])
    path = save(tmp_path / "text.onnx", [text], {"x": (TensorProto.STRING, [3])}, {})
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"input x: type tensor\(string\) is not supported"):
        OnnxFile(path).draw(1)
    ours = onnx.load(fixed)
    helper.set_model_props(ours, {"saldistill": json.dumps({"format": 99, "mode": "clip"})})
    onnx.save(ours, tmp_path / "ours.onnx")
    with pytest.raises(UserError, match=r"ours\.onnx: "):
        OnnxFile(tmp_path / "ours.onnx")


# ------------------------------------------------------------------------------------------------ the table


def test_models_external_files_share_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    convolution(Path("a.onnx"), ["n", 3, 8, 8])
    convolution(Path("b.onnx"), ["n", 3, "h", "w"], TensorProto.UINT8)
    asked = {"rounds": 2, "batch_size": [1, 3], "threads": 1, "device": "cpu", "memory": False, "progress": False}
    rows = benchmark_models(["a.onnx", "b.onnx"], shapes={"image": (1, 3, 16, 8)}, **asked)
    assert [(row["model"], row["batch_size"]) for row in rows] == [
        (name, size) for name in ("a.onnx", "b.onnx") for size in (1, 3)
    ]
    for row, pixels in zip(rows, (64, 64, 128, 128), strict=True):
        assert (row["runtime"], row["mode"], row["precision"]) == ("ONNX Runtime", None, "fp32")
        assert row["gmacs"] == pytest.approx(1e-9 * 4 * 27 * pixels)
        assert row["weights"] == 112
        assert row["p99"] >= row["milliseconds"] > 0
    assert rows.notes[-1] == "files without a mode are external: each item of a batch counts as one map"
    assert rows.setting["threads"] == 1
    with pytest.raises(UserError, match="shape: no file has an input images; expected image"):
        benchmark_models(["a.onnx"], shapes={"images": (1, 3, 8, 8)}, **asked)


class Stepper(nn.Module):
    """A streaming network whose state marks the first step."""

    num_frames, size, map_size, target_frames, reach = 2, (8, 8), (8, 8), (0, 1), 2
    state_shapes = {"started": (1, 1, 1)}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10))
        self.seen: list[tuple[tuple[int, ...], float]] = []

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        return {"started": torch.zeros(batch, 1, 1, 1)}

    def step(self, frame: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append((tuple(frame.shape), float(state["started"].mean())))
        return frame[:, :1].float(), {"started": torch.ones(len(frame), 1, 1, 1)}


def test_models_streaming_network_is_measured_by_step_in_both_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = convolution(tmp_path / "exported.onnx", ["n", 3, 8, 8])
    monkeypatch.setattr(module, "export_temporary", lambda model, folder: shutil.copy(file, folder / "0.onnx"))
    network = Stepper()
    rows = benchmark_models(
        [loaded(network, "stepper")],
        rounds=1,
        batch_size=[3],
        runtime=["pytorch", "onnx"],
        device="cpu",
        memory=False,
        progress=False,
    )
    assert [(row["model"], row["runtime"]) for row in rows] == [("stepper", "PyTorch"), ("stepper", "ONNX Runtime")]
    assert (rows[0]["mode"], rows[0]["weights"], rows[0]["file_mb"]) == ("step", 10, None)
    assert set(network.seen[1:]) == {((3, 3, 8, 8), 1.0)}  # each call starts from the state after one step
    assert rows[0]["maps_per_second"] == pytest.approx(1000 / rows[0]["milliseconds"])
    assert rows[1]["file_mb"] > 0
    only = benchmark_models(
        [loaded(network, "stepper")], rounds=1, runtime=["onnx"], device="cpu", memory=False, progress=False
    )
    assert [row["runtime"] for row in only] == ["ONNX Runtime"]


# ------------------------------------------------------------------------------------------------ its layers


@pytest.mark.parametrize(
    ("name", "module_name"),
    [
        ("decoder.reduce.3.time.1/Relu_nchwc", "decoder.reduce.3"),
        ("encoder.blocks.0.1.bn1/Conv", "encoder.blocks.0"),
        ("encoder.bn1/Conv", "encoder.bn1"),
        ("decoder/Where_4", "decoder"),
        ("/features/features.0/features.0.2/Clip", "features.features.0"),
        ("Conv_12", "(no module)"),
        ("", "(no module)"),
    ],
)
def test_module_of_operator_name(name: str, module_name: str) -> None:
    assert module_of(name, "Conv") == module_name


def test_layers_sum_times_by_operator_and_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        onnx_files,
        "operator_times",
        lambda path, **options: {
            ("a.0.x/Conv", "Conv"): 3e-3,
            ("a.0.y/Conv", "Conv"): 1e-3,
            ("b/Add", "Add"): 4e-3,
        },
    )
    tables = benchmark_layers([tmp_path / "t.onnx"])
    by_operator, by_module = tables.values()
    assert list(tables) == [f"{tmp_path}/t.onnx: by operator", f"{tmp_path}/t.onnx: by module"]
    assert [(row["part"], row["count"]) for row in by_operator] == [("Conv", 2), ("Add", 1)]
    assert [row["part"] for row in by_module] == ["a.0", "b"]
    assert [row["milliseconds"] for row in by_module] == pytest.approx([4, 4])
    assert [row["share"] for row in by_module] == pytest.approx([0.5, 0.5])
    monkeypatch.setattr(onnx_files, "MAX_ROWS", 1)
    assert [row["part"] for row in next(iter(benchmark_layers([tmp_path / "t.onnx"]).values()))] == [
        "Conv",
        "1 more",
    ]


def test_operator_times_has_every_operator(tmp_path: Path) -> None:
    path = convolution(tmp_path / "c.onnx", [1, 3, 64, 64], TensorProto.UINT8)
    times = operator_times(path, threads=1)
    assert {operator for _, operator in times} >= {"Cast", "Conv"}
    assert all(0 <= seconds < 1 for seconds in times.values())
    assert [each.name for each in tmp_path.iterdir()] == ["c.onnx"]


def test_models_command_takes_shapes_and_prints_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_cpu_memory", lambda *case: 5.0)  # costs a process
    convolution(Path("theirs.onnx"), [1, 3, "h", "w"])
    words = ["benchmark", "theirs.onnx", "--rounds", "1", "--threads", "1", "--device", "cpu", "--layers"]
    assert main([*words, "--shape", "image=1x3x8x8", "-o", "out.json"]) == 0
    printed = capsys.readouterr().out
    assert "theirs.onnx: by operator" in printed
    assert "each item of a batch counts as one map" in printed
    saved = json.loads(Path("out.json").read_text())
    assert list(saved) == ["models", "theirs.onnx: by operator", "theirs.onnx: by module"]
    [row] = saved["models"]["rows"]
    assert (row["memory_mb"], row["gmacs"]) == (5.0, pytest.approx(1e-9 * 4 * 64 * 27))
    assert main([*words, "-o", "other.json"]) == 2
    assert "--shape image=1x3x224x224" in capsys.readouterr().err
    for wrong in ("image", "image=", "image=1x0", "=1x3"):
        with pytest.raises(SystemExit):
            main([*words, "--shape", wrong])
