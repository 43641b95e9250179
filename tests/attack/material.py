"""Small good inputs, made once with the commands themselves: videos, data sets, runs, a target store, an export."""

import json
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import yaml
from helpers.edge_models import small_stream
from helpers.video_files import encode
from PIL import Image
from scipy.io import savemat

from attack.harness import Runner
from distill.models.weight_files import save_model

SIZE, FRAMES = (48, 64), 12
"""Height, width and number of frames of the videos."""

POINTS = [[[10 + n % 5, 20 + n], [30, 40 - n], [24, 32]] for n in range(FRAMES)]
"""Fixations of every video."""


@dataclass(frozen=True)
class Material:
    """Paths of good inputs; cases copy what they damage.

    Attributes:
        mp4, avi: a video as H.264 and as MPEG-4.
        frames: the same video as a folder of PNG files.
        videos: a folder of three videos.
        ntire, dhf1k: data sets, with fixations.json, and with maps/*.png and fixation/maps/*.mat.
        maps: saliency maps of the videos of `ntire`, as PNG files.
        train, distill: configs of a teacher on `ntire`, and of a student that learns from `store`.
        teacher, student: finished runs.
        store: a complete target store.
        model: weights of a streaming student whose maps depend on the frames.
        onnx: `model`, exported.
        pth: weights of the teacher with the authors' keys.
    """

    root: Path

    @property
    def mp4(self) -> Path:
        return self.videos / "a.mp4"

    @property
    def avi(self) -> Path:
        return self.videos / "b.avi"

    @property
    def best(self) -> Path:
        return self.student / "best.safetensors"

    @property
    def model(self) -> Path:
        return self.root / "model.safetensors"

    def __getattr__(self, name: str) -> Path:
        suffix = {"onnx": ".onnx", "pth": ".pth", "train": ".yaml", "distill": ".yaml"}.get(name, "")
        return self.root / f"{name}{suffix}"

    def config(self, name: str, out: object = "out", **changes: object) -> dict:
        """Return the content of a config with another run folder."""
        return {**yaml.safe_load((self.root / f"{name}.yaml").read_text()), "out": str(out), **changes}


def moving_pictures(seed: int = 0, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Return frames (H, W, 3) of noise with a moving bright square."""
    generator = np.random.default_rng(seed)
    ground = generator.integers(0, 120, (*size, 3), dtype=np.uint8)
    pictures = []
    for n in range(frames):
        picture = ground.copy()
        picture[5 + n : 17 + n, 8 + 2 * n : 24 + 2 * n] = (250, (200 - 9 * n) % 256, (30 + 15 * n) % 256)
        pictures.append(picture)
    return pictures


def video(path: Path, seed: int = 0, **options: object) -> Path:
    """Write a video: H.264, or MPEG-4 in an .avi file."""
    codec = "mpeg4" if path.suffix.lower() == ".avi" else "libx264"
    return encode(path, moving_pictures(seed, **options), codec=codec, rate=Fraction(30))


def picture_folder(path: Path, seed: int = 0) -> Path:
    """Write a video as a folder of PNG files."""
    path.mkdir(parents=True)
    for n, picture in enumerate(moving_pictures(seed), 1):
        Image.fromarray(picture).save(path / f"{n:04d}.png")
    return path


def make_ntire(root: Path) -> None:
    """Write a data set of two videos in the layout of the challenges."""
    (root / "Videos").mkdir(parents=True)
    for n, name in enumerate(("one", "two")):
        video(root / "Videos" / f"{name}.mp4", n)
        folder = root / "FixationsTrain" / "Train" / name
        folder.mkdir(parents=True)
        (folder / "fixations.json").write_text(json.dumps(POINTS))
    (root / "TrainTestSplit.json").write_text(json.dumps({"train": ["one.mp4"], "public_test": ["two.mp4"]}))


def make_dhf1k(root: Path) -> None:
    """Write a data set of one video with ground truth as images and .mat files."""
    (root / "video").mkdir(parents=True)
    video(root / "video" / "001.AVI")
    folder = root / "annotation" / "0001"
    for name in ("maps", "fixation/maps"):
        (folder / name).mkdir(parents=True)
    for n, points in enumerate(POINTS, 1):
        binary = np.zeros(SIZE, np.uint8)
        binary[tuple(np.array(points).T)] = 1
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        density = sum(np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / 40) for r, c in points)
        Image.fromarray(np.uint8(255 * density / density.max())).save(folder / f"maps/{n:04d}.png")
        savemat(folder / f"fixation/maps/{n:04d}.mat", {"I": binary})


def make_configs(root: Path) -> None:
    """Write the configs of a teacher and of a student."""
    source = {"dataset": "ntire", "root": str(root / "ntire"), "clips_per_video": 4}
    scored = {"dataset": "ntire", "root": str(root / "ntire"), "split": "public_test", "every": 4}
    common = {
        "device": "cpu",
        "data": {"workers": 0, "flip": False, "train": [source], "validation": [scored]},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "training": {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "ema": 0.9},
    }
    teacher = {**common, "model": {"name": "teacher/salfom", "variant": "micro"}, "losses": [{"name": "kldiv"}]}
    student = {
        **common,
        "model": {"name": "student/stream", "variant": "micro"},
        "teacher": {"model": str(root / "teacher"), "store": str(root / "store"), "batch_size": 4},
        "losses": [{"name": "kldiv"}, {"name": "kldiv", "against": "teacher"}],
    }
    for name, config in (("train", teacher), ("distill", student)):
        (root / f"{name}.yaml").write_text(yaml.safe_dump({"out": str(root / "unused"), **config}))


def make(runner: Runner, root: Path) -> Material:
    """Make all material in a new folder."""
    material = Material(root)
    material.videos.mkdir(parents=True)
    video(material.mp4)
    video(material.avi)
    video(material.videos / "c.mp4", 1)
    picture_folder(material.frames)
    make_ntire(root / "ntire")
    make_dhf1k(root / "dhf1k")
    make_configs(root)
    for name in ("one", "two"):
        shutil.copytree(root / "dhf1k/annotation/0001/maps", root / "maps" / name)

    def run(*argv: object) -> None:
        runner.command(*argv, folder=root)

    run("train", material.train, f"out={material.teacher}")
    run("cache", "build", material.distill)
    run("distill", material.distill, f"out={material.student}")
    save_model(small_stream(), material.model)
    run("export", material.model, "-o", material.onnx)
    run("models", "teacher/salfom:micro", "--to-published", material.teacher, material.pth)
    return material
