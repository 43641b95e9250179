"""Entry point of the `saldistill` command: parser, exit codes and error messages.

saldistill --help
saldistill VERB --help
"""

import argparse
import errno
import functools
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from distill import __version__
from distill.cli import (
    benchmark,
    cache,
    calibrate,
    configs,
    data,
    demo,
    evaluate,
    export,
    leaderboard,
    models,
    page,
    predict,
    push,
    reframe,
    submit,
    train,
    view,
)
from distill.cli.output import PACKAGES, output_of
from distill.cli.verb import Group, HelpFormatter, Verb
from distill.errors import NO_SPACE, NOT_ALLOWED, RunError, Terminated, UserError
from distill.extras import extras_named
from distill.shipped import shipped_argument

COMMANDS: tuple[Verb | Group, ...] = (
    demo.DEMO,
    data.DATA,
    models.MODELS,
    configs.CONFIGS,
    train.TRAIN,
    cache.CACHE,
    train.DISTILL,
    evaluate.EVALUATE,
    leaderboard.LEADERBOARD,
    predict.PREDICT,
    reframe.REFRAME,
    view.VIEW,
    submit.SUBMIT,
    export.EXPORT,
    calibrate.CALIBRATE,
    export.QUANTIZE,
    export.CONFORM,
    page.PAGE,
    push.PUSH,
    benchmark.BENCHMARK,
)
"""All verbs, in the order of the help."""

DESCRIPTION = """\
Predict where people look in videos. Train a large network, the teacher, on eye-tracking data;
compute its saliency maps once and keep them in a target store; distil a light network, the
student, from the ground truth and these maps; export the student to run on small devices.
"""

EPILOG = """\
MODEL is one of
  stream-small               a pretrained student that comes with the project
  runs/demo/teacher          a run folder: its best weights
  student.safetensors        a weight file
  student.onnx               an exported model
  hf://OWNER/NAME@REVISION   a model in a repository of the Hugging Face Hub, of a branch, tag or commit
  teacher/salfom:tiny        a network and its variant, with random weights (list: saldistill models)

CONFIG is a YAML file that describes one run, or the name of one that comes with saldistill (list: saldistill
configs list); key=value arguments override single settings:
  saldistill train @teacher/demo training.steps=50 losses.0.weight=2 out=runs/short

@ at the start of a path stands for what comes with saldistill: configs, and @sample, a folder in DHF1K's layout
  saldistill evaluate stream-small dhf1k:@sample --videos 002 --frames 601-783

exit codes
  0    success
  1    the run failed; the traceback or the message shows where
  2    invalid input; the message says what is wrong and how to fix it
  130  interrupted with Ctrl-C; the log says what was saved and how to resume
  141  standard output was closed, e.g. by `| head`
  143  terminated with SIGTERM, e.g. by a cluster; handled like Ctrl-C

results go to standard output, with --json as one JSON document; messages and progress bars,
which -q leaves out, to standard error

start with:  saldistill predict VIDEO        help on a verb:  saldistill VERB --help
"""

NO_SPACE_IN_RUST = re.compile(rf"\(os error ({'|'.join(map(str, NO_SPACE))})\)")
"""A full disk in the errors of safetensors."""
MAX_LINE = 1000
"""Characters of a line of an error message."""
BAD_PATH = (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; exit quietly when standard output is closed (`| head`)."""
    try:
        try:
            return run_guarded(lambda: run_verb(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # so that a closed pipe is noticed here, and not while the interpreter exits
    except BrokenPipeError:
        if not stdout_is_closed():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard what is left to flush
        return 128 + 13  # as shells report SIGPIPE


def run_verb(argv: Sequence[str]) -> None:
    """Parse a command line and run its verb."""
    arguments = parse(argv)
    with output_of(arguments):
        arguments.verb.run(arguments)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; attribute `verb` of the result is the chosen Verb."""
    parser = argparse.ArgumentParser(
        prog="saldistill", description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter
    )
    parser.add_argument("-V", "--version", action="version", version=f"saldistill {__version__}")
    parsers = parser.add_subparsers(
        title="verbs, in the order of a typical workflow", metavar="VERB", required=True
    )
    for command in COMMANDS:
        command.add_to(parsers, list(argv))
    return parser.parse_args([shipped_argument(argument) for argument in argv])


def run_guarded(work: Callable[[], object]) -> int:
    """Call `work` and return the exit code; print expected errors as one message, and let bugs raise."""
    setup_logging()
    leave_full_disks_to_main_thread()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr, for file names that are not valid Unicode
    try:
        with sigterm_as_exception(), extras_named():
            work()
    except UserError as error:
        return print_error(error, 2)
    except RunError as error:
        return print_error(error, 1)
    except Terminated:
        return print_error("terminated", 128 + signal.SIGTERM)
    except KeyboardInterrupt:
        return print_error("interrupted", 128 + signal.SIGINT)
    except Exception as error:
        message = os_error_message(error)
        if message is None:
            raise
        return print_error(message, 2)
    return 0


@functools.cache
def leave_full_disks_to_main_thread() -> None:
    """Print no traceback for a full disk in a thread: TensorBoard raises the error in the main thread, too."""
    report = threading.excepthook

    def report_others(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is None or os_error_message(arguments.exc_value) is None:
            report(arguments)

    threading.excepthook = report_others


@contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """Raise Terminated in the main thread on SIGTERM, which then ends the work as Ctrl-C does.

    Forks, such as data-loading workers, inherit the handler and die quietly.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    process = os.getpid()

    def on_sigterm(number: int, frame: object) -> None:
        if os.getpid() == process:
            raise Terminated
        os._exit(128 + number)

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class AboveBars(logging.StreamHandler):
    """Handler that writes log lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        tqdm = sys.modules.get("tqdm")  # if it is not imported, there are no bars
        with tqdm.tqdm.external_write_mode(self.stream) if tqdm else nullcontext():
            super().emit(record)


def setup_logging() -> None:
    """Log plain messages to stderr: from INFO for the project's packages, from WARNING for libraries."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[AboveBars()])
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.INFO)


def print_error(error: object, code: int) -> int:
    """Print an error to stderr and return the exit code."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    print("saldistill: " + "\n".join(map(shorten_middle, lines)), file=sys.stderr)
    return code


def shorten_middle(line: str) -> str:
    """Return a line of a message, without its middle if a long path or name makes it unreadable."""
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 2 :]}"


def os_error_message(error: BaseException) -> str | None:
    """Return a message for a full disk, a missing permission or a bad path, also as a cause; else None."""
    for each in causes(error):
        code = each.errno if isinstance(each, OSError) else None
        path = f"{each.filename}: " if isinstance(each, OSError) and each.filename else ""
        if code in NO_SPACE or NO_SPACE_IN_RUST.search(str(each)):
            return f"{path}no space left on the disk; free some space or choose another location"
        if code in NOT_ALLOWED:
            return f"{path}permission denied; change the permissions or choose another location"
        if code in BAD_PATH:
            return f"{path}cannot read or write this path ({os.strerror(code)}); choose another location"
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def stdout_is_closed() -> bool:
    """Return whether the closed pipe is standard output rather than another one."""
    try:
        print(flush=True)
    except BrokenPipeError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
