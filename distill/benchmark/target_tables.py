"""Tables of `benchmark --of cache`: codec errors, overhead of a target store, and what collections would take."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.benchmark.rows import Table
from distill.saliency import log_density
from distill.targets.codec import CODECS

DHF1K_FRAMES = 346_140
"""Frames of DHF1K's 600 training videos."""

COLLECTIONS = {
    "DHF1K, training videos": DHF1K_FRAMES,
    "Kinetics-400, training clips, 1 frame per second": 246_245 * 10,
    "Kinetics-400, training clips, 30 frames per second": 246_245 * 300,
}
"""Collection -> maps of one view. Kinetics-400 has 306,245 clips of about 10 s; 50 per class are for validation and
100 for testing (Kay et al., "The Kinetics Human Action Video Dataset", 2017)."""

KEEP_PRICE, PULL_PRICE = 0.023, 0.09
"""US dollars per GB that an object store keeps for a month, and that leaves it for the internet: assumed, about the
list prices of Amazon S3 Standard in us-east-1."""

LINE = 1e9 / 8
"""Bytes per second of a line of 1 Gbit/s."""

CODEC_COLUMNS = "codec kl kl_max kl_4 reverse_kl log_error bytes_a_pixel encode decode"
TIME_COLUMNS = "part what milliseconds unit ratio"
DHF1K_COLUMNS = "codec disk_gib both_views_gib caching_hours online_hours cached_hours workers"

COLLECTION_COLUMNS = "collection maps disk_gib hours keep_usd pull_usd pull_hours"

UNITS = {"writing": "map", "reading": "clip", "training": "clip", "opening": "store"}
"""Part of the table of times -> what its milliseconds are per."""

TEACHER, TEACHER_AND_STORE = ("writing", "teacher alone"), ("writing", "teacher and store")
LOADER = ("reading", "loader alone")
STEP = ("training", "student, one step")
"""(part, row) of the times that the DHF1K table is computed from."""

Times = Mapping[tuple[str, str], float]
"""(part, row) -> milliseconds per unit; ("encode", codec) and ("decode", codec) -> milliseconds per map."""


def loader_and_store(codec: str) -> tuple[str, str]:
    """Return the (part, row) of the loader with a target store."""
    return "reading", f"loader and target store, {codec}"


def codec_table(maps: np.ndarray, times: Times, setting: Mapping[str, Any]) -> Table:
    """Return error and cost of each codec on a teacher's maps (n, h, w), log-saliency."""
    n, h, w = maps.shape
    true, rows = torch.from_numpy(maps), []
    for name, codec in CODECS.items():
        records = [codec.encode(each) for each in maps]
        stored = torch.from_numpy(np.stack([codec.decode(record, (h, w)) for record in records]))
        loss = kl(true, stored)
        rows.append(
            {
                "codec": name,
                "kl": float(loss.mean()),
                "kl_max": float(loss.max()),
                "kl_4": float(kl(true, stored, 4).mean()),
                "reverse_kl": float(kl(stored, true).mean()),
                "log_error": float((log_density(true) - log_density(stored)).square().mean().sqrt()),
                "bytes_a_pixel": sum(map(len, records)) / maps.size,
                "encode": times["encode", name],
                "decode": times["decode", name],
            }
        )
    span = float(np.ptp(maps, axis=(1, 2)).mean())
    note = (
        f"{n} maps {h}x{w} of {setting['teacher']}, {span:.1f} nats from peak to floor; KL in nats, log error as "
        "RMSE, encode and decode in ms per map"
    )
    return Table(rows, CODEC_COLUMNS, setting, [note])


def kl(true: Tensor, stored: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(true || stored) (n,) in nats of log-saliency (n, h, w), both divided by a temperature."""
    p, q = (log_density(each.double() / temperature) for each in (true, stored))
    return (p.exp() * (p - q)).sum(dim=(-2, -1))


def time_table(times: Times, setting: Mapping[str, Any]) -> Table:
    """Return the overhead of a target store; ratios are relative to the first row of each part."""
    rows: list[dict[str, Any]] = []
    for part, unit in UNITS.items():
        own = {what: taken for (other, what), taken in times.items() if other == part}
        first = next(iter(own.values()))
        rows += [
            {"part": part, "what": what, "milliseconds": taken, "unit": unit, "ratio": taken / first}
            for what, taken in own.items()
        ]
    notes = [
        "{device}, {threads} CPU threads, {rounds} rounds; teacher {teacher} in {precision}, codec {codec}, "
        "{batch_size} maps at a time; student {student}".format(**setting),
        "writing: to {disk}; reading: random clips, decoded frames not cached; opening: the index of every shard, "
        "{index_memory_mb:.0f} MB".format(**setting),
        "processor time of all threads for CPU work; wall time for a GPU and for opening",
    ]
    return Table(rows, TIME_COLUMNS, setting, notes)


def dhf1k_table(
    times: Times, bytes_per_map: Mapping[str, float], maps_per_clip: int, setting: Mapping[str, Any]
) -> Table:
    """Return what DHF1K's training videos would take, computed from measured times and sizes.

    Args:
        times: measured times.
        bytes_per_map: codec -> bytes per map of a target store.
        maps_per_clip: maps that the teacher computes per clip.
        setting: setting of the other tables.
    """
    step, teaching = times[STEP], times[TEACHER] * maps_per_clip
    hours = DHF1K_FRAMES / 3.6e6
    rows = []
    for codec, size in bytes_per_map.items():
        disk = size * DHF1K_FRAMES / 2**30
        rows.append(
            {
                "codec": codec,
                "disk_gib": disk,
                "both_views_gib": 2 * disk,
                "caching_hours": times[TEACHER_AND_STORE] * hours,
                "online_hours": (step + teaching) * hours,
                "cached_hours": step * hours,
                "workers": times[loader_and_store(codec)] / step,
            }
        )
    notes = [
        f"computed from the times above, not measured: {DHF1K_FRAMES:,} training frames, one view, one GPU or one "
        "CPU core; one epoch is one clip per frame:",
        "online: the student's step and the teacher's map; cached: the step alone, with enough loader "
        "workers to keep up with it (number in the last column)",
    ]
    return Table(rows, DHF1K_COLUMNS, setting, notes)


def collection_table(times: Times, bytes_per_map: float, setting: Mapping[str, Any]) -> Table:
    """Return what the target stores of COLLECTIONS would take, computed from measured time and size.

    Args:
        times: measured times.
        bytes_per_map: bytes per map of a target store with the codec of the setting.
        setting: setting of the other tables.
    """
    rows = [
        {
            "collection": collection,
            "maps": maps,
            "disk_gib": maps * bytes_per_map / 2**30,
            "hours": maps * times[TEACHER_AND_STORE] / 3.6e6,
            "keep_usd": maps * bytes_per_map / 1e9 * KEEP_PRICE,
            "pull_usd": maps * bytes_per_map / 1e9 * PULL_PRICE,
            "pull_hours": maps * bytes_per_map / LINE / 3600,
        }
        for collection, maps in COLLECTIONS.items()
    ]
    notes = [
        f"computed, not measured: one view, codec {setting['codec']}, {bytes_per_map:,.0f} bytes and "
        f"{times[TEACHER_AND_STORE]:,.3g} ms per map as above, on one GPU or one CPU core; divide the hours by the "
        "number of workers",
        f"keep: per month, ${KEEP_PRICE:g} per GB; pull: ${PULL_PRICE:g} per GB to another cloud or home, free in "
        "the same region, and hours at 1 Gbit/s",
    ]
    return Table(rows, COLLECTION_COLUMNS, setting, notes)
