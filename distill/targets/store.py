"""A store of teacher maps: one folder, one map a frame and view, written once and read from everywhere.

    store.json            format, codec, map size, fingerprint, plan, and the SHA-256 of all that
    shards/00000.shard    full shards (the bytes: format.py)
    shards/00001.part     a shard in the making (how it is written: writer.py)

Writing, in any number of processes at once, none of which knows of the others:

    for batches in store.missing():  # of one shard, which this process could claim
        for batch in batches:
            store.commit(batch, maps)  # (n, h, w) log-saliency; on the disk when it returns

Reading needs the video's name and the frame: `store.read("0601", 41)`. Every read checks the record's checksum.
An unfinished store can be read as far as it is committed. A store is a folder that can be copied and moved.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.files import fsync, refuse_existing, write_new
from distill.targets.codec import CODECS
from distill.targets.fingerprint import differences
from distill.targets.plan import Batch, Plan
from distill.targets.shard import VERSION, DamagedError, end_bytes, header_bytes, read_index, read_record, scan
from distill.targets.writer import ShardWriter, explained

_OPEN_FILES = 32  # shards a reader keeps open at most


class TargetStore:
    """A store; make one with `create` or `open`. Readers can be pickled: each process opens its own files.

    Attributes:
        path: its folder.
        plan: the order of its maps: `videos`, `views`, batches, shards.
        fingerprint: what its maps were made from, as plain values.
        notes: what helps people and is never compared, such as where the teacher and the videos were.
        codec: name of the codec, in `CODECS`.
        map_size: (h, w).
        digest: SHA-256 of store.json, by which a shard knows its store.
    """

    def __init__(self, path: Path, content: Mapping[str, Any], digest: bytes) -> None:
        self.path = path
        self.plan = Plan.from_json(content["plan"])
        self.fingerprint: dict[str, Any] = content["fingerprint"]
        self.notes: dict[str, Any] = content["notes"]
        self.codec: str = content["codec"]
        self.map_size: tuple[int, int] = (content["map_size"][0], content["map_size"][1])
        self.digest = digest
        self._writers: dict[int, ShardWriter] = {}
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, the latest used last
        self._entries: dict[int, np.ndarray] = {}

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        fingerprint: Mapping[str, Any],
        videos: Mapping[str, Sequence[int]],
        map_size: tuple[int, int],
        views: Sequence[str] = ("plain",),
        codec: str = "log8",
        batch_size: int = 8,
        batches_per_shard: int = 64,
        notes: Mapping[str, Any] | None = None,
    ) -> "TargetStore":
        """Make an empty store.

        Args:
            path: its folder, which must not exist or be empty.
            fingerprint: plain values that say what the maps are made from; see `check`.
            videos: name -> its frames, 0-based and ascending.
            map_size: (h, w) of every map.
            views: "plain", "flipped", or both.
            codec: a name in `CODECS`.
            batch_size: maps in a batch, the unit of commit.
            batches_per_shard: batches in a shard, the unit that one process writes.
            notes: plain values, kept and never compared.

        Raises:
            UserError: the folder is in use, a setting makes no sense, or no space is left.
        """
        path = Path(path)
        if not path.is_dir() or set(path.iterdir()) - set(path.glob(".store.*.tmp.json")):  # left by a killed start
            refuse_existing(path, "a store", remedy="remove it, choose another name, or go on with that one")
        if codec not in CODECS:
            raise UserError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
        plan = Plan(videos, views=views, batch_size=batch_size, batches_per_shard=batches_per_shard)
        content = {
            "format": VERSION,
            "codec": codec,
            "map_size": list(map_size),
            "fingerprint": json.loads(json.dumps(fingerprint)),
            "notes": json.loads(json.dumps(notes or {})),
            "plan": plan.to_json(),
        }
        with explained(path):
            try:
                write_new(path / "store.json", _with_checksum(content))
            except FileExistsError:
                raise UserError(f"{path}: a store was made here in this moment; go on with that one") from None
            fsync(path.absolute().parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "TargetStore":
        """Open a store for reading, or for going on with it.

        Raises:
            UserError: there is no store, or store.json is damaged or of another version.
        """
        path = Path(path)
        try:
            raw = (path / "store.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{path}: there is no target store here (no store.json)") from None
        try:
            content = json.loads(raw)
            whole = raw == _with_checksum({k: v for k, v in content.items() if k != "sha256"}).encode()
        except (ValueError, AttributeError):
            whole = False
        if not whole:
            raise DamagedError(
                f"{path / 'store.json'}: the file was changed or damaged since the store was made; "
                "restore it, or build the store again"
            )
        if content["format"] != VERSION:
            raise UserError(f"{path}: the store has format {content['format']}, this version reads {VERSION}")
        if content["codec"] not in CODECS:
            raise UserError(f"{path}: unknown codec {content['codec']!r}; this version has {', '.join(CODECS)}")
        return cls(path, content, hashlib.sha256(raw).digest())

    # -- what there is

    @property
    def complete(self) -> bool:
        """Whether every shard is sealed."""
        return len(self.sealed_shards()) == self.plan.num_shards

    def sealed_shards(self) -> set[int]:
        """Return the numbers of the full shards."""
        names = {path.name for path in (self.path / "shards").glob("*.shard")}
        return {shard for shard in range(self.plan.num_shards) if self._final(shard).name in names}

    def count_committed(self) -> int:
        """Return how many maps can be read."""
        return sum(len(self._index(shard)) for shard in range(self.plan.num_shards))

    def has(self, video: str, frame: int, view: str = "plain") -> bool:
        """Return whether a map can be read now."""
        place = self.plan.locate(video, frame, view)
        return place is not None and place[1] < len(self._index(place[0], at_least=place[1] + 1))

    def size_on_disk(self) -> int:
        """Return the bytes that the store takes."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def check(self, expected: Mapping[str, Any]) -> list[str]:
        """Compare the fingerprint with what is expected, and say in words what differs.

        What `expected` leaves out is not compared, so that a run on some of the store's videos can use it; and
        imported maps do not know what videos they are of.
        """
        known = {key: value for key, value in expected.items() if key != "videos" or key in self.fingerprint}
        return differences(self.fingerprint, json.loads(json.dumps(known)))

    def require(self, expected: Mapping[str, Any], remedy: str) -> None:
        """Refuse a store that was made from something else.

        Raises:
            UserError: naming all that differs.
        """
        found = self.check(expected)
        if found:
            raise UserError(f"{self.path}: the store does not fit: {'; '.join(found)}; {remedy}")

    # -- reading

    def read(self, video: str, frame: int, view: str = "plain") -> np.ndarray:
        """Return the log-saliency of a frame: float32 (h, w), finite.

        Raises:
            UserError: the map is not in the store, not there yet, or damaged.
        """
        place = self.plan.locate(video, frame, view)
        if place is None:
            raise UserError(f"{self.path}: {self._why_absent(video, frame, view)}")
        shard, number = place
        entries = self._index(shard, at_least=number + 1)
        if number >= len(entries):
            raise UserError(
                f"{self.path}: the map of {video}, frame {frame + 1} ({view}), is not written yet: "
                f"{self.count_committed()} of {self.plan.num_records} maps are; go on with `saldistill cache build`"
            )
        record = read_record(self._file(shard), entries[number])
        if record is None:
            raise self._damaged(shard, f"the map of {video}, frame {frame + 1}, fails its checksum")
        return CODECS[self.codec].decode(record, self.map_size)

    def damage(self) -> list[str]:
        """Read every byte of every shard, and say in words what is damaged or torn; empty when all is well."""
        found = []
        for shard in range(self.plan.num_shards):
            path, sealed = self._path(shard)
            if path is None:
                continue
            batches = self.plan.batches_of(shard)
            file = os.open(path, os.O_RDONLY)
            try:
                size = os.fstat(file).st_size
                whole = scan(file, self._header(shard), batches.start, self._counts(batches))
                tail = os.pread(file, size - whole.end, whole.end)
            finally:
                os.close(file)
            if not whole.header:
                found.append(f"{path}: the header is damaged or of another store")
            elif sealed and whole.batches < len(batches):
                found.append(f"{path}: batch {whole.batches + 1} of {len(batches)} is damaged")
            elif sealed and tail != end_bytes(whole.entries, whole.end):
                found.append(f"{path}: the index at the end is damaged")
            elif not sealed and tail:
                found.append(
                    f"{path}: behind batch {whole.batches} of {len(batches)}, {len(tail)} bytes are torn or "
                    "damaged; `saldistill cache build` computes them again"
                )
        return found

    def _why_absent(self, video: str, frame: int, view: str) -> str:
        if video not in self.plan.videos:
            return f"it has no video {video!r}; it has {some(self.plan.videos)}"
        if view not in self.plan.views:
            return f"it has no {view} view; it has {', '.join(self.plan.views)}"
        frames = self.plan.videos[video]
        there = f"{len(frames)}, from {frames[0] + 1} to {frames[-1] + 1}"
        return f"it has no frame {frame + 1} of {video}; it has {there}"

    def _damaged(self, shard: int, what: str) -> DamagedError:
        return DamagedError(
            f"{self._path(shard)[0]}: {what}; remove that file and run `saldistill cache build` again, which "
            "computes it anew"
        )

    def _final(self, shard: int) -> Path:
        return self.path / "shards" / f"{shard:05d}.shard"

    def _path(self, shard: int) -> tuple[Path | None, bool]:
        """Return the file of a shard, or None, and whether it is sealed."""
        final = self._final(shard)
        for _ in range(2):  # a shard can be sealed, and so renamed, between the two looks
            if final.exists():
                return final, True
            if final.with_suffix(".part").exists():
                return final.with_suffix(".part"), False
        return None, False

    def _header(self, shard: int) -> bytes:
        batches = self.plan.batches_of(shard)
        return header_bytes(shard, len(batches), self.plan.records_of(batches), self.digest)

    def _counts(self, batches: range) -> list[int]:
        return [self.plan.records_of(range(batch, batch + 1)) for batch in batches]

    def _index(self, shard: int, at_least: int | None = None) -> np.ndarray:
        """Return where a shard's committed maps lie; looked up again when fewer are known than `at_least`."""
        known = self._entries.get(shard)
        total = self.plan.records_of(self.plan.batches_of(shard))
        if known is not None and len(known) >= min(total if at_least is None else at_least, total):
            return known
        path, sealed = self._path(shard)
        if path is None:
            return np.zeros(0, np.uint8)
        self._close_file(shard)
        batches = self.plan.batches_of(shard)
        try:
            file = self._file(shard)
        except FileNotFoundError:  # sealed in this very moment
            return self._index(shard, at_least)
        if sealed:
            entries = read_index(file, self._header(shard), total)
            if entries is None:
                raise self._damaged(shard, "the header or the index is damaged, or of another store")
        else:
            entries = scan(file, self._header(shard), batches.start, self._counts(batches)).entries
        self._entries[shard] = entries
        return entries

    def _file(self, shard: int) -> int:
        """Return the descriptor of a shard's file, opened if need be."""
        if shard not in self._files:
            path, _ = self._path(shard)
            if path is None:
                raise FileNotFoundError(self._final(shard))
            self._files[shard] = os.open(path, os.O_RDONLY)
            while len(self._files) > _OPEN_FILES:
                self._close_file(next(iter(self._files)))
        self._files.move_to_end(shard)
        return self._files[shard]

    def _close_file(self, shard: int) -> None:
        if shard in self._files:
            os.close(self._files.pop(shard))

    # -- writing

    def missing(self) -> Iterator[list[Batch]]:
        """Claim shards that nobody is writing, one after the other, and yield what each of them still lacks.

        The batches of a shard are to be committed in their order. Shards that another process holds are passed
        over, and looked at again at the end, in case that process stopped.

        Raises:
            UserError: no space left, or a file that is not this store's.
        """
        with explained(self.path):
            (self.path / "shards").mkdir(exist_ok=True)
            fsync(self.path)
        progress = True
        while progress:
            progress = False
            for shard in range(self.plan.num_shards):
                if shard in self._writers:
                    continue
                batches = self.plan.batches_of(shard)
                counts = self._counts(batches)
                writer = ShardWriter.claim(self._final(shard), self._header(shard), batches.start, counts)
                if writer is None:
                    continue
                progress = True
                self._writers[shard] = writer
                rest = batches[writer.committed :]
                self._seal_if_full(shard)
                if rest:
                    yield [self.plan[batch] for batch in rest]

    def commit(self, batch: Batch, maps: np.ndarray) -> None:
        """Encode and write the maps of a batch that `missing` gave; when this returns, the disk has them.

        Args:
            batch: the next one of its shard.
            maps: log-saliency (n, h, w), one map a frame of the batch.

        Raises:
            UserError: no space left, or a map that is not made of numbers.
        """
        expected = (len(batch.frames), *self.map_size)
        if maps.shape != expected:
            raise ValueError(f"expected maps of shape {expected}, got {maps.shape}")
        writer = self._writers[batch.shard]
        assert batch.index == self.plan.batches_of(batch.shard)[writer.committed], "batches are committed in order"
        try:
            records = [CODECS[self.codec].encode(log_map) for log_map in maps]
        except ValueError as error:
            raise UserError(f"{batch.video}, frames from {batch.frames[0] + 1} on: {error}") from error
        try:
            writer.append(batch.index, records)
            self._seal_if_full(batch.shard)
        except BaseException:
            self._writers.pop(batch.shard, writer).close()
            raise

    def _seal_if_full(self, shard: int) -> None:
        writer = self._writers[shard]
        if writer.committed == len(self.plan.batches_of(shard)):
            writer.seal()
            del self._writers[shard]

    def close(self) -> None:
        """Release the claimed shards and close all files; what is committed stays, and reading opens them again."""
        for shard in list(self._writers):
            self._writers.pop(shard).close()
        for shard in list(self._files):
            self._close_file(shard)

    def __enter__(self) -> "TargetStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        assert not self._writers, "a store that is being written stays in its process"
        return {**self.__dict__, "_files": OrderedDict(), "_entries": {}}


def _with_checksum(content: Mapping[str, Any]) -> str:
    """Return the text of store.json. There is one text for one content, so that no changed byte goes unseen."""
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def some(names: Iterable[object], most: int = 5) -> str:
    """Name the first few of many, for messages."""
    listed = list(map(str, names))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
