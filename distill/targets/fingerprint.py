"""What a store's maps were made from: the teacher's weights and arguments, what it was shown, and the videos.

A cached map is only worth something while it is the map that the teacher would give today. The fingerprint names
everything that it depends on, and the difference of two fingerprints is told in words.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.files import file_hash

if TYPE_CHECKING:
    from distill.data.clips import ClipSpec, Video
    from distill.models.loaded import LoadedModel


PREPROCESSING = "whole frames, RGB, bicubic to the size; before the video its first frame"
"""What happens to frames on their way to a teacher that is cached; a change of that is a change of this."""


def fingerprint(
    model: "LoadedModel", spec: "ClipSpec", videos: Sequence["Video"], *, precision: str, content: bool = True
) -> dict[str, Any]:
    """Say what the maps of a teacher over some videos depend on, as plain values.

    Args:
        model: the teacher.
        spec: what it is shown: its frames, size and stride.
        videos: whose maps are made.
        precision: what it computes in: "fp32", "bf16" or "fp16".
        content: hash the videos' content, which reads them whole; otherwise their sizes alone are told.
    """
    from distill.models.weight_files import weights_fingerprint

    identity = model.identity
    name = "onnx" if identity.get("variant") == "onnx" else identity["name"]
    return {
        "teacher": {
            "name": name,
            "variant": identity.get("variant"),
            "arguments": identity.get("arguments", {}),
            "weights": weights_fingerprint(model.network),
        },
        "input": {
            "num_frames": spec.num_frames,
            "size": list(spec.size),
            "target_frames": list(spec.target_frames),
            "map_size": list(spec.map_size),
            "stride": spec.stride,
            "preprocessing": PREPROCESSING,
            "precision": precision,
        },
        "videos": {video.name: describe_video(video, content=content) for video in videos},
    }


def describe_video(video: "Video", *, content: bool = True) -> dict[str, Any]:
    """Return what tells a video from another: its frames, bytes and, when asked for, the SHA-256 of its content.

    A folder of frames is its files in the order of their names; a generated video is its name.
    """
    path, told = video.path, {"num_frames": video.num_frames}
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        told["bytes"] = sum(file.stat().st_size for file in files)
    elif path.exists():
        files = [path]
        told["bytes"] = path.stat().st_size
    else:
        return {**told, "name": str(path)}
    if not content:
        return told
    return {**told, "sha256": file_hash(path) if path.is_file() else hash_of_files(files)}


def hash_of_files(files: Sequence[Path]) -> str:
    """Return one SHA-256 of several files: of their names and contents, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n{file_hash(file)}\n".encode())
    return digest.hexdigest()


def differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Say in words where two fingerprints differ; what `expected` leaves out is not compared."""
    return _differences(stored, expected, "")


def _differences(stored: Any, expected: Any, where: str) -> list[str]:
    if isinstance(stored, Mapping) and isinstance(expected, Mapping):
        found = []
        for key, value in expected.items():
            place = f"{where}.{key}" if where else key
            if key in stored:
                found += _differences(stored[key], value, place)
            elif not isinstance(value, Mapping) or where == "videos":
                found.append(f"{place} is not in the store")
            else:
                found += _differences({}, value, place)
        return found
    return [] if stored == expected else [f"{where} was {_short(stored)} and is now {_short(expected)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:16]}...{text[-8:]}"
