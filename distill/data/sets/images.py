"""Separate still images in a folder and its subfolders, without ground truth, e.g. to be labelled by a teacher."""

from pathlib import Path

from distill.data.sets.dataset import DataSet, Layout
from distill.data.text import plural
from distill.data.video.names import IMAGE_SUFFIXES, describe, is_image, walk
from distill.errors import UserError


def find(root: Path) -> Layout:
    """Return the images in a folder and its subfolders, or a single image.

    Raises:
        UserError: if there is no image.
    """
    if not root.exists():
        raise UserError(f"{root}: no such file or folder; expected images")
    media = find_images(root)
    if not media:
        raise UserError(
            f"{root}: expected images ({', '.join(IMAGE_SUFFIXES)}) in this folder; found {describe(root)}"
        )
    title = f"{plural(len(media), 'still image')} without ground truth"
    return Layout(title, media=media, members={"all": list(media)})


def find_images(root: Path) -> dict[str, Path]:
    """Return the images at and below a path by name, without hidden ones.

    An image's name is its relative path without the suffix, or with it if another image has the same name.
    """
    if root.is_file():
        return {root.stem: root} if is_image(root) else {}
    images: dict[str, Path] = {}
    for path in sorted(folder / name for folder, names in walk(root, links=False) for name in names):
        if is_image(path) and path.is_file():
            relative = path.relative_to(root)
            name = relative.with_suffix("").as_posix()
            images[relative.as_posix() if name in images else name] = path
    return images


IMAGES = DataSet(
    name="images",
    title="any folder of still images",
    expected="images in this folder or its subfolders",
    splits=("all",),
    find=find,
    unit="image",
)
