"""ncnn, Tencent's runtime for phones and boards: .param with .bin, converted from ONNX by pnnx.

ncnn has neither comparisons nor integer images: pnnx gets a graph for batch 1 whose pixels are fp32, whose map is
log-saliency, and that selects the state by arithmetic. A state must therefore be finite, also where `started` is 0.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distill.deploy.formats.format import Format, Source, input_names
from distill.deploy.formats.rewrites import blend_where, fixed_batch, without_output


def convert(source: Source, path: Path) -> dict[str, Any]:
    """Write the file; see `Format.convert`."""
    plain = path.with_name("plain.onnx")
    model = onnx.load(str(source.onnx))
    graph = model.graph
    fixed_batch(graph)
    blend_where(graph)
    without_output(graph, "next_started")
    onnx.save(model, str(plain))
    shapes = ",".join(f"[{','.join(map(str, _shape(each)))}]f32" for each in graph.input)
    weights = path.with_suffix(".bin")
    program = Path(sys.executable).with_name("pnnx")
    command = [str(program) if program.is_file() else shutil.which("pnnx") or "pnnx", plain.name]
    command += [f"inputshape={shapes}", f"fp16={int(source.precision == 'fp16')}"]
    command += [f"ncnnparam={path.name}", f"ncnnbin={weights.name}"]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    unsupported = sorted({line.split()[1] for line in done.stdout.splitlines() if line.startswith("ignore ")})
    if done.returncode != 0 or unsupported or not weights.is_file():
        what = f"operators that ncnn lacks: {', '.join(unsupported)}" if unsupported else "pnnx failed"
        raise RuntimeError(what)
    _keep_only(path, weights)
    return {"blobs": {name: f"out{place}" for place, name in enumerate(each.name for each in graph.output)}}


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [each.dim_value for each in value.type.tensor_type.shape.dim]


def _keep_only(*kept: Path) -> None:
    for file in kept[0].parent.iterdir():
        if file not in kept:
            file.unlink()


class NcnnSession:
    """A .param and .bin file in ncnn on the CPU.

    Args:
        path: the .param file.
        metadata: its metadata, for the names of inputs and outputs.
        threads: threads per call; None for ncnn's choice.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], threads: int | None) -> None:
        import ncnn

        self._ncnn, self._net = ncnn, ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        if metadata["precision"] == "fp32":
            self._net.opt.use_fp16_packed = self._net.opt.use_fp16_storage = self._net.opt.use_fp16_arithmetic = (
                False
            )
            self._net.opt.use_bf16_storage = False
        if threads is not None:
            self._net.opt.num_threads = threads
        weights = path.with_suffix(".bin")
        if self._net.load_param(str(path)) or self._net.load_model(str(weights)):
            raise RuntimeError("load_param or load_model failed")
        self._inputs = input_names(metadata)
        self._blobs: dict[str, str] = metadata["blobs"]

    def run(self, names: Sequence[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs with the given names."""
        extractor = self._net.create_extractor()
        for place, name in enumerate(self._inputs):
            value = np.ascontiguousarray(feed[name][0], np.float32)
            extractor.input(f"in{place}", self._ncnn.Mat(value).clone())  # a Mat does not keep its array alive
        found = []
        for name in names:
            if name not in self._blobs:  # next_started
                found.append(np.ones((1, 1, 1, 1), np.float32))
                continue
            code, value = extractor.extract(self._blobs[name])
            if code:
                raise RuntimeError(f"extract {name} failed with {code}")
            found.append(np.array(value, np.float32)[None])
        return found


NCNN = Format(
    name="ncnn",
    runtime="ncnn",
    suffix=".param",
    second=".bin",
    converters=("pnnx", "ncnn"),
    runners=("ncnn",),
    precisions=("fp32", "fp16"),
    convert=convert,
    modes=("step",),
    open=NcnnSession,
    values="log",
    input_type="float32",
)
