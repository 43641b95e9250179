"""Progress bars: what is counted and how long it takes, and one log line when it is done.

On a terminal a bar is redrawn, and removed at its end. Elsewhere, such as in the log of a cluster, it prints a
plain line once a minute.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from distill.data.text import plural

log = logging.getLogger(__name__)

LINES_EVERY = 60.0
"""Seconds between two lines of a bar that is not on a terminal."""

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit}s [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
LINE_FORMAT = "{desc}: {n_fmt} of {total_fmt}{unit}s [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

_hidden = False
"""Whether this process shows no bars."""


@contextmanager
def hidden_bars() -> Iterator[None]:
    """Show no progress bars that start in the block."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = before


def bars_are_hidden() -> bool:
    """Return whether progress bars are hidden."""
    return _hidden


class ProgressBar(tqdm):
    """A progress bar that logs one line when all of its work is done.

    Args:
        what: what is being done, e.g. "scoring stream-small".
        unit: what is counted, in the singular.
        iterable: iterate over it and count its elements.
        total: how much there is to do; defaults to the length of `iterable`.
        initial: how much was done before.
        shown: False shows and logs nothing.
        result: log a line at the end; False where the caller reports the same.
        delay: seconds before anything is shown or logged; work that is done earlier needs no bar.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        iterable: Iterable[Any] | None = None,
        *,
        total: int | None = None,
        initial: int = 0,
        shown: bool = True,
        result: bool = True,
        delay: float = 0,
    ) -> None:
        self.what, self.counted, self.before, self.result, self.shown_after = what, unit, initial, result, delay
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        style: dict[str, Any] = {"bar_format": FORMAT, "dynamic_ncols": True, "delay": delay}
        if not on_terminal:
            pause = {"delay": LINES_EVERY, "mininterval": LINES_EVERY, "maxinterval": LINES_EVERY}
            style = {"bar_format": LINE_FORMAT, "file": _Lines(), **pause}
        given: dict[str, Any] = {"iterable": iterable}
        super().__init__(
            **given,
            desc=what,
            total=total,
            initial=initial,
            unit=f" {unit}",
            disable=not shown or _hidden,
            leave=False,
            **style,
        )

    def close(self) -> None:
        """Remove the bar, and log the line if the work is done."""
        was_open = not self.disable
        super().close()
        if was_open and self.result and self.n and self.n >= (self.total or 0):
            seconds = self.format_dict["elapsed"]
            if seconds >= self.shown_after:
                done = self.n - self.before
                now = f", {done} of them now" if self.before else ""
                rate = f"{done / max(seconds, 1e-9):.1f} per second"
                log.info(
                    "%s: %s%s in %.1f s (%s)", self.what, plural(int(self.n), self.counted), now, seconds, rate
                )


class _Lines:
    """Stream that writes each state of a bar to stderr as a line, without carriage returns and padding."""

    def write(self, text: str) -> None:
        """Write a state; the empty one, which clears a bar, is no line."""
        if stripped := text.replace("\r", "").strip():
            sys.stderr.write(f"{stripped}\n")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()
