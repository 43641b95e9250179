"""`saldistill export`, `saldistill quantize` and `saldistill conform`: write files for devices, and check them."""

import argparse
from contextlib import nullcontext

from distill.cli.options import add_every, add_output, add_rounds, add_threads, count, fraction, some_of
from distill.cli.output import print_result
from distill.cli.verb import Verb
from distill.limits import MAX_CALIBRATION_FRAMES, MAX_THREADS


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.deploy.formats.names import FORMAT_NAMES, PRECISIONS
    from distill.runtimes.export import INPUTS, MODES
    from distill.runtimes.onnx_graph import VALUES

    parser.add_argument("model", metavar="MODEL", help="model to export (see: saldistill --help)")
    add_output(parser, "FILE", "the file to write, with the format's suffix, e.g. .onnx")
    parser.add_argument(
        "--format", choices=FORMAT_NAMES, default="onnx", help="file format; each has a runtime and a converter"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of formats other than onnx")
    parser.add_argument(
        "--on",
        metavar="VIDEO",
        help="verify on frames of this video, and calibrate int8 on it (default: synthetic frames; other formats: "
        "the sample video)",
    )
    parser.add_argument(
        "--kit",
        metavar="DIR",
        nargs="?",
        const="",
        help="also write golden vectors for `saldistill conform` to this folder (default: FILE.kit)",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="export for clips or frame by frame (default: step, if MODEL streams)",
    )
    parser.add_argument("--input", choices=tuple(INPUTS), default="uint8", help="pixels in [0, 255] or in [0, 1]")
    parser.add_argument(
        "--values",
        choices=tuple(VALUES),
        default="peak",
        help="maps scaled to a maximum of 1, the network's own values, or log-saliency",
    )
    parser.add_argument("--licence", metavar="TEXT", help="licence of the weights, recorded in the file")


def _run_export(arguments: argparse.Namespace) -> None:
    from distill.deploy.export_format import export_model

    kit = arguments.kit if arguments.kit != "" else f"{arguments.out}.kit"
    report = export_model(
        arguments.model,
        arguments.out,
        file_format=arguments.format,
        precision=arguments.precision,
        mode=arguments.mode,
        on=arguments.on,
        kit=kit,
        input_type=arguments.input,
        values=arguments.values,
        licence=arguments.licence,
    )
    print_result(arguments, report)


EXPORT = Verb(
    "export",
    "export a model to a verified file for ONNX Runtime or another runtime",
    "Export a model to ONNX, check the file with onnx.checker and compare ONNX Runtime with PyTorch; a failed "
    "check leaves no file. A streaming student is exported in step mode: one frame and the state in, one map and "
    "the next state out. `python -m student.edge FILE VIDEO` runs the file without PyTorch. With --format, the "
    "format's own tool converts the model, which is then compared with PyTorch in the format's runtime. --kit "
    "writes golden vectors, with which `saldistill conform` checks any runtime.",
    (
        "saldistill export runs/demo/student -o student.onnx",
        "saldistill export runs/demo/student -o student.onnx --on VIDEO.mp4 --licence CC-BY-4.0 --kit",
        "saldistill export student/stream:nano -o clip.onnx --mode clip --input float32 --values log",
        "saldistill export stream-small --format litert --precision int8 --on VIDEO.mp4 -o small.tflite",
    ),
    _add_export_arguments,
    _run_export,
    "path, megabytes, frames and metadata; for onnx opset, operators, sha256 and checks; for other formats "
    "format, runtime, files and replay",
)


def _add_conform_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.deploy.formats.names import RUNTIME_NAMES

    parser.add_argument(
        "model", metavar="FILE_OR_KIT", help="an exported file, or a kit, whose files are in it or next to it"
    )
    parser.add_argument(
        "--kit", metavar="DIR", help="kit of the file (default: FILE.kit, or the folder of the file)"
    )
    parser.add_argument(
        "--runtime",
        type=some_of(RUNTIME_NAMES),
        metavar="NAME,NAME",
        help=f"runtimes, of {', '.join(RUNTIME_NAMES)} (default: all that are installed)",
    )
    parser.add_argument("--threads", type=count(MAX_THREADS), default=1, metavar="N", help="CPU threads per call")


def _run_conform(arguments: argparse.Namespace) -> None:
    from distill.benchmark.conform import conform
    from distill.errors import RunError

    found = conform(arguments.model, kit=arguments.kit, runtimes=arguments.runtime, threads=arguments.threads)
    print_result(arguments, found)
    if found.failed:
        names = ", ".join(f"{row['file']} in {row['runtime']}" for row in found.failed)
        raise RunError(f"maps differ from PyTorch's: {names}")


CONFORM = Verb(
    "conform",
    "check exported files in every installed runtime against golden vectors",
    "Replay the golden vectors of `saldistill export --kit` in every runtime that is installed, and print a table: "
    "the largest difference from PyTorch's maps, their correlation, first and steady latency, file size, memory "
    "and a verdict. The ONNX graph is also checked for what runtimes that cannot run here lack. The exit code is 1 "
    "if a file fails.",
    (
        "saldistill conform student.onnx",
        "saldistill conform small.tflite --kit small.onnx.kit --runtime litert --threads 2",
        "saldistill conform small.onnx.kit --json",
    ),
    _add_conform_arguments,
    _run_conform,
    "setting, rows and findings",
)


def _add_quantize_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.deploy.quantize import PRECISIONS

    parser.add_argument("model", metavar="FILE", help="an fp32 .onnx file written by `saldistill export`")
    parser.add_argument(
        "--to",
        type=some_of(PRECISIONS),
        default="int8",
        metavar="P,P",
        help=f"one or more of {', '.join(PRECISIONS)}",
    )
    add_output(parser, "FILE", "the .onnx file to write (default: FILE-int8.onnx, FILE-fp16.onnx)", required=False)
    parser.add_argument(
        "--on",
        required=True,
        metavar="DATA",
        help="calibration frames: DATASET:ROOT, CONFIG.yaml (its training videos), a video, or a folder of images "
        "or videos",
    )
    parser.add_argument("--on-split", metavar="NAME", help="split of the data set of --on (default: all videos)")
    parser.add_argument(
        "--frames",
        type=count(MAX_CALIBRATION_FRAMES),
        default=256,
        metavar="N",
        help="frames to read from --on; a quarter is held out for comparison",
    )
    parser.add_argument(
        "--max-loss",
        type=fraction,
        default=0.01,
        metavar="CC",
        help="largest accepted mean loss, 1 - CC with the fp32 maps",
    )
    parser.add_argument("--score", metavar="DATA", help="also score all files on DATASET:ROOT or CONFIG.yaml")
    parser.add_argument("--score-split", metavar="NAME", help="split of the data set of --score")
    add_every(parser)
    parser.add_argument("--openvino", action="store_true", help="also run all files in OpenVINO, if installed")
    add_threads(parser, "one per CPU core")
    add_rounds(parser)
    parser.add_argument("--measurements", metavar="FILE", help="also write the measurements to this JSON file")


def _run_quantize(arguments: argparse.Namespace) -> None:
    from distill.claims import claim
    from distill.runtimes.openvino_runtime import check_installed

    if arguments.openvino:
        check_installed()
    file = arguments.measurements
    with claim(file, "the file of measurements") if file else nullcontext():
        quantize_and_compare(arguments)


def quantize_and_compare(arguments: argparse.Namespace) -> None:
    """Write the quantized files, compare all files, and print and save the table."""
    from distill.benchmark.precisions import compare_precisions
    from distill.deploy.quantize import quantize_files
    from distill.training.sources import videos_of_argument

    videos = videos_of_argument(arguments.score, split=arguments.score_split) if arguments.score else []
    quantized, clips = quantize_files(
        arguments.model,
        arguments.on,
        to=arguments.to,
        out=arguments.out,
        on_split=arguments.on_split,
        frames=arguments.frames,
        max_loss=arguments.max_loss,
        threads=arguments.threads,
    )
    table = compare_precisions(
        [arguments.model, *(report.path for report in quantized)],
        clips,
        videos=videos,
        every=arguments.every,
        runtimes=["ONNX Runtime", *["OpenVINO"] * arguments.openvino],
        threads=arguments.threads,
        rounds=arguments.rounds,
    )
    print_result(arguments, table)
    if arguments.measurements:
        table.save(arguments.measurements)


QUANTIZE = Verb(
    "quantize",
    "convert an exported model to fp16 or INT8",
    "Convert an exported model to fp16, or to INT8 calibrated on real frames. The loss, 1 - CC with the fp32 maps, "
    "is measured on held-out frames; layers that would push it above --max-loss stay in floating point. All files "
    "are then compared: size, milliseconds, agreement, and with --score the metrics. INT8 is faster on a CPU; fp16 "
    "halves the file size and suits devices with fp16 arithmetic.",
    (
        "saldistill quantize student.onnx --on VIDEO.mp4",
        "saldistill quantize student.onnx --to fp16,int8 --on ntire:hevc-gaze --on-split train "
        "--score ntire:hevc-gaze --score-split public_test --measurements quantized.json",
        "saldistill quantize student.onnx -o small.onnx --on VIDEOS --max-loss 0.005 --openvino",
    ),
    _add_quantize_arguments,
    _run_quantize,
    "setting and rows",
)
