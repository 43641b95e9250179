"""Names of the runtimes that a network can run in."""

RUNTIMES = ("auto", "pytorch", "onnx", "openvino")
"""Values of `--runtime`, see `inference.runtime`; `auto` means ONNX Runtime on a CPU and PyTorch on a GPU."""

TITLES = {"pytorch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Runtime -> its name in results."""
