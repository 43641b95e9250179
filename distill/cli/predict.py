"""`saldistill predict`: draw a model's maps over videos."""

import argparse
from pathlib import Path

from distill.cli.options import add_inference, add_output, inference_settings
from distill.cli.verb import Verb
from distill.errors import UserError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.models.device import PRECISIONS

    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="model to run (see: saldistill --help; default: stream-small, a pretrained student)",
    )
    parser.add_argument(
        "video", metavar="VIDEO", help="a video, an image, a folder of images, or a folder of videos"
    )
    add_output(
        parser,
        "OUT",
        "overlay to write, OUT.mp4, or OUT.png for an image; a folder if VIDEO is a folder of videos, or with "
        "--stills (default without --maps: NAME-saliency.mp4, NAME-saliency.png or NAME-saliency in this folder)",
        required=False,
    )
    parser.add_argument(
        "--maps", metavar="DIR", help="write one PNG per frame here (for a folder of videos: DIR/NAME/0001.png)"
    )
    parser.add_argument(
        "--stills",
        action="store_true",
        help="predict the images in the folder VIDEO as separate stills of any size, not as frames of one video",
    )
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="precision of the network")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    add_inference(parser)


def _run(arguments: argparse.Namespace) -> None:
    from distill.inference.folders import is_folder_of_videos, predict_folder
    from distill.inference.predict import predict
    from distill.models.pretrained import DEFAULT_MODEL
    from distill.models.references import load_model, load_pretrained

    if arguments.model is None:
        check_is_video(arguments.video)
    if arguments.stills and not Path(arguments.video).is_dir():
        raise UserError(f"{arguments.video}: --stills expects a folder of images; a single image needs no option")
    is_folder = arguments.stills or is_folder_of_videos(arguments.video)
    if is_folder and arguments.overwrite:
        raise UserError(
            f"{arguments.video}: --overwrite does not apply to a folder of videos or stills, where existing "
            "results are skipped; remove the results that should be recomputed"
        )
    settings = inference_settings(arguments, precision=arguments.precision)
    device = settings.device or "cpu"
    if arguments.model is None:
        model = load_pretrained(DEFAULT_MODEL, device=device)
    else:
        model = load_model(arguments.model, device=device)
    out = arguments.out
    if out is None and arguments.maps is None:
        out = default_output(arguments.video, is_folder=is_folder)
    settings, results = settings.for_model(model), {"out": out, "maps": arguments.maps}
    if is_folder:
        print(predict_folder(model, arguments.video, settings, **results, stills=arguments.stills))
    else:
        print(predict(model.network, arguments.video, settings, **results, overwrite=arguments.overwrite))


def check_is_video(argument: str) -> None:
    """Check that the only argument of `saldistill predict` is not a model.

    Raises:
        UserError: it is a model, so that the video is missing.
    """
    from distill.evaluation.references import RUN_FILES
    from distill.models.pretrained import is_pretrained
    from distill.models.registry import PACKAGES

    path = Path(argument)
    is_run = path.is_dir() and any((path / name).exists() for name in RUN_FILES)
    is_name = not path.exists() and (
        is_pretrained(argument) or argument.startswith(tuple(f"{p}/" for p in PACKAGES))
    )
    if is_run or is_name or path.suffix in (".onnx", ".safetensors"):
        raise UserError(
            f"{argument}: is a model, and the video is missing; expected a video, or a model and a video: "
            f"saldistill predict {argument} VIDEO"
        )


def default_output(video: str, *, is_folder: bool) -> str:
    """Return the name of the overlay in the working folder: NAME-saliency, a folder, video or picture."""
    from distill.data.video.names import is_image

    path = Path(video).resolve()
    name = path.name if path.is_dir() else path.stem
    suffix = ".png" if is_image(path) and not path.is_dir() else ".mp4"
    return f"{name}-saliency{'' if is_folder else suffix}"


PREDICT = Verb(
    "predict",
    "draw a model's maps over a video",
    "Predict a map for every frame of a video, including the first frames, for a still image, or for every video "
    "or image in a folder, with a pretrained student or another MODEL. "
    "Existing results in a folder are skipped: after an interruption the same command resumes, and several shells "
    "or devices can share the work.",
    (
        "saldistill predict VIDEO.mp4",
        "saldistill predict runs/demo/student VIDEO.mp4 -o overlay.mp4",
        "saldistill predict IMAGE.jpg -o overlay.png",
        "saldistill predict IMAGES --stills -o overlays --maps maps",
        "saldistill predict student.onnx VIDEO.mp4 -o overlay.mp4 --maps maps",
        "saldistill predict runs/demo/teacher VIDEOS -o overlays --maps maps --device cuda:1",
    ),
    _add_arguments,
    _run,
)
