"""The `saldistill` command: one verb a function, each handing its arguments to the part that does the work.

    saldistill --help
    saldistill VERB --help

Nothing heavy is imported before a verb runs, so that help comes at once.
"""

import argparse
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from distill.cli.benchmark import benchmark
from distill.cli.grammar import build_parser
from distill.errors import NO_SPACE, RunError, UserError

Arguments = argparse.Namespace


# ------------------------------------------------------------------------------------------------ the verbs


def demo(arguments: Arguments) -> None:
    """Run the whole way on the sample video."""
    from distill.demo import run_demo

    run_demo(arguments.out, device=arguments.device)


def data_check(arguments: Arguments) -> None:
    """Say what a folder of videos is and what of it can be used."""
    from distill.data.check import check

    report = check(arguments.root, arguments.dataset, thorough=arguments.thorough)
    print(report.table(every_video=arguments.videos), flush=True)
    report.require_usable()


def models(arguments: Arguments) -> None:
    """List models, or carry weights between the authors' keys and ours."""
    from distill.cli.models import convert_weights, describe_models, publish_weights

    if arguments.convert:
        print(convert_weights(arguments.name, *arguments.convert))
    elif arguments.to_published:
        print(publish_weights(arguments.name, *arguments.to_published))
    else:
        for line in describe_models(arguments.name):
            print(line, flush=True)


def train(arguments: Arguments) -> None:
    """Train a model as a config says."""
    from distill.training.config import load_config
    from distill.training.train import train as run

    print(f"done: {run(load_config(arguments.config, arguments.overrides))}")


def distil(arguments: Arguments) -> None:
    """Train a student from a teacher as a config says."""
    from distill.training.config import load_config
    from distill.training.train import train as run

    accept = ["teacher.accept=true"] if arguments.accept else []
    config = load_config(arguments.config, [*arguments.overrides, *accept])
    if config.teacher is None:
        raise UserError(
            f"{arguments.config}: there is no section 'teacher', so there is nothing to distil from; add one, or "
            "use `saldistill train` to learn from ground truth alone"
        )
    print(f"done: {run(config)}")


def cache_build(arguments: Arguments) -> None:
    """Compute and store the teacher's maps that a run needs."""
    from distill.targets.build import info
    from distill.training.config import load_config
    from distill.training.setup import build_store

    print(info(build_store(load_config(arguments.config, arguments.overrides))))


def cache_info(arguments: Arguments) -> None:
    """Say what a store of teacher maps holds."""
    from distill.targets.build import info

    print(info(arguments.store))


def cache_verify(arguments: Arguments) -> None:
    """Check a store and recompute a sample of it."""
    from distill.targets.verify import verify_store

    report = verify_store(
        arguments.store, teacher=arguments.teacher, sample=arguments.sample, device=arguments.device
    )
    print(report)
    if not report.ok:
        raise RunError(f"{arguments.store}: the store is damaged or of another teacher; build it anew")


def cache_export(arguments: Arguments) -> None:
    """Write a store's maps as PNG files or videos."""
    from distill.targets.exporter import export_maps

    print(export_maps(arguments.store, arguments.out, form=arguments.form, view=arguments.view))


def cache_import(arguments: Arguments) -> None:
    """Make a store of somebody's published maps."""
    from distill.targets.build import info
    from distill.targets.importer import import_maps

    store = import_maps(
        arguments.maps, arguments.out, mean=arguments.mean, codec=arguments.codec, map_size=arguments.size
    )
    print(info(store))


def evaluate(arguments: Arguments) -> None:
    """Score models against gaze."""
    from distill.data.video.guard import cores
    from distill.evaluation.references import same_scene, score
    from distill.evaluation.scores import compare
    from distill.files import refuse_existing
    from distill.reports.scores import report_scores
    from distill.training.sources import videos_of_argument

    folders = _folders_of_scores(arguments)
    if folders:
        refuse_existing(Path(arguments.out) / "report.html", "a report")
    for folder in folders:
        refuse_existing(folder / "scores.json", "a table of scores")
    videos = videos_of_argument(
        arguments.data, split=arguments.split, videos=arguments.videos, frames=arguments.frames
    )
    videos = same_scene(videos, arguments.scenes)
    results = []
    for index, model in enumerate(arguments.models):
        scores, maps = score(
            model,
            videos,
            every=arguments.every,
            metrics=arguments.metrics,
            protocol=arguments.protocol,
            over=arguments.over,
            seed=arguments.seed,
            workers=arguments.workers or cores(),
            stride=arguments.stride,
            batch_size=arguments.batch_size,
            device=arguments.device,
            first_frames=arguments.first_frames,
        )
        print(("\n" if index else "") + scores.table(), flush=True)
        if folders:
            scores.save(folders[index])
        results.append((scores, maps))
    for index, (scores, _) in enumerate(results[1:], 1):
        difference = compare(results[0][0], scores)
        print(f"\n{difference}", flush=True)
        if folders:
            difference.save(folders[index] / "difference.json")
    if folders:
        report_scores(Path(arguments.out) / "report.html", results, videos)


def _folders_of_scores(arguments: Arguments) -> list[Path]:
    """Return where each model's scores go: below --out, in a folder of its own when several are scored."""
    if not arguments.out:
        return []
    if len(arguments.models) == 1:
        return [Path(arguments.out)]
    folders = [Path(arguments.out) / model.strip("/").replace("/", "_") for model in arguments.models]
    if len(set(folders)) < len(folders):
        raise UserError(f"{', '.join(arguments.models)}: name each model once")
    return folders


def predict(arguments: Arguments) -> None:
    """Predict a video, or a folder of videos, every frame of it."""
    from distill.inference.folders import is_folder_of_videos, predict_folder
    from distill.inference.predict import predict as run
    from distill.models.device import resolve_device
    from distill.models.references import load_model, stride_of

    many = is_folder_of_videos(arguments.video)
    if many and arguments.overwrite:
        raise UserError(
            f"{arguments.video}: is a folder of videos, where results that stand are passed over; leave out "
            "--overwrite, and remove what should be made anew"
        )
    device = resolve_device(arguments.device)
    model = load_model(arguments.model, device=device)
    settings = {
        "out": arguments.out,
        "maps": arguments.maps,
        "device": device,
        "stride": arguments.stride or stride_of(model),
        "batch_size": arguments.batch_size,
        "precision": arguments.precision,
        "first_frames": arguments.first_frames,
    }
    if many:
        print(predict_folder(model, arguments.video, **settings))
    else:
        print(run(model, arguments.video, **settings, overwrite=arguments.overwrite))


def submit(arguments: Arguments) -> None:
    """Write what a benchmark takes: a map of every frame of its test videos."""
    from distill.cli.submit import submit as run

    submission = run(
        arguments.model,
        arguments.data,
        arguments.out,
        to=arguments.to,
        split=arguments.split,
        videos=arguments.videos,
        stride=arguments.stride,
        batch_size=arguments.batch_size,
        device=arguments.device,
        first_frames=arguments.first_frames,
    )
    print(submission)
    if submission.complaints:
        raise UserError(
            f"{arguments.out}: not fit to be sent, for what is said above; remove what is wrong and give the same "
            "command again"
        )


def export(arguments: Arguments) -> None:
    """Write a checked ONNX file."""
    from distill.deploy.export import export as run
    from distill.models.references import load_model, notes_of

    model = load_model(arguments.model)
    report = run(
        model,
        arguments.out,
        mode=arguments.mode,
        frames=arguments.on,
        input_type=arguments.input,
        values=arguments.values,
        notes=notes_of(model, arguments.model),
        licence=arguments.licence,
    )
    print(report)


def quantize(arguments: Arguments) -> None:
    """Write an exported model in fp16 or INT8, and measure it beside fp32."""
    from distill.benchmark.precisions import compare
    from distill.deploy.openvino_runtime import check_installed
    from distill.deploy.quantize import quantize_files
    from distill.files import refuse_existing
    from distill.training.sources import videos_of_argument

    if arguments.openvino:
        check_installed()
    if arguments.json:
        refuse_existing(arguments.json, "the file of measurements")
    videos = videos_of_argument(arguments.score, split=arguments.score_split) if arguments.score else []
    made, stretches = quantize_files(
        arguments.model,
        arguments.on,
        to=arguments.to,
        out=arguments.out,
        on_split=arguments.on_split,
        frames=arguments.frames,
        max_loss=arguments.max_loss,
        threads=arguments.threads,
    )
    table = compare(
        [arguments.model, *(report.path for report in made)],
        stretches,
        videos=videos,
        every=arguments.every,
        runtimes=["ONNX Runtime", *["OpenVINO"] * arguments.openvino],
        threads=arguments.threads,
        rounds=arguments.rounds,
    )
    print(table)
    if arguments.json:
        table.save(arguments.json)


VERBS: dict[str, Callable[[Arguments], None]] = {
    "demo": demo,
    "data check": data_check,
    "models": models,
    "train": train,
    "cache build": cache_build,
    "cache info": cache_info,
    "cache verify": cache_verify,
    "cache export": cache_export,
    "cache import": cache_import,
    "distill": distil,
    "evaluate": evaluate,
    "predict": predict,
    "submit": submit,
    "export": export,
    "quantize": quantize,
    "benchmark": benchmark,
}

# ------------------------------------------------------------------------------------------- how it all ends

NO_SPACE_IN_RUST = re.compile(rf"\(os error ({'|'.join(map(str, NO_SPACE))})\)")
"""How safetensors words the same."""
NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.EISDIR)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; end quietly when nobody reads the output any more (`| head`)."""
    try:
        try:
            return run_verb(argv)
        finally:
            sys.stdout.flush()  # here, where it can be answered, and not when the interpreter ends
    except BrokenPipeError:
        if not reader_has_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush goes nowhere
        return 141  # what a shell reports of any program that a closed pipe ended: 128 + SIGPIPE


def reader_has_gone() -> bool:
    """Tell whether it was standard output that broke, and not some other pipe of the work."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


def run_verb(argv: Sequence[str] | None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return answer(lambda: VERBS[arguments.verb](arguments))


def answer(work: Callable[[], object]) -> int:
    """Do some work and return its exit code; what is nobody's mistake but ours keeps its traceback."""
    talk()
    try:
        work()
    except UserError as error:
        return complain(error, 2)
    except RunError as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        return complain("stopped", 130)
    except Exception as error:
        sentence = machine_says(error)
        if sentence is None:
            raise
        return complain(sentence, 2)
    return 0


def talk() -> None:
    """Let the project's own log lines through to stderr, as plain sentences; of other libraries, only warnings."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for package in ("distill", "teacher", "student"):
        logging.getLogger(package).setLevel(logging.INFO)


def complain(error: object, code: int) -> int:
    """Print a sentence to stderr, or a line for each of several mistakes; return the exit code."""
    print(f"saldistill: {str(error).strip()}", file=sys.stderr)
    return code


def machine_says(error: BaseException) -> str | None:
    """Return the sentence for a full disk or a missing permission, wherever in the chain it stands; else None."""
    for each in chain(error):
        code = each.errno if isinstance(each, OSError) else None
        where = f"{each.filename}: " if isinstance(each, OSError) and each.filename else ""
        if code in NO_SPACE or NO_SPACE_IN_RUST.search(str(each)):
            return f"{where}there is no space left on the disk; free some, or write to another place"
        if code in NOT_ALLOWED:
            return f"{where}no permission to read or write here; choose another place or change its permissions"
        if code in NO_PLACE:
            return f"{where}nothing can be written under this name ({os.strerror(code)}); choose another place"
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    sys.exit(main())
