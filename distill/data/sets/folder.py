"""A plain folder of videos and folders of frames without ground truth, e.g. to be labelled by a teacher."""

from pathlib import Path

from distill.data.sets.dataset import DataSet, Layout, holds_frames
from distill.data.video.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, describe, walk
from distill.errors import UserError


def find(root: Path) -> Layout:
    """Return the videos in a folder and its subfolders, or a single video file.

    Raises:
        UserError: if there is no video and no frame.
    """
    if not root.exists():
        raise UserError(f"{root}: no such file or folder; expected videos or folders of frames")
    media = find_media(root)
    if not media:
        raise UserError(
            f"{root}: expected videos ({', '.join(VIDEO_SUFFIXES)}) or folders of frames "
            f"({', '.join(IMAGE_SUFFIXES)}) in this folder; found {describe(root)}"
        )
    files = sum(path.is_file() for path in media.values())
    title = f"{files} video files and {len(media) - files} folders of frames, without ground truth"
    return Layout(title, media=media, members={"all": list(media)})


def find_media(root: Path) -> dict[str, Path]:
    """Return the videos and folders of frames at and below a path, by name, without hidden ones.

    A video's name is its relative path without the suffix, or with it if another video has the same name.
    """
    if root.is_file():
        return {root.stem: root}
    media: dict[str, Path] = {root.resolve().name: root} if holds_frames(root) else {}
    folders = list(walk(root, links=False))
    for path in sorted(
        [*(folder for folder, _ in folders[1:]), *(f / name for f, names in folders for name in names)]
    ):
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            relative = path.relative_to(root)
            name = relative.with_suffix("").as_posix()
            media[relative.as_posix() if name in media else name] = path
        elif holds_frames(path):
            media[path.relative_to(root).as_posix()] = path
    return media


FOLDER = DataSet(
    name="folder",
    title="any folder of videos",
    expected="videos or folders of frames",
    splits=("all",),
    find=find,
    at_address=True,
)
