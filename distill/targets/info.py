"""Summary of a target store, as printed by `saldistill cache info STORE`."""

from pathlib import Path

from distill.targets.codec import CODECS
from distill.targets.store import TargetStore, as_store


def info(store: TargetStore | str | Path) -> str:
    """Return a summary of a store: teacher, input, videos, codec, and how much of it is written."""
    store = as_store(store)
    plan, count, size = store.plan, store.count_committed(), store.size_on_disk()
    h, w = store.map_size
    teacher, teacher_input = store.fingerprint.get("teacher", {}), store.fingerprint.get("input")
    name = ":".join(str(teacher[key]) for key in ("name", "variant") if teacher.get(key))
    frames = sum(len(each) for each in plan.videos.values())
    shape = "{num_frames} frames of {size[0]}x{size[1]}, stride {stride}, {precision}"
    left = plan.num_records - count
    rows = {
        "store": f"{store.path}",
        "teacher": f"{name or 'unknown'}, weights {str(teacher.get('weights'))[:12]}",
        "input": shape.format(**teacher_input) if teacher_input else "",
        "runtime": str(store.notes.get("runtime") or ""),
        "videos": f"{len(plan.videos)}, {frames} frames; views: {', '.join(plan.views)}",
        "maps": f"{count} of {plan.num_records}, {h}x{w}",
        "codec": f"{store.codec}: {CODECS[store.codec].summary}",
        "disk": f"{size / 2**20:.1f} MiB, {size / max(count, 1) / (h * w):.3f} bytes per pixel",
        "shards": f"{store.count_sealed()} of {plan.num_shards} full",
        "missing": f"{left} maps; resume with `saldistill cache build`" if left else "",
    }
    return "\n".join(f"{name:<11}{text}" for name, text in rows.items() if text)
