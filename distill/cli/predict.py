"""`saldistill predict`: draw a model's maps over videos."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.options import add_inference, add_list, add_output, add_runtime, inference_settings, share
from distill.cli.output import print_result
from distill.cli.verb import Verb
from distill.errors import UserError

if TYPE_CHECKING:
    from distill.inference.outputs import OutputSettings
    from distill.inference.predict import Prediction
    from distill.inference.settings import InferenceSettings
    from distill.models.loaded import LoadedModel


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.inference.outputs import MAP_FORMS
    from distill.inference.overlay import STYLES
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
        "--stills (default without other outputs: NAME-saliency.mp4, NAME-saliency.png or NAME-saliency in this "
        "folder)",
        required=False,
    )
    parser.add_argument(
        "--maps",
        metavar="DIR",
        help="write one map per frame here (for a folder of videos: DIR/NAME/0001.png), or the video DIR.mp4",
    )
    parser.add_argument("--maps-as", choices=tuple(MAP_FORMS), help="form of the maps, listed below (default: png)")
    parser.add_argument(
        "--csv", metavar="FILE", help="write a table here, one row per frame (for a folder of videos: a folder)"
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the peak's position over time here")
    parser.add_argument("--style", choices=tuple(STYLES), default="heat", help="style of the overlay, listed below")
    parser.add_argument(
        "--colours", metavar="NAME", default="inferno", help="colour map, e.g. inferno, viridis, turbo or grey"
    )
    parser.add_argument(
        "--opacity", type=share, metavar="X", default=0.7, help="opacity of the hottest spot, from 0 to 1"
    )
    parser.add_argument("--no-sound", action="store_true", help="leave the sound of VIDEO out of the overlay")
    parser.add_argument(
        "--stills",
        action="store_true",
        help="predict the images in the folder VIDEO as separate stills of any size, not as frames of one video",
    )
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="precision of the network")
    parser.add_argument("--overwrite", action="store_true", help="replace existing outputs")
    add_inference(parser)
    add_runtime(parser)
    add_list(parser, "--maps-as", MAP_FORMS)
    add_list(parser, "--style", STYLES)


def _run(arguments: argparse.Namespace) -> None:
    from distill.inference.folders import is_folder_of_videos, predict_folder
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
    settings, outputs = settings.for_model(model), output_settings(arguments)
    results = {"out": arguments.out, "maps": arguments.maps, "csv": arguments.csv}
    if not any(results.values()) and not arguments.plot:
        results["out"] = default_output(arguments.video, is_folder=is_folder)
    if is_folder:
        if arguments.plot:
            raise UserError(f"{arguments.video}: --plot draws one video, and this is a folder of several")
        stills = arguments.stills
        work = predict_folder(model, arguments.video, settings, **results, outputs=outputs, stills=stills)
        print_result(arguments, work)
        return
    print_result(arguments, predict_one(model, arguments, settings, outputs, results))


def predict_one(
    model: "LoadedModel",
    arguments: argparse.Namespace,
    settings: "InferenceSettings",
    outputs: "OutputSettings",
    results: dict[str, str | None],
) -> "Prediction":
    """Predict one video or image into the paths in `results`, and draw the plot."""
    from distill.claims import OVERWRITE, claim
    from distill.inference.predict import predict
    from distill.reports.peaks import plot_peaks

    plot, overwrite = arguments.plot, arguments.overwrite
    if plot is not None and Path(plot).suffix.lower() != ".svg":
        raise UserError(f"{plot}: expected the name of a picture, ending in .svg")
    with ExitStack() as claims:
        if plot is not None:
            claims.enter_context(claim(plot, "the plot", overwrite=overwrite, remedy=OVERWRITE))
        done = predict(
            model,
            arguments.video,
            settings,
            out=results["out"],
            maps=results["maps"],
            csv=results["csv"],
            outputs=outputs,
            overwrite=overwrite,
            table=plot is not None,
        )
        if plot is not None:
            plot_peaks(plot, done.rows, done.size, title=Path(arguments.video).name, overwrite=overwrite)
    return done


def output_settings(arguments: argparse.Namespace) -> "OutputSettings":
    """Return how the results are written."""
    from distill.inference.outputs import OutputSettings, map_form_of
    from distill.inference.overlay import DrawSettings

    return OutputSettings(
        draw=DrawSettings(style=arguments.style, colours=arguments.colours, opacity=arguments.opacity),
        map_form=arguments.maps_as or map_form_of(arguments.maps),
        sound=not arguments.no_sound,
    )


def check_is_video(argument: str) -> None:
    """Check that the only argument of `saldistill predict` is not a model.

    Raises:
        UserError: it is a model, so that the video is missing.
    """
    from distill.evaluation.references import RUN_FILES
    from distill.models.hub import PREFIX
    from distill.models.networks import PACKAGES
    from distill.models.pretrained import is_pretrained

    path = Path(argument)
    is_run = path.is_dir() and any((path / name).exists() for name in RUN_FILES)
    is_name = not path.exists() and (
        is_pretrained(argument) or argument.startswith(tuple(f"{p}/" for p in PACKAGES))
    )
    if is_run or is_name or argument.startswith(PREFIX) or path.suffix in (".onnx", ".safetensors"):
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
        "saldistill predict VIDEO.mp4 -o lines.mp4 --style contour --colours viridis --csv gaze.csv",
        "saldistill predict IMAGE.jpg -o overlay.png",
        "saldistill predict IMAGES --stills -o overlays --maps maps",
        "saldistill predict student.onnx VIDEO.mp4 -o overlay.mp4 --maps maps",
        "saldistill predict runs/demo/teacher VIDEOS -o overlays --maps maps --device cuda:1",
    ),
    _add_arguments,
    _run,
    "frames, size, seconds, runtime, out, maps and csv; for a folder: seconds, frames, made, skipped, elsewhere, "
    "failed, unit and runtime",
)
