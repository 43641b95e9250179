"""The grammar of the `saldistill` command: its verbs, their arguments, and a help that teaches.

`build_parser` knows no work: a parsed command says under `verb` which of cli.VERBS is meant.
"""

import argparse
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distill.cli.grammar_benchmark import add_benchmark
from distill.cli.grammar_export import add_export, add_quantize
from distill.cli.options import (
    add_config,
    add_device,
    add_first_frames,
    add_group,
    add_output,
    add_precision,
    add_running,
    add_verb,
    count,
    frame_range,
    names,
    seed,
    size,
)

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

METRICS = ("auc_judd", "auc_shuffled", "auc_borji", "nss", "cc", "sim", "kldiv", "info_gain")
PROTOCOLS = ("official", "dhf1k", "ntire2026", "tinyhd")
SUBMISSIONS = ("dhf1k", "ntire")


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
        add_submit,
        add_export,
        add_quantize,
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
        "Find out which data set's layout a folder has, and say what is in it: videos, frames, sizes, splits, "
        "ground truth, everything that is missing or broken, and what training and evaluation would use. What was "
        "looked at before and has not changed is known at once. Ends with 2 when nothing can be used.",
        "saldistill data check tests/data/dhf1k",
        "saldistill data check DHF1K --thorough",
    )
    verb.add_argument("root", metavar="ROOT", help="the data set's folder")
    verb.add_argument("--dataset", metavar="NAME", help="which data set it is (default: found out)")
    verb.add_argument(
        "--thorough", action="store_true", help="decode every frame and picture, to find damage inside of files"
    )
    verb.add_argument("--videos", action="store_true", help="a line for every video, also where there are many")


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
        "moment, the same command goes on; several processes may write one store, given this command in several "
        "shells or as a SLURM array (scripts/slurm_cache). teacher.codec is log8 (0.2 bytes a pixel; KL 5e-5 nats "
        "from the teacher's map), exact (1.1 bytes; 1e-9) or half (half the size: 0.06 bytes; 2e-3 to 1e-2), as "
        "measured on a trained SalFoM; `saldistill benchmark --of cache CONFIG` measures your own.",
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
        "write a store's maps as PNG files or videos",
        "Write DIR/VIDEO/0001.png and so on, 8 bits, each map's maximum 255; or DIR/VIDEO.mp4 with a frame a map, "
        "as the AIM 2024 and NTIRE 2026 challenges have them. What is written is read back, and what it lost is "
        "told.",
        "saldistill cache export runs/demo/targets -o maps",
        "saldistill cache export runs/demo/targets -o videos --as video",
    )
    verb.add_argument("store", metavar="STORE", help="the store's folder")
    verb.add_argument(
        "--as",
        dest="form",
        choices=("png", "video", "video8"),
        default="png",
        help="pictures, 10-bit videos or 8-bit videos (default: %(default)s)",
    )
    verb.add_argument("--view", default="plain", metavar="NAME", help="plain or flipped (default: %(default)s)")
    add_output(verb, "DIR", "the folder to write")
    verb = add_verb(
        cache,
        "import",
        "make a store of published maps",
        "Read maps, DIR/VIDEO/0001.png and so on or DIR/VIDEO.mp4 with a frame a map, into a store that students "
        "can learn from. The maps of several folders, or of other stores, are averaged; all must have the same "
        "frames.",
        "saldistill cache import maps -o runs/imported",
        "saldistill cache import theirs runs/demo/targets --mean log -o runs/both",
    )
    verb.add_argument(
        "maps", nargs="+", metavar="DIR", help="a folder of maps, pictures or videos; or the folder of a store"
    )
    verb.add_argument(
        "--mean",
        choices=("linear", "log"),
        default="linear",
        help="how several are averaged: their densities, or these' logarithms (default: %(default)s)",
    )
    verb.add_argument("--codec", default="log8", metavar="NAME", help="how to store them (default: %(default)s)")
    verb.add_argument("--size", type=size, metavar="HxW", help="to store at (default: that of the first map)")
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
    verb.add_argument(
        "--accept",
        action="store_true",
        help="learn even from a store that another teacher, code or video made; the run records it",
    )


def add_evaluate(verbs: Any) -> None:
    """Add scoring."""
    verb = add_verb(
        verbs,
        "evaluate",
        "score models against recorded gaze",
        "Score one or more models on the same frames; of several, give the differences from the first too, with "
        "paired intervals. A MODEL may also be a folder of anybody's maps (DIR/VIDEO/0001.png for the first frame, "
        "or DIR/VIDEO.mp4), a baseline (centre-prior, frame-difference), or `observers`: how well one half of them "
        "predicts the other. DATA is a data set and its folder, or a config, whose test videos are meant.",
        "saldistill evaluate runs/demo/student configs/distill/demo.yaml",
        "saldistill evaluate centre-prior runs/demo/teacher runs/demo/student dhf1k:tests/data/dhf1k "
        "--videos 002 --frames 601-783 --every 4",
        "saldistill evaluate runs/demo/student dhf1k:DHF1K --split validation -o scores",
        "saldistill evaluate maps dhf1k:DHF1K --split validation --protocol dhf1k",
    )
    verb.add_argument("models", nargs="+", metavar="MODEL", help="what to score (see: saldistill --help)")
    verb.add_argument("data", metavar="DATA", help="DATASET:ROOT, such as dhf1k:tests/data/dhf1k, or CONFIG.yaml")
    verb.add_argument("--split", metavar="NAME", help="one of the data set's splits (default: all videos)")
    verb.add_argument("--videos", type=names, metavar="NAME,NAME", help="only these videos")
    verb.add_argument("--frames", type=frame_range, metavar="FIRST-LAST", help="only these frames, counted from 1")
    verb.add_argument(
        "--every", type=count, default=1, metavar="N", help="score every Nth frame (default: %(default)s)"
    )
    verb.add_argument("--metrics", type=names, metavar="NAME,NAME", help=f"of {', '.join(METRICS)}")
    verb.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default=PROTOCOLS[0],
        help="score as the benchmarks' code does, or with a paper's post-processing, metrics and average "
        "(default: %(default)s)",
    )
    verb.add_argument(
        "--over",
        choices=("centre-prior", "other-frames"),
        default="centre-prior",
        help="what information gain is measured over: a Gaussian, or the mean map of other recordings "
        "(default: %(default)s)",
    )
    verb.add_argument(
        "--scenes",
        type=names,
        default=[],
        metavar="PATTERN,PATTERN",
        help="videos whose names match one pattern, such as 'Vidyo*', count as one recording in the intervals",
    )
    verb.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all that is random (default: %(default)s)"
    )
    verb.add_argument("--workers", type=count, metavar="N", help="scoring processes (default: one a processor)")
    add_output(verb, "DIR", "also write scores.json, scores.csv, videos.csv and report.html here", required=False)
    add_first_frames(verb)
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
    add_first_frames(verb)
    add_precision(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    add_running(verb)


def add_submit(verbs: Any) -> None:
    """Add submissions."""
    verb = add_verb(
        verbs,
        "submit",
        "write a benchmark's submission: a map of every frame of its test videos",
        "Write the maps as DHF1K takes them (DIR/0701/0001.png) or as AIM 2024 and NTIRE 2026 do (DIR/NAME.mp4, 10 "
        "bits), and check at the end that no video and no frame is missing. DIR holds nothing else; what made it "
        "stands in DIR.json. The same command, given in several shells, shares the work, and stopped at any moment "
        "goes on where it was. A MODEL may also be a folder of maps or a baseline, as in evaluate.",
        "saldistill submit runs/demo/student dhf1k:DHF1K --to dhf1k -o ourmethod",
        "saldistill submit student.onnx ntire:NTIRE --to ntire --split private_test -o ourmethod",
    )
    verb.add_argument("model", metavar="MODEL", help="whose maps (see: saldistill --help)")
    verb.add_argument("data", metavar="DATA", help="DATASET:ROOT, such as dhf1k:DHF1K")
    verb.add_argument("--to", choices=SUBMISSIONS, required=True, help="the benchmark")
    verb.add_argument(
        "--split", metavar="NAME", help="one of the data set's splits (default: dhf1k's test, ntire's public_test)"
    )
    verb.add_argument("--videos", type=names, metavar="NAME,NAME", help="only these videos")
    add_output(verb, "DIR", "the folder to write, which is what is sent")
    add_first_frames(verb)
    add_running(verb)


def installed_version() -> str:
    """Return the version that pip knows; a copy that was never installed has none."""
    try:
        return version("saldistill")
    except PackageNotFoundError:
        return "(not installed)"
