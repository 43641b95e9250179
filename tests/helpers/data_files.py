"""Files of data sets for tests."""

import json

import av
import numpy as np
from av.video.reformatter import ColorRange
from PIL import Image
from scipy.io import savemat

from distill.fixations import density_from_points, fixation_map
from helpers.video_files import write_grey

SIZE = (36, 64)
POINTS = [[[3, 4], [30, 60]], [[18, 32]], [[18, 32], [18, 32], [2, 2]], [[35, 63]], [[0, 0]], [[9, 9]]]


def clip_file(path, count=6, size=SIZE, fps=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_grey(path.with_suffix(".mp4"), np.linspace(0, 250, count), size, fps).rename(path)


def frame_folder(path, count=6, size=SIZE, name="{:04d}.png"):
    path.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", size[::-1], (number, number, number)).save(path / name.format(number))
    return path


def points_file(folder, points=POINTS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fixations.json").write_text(json.dumps(points))


def picture_files(folder, points=POINTS, size=SIZE, *, channels=False, fixations="png"):
    """Write ground truth as images, as DHF1K does."""
    for name in ("maps", "fixation/maps"):
        (folder / name).mkdir(parents=True)
    for number, frame in enumerate(points, 1):
        density = density_from_points(np.array(frame), size)
        grey = np.rint(255 * density / density.max()).astype(np.uint8)
        Image.fromarray(np.repeat(grey[..., None], 3, 2) if channels else grey).save(
            folder / f"maps/{number:04d}.png"
        )
        binary = (fixation_map(np.array(frame), size) > 0).astype(np.uint8)
        if fixations == "png":
            Image.fromarray(255 * binary).save(folder / f"fixation/{number:04d}.png")
        else:
            savemat(folder / f"fixation/maps/{number:04d}.mat", {"I": binary})


# ---------------------------------------------------------------- densities as a video


def grey_video(path, frames, *, pixels="yuv420p10le", full=False):
    """Write maps in [0, 1] as a lossless grey video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, depth = (np.uint16, 1023) if "10" in pixels else (np.uint8, 255)
    black, white = (0, depth) if full else (16 * (depth + 1) // 256, 235 * (depth + 1) // 256)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape, pixels
        stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        for values in frames:
            frame = av.VideoFrame(stream.width, stream.height, pixels)
            for number, plane in enumerate(frame.planes):
                rows = np.full((plane.height, plane.line_size // kind().itemsize), (depth + 1) // 2, dtype=kind)
                if number == 0:
                    rows[:, : plane.width] = np.rint(black + values * (white - black))
                plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ramps(count):
    """Return maps with all grey levels of a ramp, each shifted differently."""
    ramp = np.linspace(0, 1, SIZE[0] * SIZE[1])
    return [np.roll(ramp, 97 * number).reshape(SIZE) for number in range(count)]
