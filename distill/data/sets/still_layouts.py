"""The layouts of sets of still images; each reader returns the set in a folder, or None.

    simple    images/NAME.jpg, fixations.json (see `stills.py`)
    SALICON   images/{train,val,test}/NAME.jpg, fixations/{train,val}/NAME.mat, maps/{train,val}/NAME.png
    MIT1003   ALLSTIMULI/NAME.jpeg, ALLFIXATIONMAPS/NAME_fixPts.jpg and NAME_fixMap.jpg
    CAT2000   Stimuli/CATEGORY/NAME.jpg, FIXATIONLOCS/CATEGORY/NAME.mat, FIXATIONMAPS/CATEGORY/NAME.jpg
    NUS-VIP   [data/]stimuli/NAME.jpg, [data/]eye/fixations.mat (OSIE, Crowd; there is also a copy of MIT1003)

CAT2000's images are padded with grey to 1920 x 1080. The borders stay, because observers saw them and the published
maps cover them.

To add a layout, write a reader and add it to READERS.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.data.mat_cells import read_cells
from distill.data.sets.dataset import files_named
from distill.data.still_fixations import (
    BinaryPoints,
    CellPoints,
    GazePoints,
    ListedPoints,
    PointSource,
    read_listed,
)
from distill.data.video.names import IMAGE_SUFFIXES, natural


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

SALICON_KERNEL = Kernel(19, 640)
"""Jiang et al., "SALICON: Saliency in Context", CVPR 2015; its maps are published."""

CAT2000_KERNEL = Kernel(38, 1920)
"""Borji and Itti, "CAT2000", CVPR 2015 workshop: one degree of visual angle; its maps are published."""

OSIE_KERNEL = Kernel(24, 800)
"""Xu et al., "Predicting human gaze beyond pixels", J. Vision 2014: `eye.radius` in the repository's config.m."""

CROWD_KERNEL = Kernel(26, 1024)
"""Jiang, Xu, Zhao, "Saliency in Crowd", ECCV 2014: `eye.radius` in the repository's config.m."""

SCENE_KERNEL = Kernel(8, 256)
"""Liang et al., SMC 2015: `eye.radius` in the config.m of Yanakz/Scene, for images scaled to 256 x 256."""

KERNELS = {
    "osie": OSIE_KERNEL,
    "predicting-human-gaze-beyond-pixels": OSIE_KERNEL,
    "crowd": CROWD_KERNEL,
    "saliency-in-crowd": CROWD_KERNEL,
    "scene": SCENE_KERNEL,
    "salicon": SALICON_KERNEL,
    "cat2000": CAT2000_KERNEL,
}
"""The Gaussians of known sets by the name of their folder, as their repositories are called too."""


@dataclass(frozen=True)
class StillSet:
    """The files of one set of stills.

    Attributes:
        title: description of the layout.
        images: name -> file of each image.
        sources: name -> fixations of each image that has any file of them.
        kernel: the set's Gaussian, for images without a published density.
        maps: name -> published density.
        splits: split -> names of its images; empty if the set has none.
        published: split -> number of images as published.
        missing: (name, message) of each image that the set lists but that does not exist.
    """

    title: str
    images: Mapping[str, Path]
    sources: Mapping[str, PointSource]
    kernel: Kernel
    maps: Mapping[str, Path] = field(default_factory=dict)
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)
    missing: Sequence[tuple[str, str]] = ()


def kernel_of(folder: Path) -> Kernel:
    """Return the Gaussian of a set by the name of its folder, or of the one above `data`; MIT1003's if unknown."""
    paths = (folder.absolute(), folder.resolve())  # the name of a link counts first
    names = [path.parent.name if path.name == "data" else path.name for path in paths]
    return next((KERNELS[name.lower()] for name in names if name.lower() in KERNELS), MIT1003_KERNEL)


def named_images(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return the images of a folder by name: without the suffix, or with it if another image has the same name."""
    images: dict[str, Path] = {}
    for path in files_named(folder, IMAGE_SUFFIXES):
        name = f"{prefix}{path.stem}"
        images[f"{prefix}{path.name}" if name in images else name] = path
    return images


def folders_in(root: Path) -> list[Path]:
    """Return the folders in a folder in natural order, without hidden ones."""
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.is_dir() and p.name[0] != "."), key=lambda p: natural(p.name))


def read_simple(root: Path) -> StillSet | None:
    """Read a set with one fixations.json.

    Raises:
        UserError: if the fixations cannot be read.
    """
    if not has_simple(root):
        return None
    images = named_images(root / "images")
    listed = read_listed(root / "fixations.json")
    sources, missing = _match(images, listed, lambda key: ListedPoints(root / "fixations.json", key))
    title = "still images in images/, fixations in fixations.json"
    messages = [(key, f"{root / 'images'}/{key}: missing, but listed in fixations.json") for key in missing]
    return StillSet(title, images, sources, kernel_of(root), missing=messages)


def has_simple(root: Path) -> bool:
    """Whether a folder has the simple layout."""
    return (root / "fixations.json").is_file() and (root / "images").is_dir()


def read_nus_vip(root: Path) -> StillSet | None:
    """Read a set of NUS-VIP's; the fixations may also lie next to stimuli/.

    Raises:
        UserError: if the fixations cannot be read.
    """
    found = _nus_vip_file(root)
    if found is None:
        return None
    stimuli, path = found
    images = named_images(stimuli)
    sources, missing = _match(images, read_cells(path), lambda key: CellPoints(path, key))
    title = f"NUS-VIP's layout, fixations in {path.relative_to(root)}"
    messages = [(key, f"{stimuli}/{key}: missing, but listed in {path.name}") for key in missing]
    return StillSet(title, images, sources, kernel_of(root), missing=messages)


def has_nus_vip(root: Path) -> bool:
    """Whether a folder has NUS-VIP's layout."""
    return _nus_vip_file(root) is not None


def _nus_vip_file(root: Path) -> tuple[Path, Path] | None:
    """Return the folder of the images and the file of the fixations."""
    for base in (root, root / "data"):
        for path in (base / "eye" / "fixations.mat", base / "fixations.mat"):
            if path.is_file() and (base / "stimuli").is_dir():
                return base / "stimuli", path
    return None


def read_salicon(root: Path) -> StillSet | None:
    """Read SALICON: `fixations` of the .mat files, not the raw mouse positions."""
    if not has_salicon(root):
        return None
    images: dict[str, Path] = {}
    sources: dict[str, PointSource] = {}
    maps: dict[str, Path] = {}
    splits = {}
    for part, split in SALICON_PARTS.items():
        found = named_images(root / "images" / part, f"{part}/")
        images |= found
        splits[split] = list(found)
        mats = _by_stem(root / "fixations" / part, (".mat",))
        densities = _by_stem(root / "maps" / part, IMAGE_SUFFIXES)
        for name, path in found.items():
            if path.stem in mats:
                sources[name] = GazePoints(mats[path.stem])
            if path.stem in densities:
                maps[name] = densities[path.stem]
    published = {"train": 10_000, "validation": 5_000, "test": 5_000}
    return StillSet("SALICON's layout", images, sources, SALICON_KERNEL, maps, splits, published)


SALICON_PARTS = {"train": "train", "val": "validation", "test": "test"}
"""Folder of each split."""


def has_salicon(root: Path) -> bool:
    """Whether a folder has SALICON's layout."""
    return any((root / "images" / part).is_dir() and (root / "fixations" / part).is_dir() for part in SALICON_PARTS)


def read_mit1003(root: Path) -> StillSet | None:
    """Read MIT1003: binary pictures of fixations, which cannot repeat a point, and maps."""
    if not has_mit1003(root):
        return None
    images = named_images(root / "ALLSTIMULI")
    pictures = _by_stem(root / "ALLFIXATIONMAPS", IMAGE_SUFFIXES)
    points, maps = (
        {name: pictures[path.stem + kind] for name, path in images.items() if path.stem + kind in pictures}
        for kind in ("_fixPts", "_fixMap")
    )
    sources = {name: BinaryPoints(path) for name, path in points.items()}
    return StillSet("MIT1003's layout", images, sources, MIT1003_KERNEL, maps, published={"all": 1003})


def has_mit1003(root: Path) -> bool:
    """Whether a folder has MIT1003's layout."""
    return (root / "ALLSTIMULI").is_dir() and (root / "ALLFIXATIONMAPS").is_dir()


def read_cat2000(root: Path) -> StillSet | None:
    """Read trainSet or testSet of CAT2000: binary fixations (`fixLocs`) and maps; testSet has neither."""
    if not has_cat2000(root):
        return None
    images: dict[str, Path] = {}
    sources: dict[str, PointSource] = {}
    maps: dict[str, Path] = {}
    for folder in folders_in(root / "Stimuli"):
        found = named_images(folder, f"{folder.name}/")
        images |= found
        mats = _by_stem(root / "FIXATIONLOCS" / folder.name, (".mat",))
        densities = _by_stem(root / "FIXATIONMAPS" / folder.name, IMAGE_SUFFIXES)
        for name, path in found.items():
            if path.stem in mats:
                sources[name] = BinaryPoints(mats[path.stem], "fixLocs")
            if path.stem in densities:
                maps[name] = densities[path.stem]
    split = "train" if (root / "FIXATIONLOCS").is_dir() else "test"
    title, splits = "CAT2000's layout", {split: list(images)}
    return StillSet(title, images, sources, CAT2000_KERNEL, maps, splits, published={split: 2000})


def has_cat2000(root: Path) -> bool:
    """Whether a folder has the layout of trainSet or testSet of CAT2000."""
    known = (root / "FIXATIONLOCS").is_dir() or root.name == "testSet"
    return known and any(True for _ in folders_in(root / "Stimuli"))


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder with one of the suffixes by their name without it."""
    return {path.stem: path for path in files_named(folder, suffixes)}


def _match(
    images: Mapping[str, Path], listed: Mapping[str, object], source: Callable[[str], PointSource]
) -> tuple[dict[str, PointSource], list[str]]:
    """Match listed names, with or without suffix, to images; return their sources and the names without image."""
    name_of = {path.name: name for name, path in images.items()} | {name: name for name in images}
    sources = {name_of[key]: source(key) for key in listed if key in name_of}
    return sources, [key for key in listed if key not in name_of]


READERS: dict[Callable[[Path], bool], Callable[[Path], StillSet | None]] = {
    has_simple: read_simple,
    has_salicon: read_salicon,
    has_mit1003: read_mit1003,
    has_cat2000: read_cat2000,
    has_nus_vip: read_nus_vip,
}
"""Whether a folder has a layout -> the reader of the layout."""


def is_set(root: Path) -> bool:
    """Whether a folder is one set of stills."""
    return any(has(root) for has in READERS)


def read_sets(root: Path) -> Iterator[tuple[str, StillSet]]:
    """Yield the sets at a root with the prefix of their images' names: "" for the root itself, else `FOLDER/`.

    Raises:
        UserError: if fixations cannot be read.
    """
    for folder, prefix in [(root, ""), *((each, f"{each.name}/") for each in folders_in(root))]:
        for read in READERS.values():
            if (found := read(folder)) is not None:
                yield prefix, found
                if not prefix:
                    return
                break
