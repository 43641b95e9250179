"""`saldistill page`: build a web page that runs a student in the browser."""

import argparse

from distill.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    from distill.models.pretrained import DEFAULT_MODEL

    parser.add_argument("out", metavar="DIR", help="folder to create")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="an .onnx file of a streaming student, a pretrained student, or hf://OWNER/NAME",
    )


def _run(arguments: argparse.Namespace) -> None:
    from distill.deploy.browser_page import build_page

    page = build_page(arguments.out, arguments.model)
    size = sum(each.stat().st_size for each in page.iterdir()) / 2**20
    print(
        f"{page}: {size:.0f} MB; to open it: python -m http.server --directory {page}, then http://localhost:8000"
    )


PAGE = Verb(
    "page",
    "build a web page that runs a student in the browser",
    "Write a static web page that runs a streaming student on a video file or the webcam, in the browser, without "
    "a server. Needs Node.js and npm, which download onnxruntime-web once.",
    ("saldistill page page", "saldistill page page --model student.onnx"),
    _add_arguments,
    _run,
)
