"""Still images with recorded gaze: each image is a video of one frame.

    SET/images/NAME.jpg
    SET/fixations.json        {"NAME": {"size": [height, width], "fixations": [[row, column], ...]}, ...}

The other layouts are in `still_layouts.py`. The root is one set, or a folder of sets, whose images are then called
`SET/NAME`. Fixations are those of all observers together, in pixels of an image of `size`; repeated points count.
If the image itself has another size of the same aspect ratio, they are rescaled.

Densities are the published maps, or take the set's published Gaussian, scaled to the image by its longest side. The
Gaussian is known by the set's layout or by the name of its folder. Others take MIT1003's, about one degree of
visual angle, unless fixations.json has a `sigma` in pixels for an image.
"""

from pathlib import Path

from distill.data.sets.dataset import DataSet, Layout, VideoProbe
from distill.data.sets.still_layouts import StillSet, folders_in, is_set, read_sets
from distill.data.still_truth import StillTruth
from distill.data.text import plural
from distill.errors import UserError

SPLITS = ("train", "validation", "test", "all")

EXPECTED = (
    "images/ and fixations.json (or the layout of SALICON, MIT1003, CAT2000 or OSIE), or folders that have them"
)

IMAGE_FOLDERS = ("images", "ALLSTIMULI", "Stimuli", "stimuli", "data/stimuli")
"""Where the layouts have their images."""


def find(root: Path) -> Layout:
    """Return the layout of a set of stills, or of a folder of sets.

    Raises:
        UserError: if fixations cannot be read, or there are none at all.
    """
    sets = dict(read_sets(root))
    if not sets:
        if folders := [root / name for name in IMAGE_FOLDERS if (root / name).is_dir()]:
            raise UserError(f"{folders[0]}: no fixations next to this folder; expected stills, with {EXPECTED}")
        return Layout("")
    named = {f"{prefix}{name}": (stills, name) for prefix, stills in sets.items() for name in stills.images}
    if named and not any(_has_fixations(stills) for stills in sets.values()):
        raise UserError(
            f"{root}: has {plural(len(named), 'image')} but no fixation on any; expected fixations under the "
            "images' names; see docs/how-to/datasets.md for the layouts"
        )
    return Layout(
        _title(sets),
        media={name: stills.images[own] for name, (stills, own) in named.items()},
        members=_members(sets),
        published=_published(sets),
        truth_of=lambda name, probe: _truth(*named[name], probe),
        missing=[
            ("all", f"{prefix}{name}", message)
            for prefix, stills in sets.items()
            for name, message in stills.missing
        ],
    )


def _title(sets: dict[str, StillSet]) -> str:
    if "" in sets:
        return sets[""].title
    counts = ", ".join(f"{prefix[:-1]} ({len(stills.images)})" for prefix, stills in sets.items())
    return f"{plural(len(sets), 'set')} of still images: {counts}"


def _members(sets: dict[str, StillSet]) -> dict[str, list[str]]:
    """Return the names of each split; a folder of sets has splits if all of its sets have them."""
    splits: dict[str, list[str]] = {}
    if all(stills.splits for stills in sets.values()):
        for split in SPLITS[:-1]:
            names = [f"{prefix}{n}" for prefix, stills in sets.items() for n in stills.splits.get(split, ())]
            if names:
                splits[split] = names
    return {**splits, "all": [f"{prefix}{name}" for prefix, stills in sets.items() for name in stills.images]}


def _published(sets: dict[str, StillSet]) -> dict[str, int]:
    """Return the published number of images of each split, for one set or CAT2000's two folders."""
    published: dict[str, int] = {}
    for stills in sets.values():
        published |= stills.published
    return published if len({*published}) == sum(len(stills.published) for stills in sets.values()) else {}


def _has_fixations(stills: StillSet) -> bool:
    return any(not source.shared or len(source.read().rows) for source in stills.sources.values())


def _truth(stills: StillSet, name: str, probe: VideoProbe) -> StillTruth | None:
    """Return the ground truth of an image, if it has any.

    Raises:
        UserError: if its fixations, known by now, were recorded on an image of another aspect ratio.
    """
    source, size = stills.sources.get(name), probe.size
    if source is None:
        return None
    sigma = stills.kernel.sigma_for(size)
    if source.shared:
        found = source.read()
        found.at(size, source)
        if found.sigma is not None:
            sigma = found.sigma * size[1] / (found.size or size)[1]
    return StillTruth(source, size, sigma, stills.maps.get(name))


def recognise(root: Path) -> bool:
    """Whether a folder is a set of stills, or has folders that are."""
    return is_set(root) or any(is_set(folder) for folder in folders_in(root))


STILLS = DataSet(
    name="stills",
    title="still images with gaze",
    expected=EXPECTED,
    splits=SPLITS,
    find=find,
    recognise=recognise,
    labelled=("train", "validation"),
    withheld="test",
    unit="image",
)
