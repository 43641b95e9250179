"""Summary of a target store, as printed by `saldistill cache info STORE`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.targets.codec import CODECS
from distill.targets.store import TargetStore, as_store


@dataclass(frozen=True)
class StoreInfo:
    """Summary of a target store.

    Attributes:
        store: its folder or address.
        teacher: the fingerprint of the teacher: name, variant, weights and so on; empty if it is unknown.
        input: clips of the teacher: num_frames, size, stride and precision; None if the maps were imported.
        runtime: runtime that the store was started in; None if unknown.
        videos: number of videos.
        frames: number of their frames.
        views: "plain", "flipped", or both.
        maps: number of maps that are written.
        planned: number of maps in the complete store.
        map_size: (height, width) of a map.
        codec: name of the codec.
        bytes: size on disk.
        shards: number of full shards.
        planned_shards: number of shards in the complete store.
    """

    store: Path | str
    teacher: dict[str, Any]
    input: dict[str, Any] | None
    runtime: str | None
    videos: int
    frames: int
    views: list[str]
    maps: int
    planned: int
    map_size: tuple[int, int]
    codec: str
    bytes: int
    shards: int
    planned_shards: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "store": str(self.store)}

    def __str__(self) -> str:
        h, w = self.map_size
        name = ":".join(str(self.teacher[key]) for key in ("name", "variant") if self.teacher.get(key))
        shape = "{num_frames} frames of {size[0]}x{size[1]}, stride {stride}, {precision}"
        left = self.planned - self.maps
        pixels = max(self.maps, 1) * h * w
        rows = {
            "store": f"{self.store}",
            "teacher": f"{name or 'unknown'}, weights {str(self.teacher.get('weights'))[:12]}",
            "input": shape.format(**self.input) if self.input else "",
            "runtime": self.runtime or "",
            "videos": f"{self.videos}, {self.frames} frames; views: {', '.join(self.views)}",
            "maps": f"{self.maps} of {self.planned}, {h}x{w}",
            "codec": f"{self.codec}: {CODECS[self.codec].summary}",
            "disk": f"{self.bytes / 2**20:.1f} MiB, {self.bytes / pixels:.3f} bytes per pixel",
            "shards": f"{self.shards} of {self.planned_shards} full",
            "missing": f"{left} maps; resume with `saldistill cache build`" if left else "",
        }
        return "\n".join(f"{name:<11}{text}" for name, text in rows.items() if text)


def info(store: TargetStore | str | Path) -> StoreInfo:
    """Return a summary of a store: teacher, input, videos, codec, and how much of it is written."""
    store = as_store(store)
    plan, runtime = store.plan, store.notes.get("runtime")
    return StoreInfo(
        store=store.path,
        teacher=dict(store.fingerprint.get("teacher", {})),
        input=store.fingerprint.get("input"),
        runtime=str(runtime) if runtime else None,
        videos=len(plan.videos),
        frames=sum(len(each) for each in plan.videos.values()),
        views=list(plan.views),
        maps=store.count_committed(),
        planned=plan.num_records,
        map_size=store.map_size,
        codec=store.codec,
        bytes=store.size_on_disk(),
        shards=store.count_sealed(),
        planned_shards=plan.num_shards,
    )
