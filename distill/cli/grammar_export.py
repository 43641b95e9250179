"""The verbs that write files for devices, part of the grammar."""

import argparse
from typing import Any

from distill.cli.options import add_output, add_verb, count

PRECISIONS = ("fp16", "int8")


def add_export(verbs: Any) -> None:
    """Add the export to ONNX."""
    verb = add_verb(
        verbs,
        "export",
        "write a model as a checked ONNX file",
        "Export, check the file with onnx.checker and compare ONNX Runtime with PyTorch; a failed check leaves no "
        "file. A student that streams is written in step mode: a frame and a state in, a map and the next state "
        "out. `python student/edge.py FILE VIDEO` runs the file without PyTorch.",
        "saldistill export runs/demo/student -o student.onnx",
        "saldistill export runs/demo/student -o student.onnx --on VIDEO.mp4 --licence CC-BY-4.0",
        "saldistill export student/stream:nano -o clip.onnx --mode clip --input float32 --values log",
    )
    verb.add_argument("model", metavar="MODEL", help="what to export (see: saldistill --help)")
    add_output(verb, "FILE", "the .onnx file to write; weights of 2 GB and more lie beside it, in FILE.data")
    verb.add_argument("--on", metavar="VIDEO", help="compare on frames of this video (default: made-up frames)")
    verb.add_argument(
        "--mode",
        choices=("clip", "step"),
        help="whole clips, or single frames (default: step, if the model streams)",
    )
    verb.add_argument(
        "--input",
        choices=("uint8", "float32"),
        default="uint8",
        help="pixels from 0 to 255, or from 0 to 1 (default: %(default)s)",
    )
    verb.add_argument(
        "--values",
        choices=("peak", "sigmoid", "log"),
        default="peak",
        help="maps whose maximum is 1, the network's own values, or their logarithm (default: %(default)s)",
    )
    verb.add_argument("--licence", metavar="TEXT", help="licence of the weights, for the file to state")


def add_quantize(verbs: Any) -> None:
    """Add quantization."""
    verb = add_verb(
        verbs,
        "quantize",
        "make an exported model smaller and faster: fp16, INT8",
        "Write an exported model in fp16, or in INT8 calibrated on real frames. What the maps lose against fp32, "
        "in CC, is measured on frames held out; layers that hurt more than --max-loss allows stay in floating "
        "point. Then all are measured side by side: size, milliseconds, agreement, and with --score the metrics. "
        "INT8 is what makes a model faster on a CPU; fp16 halves the file, and is for devices that compute in it.",
        "saldistill quantize student.onnx --on VIDEO.mp4",
        "saldistill quantize student.onnx --to fp16,int8 --on ntire:hevc-gaze --on-split train "
        "--score ntire:hevc-gaze --score-split public_test --json quantized.json",
        "saldistill quantize student.onnx -o small.onnx --on VIDEOS --max-loss 0.005 --openvino",
    )
    verb.add_argument("model", metavar="FILE", help="an .onnx file in fp32 that `saldistill export` wrote")
    verb.add_argument(
        "--to",
        type=precisions,
        default=["int8"],
        metavar="P,P",
        help=f"{' and '.join(PRECISIONS)}, one or both (default: int8)",
    )
    add_output(verb, "FILE", "the .onnx file to write (default: FILE-int8.onnx, FILE-fp16.onnx)", required=False)
    verb.add_argument(
        "--on",
        required=True,
        metavar="DATA",
        help="real frames: DATASET:ROOT, CONFIG.yaml (its training videos), a video, a folder of frames or videos",
    )
    verb.add_argument(
        "--on-split", metavar="NAME", help="of --on, one of the data set's splits (default: all videos)"
    )
    verb.add_argument(
        "--frames",
        type=count,
        default=256,
        metavar="N",
        help="frames to read of --on; a quarter is held out to compare on (default: %(default)s)",
    )
    verb.add_argument(
        "--max-loss",
        type=loss,
        default=0.01,
        metavar="CC",
        help="what the maps may lose on the average, 1 - CC with those in fp32 (default: %(default)s)",
    )
    verb.add_argument("--score", metavar="DATA", help="also score all files: DATASET:ROOT, or CONFIG.yaml")
    verb.add_argument("--score-split", metavar="NAME", help="of --score, one of the data set's splits")
    verb.add_argument("--every", type=count, default=1, metavar="N", help="score every Nth frame (default: 1)")
    verb.add_argument(
        "--openvino", action="store_true", help="also run all files in OpenVINO, where it is installed"
    )
    verb.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: one a processor)")
    verb.add_argument(
        "--rounds", type=count, default=5, metavar="N", help="interleaved rounds of timing (default: %(default)s)"
    )
    verb.add_argument("--json", metavar="FILE", help="also write the measurements here")


def precisions(text: str) -> list[str]:
    """Read different precisions with commas between them."""
    found = text.split(",")
    if not set(found) <= set(PRECISIONS) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected {', '.join(PRECISIONS)} or both with a comma, got '{text}'")
    return found


def loss(text: str) -> float:
    """Read a number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, such as 0.01, got '{text}'")
    return value
