"""A thread that works on the video that is being viewed, from the viewed frame on."""

import threading

from distill.viewer.shown import ShownVideo


class Follower:
    """Base of the classes of the viewer whose work is done by a thread.

    A subclass does its work in `_work`, sets its own attributes, and then calls this class's `__init__`, which
    starts the thread. `_changed` guards what the thread shares, and is notified of another view and of the end.

    Args:
        name: name of the thread.
    """

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._viewed: tuple[ShownVideo, int] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def want(self, shown: ShownVideo, place: int) -> None:
        """Tell which frame is being viewed."""
        with self._changed:
            if self._viewed != (shown, place):
                self._viewed = (shown, place)
                self._changed.notify_all()

    def stop(self) -> None:
        """Tell the thread to end; it finishes its batch."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """Return whether the thread has ended, after waiting up to some seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        """Work until `_stopped`."""
        raise NotImplementedError
