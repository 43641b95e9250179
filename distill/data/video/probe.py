"""What video files hold, found out behind a guard and remembered: the door to `distill.data.examine`.

A file that makes its decoder hang or crash is a broken file here, and nothing else stops. When it is decord that
does, PyAV reads the file.
"""

from pathlib import Path

from distill.data.video.examine import Probe, examine
from distill.data.video.known import Question, learn
from distill.errors import UserError

__all__ = ["Probe", "probe", "video_question"]


def probe(path: str | Path) -> Probe:
    """Find out what a video file holds; remembered, here and in the user's cache folder, until the file changes.

    Raises:
        UserError: if the file is missing, no video, empty, cut off or damaged, or if its decoder hangs or crashes.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file; expected a video")
    (found,) = learn([video_question(Path(path))])
    if isinstance(found, UserError):
        raise found
    assert isinstance(found, Probe)
    return found


def video_question(path: Path, *, thorough: bool = False) -> Question:
    """Return the question what a video file holds; its answer is a Probe.

    Args:
        path: a file that is there.
        thorough: decode every frame.
    """
    calls = [(examine, (str(path), decord, thorough)) for decord in (True, False)]
    return Question("video", path, state_of(path), calls, read=Probe.of, thorough=thorough)


def state_of(path: Path) -> list[int]:
    """Return what changes when a file does: its size, and the times of its last changes."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
