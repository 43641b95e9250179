"""`saldistill push`: upload a model to the Hugging Face Hub."""

import argparse

from distill.cli.output import print_result
from distill.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="a run folder (its best weights), a weight file or a pretrained model"
    )
    parser.add_argument("repository", metavar="REPO", help="repository, OWNER/NAME; created if it does not exist")
    parser.add_argument(
        "--dry-run", metavar="DIR", help="write the files to this new folder, and upload nothing; needs no network"
    )
    parser.add_argument("--private", action="store_true", help="create a private repository")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="branch to commit to")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit (default: network and version)")
    parser.add_argument(
        "--licence", metavar="TEXT", help="licence of the weights, e.g. apache-2.0 (default: that in their notes)"
    )
    parser.add_argument("--no-onnx", action="store_true", help="upload no .onnx file")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="also push to a repository that holds something else; its other files are kept",
    )


def _run(arguments: argparse.Namespace) -> None:
    from distill.release.push import push

    pushed = push(
        arguments.run,
        arguments.repository,
        revision=arguments.revision,
        message=arguments.message,
        private=arguments.private,
        onnx=not arguments.no_onnx,
        licence=arguments.licence,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
    )
    print_result(arguments, pushed)


PUSH = Verb(
    "push",
    "upload a model to the Hugging Face Hub",
    "Upload the weights, an .onnx file, the config and a model card to a repository of the Hugging Face Hub, in "
    "one commit. Paths of this machine are left out of config and notes. Log in with `hf auth login`, or set "
    "HF_TOKEN. Everyone who can read the repository then loads the model as hf://OWNER/NAME.",
    (
        "saldistill push runs/demo/student OWNER/NAME --dry-run upload",
        "saldistill push runs/demo/student OWNER/NAME --licence apache-2.0",
        "saldistill push runs/demo/student OWNER/NAME --private --revision experiment",
    ),
    _add_arguments,
    _run,
    "repository, branch, commit, reference, folder, files and no_onnx",
)
