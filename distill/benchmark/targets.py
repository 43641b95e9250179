"""Cost and benefit of a target store: codecs, writing, reading, opening, and estimates for DHF1K and Kinetics-400.

    saldistill benchmark --of cache [MODEL | CONFIG.yaml] [--json FILE]

MODEL is a teacher and CONFIG a run with one. Without a config, generated videos are used; without either, an
untrained tiny SalFoM. All times come from interleaved rounds of one run, and CPU work is measured in processor time
of all threads, so that ratios hold on a busy machine. The stores are written to the system's temporary folder
(TMPDIR).
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.benchmark import target_tables as tables
from distill.benchmark.data import UncachedClips
from distill.benchmark.process import memory_growth
from distill.benchmark.rows import Call, Tables, device_name, environment, interleave, timed, wait
from distill.data import clip_reader
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import FrameCache
from distill.data.clips import ClipSpec, Video
from distill.data.video.synthetic import SyntheticReader
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.device import resolve_device, torch_threads
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.saliency import normalise_density
from distill.targets.build import fill
from distill.targets.codec import CODECS
from distill.targets.shard import batch_bytes, batch_entries, end_bytes, header_bytes
from distill.targets.store import TargetStore
from distill.training.config import RunConfig, load_config
from distill.training.losses import LOSSES
from distill.training.sources import training_sources, training_videos
from distill.training.teachers import CachedTeacher, OnlineTeacher

DEFAULT_TEACHER, STUDENT = "teacher/salfom:tiny", "student/thtdnet:tiny"

VIDEOS, SHAPE = 2, (96, 360, 640)
"""Number of generated videos, and their frames, height and width."""

MAX_VIDEOS, MAX_FRAMES = 4, 128
"""Number of training videos of a config that are used, and of frames of each that are stored and read."""

BATCHES, MAX_SECONDS = 8, 6.0
"""Batches per timed call of the teacher; fewer, but at least two, if they take longer than this."""

CLIPS = 8
"""Clips per timed call of the loader."""

LARGE_VIDEOS, LARGE_FRAMES = 700, 500
"""Videos, and frames of each, of a store as large as DHF1K's."""

Pieces = dict[tuple[str, str], tuple[Call, int]]
"""(part, row) of the table of times -> what is measured, and the maps or clips that one call processes."""


def benchmark_targets(
    subject: str | Path | None = None,
    *,
    rounds: int = 5,
    batch_size: int = 8,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    progress: bool = True,
) -> Tables:
    """Measure the target store of a teacher.

    Args:
        subject: a teacher, as `distill.models.references.load_model` takes it, or a run's YAML file, which sets
            teacher, student, training videos, batch sizes and precisions. Defaults to an untrained teacher.
        rounds: interleaved rounds.
        batch_size: maps that the teacher computes and the store commits at once, without a config.
        threads: CPU threads of PyTorch; defaults to the current number.
        device: device of teacher and student.
        precision: precision of the teacher, without a config.
        progress: show a progress bar.

    Returns:
        Four tables. "codecs": the error of each codec (KL in nats from the stored to the true map at temperatures
        1 and 4, reverse KL, root mean square error of the logarithm), bytes per pixel, and milliseconds per map.
        "times": the teacher with and without a store, the loader alone, with a store and with the clips of an
        online teacher, a training step of the student, and opening a store of 350,000 maps; `ratio` is relative to
        the first row of each part. "DHF1K": gigabytes and hours, computed from these;
        "collections": the same and what an object store charges, for DHF1K and Kinetics-400.

    Raises:
        UserError: the subject is not a teacher, or is a config without one.
    """
    where = resolve_device(device)
    with tempfile.TemporaryDirectory() as name, torch_threads(threads) as used, fresh_frame_cache():
        folder = Path(name)
        config = _config(subject, folder, batch_size=batch_size, precision=precision)
        case = _prepare(config, folder, where)
        large = make_large_store(folder / "large")
        pieces: Pieces = {
            **codec_pieces(case.maps),
            **writing_pieces(case, folder / "written"),
            **reading_pieces(case),
            tables.STEP: (timed(student_step(case), case.clock), case.batch_size),
            ("opening", f"{LARGE_VIDEOS * LARGE_FRAMES:,} maps of 8x8"): (timed(partial(open_store, large)), 1),
        }
        seconds = interleave([call for call, _ in pieces.values()], rounds, progress=progress)
        memory = memory_growth(partial, open_store, large)
        sizes = {codec: store.size_on_disk() / store.plan.num_records for codec, store in case.stores.items()}
    times = {
        key: 1000 * float(np.median(own)) / units
        for (key, (_, units)), own in zip(pieces.items(), seconds, strict=True)
    }
    setting = {
        "teacher": case.teacher.reference,
        "student": ":".join(part for part in (config.model.name, config.model.variant) if part),
        "videos": len(case.videos),
        "device": device_name(where),
        "precision": case.settings.precision,
        "batch_size": case.settings.batch_size,
        "codec": case.codec,
        "threads": used,
        "rounds": rounds,
        "disk": tempfile.gettempdir(),
        "index_memory_mb": memory,
        **environment(),
    }
    return Tables(
        codecs=tables.codec_table(case.maps, times, setting),
        times=tables.time_table(times, setting),
        DHF1K=tables.dhf1k_table(times, sizes, len(case.teacher.network.target_frames), setting),
        collections=tables.collection_table(times, sizes[case.codec], setting),
    )


@dataclass(frozen=True)
class Case:
    """What is measured: a teacher, a student, videos, and target stores of these videos.

    Attributes:
        batch_size: clips per training step of the student.
        videos: the first frames of the videos, which the loader reads.
        longest: the longest video, of which the teacher labels `frames` in a timed call.
        maps: the teacher's maps (n, h, w), log-saliency, of frames spread over the videos.
        stores: codec -> a target store, filled by repeating the maps.
        codec: codec of the store that the teacher fills.
        settings: settings of the teacher.
        device: device of both models.
        spec: clips of the student.
    """

    teacher: LoadedModel
    student: SaliencyModel
    batch_size: int
    videos: list[Video]
    longest: Video
    frames: Sequence[int]
    maps: np.ndarray
    stores: dict[str, TargetStore]
    codec: str
    settings: InferenceSettings
    device: torch.device
    spec: ClipSpec

    @property
    def clock(self) -> Call:
        """The clock of teacher and student: processor time on the CPU, else wall time."""
        return time.process_time if self.device.type == "cpu" else time.perf_counter


def _config(subject: str | Path | None, folder: Path, *, batch_size: int, precision: str) -> RunConfig:
    """Return the given run, or one around a teacher on generated videos."""
    if subject is not None and Path(subject).suffix in (".yaml", ".yml"):
        config = load_config(subject)
        if not config.teacher_sections or config.teacher_sections[0].model is None:
            raise UserError(f"{subject}: has no teacher; expected teacher.model, or pass the teacher itself")
        return config
    for number in range(VIDEOS):
        reader = SyntheticReader("synthetic:{}-{}x{}x{}".format(number, *SHAPE))
        with VideoWriter(folder / "videos" / f"{number}.mp4", reader.size, reader.fps) as writer:
            for frame in range(reader.num_frames):
                writer.write(reader.read([frame]))
    name, _, variant = STUDENT.partition(":")
    return RunConfig.model_validate(
        {
            "out": str(folder / "run"),
            "model": {"name": name, "variant": variant},
            "data": {"train": [{"dataset": "folder", "root": str(folder / "videos")}]},
            "teacher": {
                "model": str(subject or DEFAULT_TEACHER),
                "store": str(folder / "store"),
                "batch_size": batch_size,
                "precision": precision,
            },
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1, "batch_size": 4},
        }
    )


def _prepare(config: RunConfig, folder: Path, device: torch.device) -> Case:
    """Load the models, compute the teacher's maps, and fill the stores that are read."""
    section, chosen = config.teacher_sections[0], config.model
    assert section.model is not None
    teacher = load_model(section.model, device=device)
    student = create_model(chosen.name, variant=chosen.variant, **chosen.arguments).network.to(device).train()
    videos = training_videos(training_sources(config.data))[:MAX_VIDEOS]
    settings = section.settings(device)
    longest = max(videos, key=lambda video: len(video.frames))
    timed_frames = longest.frames[: _affordable_frames(teacher.network, longest, settings)]
    maps: list[np.ndarray] = []
    for video in videos:
        places = np.linspace(0, len(video.frames) - 1, max(1, len(timed_frames) // len(videos))).astype(int)
        frames = [video.frames[place] for place in sorted(set(places.tolist()))]
        maps += [batch.numpy() for _, batch in slide(teacher.network, video, frames, settings)]
    videos = [replace(video, frames=video.frames[:MAX_FRAMES]) for video in videos]
    case = Case(
        teacher=teacher,
        student=student,
        batch_size=config.training.batch_size,
        videos=videos,
        longest=longest,
        frames=timed_frames,
        maps=np.concatenate(maps),
        stores={},
        codec=section.codec,
        settings=settings,
        device=device,
        spec=ClipSpec.of(student, config.data.stride),
    )
    case.stores.update({codec: _filled_store(folder / codec, codec, case) for codec in CODECS})
    return case


def _affordable_frames(teacher: SaliencyModel, video: Video, settings: InferenceSettings) -> int:
    """Return the frames of a timed call of the teacher: BATCHES, or what fits in MAX_SECONDS, but two batches."""
    batch_size = settings.batch_size
    whole = len(video.frames) // batch_size
    if whole < 2:
        raise UserError(
            f"{video.path}: {len(video.frames)} frames are fewer than two batches of {batch_size}, which the "
            "measurement needs; use a longer video or smaller batches"
        )
    call = timed(lambda: list(slide(teacher, video, video.frames[:batch_size], settings)))
    call()  # the first call of a model is slower
    return batch_size * min(whole, max(2, min(BATCHES, int(MAX_SECONDS / call()))))


def _filled_store(path: Path, codec: str, case: Case) -> TargetStore:
    """Return a target store of the videos, filled by repeating the maps."""
    store = TargetStore.create(
        path,
        fingerprint={"teacher": {"name": case.teacher.reference}},
        videos={video.name: video.frames for video in case.videos},
        map_size=case.teacher.network.map_size,
        codec=codec,
        batch_size=case.settings.batch_size,
    )
    repeated = cycle(case.maps)
    with store:
        for batch in chain.from_iterable(store.missing()):
            store.commit(batch, np.stack([next(repeated) for _ in batch.frames]))
    return store


@contextmanager
def fresh_frame_cache() -> Iterator[None]:
    """Replace this process's cache of decoded frames within a block, since `UncachedClips` turns caching off."""
    before, clip_reader.FRAME_CACHE = clip_reader.FRAME_CACHE, FrameCache()
    try:
        yield
    finally:
        clip_reader.FRAME_CACHE = before


# ------------------------------------------------------------------------------------------- what is measured


def codec_pieces(maps: np.ndarray) -> Pieces:
    """Return encoding and decoding of all maps with each codec, in processor time."""
    pieces: Pieces = {}
    for name, codec in CODECS.items():
        originals = [(each,) for each in maps]
        records = [(codec.encode(each), maps.shape[1:]) for each in maps]
        for what, work, inputs in (("encode", codec.encode, originals), ("decode", codec.decode, records)):
            pieces[what, name] = timed(partial(_call_each, work, inputs), time.process_time), len(maps)
    return pieces


def _call_each(work: Callable[..., object], inputs: Iterable[tuple[Any, ...]]) -> None:
    for each in inputs:
        work(*each)


def writing_pieces(case: Case, folder: Path) -> Pieces:
    """Return computing the same maps with and without a target store, which is written to a folder.

    The time from one batch to the next counts, because a shard's files are created and closed once for many
    batches.
    """
    network, video, batch_size, numbers = case.teacher.network, case.longest, case.settings.batch_size, count()

    def mean_interval(batches: Iterable[object]) -> float:
        stamps = [case.clock() for _ in batches]
        return (stamps[-1] - stamps[0]) / (len(stamps) - 1)

    def alone() -> float:
        return mean_interval(slide(network, video, case.frames, case.settings))

    def storing() -> float:
        store = TargetStore.create(
            folder / str(next(numbers)),
            fingerprint={},
            videos={video.name: case.frames},
            map_size=network.map_size,
            codec=case.codec,
            batch_size=batch_size,
        )
        return mean_interval(fill(store, network, {video.name: video}, case.settings))

    return {tables.TEACHER: (alone, batch_size), tables.TEACHER_AND_STORE: (storing, batch_size)}


def reading_pieces(case: Case) -> Pieces:
    """Return loading the same random clips: alone, with a target store, with the clips of an online teacher."""
    online = OnlineTeacher(case.teacher, case.settings)
    readers: dict[tuple[str, str], list[Any]] = {tables.LOADER: []}
    for codec, store in case.stores.items():
        readers[tables.loader_and_store(codec)] = [CachedTeacher(store, case.spec).reader]
    readers["reading", "loader and online teacher's clips"] = [online.reader]
    pieces: Pieces = {}
    for key, extras in readers.items():
        source = ClipSource(case.videos, CLIPS)
        dataset = UncachedClips(ClipDataset([source], case.spec, seed=0, flip=False, extras=extras))
        load = partial(_call_each, dataset.__getitem__, [(number,) for number in range(CLIPS)])
        pieces[key] = timed(load, time.process_time), CLIPS
    return pieces


def student_step(case: Case) -> Callable[[], None]:
    """Return the student's forward and backward pass on one batch."""
    student, spec = case.student, case.spec
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch_size, 3, spec.num_frames, *spec.size)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(case.device)
    maps = (case.batch_size, len(spec.target_frames), *spec.map_size)
    target = normalise_density(torch.rand(maps, generator=generator).to(case.device))

    def step() -> None:
        LOSSES["kldiv"](student(clip), target).mean().backward()
        student.zero_grad()
        wait(case.device)

    return step


# ------------------------------------------------------------------------------ a store as large as DHF1K's


def open_store(path: Path) -> int:
    """Open a target store, check the index of every shard, and return the number of committed maps."""
    with TargetStore.open(path) as store:
        return store.count_committed()


def make_large_store(path: Path) -> Path:
    """Write a complete target store of 350,000 maps of 8x8, repeating a few of them, without syncing to disk."""
    names = {f"{number:04d}": range(LARGE_FRAMES) for number in range(LARGE_VIDEOS)}
    store = TargetStore.create(path, fingerprint={}, videos=names, map_size=(8, 8))
    random = np.random.default_rng(0)
    records = [CODECS[store.codec].encode(random.normal(size=(8, 8))) for _ in range(store.plan.batch_size)]
    (path / "shards").mkdir()
    for shard in range(store.plan.num_shards):
        batches = store.plan.batches_of(shard)
        content = [header_bytes(shard, len(batches), store.plan.records_of(batches), store.digest)]
        entries, position = [], len(content[0])
        for index in batches:
            held = records[: len(store.plan[index].frames)]
            entries.append(batch_entries(position, held))
            content.append(batch_bytes(index, held))
            position += len(content[-1])
        content.append(end_bytes(np.concatenate(entries), position))
        (path / "shards" / f"{shard:05d}.shard").write_bytes(b"".join(content))
    return path
