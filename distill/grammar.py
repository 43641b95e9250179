"""The grammar of the `saldistill` command: its verbs, their arguments, and a help that teaches.

`build_parser` knows no work: a parsed command says under `verb` which of cli.VERBS is meant.
"""

import argparse
import textwrap
from importlib.metadata import PackageNotFoundError, version
from typing import Any

STORY = """\
Predict where people look in videos. A large network, the teacher, learns it from recorded gaze; its maps are
computed once and stored; a light network, the student, learns from the gaze and from these maps, and is exported
to run on small devices.
"""

GRAMMAR = """\
a MODEL is one of
  runs/demo/teacher          the folder of a run: its best weights
  student.safetensors        a weight file
  student.onnx               an exported model
  teacher/salfom:tiny        a model and a variant, with random weights (see: saldistill models)

a CONFIG is one YAML file that describes a whole run; key=value behind it changes single settings:
  saldistill train configs/teacher/demo.yaml training.steps=50 losses.0.weight=2 out=runs/short

exit codes
  0  done
  1  the run failed; the traceback tells where
  2  something in the input is wrong; one sentence tells what and how to mend it
  130  stopped by Ctrl-C; what was kept, and how to go on, is said before
  141  nobody reads the output any more, as behind `| head`

start with:  saldistill demo        more on a verb:  saldistill VERB --help
"""

PRECISIONS = ("fp32", "bf16", "fp16")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; the verb's name stands under `verb`."""
    parser = argparse.ArgumentParser(
        prog="saldistill",
        description=STORY,
        epilog=GRAMMAR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"saldistill {installed_version()}")
    verbs = parser.add_subparsers(title="verbs, in the order of the work", metavar="VERB", required=True)

    for add in (
        add_demo,
        add_data,
        add_models,
        add_train,
        add_cache,
        add_distill,
        add_evaluate,
        add_predict,
        add_export,
        add_benchmark,
    ):
        add(verbs)
    return parser


def add_demo(verbs: Any) -> None:
    """Add the demo."""
    verb = add_verb(
        verbs,
        "demo",
        "the whole way on one real video, in five to ten minutes",
        "Train a small teacher on a video with recorded gaze, store its maps, distil a student, score both beside "
        "a centre prior, export the student and run it. What is there already is reused. The result is "
        "OUT/report.html.",
        "saldistill demo",
        "saldistill demo --out runs/again",
    )
    verb.add_argument("--out", default="runs/demo", metavar="DIR", help="where results go (default: %(default)s)")
    add_device(verb)


def add_data(verbs: Any) -> None:
    """Add the verbs on data sets."""
    data = add_group(verbs, "data", "look at data before using it", "saldistill data check tests/data/dhf1k")
    verb = add_verb(
        data,
        "check",
        "say what a folder is and what of it can be used",
        "Find out which data set's layout a folder has, and list its videos, frames, sizes and ground truth.",
        "saldistill data check tests/data/dhf1k",
    )
    verb.add_argument("root", metavar="ROOT", help="the data set's folder")
    verb.add_argument("--dataset", metavar="NAME", help="which data set it is (default: found out)")


def add_models(verbs: Any) -> None:
    """Add the listing and converting of models."""
    verb = add_verb(
        verbs,
        "models",
        "list models and their variants with weights and cost",
        "List what can be built, or the variants of one model; or read a published weight file, or one of those "
        "that can be fetched by name, and write it in this project's format; or write weights under the keys of "
        "the authors' code.",
        "saldistill models",
        "saldistill models teacher/salfom",
        "saldistill models teacher/salfom --convert SalFoM_DHF1K.pth salfom.safetensors",
        "saldistill models teacher/salfom --to-published salfom.safetensors salfom_dhf1k.pth",
    )
    verb.add_argument(
        "name", nargs="?", metavar="NAME", help="one model, such as teacher/salfom or student/thtdnet:tiny"
    )
    either = verb.add_mutually_exclusive_group()
    either.add_argument(
        "--convert",
        nargs=2,
        metavar=("IN", "OUT"),
        help="read IN, a file or a name such as umt-l16-k400, into the model, write OUT.safetensors",
    )
    either.add_argument(
        "--to-published",
        nargs=2,
        metavar=("IN", "OUT"),
        help="read IN, a run folder or a weight file, write OUT.pth or OUT.safetensors under the authors' keys",
    )


def add_train(verbs: Any) -> None:
    """Add training."""
    verb = add_verb(
        verbs,
        "train",
        "train a model on ground truth, or with a teacher",
        "Run a config. The run folder gets the resolved config, log.jsonl, the best weights and checkpoints. "
        "Ctrl-C saves; the same command with resume=auto goes on.",
        "saldistill train configs/teacher/demo.yaml",
        "saldistill train configs/teacher/demo.yaml out=runs/longer training.steps=2000",
        "saldistill train configs/teacher/demo.yaml out=runs/longer training.steps=2000 resume=auto",
    )
    add_config(verb)


def add_cache(verbs: Any) -> None:
    """Add the verbs on stores of teacher maps."""
    cache = add_group(
        verbs,
        "cache",
        "store a teacher's maps, look at them, check them",
        "saldistill cache build configs/distill/demo.yaml",
        "saldistill cache info runs/demo/targets",
    )
    verb = add_verb(
        cache,
        "build",
        "compute and store the maps that a distillation needs",
        "Run the config's teacher over its training videos and store the maps under teacher.store. Stopped at any "
        "moment, the same command goes on; several processes may write one store.",
        "saldistill cache build configs/distill/demo.yaml",
        "saldistill cache build configs/distill/demo.yaml teacher.codec=exact teacher.store=runs/exact",
    )
    add_config(verb)
    verb = add_verb(
        cache,
        "info",
        "say whose maps a store holds, of what, and how much",
        "Show a store's fingerprint (teacher, preprocessing, videos), its size and how complete it is.",
        "saldistill cache info runs/demo/targets",
    )
    verb.add_argument("store", metavar="STORE", help="the store's folder")
    verb = add_verb(
        cache,
        "verify",
        "check every checksum and recompute a sample",
        "Read every record, then compute some maps anew with the teacher and report KL, CC and the largest error.",
        "saldistill cache verify runs/demo/targets",
        "saldistill cache verify runs/demo/targets --teacher runs/demo/teacher --sample 64",
    )
    verb.add_argument("store", metavar="STORE", help="the store's folder")
    verb.add_argument("--teacher", metavar="MODEL", help="the teacher, if it is no longer where the store was made")
    verb.add_argument(
        "--sample", type=count, default=32, metavar="N", help="maps to recompute (default: %(default)s)"
    )
    add_device(verb)
    verb = add_verb(
        cache,
        "export",
        "write a store's maps as PNG files",
        "Write DIR/VIDEO/0001.png and so on, 8 bits, each map's maximum 255.",
        "saldistill cache export runs/demo/targets -o maps",
    )
    verb.add_argument("store", metavar="STORE", help="the store's folder")
    verb.add_argument("--view", default="plain", metavar="NAME", help="plain or flipped (default: %(default)s)")
    add_output(verb, "DIR", "the folder to write")
    verb = add_verb(
        cache,
        "import",
        "make a store of published maps",
        "Read maps, DIR/VIDEO/0001.png and so on, into a store that students can learn from.",
        "saldistill cache import maps -o runs/imported",
    )
    verb.add_argument("maps", metavar="DIR", help="a folder with one folder of PNG files a video")
    verb.add_argument("--codec", default="log8", metavar="NAME", help="how to store them (default: %(default)s)")
    add_output(verb, "STORE", "the store to make")


def add_distill(verbs: Any) -> None:
    """Add distillation."""
    verb = add_verb(
        verbs,
        "distill",
        "train a student from a teacher",
        "The same as train, and an error when the config has no section `teacher`.",
        "saldistill distill configs/distill/demo.yaml",
        "saldistill distill configs/distill/demo.yaml out=runs/online teacher.source=online",
    )
    add_config(verb)


def add_evaluate(verbs: Any) -> None:
    """Add scoring."""
    verb = add_verb(
        verbs,
        "evaluate",
        "score models against recorded gaze",
        "Score one or more models on the same frames. A MODEL may also be a baseline: centre-prior. DATA is a data "
        "set and its folder, or a config, whose test videos are meant.",
        "saldistill evaluate runs/demo/student configs/distill/demo.yaml",
        "saldistill evaluate centre-prior runs/demo/teacher runs/demo/student dhf1k:tests/data/dhf1k "
        "--videos 002 --frames 601-783 --every 4",
        "saldistill evaluate runs/demo/student dhf1k:DHF1K --split validation -o scores",
    )
    verb.add_argument("models", nargs="+", metavar="MODEL", help="what to score (see: saldistill --help)")
    verb.add_argument("data", metavar="DATA", help="DATASET:ROOT, such as dhf1k:tests/data/dhf1k, or CONFIG.yaml")
    verb.add_argument("--split", metavar="NAME", help="one of the data set's splits (default: all videos)")
    verb.add_argument("--videos", type=names, metavar="NAME,NAME", help="only these videos")
    verb.add_argument("--frames", type=frame_range, metavar="FIRST-LAST", help="only these frames, counted from 1")
    verb.add_argument(
        "--every", type=count, default=1, metavar="N", help="score every Nth frame (default: %(default)s)"
    )
    add_output(verb, "DIR", "also write scores.json and scores.csv here, a folder a model", required=False)
    add_running(verb)


def add_predict(verbs: Any) -> None:
    """Add prediction."""
    verb = add_verb(
        verbs,
        "predict",
        "draw a model's maps over a video",
        "Predict every frame of a video file or a folder of frames, the first ones too; or of every video in a "
        "folder of them. There the same command, given in several shells or on several devices, shares the work, "
        "and stopped at any moment goes on where it was: what stands is passed over.",
        "saldistill predict runs/demo/student VIDEO.mp4 -o overlay.mp4",
        "saldistill predict student.onnx VIDEO.mp4 -o overlay.mp4 --maps maps",
        "saldistill predict runs/demo/teacher VIDEOS -o overlays --maps maps --device cuda:1",
    )
    verb.add_argument("model", metavar="MODEL", help="what to run (see: saldistill --help)")
    verb.add_argument("video", metavar="VIDEO", help="a video file, a folder of image files, or a folder of videos")
    add_output(verb, "OUT", "the overlay video to write, OUT.mp4; of a folder, a folder", required=False)
    verb.add_argument("--maps", metavar="DIR", help="write one PNG a frame here (of a folder: DIR/NAME/0001.png)")
    verb.add_argument(
        "--first-frames",
        choices=("repeat", "flip"),
        default="repeat",
        help="what stands before the video: its first frame, or the clip turned round (default: %(default)s)",
    )
    add_precision(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_running(verb)


def add_export(verbs: Any) -> None:
    """Add the export to ONNX."""
    verb = add_verb(
        verbs,
        "export",
        "write a model as a checked ONNX file",
        "Export, check the file with onnx.checker and compare ONNX Runtime with PyTorch; a failed check leaves no "
        "file. `python student/edge.py FILE VIDEO` runs it without PyTorch.",
        "saldistill export runs/demo/student -o student.onnx",
        "saldistill export runs/demo/student -o student.onnx --video VIDEO.mp4",
    )
    verb.add_argument("model", metavar="MODEL", help="what to export (see: saldistill --help)")
    add_output(verb, "FILE", "the .onnx file to write")
    verb.add_argument("--video", metavar="VIDEO", help="compare on frames of this video (default: made-up frames)")


def add_benchmark(verbs: Any) -> None:
    """Add measuring."""
    verb = add_verb(
        verbs,
        "benchmark",
        "measure what models cost: weights, GFLOPs and milliseconds a map",
        "Measure models side by side in one run, their rounds interleaved: a row for each batch size and "
        "precision, with its share of what the device reaches on the product of two matrices in the same run. "
        "With --of, measure a part of the toolkit instead.",
        "saldistill benchmark runs/demo/teacher runs/demo/student runs/demo/student.onnx",
        "saldistill benchmark teacher/salfom:tiny student/thtdnet:tiny --device cpu",
        "saldistill benchmark teacher/salfom --batch-size 1,2,4 --precision fp32,bf16 --json salfom.json",
    )
    verb.add_argument("subjects", nargs="*", metavar="MODEL", help="what to measure (see: saldistill --help)")
    verb.add_argument("--of", choices=["models"], default="models", help="what is measured (default: %(default)s)")
    verb.add_argument(
        "--rounds", type=count, default=5, metavar="N", help="interleaved rounds (default: %(default)s)"
    )
    verb.add_argument("--threads", type=count, metavar="N", help="CPU threads (default: as PyTorch chooses)")
    verb.add_argument(
        "--batch-size", type=counts, default=[1], metavar="N,N", help="clips at a time, one or several (default: 1)"
    )
    verb.add_argument(
        "--precision", type=precisions, default=["fp32"], metavar="P,P", help="fp32, bf16, fp16 (default: fp32)"
    )
    add_device(verb)
    verb.add_argument(
        "-o", "--out", "--json", dest="out", metavar="FILE", help="also write the measurements here, as JSON"
    )


def add_verb(verbs: Any, name: str, help_line: str, story: str, *examples: str) -> argparse.ArgumentParser:
    """Add a verb with its story and examples; return its parser."""
    parser = verbs.add_parser(
        name,
        help=help_line,
        description=textwrap.fill(story, 88),
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(verb=parser.prog.removeprefix("saldistill "))
    return parser


def add_group(verbs: Any, name: str, help_line: str, *examples: str) -> Any:
    """Add a verb that has verbs of its own; return what they are added to."""
    parser = verbs.add_parser(
        name,
        help=help_line,
        description=f"{help_line[:1].upper()}{help_line[1:]}.",
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser.add_subparsers(title=f"saldistill {name}", metavar="VERB", required=True)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add CONFIG and its overrides."""
    parser.add_argument("config", metavar="CONFIG", help="the run, one YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to change, such as training.steps=50"
    )


def add_output(parser: argparse.ArgumentParser, metavar: str, help_line: str, *, required: bool = True) -> None:
    """Add -o."""
    parser.add_argument("-o", "--out", metavar=metavar, required=required, help=help_line)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)"
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision."""
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="to compute in (default: %(default)s)"
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Add what running a model over a video needs to know."""
    add_device(parser)
    parser.add_argument(
        "--stride", type=count, metavar="N", help="frames between a clip's frames (default: as trained)"
    )
    parser.add_argument(
        "--batch-size", type=count, default=8, metavar="N", help="maps at a time (default: %(default)s)"
    )


def installed_version() -> str:
    """Return the version that pip knows; a copy that was never installed has none."""
    try:
        return version("saldistill")
    except PackageNotFoundError:
        return "(not installed)"


def count(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got '{text}'")
    return int(text)


def counts(text: str) -> list[int]:
    """Read whole numbers of at least 1 with commas between them."""
    return [count(part) for part in text.split(",")]


def precisions(text: str) -> list[str]:
    """Read precisions with commas between them."""
    for part in text.split(","):
        if part not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"expected {', '.join(PRECISIONS)} with commas between, got '{part}'")
    return text.split(",")


def names(text: str) -> list[str]:
    """Read names with commas between them."""
    return text.split(",")


def frame_range(text: str) -> tuple[int, int]:
    """Read FIRST-LAST, counted from 1, both included."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected FIRST-LAST counted from 1, such as 601-783, got '{text}'")
    return int(first), int(last)
