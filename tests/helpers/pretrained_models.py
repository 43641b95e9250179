"""A folder of pretrained models with untrained weights, for tests that need no real ones."""

import json
from pathlib import Path
from typing import Any

import torch

from distill.files import file_hash
from distill.models.loaded import LoadedModel
from distill.models.pretrained import RECORDS
from distill.models.registry import create_model
from distill.models.weight_files import save_model
from distill.runtimes.export import export


def placeholder(variant: str = "micro", **arguments: Any) -> LoadedModel:
    """Return a streaming student whose maps are far from constant though nobody trained it."""
    torch.manual_seed(0)
    model = create_model("student/stream", variant=variant, **arguments)
    with torch.no_grad():
        model.network.eval().decoder.head.weight *= 100
    return model


def file_record(path: Path, precision: str) -> dict[str, Any]:
    size, digest = path.stat().st_size, file_hash(path)
    return {"name": path.name, "sha256": digest, "bytes": size, "precision": precision}


def record_of(model: LoadedModel, weights: Path, onnx: Path) -> dict[str, Any]:
    network = model.network
    score = {"means": {"nss": 3.5, "cc": 0.6}, "intervals": {"nss": [3.1, 3.9], "cc": None}}
    return {
        "summary": "A placeholder.",
        "model": model.identity,
        "licence": "Apache-2.0",
        "weights": file_record(weights, "fp32"),
        "onnx": file_record(onnx, "fp32"),
        "input": {
            "size": network.size,
            "fit": "stretch",
            "stride": 2,
            "map_size": network.map_size,
            "reach": network.reach,
        },
        "cost": {"weights": 1000, "gmacs": 0.01, "milliseconds": 1.5, "how": "on a computer"},
        "scores": [
            {
                "key": "public_test",
                "title": "public_test",
                "what": "10 videos",
                "rows": [{"name": "ours", **score}, {"name": "centre prior", **score}],
            }
        ],
        "training": {
            "command": "saldistill train configs/mine.yaml",
            "config": {},
            "config_sha256": "0" * 64,
            "steps": 10,
            "minutes": 1.5,
            "device": "cpu",
            "best": "step 10",
            "chosen": [],
            "data": [{"title": "Data", "used": "all of it", "licence": "CC BY 4.0", "citation": "A, B, 2026"}],
        },
        "intended_use": ["Tests."],
        "limits": ["It is not trained."],
    }


def make_pretrained(folder: Path, models: dict[str, LoadedModel], *, onnx_too: bool = False) -> Path:
    """Write files and records of pretrained models; the .onnx file is a dummy unless `onnx_too`."""
    folder.mkdir(exist_ok=True)
    records: dict[str, Any] = {}
    exported: dict[int, Path] = {}
    for name, model in models.items():
        weights, onnx = folder / f"{name}.safetensors", folder / f"{name}.onnx"
        save_model(model, weights, notes={"step": 10, "stride": 2})
        if onnx_too and id(model) in exported:
            onnx.write_bytes(exported[id(model)].read_bytes())
        elif onnx_too:
            exported[id(model)] = export(model, onnx, batches=(1,)).path
        else:
            onnx.write_bytes(b"dummy")
        records[name] = record_of(model, weights, onnx)
    (folder / RECORDS).write_text(json.dumps({"format": 1, "models": records}))
    return folder
