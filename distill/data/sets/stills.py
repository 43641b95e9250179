"""Still images with recorded gaze: each image is a video of one frame.

    SET/images/NAME.jpg
    SET/fixations.json        {"NAME": {"size": [height, width], "fixations": [[row, column], ...]}, ...}

The root is one set, or a folder of sets, whose images are then called `SET/NAME`. Fixations are those of all
observers together, in pixels of an image of `size`; repeated points count. If the image itself has another size of
the same aspect ratio, they are rescaled.

Densities take the set's published Gaussian, scaled to the image by the longest side. The sets that are known by the
name of their folder are those of NUS-VIP; others take MIT1003's, about one degree of visual angle, unless
fixations.json has a `sigma` in pixels for an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.sets.dataset import DataSet, Layout, VideoProbe, files_named
from distill.data.still_fixations import ListedPoints, PointSource, read_listed
from distill.data.still_truth import StillTruth
from distill.data.text import plural
from distill.data.video.names import IMAGE_SUFFIXES, natural
from distill.errors import UserError

EXPECTED = "images/ and fixations.json, or folders that have them"

SAME_ASPECT = 0.02
"""Largest relative difference between two aspect ratios that counts as rounding of the sides."""


@dataclass(frozen=True)
class Kernel:
    """A Gaussian of `sigma` pixels in images whose longest side has `side` pixels."""

    sigma: float
    side: int

    def sigma_for(self, size: tuple[int, int]) -> float:
        """Return the standard deviation in pixels of an image of (height, width)."""
        return self.sigma * max(size) / self.side


MIT1003_KERNEL = Kernel(24, 1024)
"""Judd et al., "Learning to Predict Where Humans Look", ICCV 2009: about one degree of visual angle."""

KERNELS = {
    "osie": Kernel(24, 800),  # config.m of NUS-VIP/predicting-human-gaze-beyond-pixels: eye.radius in 800 x 600
    "crowd": Kernel(26, 1024),  # config.m of NUS-VIP/saliency-in-crowd: eye.radius in 1024 x 768
    "scene": Kernel(8, 256),  # config.m of Yanakz/Scene: eye.radius, in images scaled to 256 x 256
}
"""The Gaussians of sets by the name of their folder, as the sets' own code defines them."""


@dataclass(frozen=True)
class StillSet:
    """The files of one set of stills.

    Attributes:
        title: description of the layout.
        images: name -> file of each image.
        sources: name -> fixations of each image that has any file of them.
        kernel: the set's Gaussian.
        missing: (name, message) of each image that the set lists but that does not exist.
    """

    title: str
    images: Mapping[str, Path]
    sources: Mapping[str, PointSource]
    kernel: Kernel
    missing: Sequence[tuple[str, str]] = field(default_factory=list)


def find(root: Path) -> Layout:
    """Return the layout of a set of stills, or of a folder of sets.

    Raises:
        UserError: if fixations cannot be read, or a set has none.
    """
    sets = find_sets(root)
    if not sets:
        return Layout("")
    named = {f"{prefix}{name}": (stills, name) for prefix, stills in sets.items() for name in stills.images}
    if "" in sets:
        title = sets[""].title
    else:
        counts = ", ".join(f"{prefix[:-1]} ({len(stills.images)})" for prefix, stills in sets.items())
        title = f"{plural(len(sets), 'set')} of still images: {counts}"
    return Layout(
        title,
        media={name: stills.images[own] for name, (stills, own) in named.items()},
        members={"all": list(named)},
        truth_of=lambda name, probe: _truth(*named[name], probe),
        missing=[
            ("all", f"{prefix}{name}", message)
            for prefix, stills in sets.items()
            for name, message in stills.missing
        ],
    )


def find_sets(root: Path) -> dict[str, StillSet]:
    """Return the sets at a root by the prefix of their images' names: "" for the root itself, or `SET/`."""
    if is_set(root):
        return {"": read_set(root)}
    return {f"{folder.name}/": read_set(folder) for folder in _folders(root) if is_set(folder)}


def recognise(root: Path) -> bool:
    """Whether a folder is a set of stills, or has folders that are."""
    return is_set(root) or any(is_set(folder) for folder in _folders(root))


def resembles(root: Path) -> bool:
    """Whether a folder has images without fixations, or a folder of it has."""
    return any(bool(files_named(folder / "images", IMAGE_SUFFIXES)) for folder in (root, *_folders(root)))


def is_set(folder: Path) -> bool:
    """Whether a folder is one set of stills."""
    return (folder / "fixations.json").is_file() and (folder / "images").is_dir()


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: natural(p.name))


def read_set(folder: Path) -> StillSet:
    """Return the images of a set and their fixations.

    Raises:
        UserError: if the fixations cannot be read, or no image has any.
    """
    listed = read_listed(folder / "fixations.json")
    images = named_images(files_named(folder / "images", IMAGE_SUFFIXES))
    name_of = {path.name: name for name, path in images.items()} | {name: name for name in images}
    sources = {name_of[key]: ListedPoints(folder / "fixations.json", key) for key in listed if key in name_of}
    if images and not any(len(listed[source.name].rows) for source in sources.values()):
        raise UserError(
            f"{folder / 'fixations.json'}: has no fixation for any of the {plural(len(images), 'image')} in "
            f"{folder / 'images'}; expected the images' names with their fixations"
        )
    return StillSet(
        "still images in images/, fixations in fixations.json",
        images,
        sources,
        KERNELS.get(folder.resolve().name.lower(), MIT1003_KERNEL),
        [
            (key, f"{folder / 'images'}/{key}: missing, but listed in fixations.json")
            for key in listed
            if key not in name_of
        ],
    )


def named_images(files: Sequence[Path]) -> dict[str, Path]:
    """Return images by name: without the suffix, or with it if another image has the same name."""
    images: dict[str, Path] = {}
    for path in files:
        images[path.name if path.stem in images else path.stem] = path
    return images


def _truth(stills: StillSet, name: str, probe: VideoProbe) -> StillTruth | None:
    """Return the ground truth of an image, if it has any.

    Raises:
        UserError: if its fixations were recorded on an image of another aspect ratio.
    """
    source = stills.sources.get(name)
    if source is None:
        return None
    found, size = source.read(), probe.size
    recorded = found.size or size
    ratio = (size[0] * recorded[1]) / (size[1] * recorded[0])
    if abs(ratio - 1) > SAME_ASPECT:
        raise UserError(
            f"{stills.images[name]}: has {size[1]} x {size[0]} pixels, but its fixations in {source.path} were "
            f"recorded at {recorded[1]} x {recorded[0]}; expected the same aspect ratio; use the image that "
            "observers saw, or correct its size in the file"
        )
    sigma = stills.kernel.sigma_for(size) if found.sigma is None else found.sigma * size[1] / recorded[1]
    return StillTruth(source, size, sigma, None if recorded == size else recorded)


STILLS = DataSet(
    name="stills",
    title="still images with gaze",
    expected=EXPECTED,
    splits=("all",),
    find=find,
    recognise=recognise,
    resembles=resembles,
    unit="image",
)
