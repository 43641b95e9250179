"""Score the network of a run on its validation videos."""

from dataclasses import replace

import torch

from distill.data.clips import Video
from distill.errors import UserError
from distill.evaluation.evaluate import evaluate
from distill.evaluation.map_sources import model_maps
from distill.evaluation.scores import Scores
from distill.inference.runtime import run_in
from distill.inference.settings import InferenceSettings
from distill.models.loaded import LoadedModel
from distill.training.config import RunConfig
from distill.training.pictures import ValidationPictures


def validate(
    config: RunConfig,
    model: LoadedModel,
    videos: list[Video],
    device: torch.device,
    runtime: str | None = None,
    pictures: ValidationPictures | None = None,
) -> Scores:
    """Return the validation scores; `how` names the runtime, which is PyTorch unless the run is in fp32.

    Args:
        config: the run.
        model: the model with the weights to score.
        videos: videos to score on.
        device: device of the model.
        runtime: what runs the network, see `InferenceSettings`.
        pictures: keeps the maps of some of the frames.
    """
    metrics = tuple(dict.fromkeys(("nss", "cc", config.training.best)))
    settings = InferenceSettings(
        batch_size=config.training.batch_size,
        stride=config.data.stride,
        device=device,
        runtime=runtime if config.training.precision == "fp32" else None,
    )
    running = run_in(model, settings, frames=sum(len(video.frames) for video in videos), example=videos[0].path)
    maps = model_maps(running.network, running.settings)
    maps = maps if pictures is None else pictures.keeping(maps)
    scores = evaluate(maps, videos, metrics=metrics, progress=False)
    return replace(scores, how=scores.how | {"runtime": running.runtime})


def check_runtime(config: RunConfig, runtime: str | None) -> None:
    """Check at the start of a run that the runtime named for its validation supports its precision.

    Raises:
        UserError: it does not.
    """
    if runtime in ("onnx", "openvino") and config.training.precision != "fp32":
        raise UserError(
            f"--runtime {runtime}: exported networks run in fp32, and training.precision is "
            f"{config.training.precision}; use --runtime auto"
        )
