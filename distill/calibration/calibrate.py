"""Adapt an exported model to other people, screens and content, with a few numbers fitted on their fixations.

    saldistill calibrate student.onnx --on ntire:MINE --videos 20 -o mine.onnx

    report = calibrate("student.onnx", "ntire:MINE", "mine.onnx", videos=20)
    print(report)

The numbers are folded into the graph, so that every runtime has them at no cost. A file is only written if it is
better in cross-validation.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.calibration.cross_validation import Gains, cross_validate, folds_of
from distill.calibration.fit import fit
from distill.calibration.graph import (
    append_calibration,
    load_source,
    motion_layers_of,
    save_calibrated,
    save_log_variant,
)
from distill.calibration.maps import calibrate_maps
from distill.calibration.numbers import Calibration
from distill.calibration.samples import (
    ALL_FRAMES,
    Sample,
    check_recordings,
    choose_frames,
    draw_videos,
    read_samples,
)
from distill.claims import claim
from distill.data.clips import Video
from distill.data.picture_hashes import content_hash
from distill.data.text import plural
from distill.data.video.names import is_image
from distill.errors import RunError, UserError
from distill.files import atomic_path, file_hash, temporary_folder
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.loaded import stride_of
from distill.models.onnx import OnnxModel, load_onnx
from distill.runtimes.onnx_check import check_file
from distill.training.sources import videos_of_argument

EVERY = 8
"""Default distance of the frames that are used: neighbours have almost the same map and fixations."""

MOTIONS = (1.0, 0.0, 0.5, 1.5)
"""Weights of motion to choose from; the one that changes nothing first."""

MAX_ERROR = 1e-4
"""Allowed difference of the file's maps from those of the fit, for maps whose maximum is 1."""

CHECKED_VIDEOS = 3
"""Number of videos on which they are compared."""

CHECKED_FRAMES = 8


@dataclass(frozen=True)
class CalibrationReport:
    """A calibrated file, and what it gained.

    Attributes:
        path: the file.
        calibration: its numbers.
        gains: scores before and after, cross-validated.
        on: the calibration data.
        videos: number of videos.
        frames: number of their frames.
        folds: number of folds.
        motion: why motion has no weight; empty if it was fitted.
        max_error: largest difference of the file's maps from those of the fit.
        seconds: how long it took.
    """

    path: Path
    calibration: Calibration
    gains: Gains
    on: str
    videos: int
    frames: int
    folds: int
    motion: str
    max_error: float
    seconds: float

    def __str__(self) -> str:
        made_on = f"{plural(self.videos, 'video')} ({plural(self.frames, 'frame')}) of {self.on}"
        lines = [f"{self.path}: calibrated on {made_on} in {self.seconds:.0f} s", ""]
        lines += number_lines(self.calibration)
        if self.motion:
            lines.append(f"motion is not fitted: {self.motion}")
        lines += ["", f"cross-validated in {self.folds} folds of other recordings, mean over videos:"]
        lines += self.gains.lines()
        low, high = self.gains.rows()["info_gain"]["interval"]
        if low <= 0 <= high:
            lines.append("the interval of the information gain includes 0: more videos would show whether it rises")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "path": self.path,
            "numbers": self.calibration.as_dict(),
            "gains": self.gains.rows(),
            "on": self.on,
            "videos": self.videos,
            "frames": self.frames,
            "folds": self.folds,
            "motion": self.motion,
            "max_error": self.max_error,
            "seconds": self.seconds,
        }


def number_lines(calibration: Calibration) -> list[str]:
    """Return a table of the numbers before and after."""

    def text(value: float | tuple[float, ...]) -> str:
        return "  ".join(f"{each:.3f}" for each in (value if isinstance(value, tuple) else (value,)))

    before, after = asdict(Calibration()), asdict(calibration)
    lines = [f"{'number':<14}{'before':<24}after"]
    lines += [
        f"{each.name:<14}{text(before[each.name]):<24}{text(after[each.name])}" for each in fields(calibration)
    ]
    return lines


def calibrate(
    source: str | Path,
    on: str,
    path: str | Path,
    *,
    split: str | None = None,
    videos: int | None = None,
    every: int = EVERY,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = True,
) -> CalibrationReport:
    """Write a calibrated model; `path` does not exist before every check has passed.

    The checks are a higher information gain in cross-validation, onnx.checker, and the maps in ONNX Runtime
    compared with those of the fit on real frames.

    Args:
        source: .onnx file of `saldistill export` or `quantize`, in any precision.
        on: videos or images with fixations, DATASET:ROOT or CONFIG.yaml for its test videos.
        path: .onnx file to write.
        split: split of the data set.
        videos: number of videos, drawn at random; defaults to all.
        every: use every n-th frame.
        seed: seed of the draw, the folds and the intervals.
        threads: CPU threads of the network; defaults to ONNX Runtime's choice.
        progress: show progress bars.

    Raises:
        UserError: the source is not an export or calibrated already, there are too few videos with fixations, or
            `path` exists or does not end in .onnx.
        RunError: the calibration is not better in cross-validation, or the file differs from the fit.
    """
    source, path = Path(source), Path(path)
    if path.suffix != ".onnx":
        raise UserError(f"{path}: expected a file name ending in .onnx")
    started = time.perf_counter()
    with claim(path, "the calibrated file"), temporary_folder(path) as folder:
        model = load_source(source, threads=threads)
        found = videos_of_argument(on, split=split)
        fixated = choose_frames(with_truth(found, on), every=every, most=ALL_FRAMES)
        chosen = choose_frames(draw_videos(fixated, videos, seed), every=1)
        where = f"{on}, split {split}" if split else on
        check_recordings(chosen, where)
        motions, why = motions_of(model, chosen)
        networks = log_variants(model, motions, folder, threads=threads)
        samples = read_samples(networks, chosen, progress=progress)
        check_recordings([sample.video for sample in samples], where)  # `crop` may cut off all fixations
        gains = cross_validate(samples, motions, seed=seed, progress=progress)
        check_better(gains, path)
        calibration = fit(samples, motions).rounded()
        record: dict[str, Any] = {
            "numbers": calibration.as_dict(),
            "of_sha256": file_hash(source),
            "on": where,
            "videos": [sample.video.name for sample in samples],
            "content": [
                content_hash(sample.video.path) for sample in samples
            ],  # for the leak check of a leaderboard
            "frames": sum(len(sample.video.frames) for sample in samples),
            "every": every,
            "seed": seed,
            "folds": len(folds_of(gains.recordings, seed)),
            "gains": gains.rows(),
        }
        error = _write(model, path, calibration, record, samples)
    return CalibrationReport(
        path=path,
        calibration=calibration,
        gains=gains,
        on=where,
        videos=len(samples),
        frames=record["frames"],
        folds=record["folds"],
        motion=why,
        max_error=error,
        seconds=time.perf_counter() - started,
    )


def check_better(gains: Gains, path: Path) -> None:
    """Raise a RunError if the information gain does not rise in cross-validation."""
    if not gains.better:
        row = gains.rows()["info_gain"]
        raise RunError(
            f"{path}: not written, because calibration does not help in cross-validation on "
            f"{plural(len(gains.recordings), 'video')}: information gain {row['before']:.4f} before, "
            f"{row['after']:.4f} after; use more videos, or the model as it is"
        )


def with_truth(videos: Sequence[Video], where: str) -> list[Video]:
    """Return the videos that have ground truth.

    Raises:
        UserError: none has.
    """
    found = [video for video in videos if video.truth is not None]
    if not found:
        raise UserError(f"{where}: no video has fixations to calibrate on; expected a data set or split with some")
    return found


def motions_of(model: OnnxModel, videos: Sequence[Video]) -> tuple[tuple[float, ...], str]:
    """Return the weights of motion to choose from, and why there is no choice; empty if there is one."""
    if not motion_layers_of(model):
        return MOTIONS[:1], "the file has no floating-point layers that read past features"
    if all(is_image(video.path) for video in videos):
        return MOTIONS[:1], "the data are still images"
    return MOTIONS, ""


def log_variants(
    model: OnnxModel, motions: Sequence[float], folder: Path, *, threads: int | None = None
) -> dict[float, OnnxModel]:
    """Write a file that returns log-saliency for each weight of motion, and return the loaded networks."""
    return {
        motion: save_log_variant(model, folder / f"motion-{number}.onnx", motion=motion, threads=threads)
        for number, motion in enumerate(motions)
    }


def _write(
    model: OnnxModel, path: Path, calibration: Calibration, record: dict[str, Any], samples: Sequence[Sample]
) -> float:
    """Write the file and return its largest difference from the fit on real frames."""
    with atomic_path(path, overwrite=False) as temporary:
        save_calibrated(append_calibration(model, calibration), temporary, model, record)
        check_file(temporary)
        written = load_onnx(temporary)
        error = max(difference(written, sample, calibration) for sample in samples[:CHECKED_VIDEOS])
        if not error <= MAX_ERROR:  # NaN fails too
            raise RunError(
                f"{path}: not written, because its maps differ by {error:.1e} from those that were fitted; at most "
                f"{MAX_ERROR} is allowed; report this with the file"
            )
    return error


def difference(written: OnnxModel, sample: Sample, calibration: Calibration) -> float:
    """Return the largest difference of a calibrated file's maps from a sample's, for maps whose maximum is 1."""
    frames = sample.video.frames[:CHECKED_FRAMES]
    settings = InferenceSettings(stride=stride_of(written.notes), device="cpu")
    found = torch.cat([maps for _, maps in slide(written, sample.video, frames, settings, whole=False)])
    expected = calibrate_maps(sample.maps[calibration.motion][: len(frames)], calibration)
    peaks = [each.double() - each.double().amax(dim=(-2, -1), keepdim=True) for each in (found, expected)]
    return float(np.abs(peaks[0].exp().numpy() - peaks[1].exp().numpy()).max())
