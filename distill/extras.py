"""Optional packages, the extras of the wheel that install them, and the message if one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from distill.errors import UserError

EXTRAS = {
    "accelerate": "train",
    "onnx": "export",
    "onnxscript": "export",
    "h5py": "hdf5",
    "tensorboard": "tracking",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "s3fs": "remote",
    "aiohttp": "remote",
    "gcsfs": "gs",
    "ray": "ray",
    "imagehash": "leaderboard",
    "starlette": "view",
    "uvicorn": "view",
    "openvino": "openvino",
    "nncf": "openvino",
    "litert_torch": "litert",
    "ai_edge_quantizer": "litert",
    "ai_edge_litert": "litert",
    "executorch": "executorch",
    "torchao": "executorch",
    "ncnn": "ncnn",
    "pnnx": "ncnn",
    "MNN": "mnn",
}
"""Package -> the extra of saldistill that installs it."""

EXPORTER = "onnxscript"
"""Package that torch.onnx exports networks with."""


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def install_line(package: str) -> str:
    """Return the command that installs an optional package."""
    return f"pip install 'saldistill[{EXTRAS[package]}]'"


@contextmanager
def extras_named() -> Iterator[None]:
    """Name the extra to install if the block imports an optional package that is missing.

    Raises:
        UserError: an optional package is not installed. Other missing modules raise ModuleNotFoundError as usual.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise UserError(
            f"{package}: not installed, and this needs it; install it with: {install_line(package)}"
        ) from error
