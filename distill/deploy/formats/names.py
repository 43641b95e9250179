"""Names of formats, precisions and runtimes for the command line, without the imports of the formats themselves."""

FORMAT_NAMES = ("onnx", "openvino", "litert", "executorch", "ncnn", "mnn")
"""Values of `export --format`."""

PRECISIONS = ("fp32", "fp16", "int8")
"""Values of `export --precision`; a format has some of them."""

RUNTIME_NAMES = ("onnx", "openvino-onnx", "openvino", "litert", "executorch", "ncnn", "mnn")
"""Values of `conform --runtime`."""
