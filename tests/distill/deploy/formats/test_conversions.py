"""Each format converted by its own tool and run in its own runtime: `stream-nano` in every precision.

The tools are in an environment of their own: `scripts/formats` makes it and runs this file there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.edge_models import REAL_VIDEO
from helpers.places import SAMPLE

from distill.benchmark.conform import conform
from distill.data.video.open import open_video
from distill.deploy.export_format import export_model
from distill.deploy.formats.find import FORMATS
from distill.deploy.formats.format import Format, load
from distill.errors import UserError
from student import edge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the tools
]

ON = SAMPLE / "video" / "068.AVI"

CASES = [(kind, precision) for kind in FORMATS.values() for precision in kind.precisions]

MIN_CC = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.99}


def skip_without(kind: Format) -> None:
    if (package := kind.missing(kind.tools("int8"))) is not None:
        pytest.skip(f"{package} is not installed; scripts/formats makes an environment with all converters")


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return nano.onnx, with its kit next to it."""
    folder = tmp_path_factory.mktemp("nano")
    export_model("stream-nano", folder / "nano.onnx", kit=folder / "nano.onnx.kit", progress=False)
    return folder / "nano.onnx"


@pytest.mark.parametrize(
    ("kind", "precision"), CASES, ids=[f"{kind.name}-{precision}" for kind, precision in CASES]
)
def test_converted_student_conforms_and_streams(
    kind: Format, precision: str, onnx_file: Path, tmp_path: Path
) -> None:
    skip_without(kind)
    path = tmp_path / f"nano{kind.suffix}"
    export_model("stream-nano", path, file_format=kind.name, precision=precision, on=ON, progress=False)
    found = conform(path, kit=f"{onnx_file}.kit", runtimes=[kind.name], progress=False)
    assert [row["verdict"] for row in found] == ["pass"], str(found)
    assert found[0]["cc"] >= MIN_CC[precision]
    frames = open_video(REAL_VIDEO).read(range(20))
    expected, converted = (
        streamed(edge.EdgeModel(onnx_file, 1), frames),
        streamed(load(kind, path, threads=1), frames),
    )
    cc = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(expected, converted, strict=True)]
    assert np.mean(cc) >= MIN_CC[precision] - 0.01  # frames that it was not calibrated on


def streamed(model: Any, frames: np.ndarray) -> list[np.ndarray]:
    """Return the maps of two passes over frames; the state must be reset in between."""
    stream = edge.Stream(model, stride=1, cuts=None)
    first = [stream(frame) for frame in frames]
    stream.reset()
    for one, other in zip(first, [stream(frame) for frame in frames], strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)
    return first


CLIP_KINDS = [kind for kind in FORMATS.values() if "clip" in kind.modes]


@pytest.mark.parametrize("kind", CLIP_KINDS, ids=[kind.name for kind in CLIP_KINDS])
def test_clip_student_conforms(kind: Format, tmp_path: Path) -> None:
    skip_without(kind)
    path = tmp_path / f"clip{kind.suffix}"
    export_model("student/thtdnet:micro", path, file_format=kind.name, kit=tmp_path / "kit", progress=False)
    found = conform(path, kit=tmp_path / "kit", runtimes=[kind.name], progress=False)
    assert [row["verdict"] for row in found] == ["pass"], str(found)
    assert load(kind, path).mode == "clip"


@pytest.mark.parametrize("kind", [kind for kind in FORMATS.values() if kind not in CLIP_KINDS])
def test_clip_student_is_refused_before_the_conversion(kind: Format, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{kind.name}: takes streaming students in step mode"):
        export_model("student/thtdnet:micro", tmp_path / f"a{kind.suffix}", file_format=kind.name, progress=False)
    assert list(tmp_path.iterdir()) == []
