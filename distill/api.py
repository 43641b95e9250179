"""The functions that `import distill` offers: the verbs of the command line, for use from Python.

They take names and paths as the command line does, e.g. `stream-small`, `runs/demo/student` or `dhf1k:@sample`, and
raise UserError where the command prints a message and exits with code 2. The modules behind them take settings in
more detail; they may change between versions, while the functions here are stable.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from distill.extras import extras_named
from distill.models.pretrained import DEFAULT_MODEL
from distill.shipped import shipped_argument, shipped_path

if TYPE_CHECKING:
    from distill.benchmark.conform import Conformance
    from distill.deploy.export_format import FormatReport
    from distill.evaluation.scores import Scores
    from distill.inference.predict import Prediction
    from distill.inference.predictor import Predictor
    from distill.release.push import Pushed
    from distill.runtimes.export import ExportReport

P = ParamSpec("P")
R = TypeVar("R")


def _public(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that names the extra to install if an optional package is missing."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with extras_named():
            return function(*args, **kwargs)

    return call


def list_models() -> list[str]:
    """Return the names of all models, pretrained ones first, e.g. `stream-small` and `teacher/salfom:base`.

    Every name is a model for `load`, `predict`, `evaluate` and `export`. Networks with a variant have random
    weights.

    Examples:
        >>> distill.list_models()[:2]
        ['stream-nano', 'stream-small']
    """
    from distill.models.networks import list_models
    from distill.models.pretrained import pretrained_models
    from distill.models.registry import list_variants

    networks = [f"{name}:{variant}" for name in list_models() for variant in list_variants(name)]
    return [*pretrained_models(), *networks]


def load(model: str | Path = DEFAULT_MODEL, *, device: str = "auto") -> "Predictor":
    """Load a model to predict videos as arrays.

    Args:
        model: a pretrained model such as `stream-small`, a run folder, a weight file, an exported .onnx file, a
            repository of the Hugging Face Hub, `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, or a network such
            as `teacher/salfom:tiny`.
        device: `auto` for a GPU if there is one, `cpu`, `cuda` or `cuda:1`.

    Returns:
        A Predictor: `predict(video)` returns the maps (frames, h, w), float32 in [0, 1], of a video file, a folder
        of frames, an image, or frames (n, H, W, 3) uint8 RGB; `iterate(video)` yields one map at a time.

    Raises:
        UserError: there is no such model or device.

    Examples:
        >>> model = distill.load("stream-nano")
        >>> maps = model.predict(np.zeros((2, 90, 160, 3), np.uint8))
        >>> maps.shape, maps.dtype
        ((2, 40, 64), dtype('float32'))
    """
    from distill.inference import predictor

    return predictor.load(model, device=device)


@_public
def predict(
    video: str | Path,
    model: str | Path = DEFAULT_MODEL,
    *,
    out: str | Path | None = None,
    maps: str | Path | None = None,
    csv: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> "Prediction":
    """Predict every frame of a video or image, and write the results to files.

    `load(model).predict(video)` returns the maps as an array instead.

    Args:
        video: a video file, a folder of frames, or an image.
        model: as for `load`.
        out: overlay to write, an .mp4, or a .png for an image.
        maps: folder to write one PNG per frame to, 0001.png first, or a video.
        csv: table to write, one row per frame: peak, centre, spread, entropy, scene cuts.
        device: as for `load`.
        overwrite: replace existing outputs.

    Returns:
        The number of frames, their size, the duration in seconds, the paths written and the runtime.

    Raises:
        UserError: no output is named, an output exists, or the video or the model cannot be read.

    Examples:
        >>> done = distill.predict("@sample/video/068.AVI", "stream-nano", csv="068.csv")
        >>> done.frames, done.size
        (540, (360, 640))
    """
    from distill.inference.outputs import OutputSettings, map_form_of
    from distill.inference.predict import predict
    from distill.inference.settings import InferenceSettings
    from distill.models.references import load_model

    settings = InferenceSettings(stride=None, device=device, runtime="auto")
    loaded = load_model(model, device=settings.device or "cpu")
    return predict(
        loaded,
        shipped_path(video),
        settings.for_model(loaded),
        out=out,
        maps=maps,
        csv=csv,
        outputs=OutputSettings(map_form=map_form_of(maps)),
        overwrite=overwrite,
    )


@_public
def evaluate(
    model: str | Path,
    data: str,
    *,
    split: str | None = None,
    videos: Sequence[str] | None = None,
    frames: tuple[int, int] | None = None,
    every: int = 1,
    metrics: Sequence[str] | None = None,
    protocol: str = "official",
    device: str = "auto",
) -> "Scores":
    """Score a model, a baseline or a folder of saliency maps against ground truth.

    Args:
        model: as for `load`; a baseline such as `centre-prior`; `observers` for the agreement of observers; or a
            folder of saliency maps that other software wrote (DIR/VIDEO/0001.png).
        data: DATASET:ROOT, e.g. `dhf1k:DHF1K`, or a config, for its test videos.
        split: split of the data set; all videos by default.
        videos: names of videos; all by default.
        frames: first and last frame, counted from 1; all by default.
        every: score every n-th frame.
        metrics: names of metrics, e.g. `["nss", "cc"]`; those of the protocol by default.
        protocol: `official`, or the name of another way to score (`saldistill evaluate --help`).
        device: as for `load`.

    Returns:
        Scores by frame, with means `pooled`, `per_video` and `by_video`, and `table()` with 95% intervals.

    Raises:
        UserError: an argument is invalid, or the data has no ground truth.

    Examples:
        >>> scores = distill.evaluate("centre-prior", "dhf1k:@sample", videos=["002"], frames=(601, 783), every=20)
        >>> len(scores.rows), round(scores.pooled["nss"], 1)
        (10, 2.9)
    """
    from distill.data.video.guard import cores
    from distill.evaluation.references import score
    from distill.inference.settings import InferenceSettings
    from distill.training.sources import videos_of_argument

    chosen = videos_of_argument(
        shipped_argument(data), split=split, videos=None if videos is None else list(videos), frames=frames
    )
    settings = InferenceSettings(stride=None, device=device, runtime="auto")
    scores, _ = score(model, chosen, settings, every=every, metrics=metrics, protocol=protocol, workers=cores())
    return scores


@_public
def train(config: str | Path, overrides: Mapping[str, Any] | None = None) -> Path:
    """Run a config: train a teacher, train a student, or distil one.

    Args:
        config: path of a YAML file, or the name of a shipped config such as `@teacher/demo`.
        overrides: config keys to override, e.g. `{"out": "runs/short", "training.steps": 50}`.

    Returns:
        The run folder, which is a model for `load`.

    Raises:
        UserError: the config is invalid; the message lists every mistake.
        RunError: the loss became NaN.

    Examples:
        >>> short = {"out": "runs/short", "training.steps": 1, "training.batch_size": 1}
        >>> distill.train("@teacher/demo", {**short, "training.validate_every": None, "data.validation": []})
        PosixPath('runs/short')
    """
    from distill.training.config import load_config
    from distill.training.train import train

    return train(load_config(config, _as_texts(overrides)))


@_public
def build_targets(config: str | Path, overrides: Mapping[str, Any] | None = None) -> list[Path]:
    """Compute the maps of a config's teachers for its training videos, and store them; resumes what is there.

    Args:
        config: as for `train`; each teacher needs `model` and `store`.
        overrides: as for `train`.

    Returns:
        The folder of the target store of each teacher.

    Raises:
        UserError: the config is invalid, or a store belongs to another teacher or other videos.
    """
    from distill.training.config import load_config
    from distill.training.setup import build_stores

    return [Path(store.path) for store in build_stores(load_config(config, _as_texts(overrides)))]


@_public
def export(
    model: str | Path,
    out: str | Path,
    *,
    on: str | Path | None = None,
    format: str = "onnx",
    precision: str = "fp32",
    kit: str | Path | None = None,
) -> "ExportReport | FormatReport":
    """Write a model as an .onnx file, or for another runtime, that appears only if its maps equal PyTorch's.

    Args:
        model: as for `load`, but not an .onnx file.
        out: file to write, with the suffix of the format.
        on: video whose frames are compared, and which int8 is calibrated on; by default generated frames for onnx,
            the sample video for other formats.
        format: `onnx`, `openvino`, `litert`, `executorch`, `ncnn` or `mnn`.
        precision: `fp32`, or `fp16` or `int8` if the format has them.
        kit: new folder for golden vectors, with which `conform` checks any export of the model.

    Returns:
        The files, their metadata, and the largest difference from PyTorch.

    Raises:
        UserError: the file exists, the format or its packages lack something, or the maps differ from PyTorch's.
    """
    from distill.deploy.export_format import export_model

    return export_model(model, out, file_format=format, precision=precision, on=on, kit=kit)


@_public
def conform(
    model: str | Path,
    *,
    kit: str | Path | None = None,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
) -> "Conformance":
    """Replay golden vectors in every installed runtime that reads a file, and compare the maps with PyTorch's.

    Args:
        model: an exported file, or a kit, whose files are in it or next to it.
        kit: kit of the file; defaults to `model` + ".kit", or the folder of the file.
        runtimes: names of runtimes, of those of `saldistill conform --runtime`; defaults to all that are installed.
        threads: CPU threads per call.

    Returns:
        A list of one dict per file and runtime, whose `verdict` is "pass" or "fail"; printed, it is a table.

    Raises:
        UserError: there is no kit, it belongs to another model, or a runtime is unknown or not installed.
    """
    from distill.benchmark.conform import conform

    return conform(model, kit=kit, runtimes=runtimes, threads=threads)


@_public
def push(
    run: str | Path,
    repository: str,
    *,
    revision: str = "main",
    message: str | None = None,
    private: bool = False,
    onnx: bool = True,
    licence: str | None = None,
    overwrite: bool = False,
    dry_run: str | Path | None = None,
) -> "Pushed":
    """Upload weights, config, model card and .onnx file of a model to the Hugging Face Hub, in one commit.

    Args:
        run: a run folder, a weight file or a pretrained model.
        repository: `OWNER/NAME`; created if it does not exist.
        revision: branch to commit to.
        message: message of the commit.
        private: create a private repository.
        onnx: also upload the exported network, if it can be exported.
        licence: licence of the weights; defaults to that in their notes.
        overwrite: also push to a repository that holds something else; its other files are kept.
        dry_run: new folder to write the files to, in place of an upload.

    Returns:
        The repository, the commit, the files, and `reference`, with which `load` loads this version.

    Raises:
        UserError: there are no weights, nobody is logged in, this account may not write there, or the hub cannot be
            reached.

    Examples:
        >>> pushed = distill.push("stream-nano", "me/nano", dry_run="upload")
        >>> list(pushed.files)
        ['model.safetensors', 'model.onnx', 'saldistill.json', 'README.md']
    """
    from distill.release.push import push

    return push(
        run,
        repository,
        revision=revision,
        message=message,
        private=private,
        onnx=onnx,
        licence=licence,
        overwrite=overwrite,
        dry_run=dry_run,
    )


def _as_texts(overrides: Mapping[str, Any] | None) -> list[str]:
    """Return overrides as the command line takes them: `key=value` with a YAML value."""
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (overrides or {}).items()]
