"""Loading .onnx files that are damaged or were not exported by this project."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from distill.errors import UserError
from distill.models.references import load_model


def write_identity(path: Path, metadata: object = None) -> Path:
    """Write an ONNX file with a single Identity node."""
    clip, saliency = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in ("clip", "saliency")
    )
    graph = helper.make_graph([helper.make_node("Identity", ["clip"], ["saliency"])], "g", [clip], [saliency])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {"saldistill": json.dumps(metadata)})
    onnx.save(model, path)
    return path


METADATA = {
    "format": 2,
    "mode": "clip",
    "frames": 4,
    "size": [16, 24],
    "target_frames": [3],
    "map_size": [16, 24],
    "input": {"type": "uint8"},
    "output": {"values": "peak"},
}


def test_load_onnx_without_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m\.onnx: has no .saldistill. metadata"):
        load_model(write_identity(tmp_path / "m.onnx"))


def test_load_onnx_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    content = write_identity(tmp_path / "m.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut\.onnx: ONNX Runtime cannot load it"):
        load_model(tmp_path / "cut.onnx")
    with pytest.raises(UserError, match=r"nowhere\.onnx: no such file"):
        load_model(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, r"m\.onnx: has format 99"),
        ({"mode": "dream"}, "mode 'dream'"),
        ({"state": [{"input": "past0"}]}, "metadata is invalid"),
        ({}, r"m\.onnx: inputs, outputs or state differ from the metadata"),
    ],
)
def test_load_onnx_with_unsupported_or_invalid_metadata_is_refused(
    tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_model(write_identity(tmp_path / "m.onnx", METADATA | changes))
