"""`saldistill benchmark`: measure what models and parts of the toolkit cost."""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from distill.cli.options import add_device, add_output, add_rounds, add_threads, counts, input_shape, some_of
from distill.cli.output import print_result
from distill.cli.verb import Verb
from distill.errors import UserError
from distill.limits import MAX_BATCH_SIZE

if TYPE_CHECKING:
    from distill.benchmark.rows import Table, Tables


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.benchmark.models import RUNTIMES
    from distill.models.device import PRECISIONS

    parser.add_argument(
        "subjects",
        nargs="*",
        metavar="MODEL",
        help="models to measure (see: saldistill --help); --of data takes a video, --of predict VIDEO and "
        "perhaps models, --of cache a teacher or CONFIG",
    )
    parser.add_argument("--of", choices=tuple(BENCHMARKS), default="models", help="what to measure")
    add_rounds(parser)
    add_threads(parser, "PyTorch's")
    parser.add_argument(
        "--batch-size",
        type=counts(MAX_BATCH_SIZE),
        metavar="N,N",
        help="one or more batch sizes, in clips, or in frames for streaming models (default: 1; --of cache: that "
        "of CONFIG, or 8)",
    )
    parser.add_argument(
        "--precision",
        type=some_of(PRECISIONS),
        default="fp32",
        metavar="P,P",
        help=f"one or more of {', '.join(PRECISIONS)}",
    )
    parser.add_argument(
        "--runtime",
        type=some_of(RUNTIMES),
        default="pytorch",
        metavar="R,R",
        help=f"one or more of {', '.join(RUNTIMES)}, for networks; onnx exports them temporarily",
    )
    parser.add_argument(
        "--shape",
        type=input_shape,
        action="append",
        default=[],
        metavar="INPUT=AxB",
        help="shape of an input with dynamic dimensions in an .onnx file; may be repeated",
    )
    parser.add_argument("--layers", action="store_true", help="also time operators and modules in ONNX Runtime")
    add_device(parser)
    add_output(parser, "FILE", "also write the measurements to this JSON file", required=False)


def _run(arguments: argparse.Namespace) -> None:
    from distill.claims import claim

    with claim(arguments.out, "the file of measurements") if arguments.out else nullcontext():
        measured = BENCHMARKS[arguments.of](arguments)
        print_result(arguments, measured)
        if arguments.out:
            measured.save(arguments.out)


def _run_models(arguments: argparse.Namespace) -> "Table | Tables":
    from distill.benchmark.models import benchmark_models
    from distill.benchmark.onnx_files import benchmark_layers
    from distill.benchmark.rows import Tables

    sizes, shapes = arguments.batch_size or [1], dict(arguments.shape)
    measured = benchmark_models(
        arguments.subjects,
        rounds=arguments.rounds,
        batch_size=sizes,
        threads=arguments.threads,
        device=arguments.device,
        precision=arguments.precision,
        runtime=arguments.runtime,
        shapes=shapes,
    )
    if not arguments.layers:
        return measured
    parts = benchmark_layers(arguments.subjects, batch_size=sizes[0], threads=arguments.threads, shapes=shapes)
    return Tables({"models": measured, **parts})


def _run_data(arguments: argparse.Namespace) -> "Table":
    from distill.benchmark.data import benchmark_data

    if len(arguments.subjects) != 1:
        raise UserError(
            f"benchmark --of data: expected one video file, got {len(arguments.subjects)}; name one, e.g. "
            "saldistill benchmark --of data VIDEO.mp4"
        )
    return benchmark_data(arguments.subjects[0], rounds=arguments.rounds)


def _run_metrics(arguments: argparse.Namespace) -> "Table":
    from distill.benchmark.metrics import benchmark_metrics

    if arguments.subjects or arguments.threads:
        raise UserError(
            "benchmark --of metrics: scores synthetic frames on one core; leave out MODEL and --threads"
        )
    return benchmark_metrics(arguments.rounds)


def _run_cache(arguments: argparse.Namespace) -> "Tables":
    from distill.benchmark.targets import benchmark_targets

    if max(map(len, (arguments.subjects, arguments.batch_size or [], arguments.precision))) > 1:
        raise UserError("benchmark --of cache: name at most one teacher or config, batch size and precision")
    return benchmark_targets(
        *arguments.subjects,
        rounds=arguments.rounds,
        batch_size=(arguments.batch_size or [8])[0],
        threads=arguments.threads,
        device=arguments.device,
        precision=arguments.precision[0],
    )


def _run_predict(arguments: argparse.Namespace) -> "Table":
    from distill.benchmark.prediction import benchmark_prediction

    if not arguments.subjects:
        raise UserError("benchmark --of predict: expected a video, and perhaps models: VIDEO [MODEL ...]")
    return benchmark_prediction(
        arguments.subjects[0], arguments.subjects[1:], rounds=arguments.rounds, threads=arguments.threads
    )


BENCHMARKS: dict[str, Callable[[argparse.Namespace], "Table | Tables"]] = {
    "models": _run_models,
    "data": _run_data,
    "predict": _run_predict,
    "metrics": _run_metrics,
    "cache": _run_cache,
}
"""Values of --of."""

BENCHMARK = Verb(
    "benchmark",
    "measure weights, GMACs, milliseconds and memory of models",
    "Measure models and any .onnx files in one run with interleaved rounds: one row per runtime, batch size and "
    "precision, with its fraction of the throughput that a matrix product reached in the same run. With --of, "
    "measure a part of the toolkit instead.",
    (
        "saldistill benchmark runs/demo/teacher runs/demo/student runs/demo/student.onnx",
        "saldistill benchmark teacher/salfom:tiny student/thtdnet:tiny --device cpu",
        "saldistill benchmark student/stream:nano student/stream:small student/thtdnet --runtime pytorch,onnx "
        "--threads 2",
        "saldistill benchmark student.onnx theirs.onnx --shape image=1x3x224x384 --layers",
        "saldistill benchmark teacher/salfom --batch-size 1,2,4 --precision fp32,bf16 -o salfom.json",
        "saldistill benchmark --of metrics",
        "saldistill benchmark --of data VIDEO.mp4",
        "saldistill benchmark --of predict VIDEO.mp4 stream-nano",
        "saldistill benchmark --of cache runs/demo/teacher",
        "saldistill benchmark --of cache @distill/demo -o cache.json",
    ),
    _add_arguments,
    _run,
    "setting and rows; if there are several tables, their titles, each with setting and rows",
)
