"""`saldistill view`: look at a run, scores, a target store or a video in a browser."""

import argparse

from distill.cli.options import add_device, integer
from distill.cli.verb import Verb

MAX_PORT = 65535


def _port(text: str) -> int:
    """Parse a TCP port."""
    port = integer(text, 1, 10**6)
    if port > MAX_PORT:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to {MAX_PORT}, got {port}")
    return port


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="RUN|SCORES|STORE|VIDEO",
        help="a run folder, a folder that `evaluate -o` wrote, a target store, or a video, folder of frames or "
        "folder of videos",
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        action="append",
        default=[],
        help="also show the maps of this model, folder of maps or baseline (for a video, in place of "
        "stream-small); may be repeated",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="where the videos and the gaze are, DATASET:ROOT (default: what RUN, SCORES or STORE names)",
    )
    parser.add_argument(
        "--port", type=_port, metavar="N", help="port on 127.0.0.1 (default: 8765, or a free one if it is taken)"
    )
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    add_device(parser)


def _run(arguments: argparse.Namespace) -> None:
    from distill.viewer.server import serve
    from distill.viewer.sources import open_view

    view = open_view(arguments.path, models=arguments.model, data=arguments.data, device=arguments.device)
    serve(view, port=arguments.port, browser=not arguments.no_browser)


VIEW = Verb(
    "view",
    "look at a run, scores, a target store or a video in a browser",
    "Serve a page on 127.0.0.1 that shows the frames of a video, gaze, ground truth and maps side by side, with a "
    "slider and the scores over time. A model's maps are predicted while you look. Only this machine can open the "
    "page. It needs two packages: pip install 'saldistill[view]'.",
    (
        "saldistill view VIDEO.mp4",
        "saldistill view VIDEO.mp4 --model stream-nano --data dhf1k:@sample",
        "saldistill view runs/demo/student",
        "saldistill view runs/demo/targets --model runs/demo/student --data dhf1k:@sample",
        "saldistill view scores --port 8080 --no-browser",
    ),
    _add_arguments,
    _run,
)
