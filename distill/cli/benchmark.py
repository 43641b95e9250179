"""The command's `benchmark`: a function for each thing that it measures.

As in cli.py, nothing heavy is imported before it is needed.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from distill.errors import UserError

if TYPE_CHECKING:
    from distill.benchmark.rows import Benchmark, Tables

Arguments = argparse.Namespace


def benchmark(arguments: Arguments) -> None:
    """Measure what models cost, or a part of the toolkit."""
    from distill.files import refuse_existing

    if arguments.out:
        refuse_existing(arguments.out, "the file of measurements")
    measured = BENCHMARKS[arguments.of](arguments)
    print(measured)
    if arguments.out:
        measured.save(arguments.out)


def benchmark_models(arguments: Arguments) -> "Benchmark | Tables":
    """Measure models side by side, and their layers if asked for."""
    from distill.benchmark.models import benchmark as run
    from distill.benchmark.onnx_layers import layers
    from distill.benchmark.rows import Tables

    sizes, shapes = arguments.batch_size or [1], dict(arguments.shape)
    measured = run(
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
    parts = layers(arguments.subjects, batch_size=sizes[0], threads=arguments.threads, shapes=shapes)
    return Tables({"models": measured, **parts})


def benchmark_reader(arguments: Arguments) -> "Benchmark":
    """Measure readers of clips side by side."""
    from distill.benchmark.reader import benchmark as run

    if len(arguments.subjects) != 1:
        raise UserError(
            "benchmark --of data: name one video file to read, such as saldistill benchmark --of data VIDEO.mp4"
        )
    return run(arguments.subjects[0], rounds=arguments.rounds)


def benchmark_metrics(arguments: Arguments) -> "Benchmark":
    """Measure the metrics on one core."""
    from distill.benchmark.metrics import benchmark_metrics as run

    if arguments.subjects or arguments.threads:
        raise UserError(
            "benchmark --of metrics: made-up frames are scored on one core; leave out MODEL and --threads"
        )
    return run(arguments.rounds)


def benchmark_cache(arguments: Arguments) -> "Tables":
    """Measure what a store of teacher maps costs and saves."""
    from distill.benchmark.cache import benchmark as run

    if max(map(len, (arguments.subjects, arguments.batch_size or [], arguments.precision))) > 1:
        raise UserError("benchmark --of cache: name one teacher or config, one batch size and one precision")
    return run(
        *arguments.subjects,
        rounds=arguments.rounds,
        batch_size=(arguments.batch_size or [8])[0],
        threads=arguments.threads,
        device=arguments.device,
        precision=arguments.precision[0],
    )


BENCHMARKS: dict[str, Callable[[Arguments], "Benchmark | Tables"]] = {
    "models": benchmark_models,
    "metrics": benchmark_metrics,
    "data": benchmark_reader,
    "cache": benchmark_cache,
}
"""What `benchmark --of` takes."""
