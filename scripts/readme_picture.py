"""Make the animation in README.md: video, recorded gaze, teacher and student on the demo's test frames.

saldistill demo
python scripts/readme_picture.py
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

# The repository's root comes first: distill.py in this folder would hide the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from distill.data.sets.find import find_videos
from distill.data.video.open import open_video
from distill.inference.overlay import overlay
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.references import load_model
from distill.saliency import peak_map, to_peak

REPOSITORY = Path(__file__).resolve().parent.parent

FRAMES = range(600, 783, 3)
PANEL = (135, 240)
"""Height and width of one panel in pixels."""
GAP = 4
MILLISECONDS = 100


def panels(demo: Path) -> dict[str, list[np.ndarray]]:
    """Return the frames of every panel, (height, width, 3) uint8, by title."""
    (video,) = find_videos("dhf1k", REPOSITORY / "tests" / "data" / "dhf1k", videos=["002"])
    assert video.truth is not None
    frames = list(open_video(video.path).read(FRAMES, PANEL))
    rows = {"video": frames}
    densities = [to_peak(video.truth.density(frame, PANEL)) for frame in FRAMES]
    rows["gaze of 17 observers"] = [overlay(*pair) for pair in zip(frames, densities, strict=True)]
    for name in ("teacher", "student"):
        model = load_model(demo / name)
        slices = slide(model.network, video, list(FRAMES), InferenceSettings(stride=model.stride))
        maps = [peak_map(one) for _, batch in slices for one in batch.numpy()]
        rows[name] = [overlay(*pair) for pair in zip(frames, maps, strict=True)]
    return rows


def main(demo: Path, out: Path) -> None:
    """Write the animation as a looping WebP."""
    rows = panels(demo)
    height, width = PANEL
    pictures = []
    for index in range(len(FRAMES)):
        picture = Image.new("RGB", (len(rows) * (width + GAP) - GAP, height), "white")
        draw = ImageDraw.Draw(picture)
        for column, (title, images) in enumerate(rows.items()):
            left = column * (width + GAP)
            picture.paste(Image.fromarray(images[index]), (left, 0))
            draw.text((left + 6, 4), title, fill="white", stroke_width=2, stroke_fill="black", font_size=13)
        pictures.append(picture)
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        out, save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0, quality=60, method=4
    )
    print(f"{out}: {len(pictures)} frames, {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(REPOSITORY / "runs" / "demo", REPOSITORY / "docs" / "images" / "demo.webp")
