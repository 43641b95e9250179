"""`saldistill cache`: build, inspect and convert target stores."""

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.options import add_config, add_device, add_list, add_output, add_runtime, count, map_size
from distill.cli.output import print_json, print_result, print_text
from distill.cli.verb import Group, Verb
from distill.errors import RunError, UserError
from distill.limits import MAX_FRAMES, MAX_THREADS

if TYPE_CHECKING:
    from distill.targets.build import Engine

INFO_KEYS = (
    "store, teacher, input, runtime, videos, frames, views, maps, planned, map_size, codec, bytes, shards and "
    "planned_shards"
)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "store", metavar="STORE", help="folder of the target store, or its address, e.g. s3://bucket/targets"
    )


def _add_build_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.targets.codec import CODECS, DEFAULT_CODEC

    add_config(parser)
    add_runtime(parser, "the teacher")
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="what computes the maps: this process, or the workers of a Ray cluster",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="with --engine ray: the cluster to join; auto: the one of this machine (default: start one here)",
    )
    parser.add_argument(
        "--cpus-per-worker",
        type=count(MAX_THREADS),
        metavar="N",
        help="with --engine ray: CPUs, and threads, of each worker (default: the threads of this process)",
    )
    codecs = {name: f"{codec.summary}: {codec.help}" for name, codec in CODECS.items()}
    codecs[DEFAULT_CODEC] += " (default)"
    add_list(parser, "values of teacher.codec, measured with a trained SalFoM", codecs)


def _engine(arguments: argparse.Namespace) -> AbstractContextManager["Engine | None"]:
    """Return a context with what computes the maps; None for this process."""
    if arguments.engine == "ray":
        from distill.targets.ray_build import ray_engine

        return ray_engine(address=arguments.address, cpus_per_worker=arguments.cpus_per_worker)
    for option in ("address", "cpus_per_worker"):
        if getattr(arguments, option) is not None:
            raise UserError(f"--{option.replace('_', '-')}: needs the workers of a cluster; add --engine ray")
    return nullcontext()


def _run_build(arguments: argparse.Namespace) -> None:
    from distill.targets.info import info
    from distill.training.config import load_config
    from distill.training.setup import build_stores

    config = load_config(arguments.config, arguments.overrides)
    with _engine(arguments) as engine:
        stores = build_stores(config, runtime=arguments.runtime, engine=engine)
    summaries = [info(store) for store in stores]
    for summary in summaries:
        print_text(arguments, summary)
    print_json(arguments, {"stores": [summary.as_dict() for summary in summaries]})


BUILD = Verb(
    "build",
    "compute and store the teacher maps that a distillation needs",
    "Run the config's teacher over its training videos and write the maps to the target store teacher.store; with "
    "several teachers, each over the videos that it teaches, into its own store. "
    "After an interruption, the same command resumes. Several processes can fill one store: run the command in "
    "several shells, as a SLURM array (scripts/slurm_cache), or on a Ray cluster (--engine ray). `saldistill "
    "benchmark --of cache CONFIG` measures the codecs on your own teacher.",
    (
        "saldistill cache build @distill/demo",
        "saldistill cache build @distill/demo teacher.codec=exact teacher.store=runs/exact",
    ),
    _add_build_arguments,
    _run_build,
    f"stores: a list of objects with the keys {INFO_KEYS}",
)


def _add_info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "store",
        metavar="STORE",
        help="folder of the target store, or its address, e.g. s3://bucket/targets; or the folder of a run with a "
        "team of teachers",
    )


def _run_info(arguments: argparse.Namespace) -> None:
    from distill.targets.info import info
    from distill.training.gate_report import GATES_FILE, read_report

    folder = Path(arguments.store)
    if (folder / "config.yaml").is_file() and not (folder / GATES_FILE).exists():
        raise UserError(
            f"{folder}: is a run without {GATES_FILE}, in which no gate was decided before the first step; "
            "expected a target store, or a run with a team of cached teachers of which one has a gate"
        )
    print_result(arguments, read_report(folder) if (folder / GATES_FILE).exists() else info(arguments.store))


INFO = Verb(
    "info",
    "show the teacher, videos and size of a target store",
    "Show a target store's fingerprint (teacher, preprocessing, videos), its size and how complete it is; or what "
    "the gates of a run's team of teachers decided: each teacher's mean weight, and how often it abstains.",
    ("saldistill cache info runs/demo/targets", "saldistill cache info runs/team"),
    _add_info_arguments,
    _run_info,
    f"{INFO_KEYS}; of a run: frames, graded, without_teacher and teachers",
)


def _add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    _add_store(parser)
    parser.add_argument("--teacher", metavar="MODEL", help="the teacher, if it was moved since the store was built")
    parser.add_argument(
        "--sample", type=count(MAX_FRAMES), default=32, metavar="N", help="number of maps to recompute"
    )
    add_device(parser)


def _run_verify(arguments: argparse.Namespace) -> None:
    from distill.targets.verify import verify_store

    report = verify_store(
        arguments.store, teacher=arguments.teacher, sample=arguments.sample, device=arguments.device
    )
    print_result(arguments, report)
    if not report.ok:
        raise RunError(
            f"{arguments.store}: the target store is damaged or was built by another teacher; remove and rebuild it"
        )


VERIFY = Verb(
    "verify",
    "check every checksum and recompute a sample of maps",
    "Read every record, then recompute some maps with the teacher and report KL, CC and the largest error.",
    (
        "saldistill cache verify runs/demo/targets",
        "saldistill cache verify runs/demo/targets --teacher runs/demo/teacher --sample 64",
    ),
    _add_verify_arguments,
    _run_verify,
    "damage, committed, planned, errors, tolerance, kl_max and ok",
)


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.targets.exporter import FORMS

    _add_store(parser)
    parser.add_argument(
        "--as", dest="form", choices=tuple(FORMS), default="png", help="PNG files, 10-bit videos or 8-bit videos"
    )
    parser.add_argument("--view", default="plain", metavar="NAME", help="plain, or flipped for mirrored frames")
    add_output(parser, "DIR", "folder to write")


def _run_export(arguments: argparse.Namespace) -> None:
    from distill.targets.exporter import export_maps

    maps = export_maps(arguments.store, arguments.out, form=arguments.form, view=arguments.view)
    print_result(arguments, maps)


EXPORT = Verb(
    "export",
    "write the maps of a target store as PNG files or videos",
    "Write DIR/VIDEO/0001.png and so on, in 8 bits with a maximum of 255 in each map; or DIR/VIDEO.mp4 with one "
    "map per frame, the format of the AIM 2024 and NTIRE 2026 challenges. The written files are read back, and "
    "the loss of precision is reported.",
    (
        "saldistill cache export runs/demo/targets -o maps",
        "saldistill cache export runs/targets/salfom_dhf1k -o videos --as video",
    ),
    _add_export_arguments,
    _run_export,
    "out, maps, videos, mean_cc and min_cc",
)


def _add_import_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.targets.codec import CODECS, DEFAULT_CODEC
    from distill.targets.importer import MEANS

    parser.add_argument(
        "maps", nargs="+", metavar="DIR", help="a folder of maps, as images or videos, or a target store"
    )
    parser.add_argument(
        "--mean",
        choices=MEANS,
        default="linear",
        help="average the densities of several sources, or their logarithms",
    )
    parser.add_argument("--codec", choices=tuple(CODECS), default=DEFAULT_CODEC, help="encoding")
    parser.add_argument(
        "--size", type=map_size, metavar="HxW", help="size of the stored maps (default: that of the first map)"
    )
    add_output(parser, "STORE", "target store to write")


def _run_import(arguments: argparse.Namespace) -> None:
    from distill.targets.importer import import_maps
    from distill.targets.info import info

    store = import_maps(
        arguments.maps, arguments.out, mean=arguments.mean, codec=arguments.codec, map_size=arguments.size
    )
    print_result(arguments, info(store))


IMPORT = Verb(
    "import",
    "build a target store from external saliency maps",
    "Read maps, DIR/VIDEO/0001.png and so on or DIR/VIDEO.mp4 with one map per frame, into a target store that "
    "students can learn from. Several folders or target stores are averaged; all must cover the same frames.",
    (
        "saldistill cache import maps -o runs/imported",
        "saldistill cache import theirs runs/demo/targets --mean log -o runs/both",
    ),
    _add_import_arguments,
    _run_import,
    INFO_KEYS,
)

TRANSFER_KEYS = "source, target, shards, planned_shards, copied, bytes and seconds"


def _add_partial(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partial", action="store_true", help="copy a target store that is not complete, too")


def _add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="folder of the target store")
    parser.add_argument("address", metavar="URL", help="where to upload it, e.g. s3://bucket/targets")
    _add_partial(parser)


def _run_push(arguments: argparse.Namespace) -> None:
    from distill.targets.transfer import push_store

    print_result(arguments, push_store(arguments.store, arguments.address, partial=arguments.partial))


PUSH = Verb(
    "push",
    "upload a target store to object storage",
    "Upload a target store shard by shard to s3://, gs://, hf:// or another address that fsspec knows. After an "
    "interruption, the same command resumes. Readers see the store once all of it is there, or as partial. "
    "Credentials are those of the service's own tools, such as AWS_PROFILE.",
    (
        "saldistill cache push runs/demo/targets s3://bucket/targets",
        "saldistill distill mine.yaml teacher.store=s3://bucket/targets",
    ),
    _add_push_arguments,
    _run_push,
    TRANSFER_KEYS,
)


def _add_pull_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="URL", help="address of the target store, e.g. s3://bucket/targets")
    parser.add_argument("store", metavar="STORE", help="folder to write")
    _add_partial(parser)


def _run_pull(arguments: argparse.Namespace) -> None:
    from distill.targets.transfer import pull_store

    print_result(arguments, pull_store(arguments.address, arguments.store, partial=arguments.partial))


PULL = Verb(
    "pull",
    "download a target store from object storage",
    "Download a target store shard by shard, and compare each with its SHA-256. After an interruption, the same "
    "command resumes. A training run can also read the store where it is: teacher.store=URL.",
    ("saldistill cache pull s3://bucket/targets runs/targets/salfom",),
    _add_pull_arguments,
    _run_pull,
    TRANSFER_KEYS,
)

CACHE = Group(
    "cache", "build, inspect, copy and convert target stores", (BUILD, INFO, VERIFY, EXPORT, IMPORT, PUSH, PULL)
)
