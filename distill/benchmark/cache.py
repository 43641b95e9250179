"""What a store of teacher maps costs and saves: codecs, writing, reading, opening, and what DHF1K would take.

    saldistill benchmark --of cache [MODEL | CONFIG.yaml] [--json FILE]

MODEL is a teacher, and CONFIG a run with one; generated videos stand in where no config names some, and an
untrained tiny SalFoM where nothing names a teacher. All times come from one run whose rounds interleave, and what a
processor does is told in its own time, of all threads together, so that the ratios hold on a machine that is busy
with other things. The stores are written where the system keeps its temporary files (TMPDIR says another place).
"""

import os
import platform
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

from distill.benchmark import cache_index
from distill.benchmark.cache_tables import (
    ALONE,
    LOADING,
    READING,
    STEP,
    STORING,
    codec_table,
    dhf1k_table,
    time_table,
)
from distill.benchmark.memory import growth
from distill.benchmark.models import threads_set, wait
from distill.benchmark.reader import Unremembered
from distill.benchmark.rows import Tables, interleave
from distill.data import clip_reader
from distill.data.clip_dataset import ClipDataset, ClipSource
from distill.data.clip_reader import FrameCache
from distill.data.clips import ClipSpec, Video
from distill.data.video.synthetic import SyntheticReader
from distill.data.video.writer import VideoWriter
from distill.errors import UserError
from distill.inference.settings import InferenceSettings
from distill.inference.sliding_window import slide
from distill.models.device import resolve_device
from distill.models.loaded import LoadedModel
from distill.models.protocols import SaliencyModel
from distill.models.references import load_model
from distill.models.registry import create_model
from distill.saliency import normalise_density
from distill.targets.build import fill
from distill.targets.codec import CODECS, Codec
from distill.targets.store import TargetStore
from distill.training.config import RunConfig, load_config
from distill.training.losses import LOSSES
from distill.training.sources import training_sources, training_videos
from distill.training.teachers import CachedTeacher, OnlineTeacher

TEACHER, STUDENT = "teacher/salfom:tiny", "student/thtdnet:tiny"
"""Where nothing else is named."""

VIDEOS, SHAPE = 2, (96, 360, 640)
"""Generated videos: how many, and their frames, height and width."""

MOST_VIDEOS, MOST_FRAMES = 4, 128
"""Of a config's training videos the first so many are used, and so many frames of each are stored and read."""

BATCHES = 8
"""Batches of a timed call of the teacher, at most; ..."""

PATIENCE = 6.0
"""... a slow teacher makes as many as it can in so many seconds, but two at least."""

CLIPS = 8
"""Clips of a timed call of the loader."""

Clock = Callable[[], float]
"""Seconds: the processor's, of all threads, or those of the wall."""

Call = Callable[[], float]
"""Does what is measured once, and returns the seconds that it took."""

Piece = tuple[Call, int]
"""What is measured, and how many maps or clips it does at once."""


def benchmark(
    subject: str | Path | None = None,
    *,
    rounds: int = 5,
    batch_size: int = 8,
    threads: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    progress: bool = True,
) -> Tables:
    """Measure a teacher's store.

    Args:
        subject: a teacher, as `distill.models.load_model` takes it; or a run's YAML file, whose teacher, student,
            training videos, batch sizes and precisions are taken. None: an untrained teacher.
        rounds: interleaved rounds.
        batch_size: maps that the teacher makes and the store commits at once, where no config says it.
        threads: CPU threads of PyTorch; their present number when None.
        device: where teacher and student run.
        precision: of the teacher, where no config says it.
        progress: show a bar.

    Returns:
        Three tables. "codecs": what each loses (KL in nats, at temperatures 1 and 4, from the stored to the true
        map, and the other way; root mean square error of the logarithm), its bytes a pixel, and milliseconds a
        map. "times": the teacher alone and with a store behind it, a loader alone, with stored maps and with the
        clips of a teacher that runs online, a training step of the student, and opening a store of 350,000 maps;
        `ratio` is against the first row of the part. "DHF1K": gigabytes and hours, computed from these.

    Raises:
        UserError: the subject is no teacher, or a config without one.
    """
    where = resolve_device(device)
    with tempfile.TemporaryDirectory() as folder:
        with threads_set(threads) as used, frames_forgotten():
            config = _config(subject, Path(folder), batch_size=batch_size, precision=precision)
            case = _prepare(config, Path(folder), where)
            large = str(cache_index.make_large(Path(folder) / "large"))
            pieces = {
                **codec_pieces(case),
                **writing_pieces(case, Path(folder) / "written"),
                **reading_pieces(case),
                STEP: student_piece(case),
                ("opening", f"{cache_index.MAPS:,} maps of 8x8"): (
                    timed(cache_index.open_large(large), time.perf_counter),
                    1,
                ),
            }
            seconds = interleave([call for call, _ in pieces.values()], rounds, progress=progress)
        memory = growth(cache_index.open_large, large)
        bytes_a_map = {codec: store.size_on_disk() / store.plan.num_records for codec, store in case.stores.items()}
    times = {
        key: 1000 * float(np.median(own)) / number
        for (key, (_, number)), own in zip(pieces.items(), seconds, strict=True)
    }
    setting = {
        "teacher": str(config.teacher.model) if config.teacher else "",
        "student": ":".join(part for part in (config.model.name, config.model.variant) if part),
        "videos": len(case.videos),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else f"{where} ({platform.machine()})",
        "precision": case.settings.precision,
        "batch_size": case.settings.batch_size,
        "codec": case.codec,
        "threads": used,
        "cpus": os.cpu_count(),
        "rounds": rounds,
        "disk": tempfile.gettempdir(),
        "torch": str(torch.__version__),
        "index_memory_mb": memory,
    }
    return Tables(
        codecs=codec_table(case.maps, times, setting),
        times=time_table(times, setting),
        DHF1K=dhf1k_table(times, bytes_a_map, len(case.teacher.network.target_frames), setting),
    )


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        teacher: in evaluation mode, on the device.
        student: in training mode, on the device.
        longest: the longest video, ...
        frames: ... of which the teacher labels so many frames in a timed call.
        maps: of the teacher, (n, h, w) log-saliency of frames all over the videos.
        videos: what the loader reads: the first frames of the videos.
        stores: codec -> a store of these frames, filled with the maps over and over.
        spec: the clips of the student.
        settings: of the teacher's sliding window.
        device: of both.
        codec: of the store that is written behind the teacher.
        batch_size: clips of a step of the student.
        clock: of what teacher and student do: the processor's where they run on it, else the wall's.
    """

    teacher: LoadedModel
    student: SaliencyModel
    longest: Video
    frames: Sequence[int]
    maps: np.ndarray
    videos: list[Video]
    stores: dict[str, TargetStore]
    spec: ClipSpec
    settings: InferenceSettings
    device: torch.device
    codec: str
    batch_size: int
    clock: Clock


def _config(subject: str | Path | None, folder: Path, *, batch_size: int, precision: str) -> RunConfig:
    """Return the run that is measured: the one that is named, or one around a teacher, on generated videos."""
    if subject is not None and Path(subject).suffix in (".yaml", ".yml"):
        config = load_config(subject)
        if config.teacher is None or config.teacher.model is None:
            raise UserError(f"{subject}: names no teacher; expected teacher.model, or name the teacher itself")
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
                "model": str(subject or TEACHER),
                "store": str(folder / "store"),
                "batch_size": batch_size,
                "precision": precision,
            },
            "losses": [{"name": "kldiv", "against": "teacher"}],
            "training": {"steps": 1, "batch_size": 4},
        }
    )


def _prepare(config: RunConfig, folder: Path, device: torch.device) -> Case:
    """Load the models, let the teacher make its maps, and fill the stores that are read."""
    section = config.teacher
    assert section is not None
    assert section.model is not None
    teacher = load_model(section.model, device=device)
    chosen = config.model
    student = create_model(chosen.name, variant=chosen.variant, **chosen.arguments).network.to(device).train()
    videos = training_videos(training_sources(config.data))[:MOST_VIDEOS]
    settings = InferenceSettings(
        stride=section.stride, batch_size=section.batch_size, device=device, precision=section.precision
    )
    longest = max(videos, key=lambda video: len(video.frames))
    whole = len(longest.frames) // section.batch_size
    if whole < 2:
        raise UserError(
            f"{longest.path}: {len(longest.frames)} frames make no two batches of {section.batch_size}, and time "
            "is taken from one to the next; use a longer video or smaller batches"
        )
    for _ in range(2):  # the first call of a model is slower
        started = time.perf_counter()
        list(slide(teacher.network, longest, longest.frames[: section.batch_size], settings))
    seconds = time.perf_counter() - started
    batches = min(whole, max(2, min(BATCHES, int(PATIENCE / seconds))))
    share = max(1, batches * section.batch_size // len(videos))
    maps = np.concatenate([made for video in videos for made in _spread(teacher.network, video, share, settings)])
    videos = [replace(video, frames=video.frames[:MOST_FRAMES]) for video in videos]
    stores = {}
    for codec in CODECS:
        store = TargetStore.create(
            folder / codec,
            fingerprint={"teacher": {"name": str(section.model)}},
            videos={video.name: video.frames for video in videos},
            map_size=teacher.network.map_size,
            codec=codec,
            batch_size=section.batch_size,
        )
        again = cycle(maps)
        with store:
            for each in chain.from_iterable(store.missing()):
                store.commit(each, np.stack([next(again) for _ in each.frames]))
        stores[codec] = store
    return Case(
        teacher=teacher,
        student=student,
        longest=longest,
        frames=longest.frames[: batches * section.batch_size],
        videos=videos,
        maps=maps,
        stores=stores,
        spec=ClipSpec.of(student, config.data.stride),
        settings=settings,
        device=device,
        codec=section.codec,
        batch_size=config.training.batch_size,
        clock=time.process_time if device.type == "cpu" else time.perf_counter,
    )


def _spread(teacher: SaliencyModel, video: Video, number: int, settings: InferenceSettings) -> Iterator[np.ndarray]:
    """Yield a teacher's maps (n, h, w) of some frames all over a video."""
    places = np.linspace(0, len(video.frames) - 1, number).astype(int)
    for _, maps in slide(teacher, video, [video.frames[place] for place in sorted(set(places.tolist()))], settings):
        yield maps.numpy()


@contextmanager
def frames_forgotten() -> Iterator[None]:
    """Let this process forget the frames that it decoded, and `Unremembered` what it keeps, for a block."""
    before, clip_reader.FRAME_CACHE = clip_reader.FRAME_CACHE, FrameCache()
    try:
        yield
    finally:
        clip_reader.FRAME_CACHE = before


# ------------------------------------------------------------------------------------------- what is measured


def codec_pieces(case: Case) -> dict[tuple[str, str], Piece]:
    """Return what encodes and decodes all maps with each codec."""
    pieces: dict[tuple[str, str], Piece] = {}
    for name, codec in CODECS.items():
        pieces["encode", name] = timed(partial(_encode_all, codec, case.maps)), len(case.maps)
        records = _encode_all(codec, case.maps)
        pieces["decode", name] = timed(partial(_decode_all, codec, records, case.maps.shape[1:])), len(case.maps)
    return pieces


def _encode_all(codec: Codec, maps: np.ndarray) -> list[bytes]:
    return [codec.encode(each) for each in maps]


def _decode_all(codec: Codec, records: Sequence[bytes], size: tuple[int, int]) -> None:
    for record in records:
        codec.decode(record, size)


def writing_pieces(case: Case, folder: Path) -> dict[tuple[str, str], Piece]:
    """Return what computes the same maps without a store and with one, in a folder, behind the teacher.

    What counts is the time from a batch to the next: the files of a shard are made and closed once for many.
    """
    video, numbers = case.longest, count()

    def alone() -> float:
        return pace(slide(case.teacher.network, video, case.frames, case.settings), case)

    def storing() -> float:
        store = TargetStore.create(
            folder / str(next(numbers)),
            fingerprint={},
            videos={video.name: case.frames},
            map_size=case.teacher.network.map_size,
            codec=case.codec,
            batch_size=case.settings.batch_size,
        )
        return pace(fill(store, case.teacher.network, {video.name: video}, case.settings), case)

    return {ALONE: (alone, case.settings.batch_size), STORING: (storing, case.settings.batch_size)}


def pace(batches: Iterable[object], case: Case) -> float:
    """Return the mean seconds from one of some batches to the next."""
    stamps = [case.clock() for _ in batches]
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def reading_pieces(case: Case) -> dict[tuple[str, str], Piece]:
    """Return what loads the same random clips: alone, with stored maps, with the clips of an online teacher."""
    online = OnlineTeacher(
        case.teacher, stride=case.settings.stride or 1, device=case.device, precision=case.settings.precision
    )
    readers: dict[tuple[str, str], list[Any]] = {LOADING: []}
    for codec, store in case.stores.items():
        readers[READING[0], READING[1].format(codec)] = [CachedTeacher(store, case.spec).reader]
    readers["reading", "the loader and an online teacher's clips"] = [online.reader]

    def load(extras: list[Any]) -> Piece:
        dataset = ClipDataset([ClipSource(case.videos, CLIPS)], case.spec, seed=0, flip=False, extras=extras)
        forgetful = Unremembered(dataset)
        return timed(lambda: [forgetful[number] for number in range(CLIPS)]), CLIPS

    return {key: load(extras) for key, extras in readers.items()}


def student_piece(case: Case) -> Piece:
    """Return the student's step on one batch, forward and back."""
    student, spec, device = case.student, case.spec, case.device
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch_size, 3, spec.num_frames, *spec.size)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    maps = (case.batch_size, len(spec.target_frames), *spec.map_size)
    target = normalise_density(torch.rand(maps, generator=generator).to(device))

    def step() -> None:
        LOSSES["kldiv"](student(clip), target).mean().backward()
        student.zero_grad()
        wait(device)

    return timed(step, case.clock), case.batch_size


def timed(work: Callable[[], object], clock: Clock = time.process_time) -> Call:
    """Return a call that does some work and returns the seconds that a clock says it took."""

    def call() -> float:
        started = clock()
        work()
        return clock() - started

    return call
