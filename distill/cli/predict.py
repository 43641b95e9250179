"""`saldistill predict`: draw a model's maps over videos."""

import argparse

from distill.cli.options import add_inference, add_output, inference_settings
from distill.cli.verb import Verb
from distill.errors import UserError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.models.device import PRECISIONS

    parser.add_argument("model", metavar="MODEL", help="model to run (see: saldistill --help)")
    parser.add_argument("video", metavar="VIDEO", help="a video file, a folder of images, or a folder of videos")
    add_output(
        parser, "OUT", "overlay video to write, OUT.mp4; a folder if VIDEO is a folder of videos", required=False
    )
    parser.add_argument(
        "--maps", metavar="DIR", help="write one PNG per frame here (for a folder of videos: DIR/NAME/0001.png)"
    )
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="precision of the network")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    add_inference(parser)


def _run(arguments: argparse.Namespace) -> None:
    from distill.inference.folders import is_folder_of_videos, predict_folder
    from distill.inference.predict import predict
    from distill.models.references import load_model

    is_folder = is_folder_of_videos(arguments.video)
    if is_folder and arguments.overwrite:
        raise UserError(
            f"{arguments.video}: --overwrite does not apply to a folder of videos, where existing results are "
            "skipped; remove the results that should be recomputed"
        )
    settings = inference_settings(arguments, precision=arguments.precision)
    model = load_model(arguments.model, device=settings.device or "cpu")
    settings, results = settings.for_model(model), {"out": arguments.out, "maps": arguments.maps}
    if is_folder:
        print(predict_folder(model, arguments.video, settings, **results))
    else:
        print(predict(model.network, arguments.video, settings, **results, overwrite=arguments.overwrite))


PREDICT = Verb(
    "predict",
    "draw a model's maps over a video",
    "Predict a map for every frame of a video, including the first frames, or for every video in a folder. "
    "Existing results in a folder are skipped: after an interruption the same command resumes, and several shells "
    "or devices can share the work.",
    (
        "saldistill predict runs/demo/student VIDEO.mp4 -o overlay.mp4",
        "saldistill predict student.onnx VIDEO.mp4 -o overlay.mp4 --maps maps",
        "saldistill predict runs/demo/teacher VIDEOS -o overlays --maps maps --device cuda:1",
    ),
    _add_arguments,
    _run,
)
