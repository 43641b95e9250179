"""Small training runs and comparisons of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from distill.training.config import RunConfig
from distill.training.step_log import read_log

STEPS = 5


def config(out: Path, **changes: Any) -> RunConfig:
    run: dict[str, Any] = {
        "out": str(out),
        "device": "cpu",
        "model": {
            "name": "teacher/salfom",
            "variant": "micro",
            "arguments": {"drop_path": 0.2, "encoder_drop_path": 0.2},  # randomness that a resumed run must repeat
        },
        "data": {
            "train": [{"dataset": "synthetic"}],  # 8 clips per epoch, so that steps of 6 cross epochs
            "validation": [{"dataset": "synthetic", "split": "validation", "every": 24}],
            "workers": 0,
        },
        "losses": [{"name": "kldiv"}, {"name": "cc"}],
        "optimizer": {"name": "adam", "lr": 1e-3},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "training": {"steps": STEPS, "batch_size": 2, "accumulate": 3, "clip_norm": 1.0, "checkpoint_every": 2},
    }
    return RunConfig.model_validate({**run, **changes})


def losses(run: Path) -> list[Any]:
    keys = ("step", "loss", "terms", "lr", "gradient_norm", "epoch")
    return [[line.get(key) for key in keys] for line in read_log(run / "log.jsonl") if line["kind"] == "train"]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    assert losses(one) == losses(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def launch(*program: str, processes: int = 2) -> str:
    """Run a program in several processes on the CPU; return its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *program],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
