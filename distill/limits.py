"""Bounds on what a small file or one number may cost, each with its reason.

They are far above what real work needs. Raise one here if yours needs more.
"""

from distill.errors import UserError

MAX_JSON_BYTES = 512 * 2**20
"""Size of a JSON file: store.json of MAX_STORE_MAPS maps is smaller, even with each frame listed."""

# ------------------------------------------------------------------------------------------------- configs

MAX_YAML_BYTES = 512 * 2**10
"""Size of a YAML file: PyYAML reads 100 KB per second, and a config that names 10,000 videos has 300 KB."""

MAX_YAML_VALUES = 200_000
"""Values in a YAML file, with its aliases written out, which can multiply a small file to billions of values."""

MAX_YAML_DEPTH = 50
"""Nested lists and mappings in a YAML file, and keys in an override; the config needs 5."""

MAX_DIGITS = 20
"""Digits of an integer in a YAML file or an option; 2^63, the end of the seeds, has 19."""

MAX_BATCH_SIZE = 1024
"""Clips, or frames of a streaming model, that are computed at once."""

MAX_ASPECT_RATIO = 10
"""Long side of a crop relative to its short one; beyond it hardly anything is left of a picture."""

MAX_CLIP_BYTES = 512 * 2**20
"""Bytes of a clip in 8 bits: 86 frames of 1080x1920; a network needs a hundred times as much for its features."""

MAX_BATCH_BYTES = 4 * 2**30
"""Bytes of a batch of clips, and of a generated input of an .onnx file: 520 clips of 32 frames of 224x384."""

MAX_EPOCH_CLIPS = 2 * 10**7
"""Clips of an epoch, which are listed in memory."""

MAX_WORKERS = 256
"""Processes, each of which takes 0.3 GB before its first frame."""

MAX_THREADS = 1024
"""CPU threads; more than the CPU has cores only cost time."""

MAX_STRIDE = 1000
"""Frames between two frames of a clip, and frames per second of a rate."""

MAX_STEPS = 10**8
"""Optimiser steps of a run: three years at one step per second."""

MAX_EPOCHS = 10**6
"""Epochs of a run."""

MAX_ACCUMULATE = 10_000
"""Batches per optimiser step."""

MAX_CLIPS = 10**6
"""Clips per video and epoch, and per clip of the other sources; an epoch's clips are listed in memory."""

MAX_FRAMES = 10**8
"""Number of a frame: 38 days of video at 30 frames per second."""

MAX_SIDE = 100_000
"""Sides of tensors and maps."""

MAX_ROUNDS = 10_000
"""Rounds of timing in a benchmark."""

MAX_SEEDS = 1000
"""Seeds of an experiment, each of which is one run per arm."""

MIN_RATE = 0.1
"""Frames per second of a stride such as 30fps."""

MAX_CAMERA_SPEED = 1000
"""Speed of a virtual camera, in frame sizes per second or as a factor per second."""

MAX_CALIBRATED_MAPS = 1000
"""Maps that `saldistill calibrate` fits its numbers on, spread over the videos: with fourteen numbers, more of them
say little more, and a fit takes a second per 100 maps of 56x96."""

MAX_CALIBRATION_FRAMES = 100_000
"""Frames that `quantize` reads; they are kept in memory, at the size of the model."""

MAX_PREDICTION_BYTES = 4 * 2**30
"""Bytes of the maps that `Predictor.predict` returns: 28 minutes of video at 112x192; `iterate` has no bound."""

# ------------------------------------------------------------------------------------------------- weight files

MAX_TENSOR_HEADER_BYTES = 16 * 2**20
"""Size of a .safetensors header: a model of a thousand tensors and its optimiser state take a fiftieth of this."""

MAX_TENSOR_NAME = 500
"""Characters in the name of a tensor in a weight file; the longest of this project has 80."""

MAX_MODEL_ARGUMENT = 8192
"""Numbers among a model's arguments in a config or a weight file, which set widths, depths and sizes: the largest
model of this project has 1024."""

MAX_ARGUMENT_LENGTH = 256
"""Numbers in a list among the model arguments of a weight file."""

MAX_WRAPPERS = 8
"""Dictionaries around the state dict of a published .pth file: released files have at most two."""

MAX_GRAPH_BYTES = 512 * 2**20
"""Bytes of the weights of a network that `--runtime auto` exports to ONNX: an export keeps several copies of them
in memory. The largest student has 200 MB; SalFoM has 1.6 GB and runs in PyTorch."""

MAX_GRAPHS_BYTES = 2 * 2**30
"""Bytes of the exported graphs in the cache folder; those that were not used for longest are removed first."""

MAX_HUB_MANIFEST_BYTES = 2**20
"""Size of saldistill.json in a repository of the Hugging Face Hub, which lists a handful of files."""

MAX_HUB_FILE_BYTES = 16 * 2**30
"""Size of a file of a repository of the Hugging Face Hub: SalFoM has 1.6 GB."""

# ------------------------------------------------------------------------------------------------- data sets

MAX_PICTURE_PIXELS = 8192 * 4608
"""Pixels of an image, MATLAB matrix or frame of a video: 8K video (7680 x 4320). An image of this size can be
a file of 0.1 MB."""

MAX_POINTS_BYTES = 64 * 2**20
"""Size of a fixations.json, which takes 20 times its size in memory: an hour of video with 40 observers."""

MAX_VIDEO_POINTS = 10**7
"""Fixations in the frames of one video of a table: an hour of video with 90 observers."""

MAX_FOLDERS = 200_000
"""Folders below a root that is searched: 30 times Hollywood-2. Links between folders can multiply them."""

MAX_STORE_MAPS = 50_000_000
"""Maps of a target store: 230 hours of video at 30 frames per second, in two views."""

MAX_STORE_SHARDS = 200_000
"""Shards of a target store: MAX_STORE_MAPS in the default batches; each shard is a file."""

MAX_MAP_PIXELS = 2**26
"""Pixels of a map in a target store: 8192 x 8192, 256 MB in float32."""


def check_limit(value: float, limit: float, where: str) -> None:
    """Check that a value is within a bound of this file.

    Args:
        value: the value.
        limit: one of the bounds above.
        where: file or key, and what was counted, e.g. "a.png: pixels".

    Raises:
        UserError: it is not; the message names the bound.
    """
    if value > limit:
        raise UserError(f"{where}: {value:,} is over the limit of {limit:,} (set in distill/limits.py)")
