"""The verb that measures, part of the grammar."""

from typing import Any

from distill.cli.options import add_device, add_verb, count, counts, precisions, runtimes, shape_of_input


def add_benchmark(verbs: Any) -> None:
    """Add measuring."""
    verb = add_verb(
        verbs,
        "benchmark",
        "measure what models cost: weights, GMACs and milliseconds a map",
        "Measure models, and anybody's .onnx files, side by side in one run, their rounds interleaved: a row for "
        "each runtime, batch size and precision, with its share of what the device reaches on the product of two "
        "matrices in the same run. With --of, measure a part of the toolkit instead.",
        "saldistill benchmark runs/demo/teacher runs/demo/student runs/demo/student.onnx",
        "saldistill benchmark teacher/salfom:tiny student/thtdnet:tiny --device cpu",
        "saldistill benchmark student/stream:nano student/stream:small student/thtdnet --runtime pytorch,onnx "
        "--threads 2",
        "saldistill benchmark student.onnx theirs.onnx --shape image=1x3x224x384 --layers",
        "saldistill benchmark teacher/salfom --batch-size 1,2,4 --precision fp32,bf16 --json salfom.json",
        "saldistill benchmark --of metrics",
        "saldistill benchmark --of data VIDEO.mp4",
        "saldistill benchmark --of cache runs/demo/teacher",
        "saldistill benchmark --of cache configs/distill/demo.yaml --json cache.json",
    )
    verb.add_argument(
        "subjects",
        nargs="*",
        metavar="MODEL",
        help="what to measure (see: saldistill --help); of data a video, of a cache the teacher or a CONFIG",
    )
    verb.add_argument(
        "--of",
        choices=["models", "data", "metrics", "cache"],
        default="models",
        help="what is measured (default: %(default)s)",
    )
    verb.add_argument(
        "--rounds", type=count, default=5, metavar="N", help="interleaved rounds (default: %(default)s)"
    )
    verb.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: as PyTorch chooses)")
    verb.add_argument(
        "--batch-size",
        type=counts,
        metavar="N,N",
        help="clips (or frames, of what streams) at a time, one or several (default: 1; of a cache 8, or as CONFIG "
        "says)",
    )
    verb.add_argument(
        "--precision", type=precisions, default=["fp32"], metavar="P,P", help="fp32, bf16, fp16 (default: fp32)"
    )
    verb.add_argument(
        "--runtime",
        type=runtimes,
        default=["pytorch"],
        metavar="R,R",
        help="of networks: pytorch, onnx (exported for the time of the run), or both (default: pytorch)",
    )
    verb.add_argument(
        "--shape",
        type=shape_of_input,
        action="append",
        default=[],
        metavar="INPUT=AxB",
        help="an input's shape, for the dimensions that an .onnx file leaves open; may be given several times",
    )
    verb.add_argument(
        "--layers", action="store_true", help="also say which operators and modules take the time in ONNX Runtime"
    )
    add_device(verb)
    verb.add_argument(
        "-o", "--out", "--json", dest="out", metavar="FILE", help="also write the measurements here, as JSON"
    )
