"""Hollywood-2 and UCF-Sports: shots as folders of frames, watched while looking for actions.

    training|testing/SHOT/{images,maps,fixation}/PREFIX00001.png      or fixation/maps/PREFIX00001.mat

Hollywood-2: scenes of films, cut into shots of 1 to several hundred frames, a third of them shorter than 16. 747
training videos in 2,699 shots (192,661 frames), 884 test videos in 3,558 shots (244,860 frames). PREFIX of the shot
actioncliptrain00001_1 is actioncliptrain00001_.
UCF-Sports: 150 broadcast videos of 21 to 143 frames: 103 training videos (6,501 frames) and 47 test videos (2,929
frames). PREFIX of Diving-Side-005 is Diving-Side_005_.

Frames keep the numbers of the video that a shot was cut from, so a shot may start at any number. Densities of
shots without maps are computed from the fixations with the data sets' Gaussian.

Source: Mathe and Sminchisescu, "Actions in the Eye", TPAMI 2015; frames and maps as distributed in video saliency
research.
"""

import re
from functools import partial
from pathlib import Path

from distill.data.sets.dataset import DataSet, Layout, VideoProbe
from distill.data.truth import MapsTruth
from distill.data.video.folder_probe import FolderProbe
from distill.errors import UserError

FOLDERS = {"train": ("training",), "test": ("testing",), "all": ("training", "testing")}

SIGMA = 20.0
"""Standard deviation of the Gaussian behind both data sets' maps, in pixels of the shot (window 150)."""


def find(root: Path, *, shot: re.Pattern[str], published: dict[str, int]) -> Layout:
    """Return the layout of a folder of shots.

    Args:
        root: the folder.
        shot: pattern of the names of the shots' folders.
        published: number of shots per split.
    """
    shots = find_shots(root, shot)
    return Layout(
        "frames in training|testing/SHOT/images/",
        media={name: folder / "images" for name, folder in shots.items()},
        members={
            split: [name for name, folder in shots.items() if folder.parent.name in halves]
            for split, halves in FOLDERS.items()
        },
        published=published,
        truth_of=lambda name, probe: _truth(shots[name], probe),
    )


def find_shots(root: Path, shot: re.Pattern[str]) -> dict[str, Path]:
    """Return the folder of each shot by name."""
    images = [p for half in FOLDERS["all"] for p in (root / half).glob("*/images") if shot.fullmatch(p.parent.name)]
    return {folder.parent.name: folder.parent for folder in images}


def _truth(folder: Path, probe: VideoProbe) -> MapsTruth | None:
    """Return the ground truth of a shot, if it has any.

    Raises:
        UserError: if the frames are not numbered consecutively, because maps are matched to frames by number.
    """
    if not (folder / "maps").is_dir() and not (folder / "fixation").is_dir():
        return None
    assert isinstance(probe, FolderProbe), "a shot is a folder of frames"
    if probe.gap or probe.stem is None:
        raise UserError(f"{folder / 'images'}/{probe.gap}")
    return MapsTruth(folder, probe.size, stem=probe.stem, first=probe.first, sigma=SIGMA)


HOLLYWOOD2_SHOT = re.compile(r"actionclip(?:auto)?(?:train|test)[0-9]+_[0-9]+")
UCF_SPORTS_SHOT = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*-[0-9]+")

HOLLYWOOD2 = DataSet(
    name="hollywood2",
    title="Hollywood-2",
    expected="training/actioncliptrain00001_1/images/ and testing/actioncliptest00001_1/images/",
    splits=tuple(FOLDERS),
    find=partial(find, shot=HOLLYWOOD2_SHOT, published={"train": 2699, "test": 3558, "all": 6257}),
    recognise=lambda root: bool(find_shots(root, HOLLYWOOD2_SHOT)),
    labelled=("train", "test"),
    recording=lambda name: name.rpartition("_")[0],
)

UCF_SPORTS = DataSet(
    name="ucf_sports",
    title="UCF-Sports",
    expected="training/Diving-Side-005/images/ and testing/Diving-Side-001/images/",
    splits=tuple(FOLDERS),
    find=partial(find, shot=UCF_SPORTS_SHOT, published={"train": 103, "test": 47, "all": 150}),
    recognise=lambda root: bool(find_shots(root, UCF_SPORTS_SHOT)),
    labelled=("train", "test"),
)
