"""Format lists of frames and videos for messages; frames are counted from 1."""

from collections.abc import Iterable


def ranges(numbers: Iterable[int]) -> str:
    """Return sorted integers with consecutive ones merged, e.g. `1-3, 7, 9-12`; empty for no number."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def named_frames(frames: Iterable[int]) -> str:
    """Return the 1-based numbers of 0-based frames, with a count if there are several: `frames 1-3, 7 (4)`."""
    chosen = {frame + 1 for frame in frames}
    return f"frame {ranges(chosen)}" if len(chosen) == 1 else f"frames {ranges(chosen)} ({len(chosen)})"


def plural(count: int, what: str) -> str:
    """Return `1 video`, `2 videos`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
