"""`saldistill reframe`: crop videos to another aspect ratio, following what people look at."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from distill.cli.options import add_inference, add_runtime, aspect_ratio, inference_settings, names
from distill.cli.output import print_json, print_text
from distill.cli.verb import Verb
from distill.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distill.data.clips import Video
    from distill.evaluation.crop_scores import Kept
    from distill.inference.reframe import Reframed
    from distill.inference.runtime import Running


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", metavar="VIDEO", help="a video, a folder of images, or DATASET:ROOT for a report")
    parser.add_argument("aspect", metavar="W:H", type=aspect_ratio, help="aspect ratio of the crop, e.g. 9:16")
    parser.add_argument("-o", "--out", metavar="OUT", help="video to write; a folder for DATASET:ROOT")
    parser.add_argument("--model", metavar="MODEL", help="model to run (default: stream-small)")
    parser.add_argument("--no-sound", action="store_true", help="leave the sound out")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing OUT")
    parser.add_argument("--split", metavar="NAME", help="split of the data set (default: all videos)")
    parser.add_argument("--videos", type=names, metavar="NAME,NAME", help="use only these videos of the data set")
    add_inference(parser)
    add_runtime(parser)


def _run(arguments: argparse.Namespace) -> None:
    from distill.data.video.open import open_size
    from distill.inference.runtime import run_in, threads_of
    from distill.models.pretrained import DEFAULT_MODEL
    from distill.models.references import load_model, load_pretrained

    videos = videos_to_crop(arguments)
    settings = inference_settings(arguments)
    load = load_model if arguments.model else load_pretrained
    model = load(arguments.model or DEFAULT_MODEL, device=settings.device or "cpu")
    paths = [Path(arguments.video)] if videos is None else [video.path for video in videos]
    frames = sum(open_size(path)[0] for path in paths)
    running = run_in(model, settings.for_model(model), frames=frames, example=paths[0])
    with threads_of(running):
        if videos is None:
            reframe_video(running, arguments)
        else:
            reframe_data(running, videos, arguments)


def videos_to_crop(arguments: argparse.Namespace) -> "list[Video] | None":
    """Return the videos of a data set; None if the argument is one video.

    Raises:
        UserError: the options do not fit the argument.
    """
    from distill.training.sources import videos_of_argument

    given = arguments.video
    if not Path(given).exists() and given.partition(":")[1]:
        return videos_of_argument(given, split=arguments.split, videos=arguments.videos)
    if arguments.split or arguments.videos:
        raise UserError(f"{given}: --split and --videos select from a data set; expected DATASET:ROOT")
    if not arguments.out:
        raise UserError("nothing to write: expected the name of the cropped video, -o OUT.mp4")
    return None


def reframe_video(running: "Running", arguments: argparse.Namespace) -> None:
    """Crop one video, and print what the crop keeps."""
    from distill.claims import OVERWRITE, claim
    from distill.evaluation.crop_scores import compare_crops, crop_table
    from distill.inference.reframe import plan_crop, write_crop

    with claim(Path(arguments.out), "the cropped video", overwrite=arguments.overwrite, remedy=OVERWRITE):
        plan = plan_crop(running.network, arguments.video, arguments.aspect, running.settings)
        done = write_crop(plan, arguments.out, sound=not arguments.no_sound, overwrite=arguments.overwrite)
    kept = {Path(arguments.video).name: compare_crops(plan)}
    print_text(arguments, crop_table(kept))
    print_text(arguments, f"{done}, maps by {running.runtime}")
    print_crops(arguments, kept, {Path(arguments.video).name: done}, running.runtime)


def reframe_data(running: "Running", videos: "list[Video]", arguments: argparse.Namespace) -> None:
    """Print what crops of a data set's videos keep, and write the crops if there is a folder for them."""
    from distill.claims import OVERWRITE, claim
    from distill.evaluation.crop_scores import compare_crops, crop_table
    from distill.inference.reframe import plan_crop, write_crop
    from distill.paths import path_inside

    kept, written = {}, {}
    for video in videos:
        out = path_inside(arguments.out, video.name, arguments.video, suffix=".mp4") if arguments.out else None
        with ExitStack() as claims:
            if out is not None:
                claims.enter_context(
                    claim(out, "the cropped video", overwrite=arguments.overwrite, remedy=OVERWRITE)
                )
            plan = plan_crop(running.network, video.path, arguments.aspect, running.settings)
            kept[video.name] = compare_crops(plan, video)
            if out is not None:
                sound = not arguments.no_sound
                written[video.name] = write_crop(plan, out, sound=sound, overwrite=arguments.overwrite)
    print_text(arguments, crop_table(kept))
    print_crops(arguments, kept, written, running.runtime)


def print_crops(
    arguments: argparse.Namespace,
    kept: "Mapping[str, tuple[Kept, Kept]]",
    written: "Mapping[str, Reframed]",
    runtime: str,
) -> None:
    """Print what the crops of videos keep and the files that were written, with --json."""
    videos = {
        name: {
            "camera": vars(camera),
            "centre": vars(centre),
            "file": written[name].as_dict() if name in written else None,
        }
        for name, (camera, centre) in kept.items()
    }
    print_json(arguments, {"videos": videos, "runtime": runtime})


REFRAME = Verb(
    "reframe",
    "crop a video to another aspect ratio, following what people look at",
    "Crop a video to another aspect ratio with a virtual camera that follows the predicted saliency: smooth within "
    "a shot, with limits on its speed and acceleration, and free to jump at cuts. The sound is copied. Report how "
    "much of the predicted saliency the crop keeps, next to a crop of the centre, and for the videos of a data set "
    "how many of the real fixations.",
    (
        "saldistill reframe VIDEO.mp4 9:16 -o upright.mp4",
        "saldistill reframe VIDEO.mp4 1:1 -o square.mp4 --model student.onnx",
        "saldistill reframe ntire:NTIRE 9:16 --split public_test",
    ),
    _add_arguments,
    _run,
    "videos (for each, what the camera and the centre keep, and the file) and runtime",
)
