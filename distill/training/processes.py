"""What the processes of a run do together."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from distill.errors import UserError

T = TypeVar("T")


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
