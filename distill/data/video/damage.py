"""Count the damaged frames that readers return, and report them.

Damage is known for frames that PyAV marks while it decodes them, and for all frames of a video after `saldistill
data check --thorough`, whose result is cached. Decord, which reads regular files, reports nothing by itself.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

_read: defaultdict[Path, set[int]] = defaultdict(set)  # video -> its damaged frames that this process has read


def note_damage(path: Path, frames: Iterable[int], *, known: bool) -> None:
    """Count damaged frames that have been read; warn of a video's first one, unless they were known before."""
    frames = set(frames)
    if frames and not _read[path] and not known:
        log.warning(
            "%s: frame %d is damaged, and the decoder fills in missing parts; saldistill data check --thorough "
            "lists all damaged frames",
            path,
            min(frames) + 1,
        )
    _read[path] |= frames


def damaged_frames_read(path: Path) -> int:
    """Return the number of damaged frames of a video that this process has read so far."""
    return len(_read.get(path, ()))
