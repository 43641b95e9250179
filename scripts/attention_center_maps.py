"""Saliency maps of attention-center, a network for still images, as a folder that other commands read.

    pip install ai-edge-litert
    python scripts/attention_center_maps.py center.tflite stills:data/stills -o maps/attention-center
    saldistill evaluate maps/attention-center stills:data/stills
    saldistill cache import maps/attention-center -o runs/attention-center

The network (google/attention-center, Apache-2.0; a MobileNetV3, trained on SALICON according to its README)
returns one point. Its tensor `Sigmoid` is a map of the whole image, stretched to 480 x 640. That map is saved,
divided by its maximum, as MAPS/NAME/0001.png in 16 bits, with neither blur nor centre prior.

LiteRT frees inner tensors, unless it runs without XNNPACK. Therefore the tensor is made the output of the graph, in
memory. --check N compares the maps of the first N images with those without XNNPACK.

The same command resumes: maps that exist are kept, and maps.json identifies the network that made them.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # before scripts/, whose distill.py hides the package

from distill.claims import claim
from distill.data.clips import Video
from distill.data.pictures import WHITE
from distill.data.progress import ProgressBar
from distill.data.sets.find import DATASETS, find_videos
from distill.data.text import plural
from distill.data.video.open import open_video
from distill.errors import RunError, UserError, reading
from distill.files import atomic_path, clear_leftovers, file_hash, write_json
from distill.paths import path_inside, require_file
from distill.training.sources import share_of
from distill.validation import read_json

log = logging.getLogger("attention_center_maps")

SIZE = (480, 640)
"""Height and width of the network's input and of its map."""

INPUT, MAP = "image:0", "Sigmoid"
"""Names of the tensors of the image and of the map."""

RECORD = "maps.json"
"""File in the folder of maps: which network made them."""

TOLERANCE = 1e-3
"""Largest difference that --check accepts, as a part of the map's maximum."""

Network = Callable[[np.ndarray], np.ndarray]
"""Returns the map (480, 640) float32, non-negative, of an image (480, 640, 3) uint8."""


def with_map_as_output(model: bytes) -> bytes:
    """Return a .tflite file whose only output is the map; its one subgraph is otherwise unchanged.

    Raises:
        UserError: it is not a .tflite file of one subgraph that has the map.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    with reading("the network", "a .tflite file"):
        content = schema.ModelT.InitFromPackedBuf(model, 0)
        graphs = content.subgraphs
        names = [tensor.name.decode() for graph in graphs for tensor in graph.tensors]
    if len(graphs) != 1 or MAP not in names:
        raise UserError(
            f"the network has {plural(len(graphs), 'subgraph')} and no tensor {MAP!r}; expected center.tflite of "
            "google/attention-center"
        )
    graphs[0].outputs = [names.index(MAP)]
    content.signatureDefs = []  # they name the old output
    builder = flatbuffers.Builder(len(model))
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def open_network(model: bytes, *, threads: int, plain: bool = False) -> Network:
    """Return the network of a .tflite file.

    Args:
        model: content of the file.
        threads: CPU threads.
        plain: run it without XNNPACK, with all inner tensors kept: slower, the reference of --check.

    Raises:
        UserError: see `with_map_as_output`, or LiteRT cannot read it.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    options = (
        {
            "experimental_preserve_all_tensors": True,
            "experimental_op_resolver_type": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
        if plain
        else {}
    )
    content = model if plain else with_map_as_output(model)
    with reading("the network", "a .tflite file"):
        interpreter = Interpreter(model_content=content, num_threads=threads, **options)
        interpreter.allocate_tensors()
        image = next(each["index"] for each in interpreter.get_input_details() if each["name"] == INPUT)
        saliency = next(each["index"] for each in interpreter.get_tensor_details() if each["name"] == MAP)

    def network(frame: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image, frame[None].astype(np.float32) / 255)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(saliency)[0])

    return network


def find_images(data: str, share: Sequence[float] | None, seed: int) -> list[Video]:
    """Return the still images of DATASET:ROOT, or a share of them as a config would choose it.

    Raises:
        UserError: there are none, or DATA is malformed.
    """
    dataset, colon, root = data.partition(":")
    if not colon:
        raise UserError(
            f"{data}: expected DATASET:ROOT, such as stills:{data}; the data sets are {', '.join(DATASETS)}"
        )
    images = [video for video in find_videos(dataset, root, progress=True) if video.num_frames == 1]
    if share is not None:
        if not 0 <= share[0] < share[1] <= 1:
            raise UserError(f"--share: expected FROM below TO, both from 0 to 1, got {share[0]:g} {share[1]:g}")
        images = share_of(images, (share[0], share[1]), seed=seed)
    if not images:
        raise UserError(f"{data}: no still image selected; expected at least one image, such as those of `stills`")
    return images


def write_map(network: Network, image: Video, path: Path) -> None:
    """Write the map of an image, divided by its maximum, as a 16-bit PNG.

    Raises:
        RunError: the map is not finite or is zero everywhere.
    """
    saliency = network(open_video(image.path).read([0], SIZE)[0])
    peak = saliency.max()
    if not np.isfinite(saliency).all() or peak <= 0:
        raise RunError(
            f"{image.name}: the network's map is zero everywhere or not finite; report it with the image"
        )
    levels = np.rint(saliency / peak * WHITE).astype(np.uint16)
    with atomic_path(path) as temporary:
        Image.fromarray(levels).save(temporary)


def require_same_network(folder: Path, model_hash: str) -> None:
    """Record the network in the folder of maps, or check that it made the maps that are there.

    Raises:
        UserError: another network made them, or there are files of unknown origin.
    """
    record = folder / RECORD
    if record.exists():
        if read_json(record, dict[str, str], "a record of maps").get("network") != model_hash:
            raise UserError(f"{folder}: has maps of another network; choose another folder")
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and has no {RECORD}; choose another folder")
    else:
        write_json(record, {"network": model_hash, "tensor": MAP})


def check(model: bytes, network: Network, images: Sequence[Video], threads: int) -> None:
    """Compare the maps of images with those of the unchanged file without XNNPACK.

    Raises:
        RunError: a map differs by more than TOLERANCE of its maximum.
    """
    plain = open_network(model, threads=threads, plain=True)
    for image in images:
        frame = open_video(image.path).read([0], SIZE)[0]
        expected = plain(frame)
        difference = float(np.abs(network(frame) - expected).max() / expected.max())
        log.info("%s: differs by %.1e of the maximum from the map without XNNPACK", image.name, difference)
        if not difference <= TOLERANCE:
            raise RunError(
                f"{image.name}: the map differs by {difference:.1e} of its maximum; expected {TOLERANCE}"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script. Return 0; 1 if a map is wrong; 2 for invalid input; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="center.tflite of google/attention-center")
    parser.add_argument("data", metavar="DATA", help="DATASET:ROOT, e.g. stills:data/stills")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="MAPS", help="folder of maps")
    parser.add_argument(
        "--share", type=float, nargs=2, metavar=("FROM", "TO"), help="part of the images, as in a config"
    )
    parser.add_argument(
        "--share-seed", type=int, default=0, metavar="N", help="seed of the order that --share cuts"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--check", type=int, default=0, metavar="N", help="first compare N maps with plain LiteRT")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        make_maps(chosen)
    except ModuleNotFoundError as error:
        print(
            f"attention_center_maps.py: {error.name} is not installed; pip install ai-edge-litert", file=sys.stderr
        )
        return 2
    except UserError as error:
        print(f"attention_center_maps.py: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"attention_center_maps.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("attention_center_maps.py: stopped; the same command resumes", file=sys.stderr)
        return 130
    return 0


def make_maps(chosen: argparse.Namespace) -> None:
    """Write the maps that are missing."""
    if not chosen.model.exists():
        raise UserError(f"{chosen.model}: no such file; expected center.tflite of google/attention-center")
    require_file(chosen.model, "a .tflite file")
    images = find_images(chosen.data, chosen.share, chosen.share_seed)
    paths = [path_inside(chosen.out, image.name, chosen.data) / "0001.png" for image in images]
    with claim(chosen.out, "maps", overwrite=True):
        model = chosen.model.read_bytes()
        network = open_network(model, threads=chosen.threads)
        if chosen.check:
            check(model, network, images[: chosen.check], chosen.threads)
        require_same_network(chosen.out, file_hash(chosen.model))
        done = sum(path.exists() for path in paths)
        with ProgressBar(f"maps of {chosen.data}", "map", total=len(paths), initial=done) as bar:
            for image, path in zip(images, paths, strict=True):
                if not path.exists():
                    clear_leftovers(path)
                    write_map(network, image, path)
                    bar.update()
        log.info("%s: %s", chosen.out, plural(len(paths), "map"))


if __name__ == "__main__":
    sys.exit(main())
