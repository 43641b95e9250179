"""Work of a run's processes that fails on all of them if it fails on one, on one machine or on several.

A process that fails alone leaves the others waiting for it. Work that can fail on one of them, e.g. because a video
is missing on its machine, is therefore done in `on_main` or `on_every`.
"""

import socket
from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from distill.errors import UserError

T = TypeVar("T")


def name_of(accelerator: Accelerator) -> str:
    """Return the name of this process for messages, e.g. `process 3 on node-2`."""
    return f"process {accelerator.process_index} on {socket.gethostname()}"


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T | None:
    """Return the result of some work of the main process, on every process; None from a context manager.

    Raises:
        UserError: on every process, if the work raises it.
    """
    result: T | None = None
    message: str | None = None
    if accelerator.is_main_process:
        try:
            result = work()
        except UserError as error:
            message = str(error)
    result, message = broadcast_object_list([result, message])
    if message is not None:
        raise UserError(message)
    return result


def on_every(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Return the result of some work that every process does; if it fails on one, it fails on all.

    Raises:
        UserError: on the processes where the work succeeded, if it failed on another one.
        Exception: what the work raises here.
    """
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    failures = gather_object([None if failure is None else f"{name_of(accelerator)}: {failure}"])
    if failure is not None:
        raise failure
    if others := [each for each in failures if each is not None]:
        raise UserError(others[0])
    return result
