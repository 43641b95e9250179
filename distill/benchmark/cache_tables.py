"""The tables of `benchmark --of cache`: what codecs lose, what storing and reading add, what DHF1K would take."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.benchmark.rows import Benchmark
from distill.saliency import log_density
from distill.targets.codec import CODECS

DHF1K_FRAMES = 346_140
"""Frames of DHF1K's 600 training videos."""

CODEC_COLUMNS = {
    "codec": ("codec", "{}"),
    "kl": ("KL", "{:.1e}"),
    "kl_max": ("at most", "{:.1e}"),
    "kl_4": ("KL at T=4", "{:.1e}"),
    "reverse_kl": ("reverse KL", "{:.1e}"),
    "log_error": ("log RMSE", "{:.1e}"),
    "bytes_a_pixel": ("bytes/pixel", "{:.3f}"),
    "encode": ("encode ms", "{:.3f}"),
    "decode": ("decode ms", "{:.3f}"),
}
TIME_COLUMNS = {
    "part": ("part", "{}"),
    "what": ("what", "{}"),
    "milliseconds": ("ms", "{:.4g}"),
    "unit": ("a", "{}"),
    "ratio": ("ratio", "{:.3f}"),
}
DHF1K_COLUMNS = {
    "codec": ("codec", "{}"),
    "disk_gib": ("disk GiB", "{:.1f}"),
    "both_views_gib": ("both views GiB", "{:.1f}"),
    "caching_hours": ("caching h", "{:.2f}"),
    "online_hours": ("epoch online h", "{:.2f}"),
    "cached_hours": ("epoch cached h", "{:.2f}"),
    "workers": ("workers", "{:.2f}"),
}
"""Key of a row -> its head and form in a table."""

UNITS = {"writing": "map", "reading": "clip", "training": "clip", "opening": "store"}
"""Part of the table of times -> what its milliseconds are a unit of."""

ALONE, STORING = ("writing", "the teacher alone"), ("writing", "the teacher and a store")
LOADING, READING = ("reading", "the loader alone"), ("reading", "the loader and stored maps, {}")
STEP = ("training", "the student, a step")
"""Part and row of what the table of DHF1K is computed from."""

Times = Mapping[tuple[str, str], float]
"""Part and row -> milliseconds a unit; ("encode", codec) and ("decode", codec): a map."""


def codec_table(maps: np.ndarray, times: Times, setting: Mapping[str, Any]) -> Benchmark:
    """Say what each codec loses of a teacher's maps (n, h, w), log-saliency, and what it takes."""
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
    note = f"{n} maps {h}x{w} of {setting['teacher']}, {span:.1f} nats from peak to floor; KL in nats, ms a map"
    return Benchmark(rows, CODEC_COLUMNS, setting, [note])


def kl(true: Tensor, stored: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL (n,) in nats of stored against true log-saliency (n, h, w), both divided by a temperature."""
    p, q = (log_density(each.double() / temperature) for each in (true, stored))
    return (p.exp() * (p - q)).sum(dim=(-2, -1))


def time_table(times: Times, setting: Mapping[str, Any]) -> Benchmark:
    """Say what a store adds to the teacher and to the loader; each part's ratios are against its first row."""
    rows: list[dict[str, Any]] = []
    for part, unit in UNITS.items():
        own = {what: taken for (other, what), taken in times.items() if other == part}
        first = next(iter(own.values()))
        rows += [
            {"part": part, "what": what, "milliseconds": taken, "unit": unit, "ratio": taken / first}
            for what, taken in own.items()
        ]
    notes = [
        "{device}, {threads} CPU threads, {rounds} rounds; teacher {teacher} in {precision}, stored by {codec}, "
        "{batch_size} maps at a time; student {student}".format(**setting),
        "writing: to {disk}; reading: random clips, no decoded frame kept; opening: the index of every shard, "
        "{index_memory_mb:.0f} MB".format(**setting),
        "of a CPU it is processor time, of all threads together; of a GPU and of opening the time that passes",
    ]
    return Benchmark(rows, TIME_COLUMNS, setting, notes)


def dhf1k_table(
    times: Times, bytes_a_map: Mapping[str, float], maps_a_clip: int, setting: Mapping[str, Any]
) -> Benchmark:
    """Compute from measured times and sizes what DHF1K's training videos would take.

    Args:
        times: as measured.
        bytes_a_map: codec -> bytes of a store for each of its maps.
        maps_a_clip: maps that the teacher makes of one clip.
        setting: as of the other tables.
    """
    step, teaching = times[STEP], times[ALONE] * maps_a_clip
    hours = DHF1K_FRAMES / 3.6e6
    rows = []
    for codec, size in bytes_a_map.items():
        disk = size * DHF1K_FRAMES / 2**30
        rows.append(
            {
                "codec": codec,
                "disk_gib": disk,
                "both_views_gib": 2 * disk,
                "caching_hours": times[STORING] * hours,
                "online_hours": (step + teaching) * hours,
                "cached_hours": step * hours,
                "workers": times[READING[0], READING[1].format(codec)] / step,
            }
        )
    notes = [
        f"computed from the times above, not measured: {DHF1K_FRAMES:,} training frames, one view, one GPU or one "
        "CPU core; an epoch is a clip a frame:",
        "online the student's step and the teacher's map, cached the step alone, with so many loading workers that "
        "keep up with it",
    ]
    return Benchmark(rows, DHF1K_COLUMNS, setting, notes)
