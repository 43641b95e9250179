"""Fingerprint of a target store: everything that its maps depend on.

It holds the teacher's weights and arguments, its input, and the videos. A cached map is valid as long as it equals
the map that the teacher would return today.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.data.clips import ClipSpec, Video
from distill.data.remote_data import local, remote_file
from distill.data.video.folder_probe import listing_of
from distill.files import file_hash
from distill.models.loaded import LoadedModel
from distill.models.weight_files import weights_fingerprint
from distill.stride import Stride

PREPROCESSING = "whole frames, RGB, bicubic to the size; before the video its first frame"
"""Preprocessing of frames for a cached teacher. Stores are compared by this text: change it only with the code."""


def fingerprint(
    model: LoadedModel, stride: Stride, videos: Sequence[Video], *, precision: str, content: bool = True
) -> dict[str, Any]:
    """Return what a teacher's maps of videos depend on, as JSON values.

    Args:
        model: the teacher.
        stride: stride of its clips.
        videos: videos with maps.
        precision: "fp32", "bf16" or "fp16".
        content: include a hash of each video's content, which reads the whole file; else only its size.
    """
    identity, spec = model.identity, ClipSpec.of(model.network, stride)
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
            **({} if spec.fit == "stretch" else {"fit": spec.fit}),  # older stores have no such key
        },
        "videos": {video.name: describe_video(video, content=content) for video in videos},
    }


def describe_video(video: Video, *, content: bool = True) -> dict[str, Any]:
    """Return what identifies a video: number of frames, bytes and, if `content`, the SHA-256 of its content.

    A folder of frames is hashed file by file in the order of names; a synthetic video is identified by its name.
    """
    path, remote = video.path, remote_file(video.path)
    if not path.exists():
        return {"num_frames": video.num_frames, "name": str(path)}
    if remote is not None and not remote.is_folder and not content:
        return {"num_frames": video.num_frames, "bytes": remote.size}  # not worth a download
    path = local(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    found: dict[str, Any] = {"num_frames": video.num_frames, "bytes": sum(file.stat().st_size for file in files)}
    if content:
        found["sha256"] = hash_of_files(files) if path.is_dir() else file_hash(path)
    return found


def describe_truth(video: Video) -> list[Any]:
    """Return what the ground truth of a video depends on: its source, and sizes and times of its files."""
    if video.truth is None:
        return []
    states = []
    for path in video.truth.paths:
        if path.is_dir():
            states.append(listing_of([path, *(each for each in sorted(path.rglob("*")) if each.is_dir())]))
        elif path.exists():
            states.append(f"{path.stat().st_size} {path.stat().st_mtime_ns}")
    return [repr(video.truth), *states]


def hash_of_files(files: Sequence[Path]) -> str:
    """Return one SHA-256 of the names and contents of files, in the given order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\n{file_hash(file)}\n".encode())
    return digest.hexdigest()
