"""A plain folder: any videos, and folders of frames, without ground truth, for a teacher to label or to predict."""

from collections.abc import Sequence
from pathlib import Path

from distill.data.sets.scan import Scan, collect, holds_frames, unknown_split
from distill.data.video.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, describe
from distill.errors import UserError


def scan(
    root: Path, *, split: str | None = None, names: Sequence[str] | None = None, progress: bool = False
) -> Scan:
    """Go through a folder and the folders in it, or take a single video file.

    A video's name is its path below the root without the suffix (with it where two would be the same).

    Raises:
        UserError: if there is no video and no frame.
    """
    if split not in (None, "all"):
        raise unknown_split("folder", str(split), ["all"])
    if not root.exists():
        raise UserError(f"{root}: there is no such file or folder; expected videos or folders of frames")
    media = find(root)
    if not media:
        raise UserError(
            f"{root}: expected videos ({', '.join(VIDEO_SUFFIXES)}) or folders of frames "
            f"({', '.join(IMAGE_SUFFIXES)}) in this folder; found {describe(root)}"
        )
    files = sum(path.is_file() for path in media.values())
    layout = f"{files} video files and {len(media) - files} folders of frames, without ground truth"
    return collect(
        Scan("folder", layout, splits={"all": len(media)}, members={"all": list(media)}),
        media.items(),
        lambda name, found: None,
        names=names,
        annotated_only=False,
        progress=progress,
    )


def find(root: Path) -> dict[str, Path]:
    """Return the videos and folders of frames at and below a path, by name; hidden ones are left out."""
    if root.is_file():
        return {root.stem: root}
    media: dict[str, Path] = {root.resolve().name: root} if holds_frames(root) else {}
    below = [p for p in sorted(root.rglob("*")) if not any(part[0] == "." for part in p.relative_to(root).parts)]
    for path in below:
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            relative = path.relative_to(root)
            name = relative.with_suffix("").as_posix()
            media[relative.as_posix() if name in media else name] = path
        elif holds_frames(path):
            media[path.relative_to(root).as_posix()] = path
    return media
