"""Target store: a folder of teacher maps, one per frame and view, written once and read by any process.

    store.json            format, codec, map size, fingerprint, plan, and the SHA-256 of all that
    shards/00000.shard    full shards (format: shard.py)
    shards/00001.part     a partial shard (written by writer.py)

Any number of processes can write a store at once, without coordinating:

    for batches in store.missing():  # of one shard, claimed by this process
        for batch in batches:
            store.commit(batch, maps)  # (n, h, w) log-saliency; on the disk when it returns

Maps are read by video name and frame: `store.read("0601", 41)`. Every read checks the record's checksum. Committed
maps of an incomplete store can be read. The folder can be copied and moved. `TargetStore.open("s3://bucket/targets")`
reads a store that `saldistill cache push` has uploaded; its shards are fetched when they are first read.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError, reading
from distill.file_cache import CachedFile, shared_cache
from distill.files import fsync, refuse_existing, write_new
from distill.remote import RemoteFolder, is_address
from distill.targets.codec import CODECS, DEFAULT_CODEC
from distill.targets.differences import differences
from distill.targets.manifest import MANIFEST, read_remote_store
from distill.targets.plan import Plan, StoreBatch
from distill.targets.reader import ShardReader, damaged_error, find_damage
from distill.targets.shard import VERSION, Shard, header_bytes
from distill.targets.shard_files import RemoteShards, ShardFiles, ShardFolder
from distill.targets.store_file import STORE_FILE, check_names, parse_store, read_store_file, with_checksum
from distill.targets.writer import ShardWriter, user_error_if_full


class TargetStore:
    """A target store, from `create` or `open`. It can be pickled unless it is being written.

    Attributes:
        path: folder or address of the store.
        name: last part of it.
        files: its full shards.
        plan: order of its maps: `videos`, `views`, batches, shards.
        fingerprint: what its maps depend on, as JSON values.
        notes: information that is never compared, e.g. the paths of the teacher and the videos.
        codec: name of the codec, in `CODECS`.
        map_size: (h, w).
        digest: SHA-256 of store.json, which ties a shard to its store.
    """

    def __init__(self, path: Path | str, content: Mapping[str, Any], digest: bytes, files: ShardFiles) -> None:
        self.path, self.files = path, files
        self.name = str(path).rpartition("/")[2]
        self.plan = Plan.from_json(content["plan"])
        self.fingerprint: dict[str, Any] = content["fingerprint"]
        self.notes: dict[str, Any] = content["notes"]
        self.codec: str = content["codec"]
        self.map_size: tuple[int, int] = (content["map_size"][0], content["map_size"][1])
        self.digest = digest
        self._writers: dict[int, ShardWriter] = {}
        self._has_folder = False  # whether this object has made shards/ durable
        self._reader = ShardReader(self._shard)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        fingerprint: Mapping[str, Any],
        videos: Mapping[str, Sequence[int]],
        map_size: tuple[int, int],
        views: Sequence[str] = ("plain",),
        codec: str = DEFAULT_CODEC,
        batch_size: int = 8,
        batches_per_shard: int = 64,
        notes: Mapping[str, Any] | None = None,
    ) -> "TargetStore":
        """Create an empty store.

        Args:
            path: folder, which must be empty or not exist.
            fingerprint: JSON values that identify what the maps depend on; see `check`.
            videos: name -> frames, 0-based and ascending.
            map_size: (h, w) of every map.
            views: "plain", "flipped", or both.
            codec: name in `CODECS`.
            batch_size: maps per batch, the unit of commit.
            batches_per_shard: batches per shard, the unit that one process writes.
            notes: JSON values that are kept and never compared.

        Raises:
            UserError: the folder is in use, a setting or the name of a video is invalid, or no space is left.
        """
        path = Path(path)
        if not path.is_dir() or set(path.iterdir()) - set(path.glob(".store.*.tmp.json")):  # of a killed process
            refuse_existing(path, "a store", remedy="remove it, choose another name, or resume it")
        if codec not in CODECS:
            raise UserError(f"codec: expected one of {', '.join(CODECS)}, got {codec!r}")
        check_names(videos, path)
        plan = Plan(videos, views=views, batch_size=batch_size, batches_per_shard=batches_per_shard)
        content = {
            "format": VERSION,
            "codec": codec,
            "map_size": list(map_size),
            "fingerprint": json.loads(json.dumps(fingerprint)),
            "notes": json.loads(json.dumps(notes or {})),
            "plan": plan.to_json(),
        }
        with user_error_if_full(path):
            try:
                write_new(path / "store.json", with_checksum(content))
            except FileExistsError:
                raise UserError(
                    f"{path}: another process has just created a target store here; run the same command again to "
                    "help build it"
                ) from None
            fsync(path.absolute().parent)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "TargetStore":
        """Open a store for reading, or for writing the rest of it.

        Raises:
            UserError: there is no store, or store.json is damaged, has another format version or values that no
                target store has; or an address cannot be read.
        """
        if is_address(path):
            folder = RemoteFolder(str(path))
            raw, manifest = read_remote_store(folder)
            content, digest = parse_store(raw, folder.address, f"{folder}/{STORE_FILE}")
            return cls(folder.address, content, digest, RemoteShards(folder, manifest, shared_cache()))
        path = Path(path)
        return cls(path, *read_store_file(path), ShardFolder(path))

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Return whether there is a store in a folder or at an address.

        Raises:
            UserError: the address cannot be read.
        """
        if is_address(path):
            return RemoteFolder(str(path)).read(MANIFEST) is not None
        return (Path(path) / STORE_FILE).exists()

    # -- contents

    @property
    def complete(self) -> bool:
        """Whether every shard is sealed."""
        return self.count_sealed() == self.plan.num_shards

    def count_sealed(self) -> int:
        """Return the number of full shards."""
        return len(self.sealed())

    def sealed(self) -> set[int]:
        """Return the numbers of the full shards."""
        return {number for number in self.files.sealed() if number < self.plan.num_shards}

    def count_committed(self) -> int:
        """Return the number of maps that can be read."""
        return sum(map(self.committed_in, range(self.plan.num_shards)))

    def committed_in(self, shard: int) -> int:
        """Return the number of a shard's maps that can be read."""
        count = self.plan.records_of(self.plan.batches_of(shard))
        return count if self.files.is_known(shard) else len(self._reader.entries(shard, count))

    def has(self, video: str, frame: int, view: str = "plain") -> bool:
        """Return whether a map can be read now."""
        place = self.plan.locate(video, frame, view)
        if place is None:
            return False
        return self.files.is_known(place[0]) or place[1] < len(self._reader.entries(place[0], place[1] + 1))

    def size_on_disk(self) -> int:
        """Return the size of the store in bytes."""
        return self.files.size()

    def check(self, expected: Mapping[str, Any]) -> list[str]:
        """Return the differences of the fingerprint from an expected one; empty if it matches.

        Keys that `expected` lacks are not compared, so that a run on some of the store's videos can use it. Videos
        are not compared for imported maps, whose fingerprint has none.
        """
        known = {key: value for key, value in expected.items() if key != "videos" or key in self.fingerprint}
        return differences(self.fingerprint, json.loads(json.dumps(known)))

    def require(self, expected: Mapping[str, Any], remedy: str) -> None:
        """Check that the store has the expected fingerprint.

        Raises:
            UserError: it does not; the error names all differences and the remedy.
        """
        found = self.check(expected)
        if found:
            raise UserError(f"{self.path}: the target store does not match: {'; '.join(found)}; {remedy}")

    def require_complete(self) -> None:
        """Check that the store is complete.

        Raises:
            UserError: some shards are missing or partial.
        """
        if not self.complete:
            raise UserError(
                f"{self.path}: the target store is incomplete; finish it with `saldistill cache build` first"
            )

    # -- reading

    def read(self, video: str, frame: int, view: str = "plain") -> np.ndarray:
        """Return the log-saliency of a frame: float32 (h, w), finite.

        Raises:
            UserError: the map is not in the store, not yet written, or damaged.
        """
        place = self.plan.locate(video, frame, view)
        if place is None:
            raise UserError(f"{self.path}: {self._why_absent(video, frame, view)}")
        shard, number = place
        entries = self._reader.entries(shard, number + 1)
        if number >= len(entries):
            raise UserError(
                f"{self.path}: the map of {video}, frame {frame + 1} ({view}), is not written yet: the target "
                f"store has {self.count_committed()} of {self.plan.num_records} maps; resume with "
                "`saldistill cache build`"
            )
        record = self._reader.read(shard, entries[number])
        if record is None:
            raise damaged_error(self._shard(shard), f"the map of {video}, frame {frame + 1}, fails its checksum")
        with reading(self._shard(shard).path, f"the map of {video}, frame {frame + 1}", "rebuild the store"):
            return CODECS[self.codec].decode(record, self.map_size)

    @property
    def is_remote(self) -> bool:
        """Whether the store is at an address."""
        return isinstance(self.files, RemoteShards)

    def remote_files(self, maps: Iterable[tuple[str, int, str]]) -> list[CachedFile]:
        """Return the shards at an address that have some maps, given by video, frame and view; none of a folder."""
        if not isinstance(self.files, RemoteShards):
            return []
        places = {place[0] for each in maps if (place := self.plan.locate(*each)) is not None}
        found = map(self.files.file, sorted(places))
        return [file for file in found if file is not None]

    def damage(self) -> list[str]:
        """Return a description of the damage in each shard, after reading every byte; empty if all are intact."""
        found = map(self.damage_of, range(self.plan.num_shards))
        return [each for each in found if each is not None]

    def damage_of(self, shard: int) -> str | None:
        """Return a description of the damage in a shard; None if it is intact or does not exist."""
        return find_damage(self._shard(shard))

    def _why_absent(self, video: str, frame: int, view: str) -> str:
        if video not in self.plan.videos:
            return f"no video {video!r}; the target store has {first_few(self.plan.videos)}"
        if view not in self.plan.views:
            return f"no {view} view; the target store has {', '.join(self.plan.views)}"
        frames = self.plan.videos[video]
        span = f"{len(frames)} frames from {frames[0] + 1} to {frames[-1] + 1}"
        return f"no frame {frame + 1} of {video}; the target store has {span}"

    def _shard(self, number: int) -> Shard:
        batches = self.plan.batches_of(number)
        sizes = [len(self.plan[batch].frames) for batch in batches]
        header = header_bytes(number, len(batches), sum(sizes), self.digest)
        return Shard(self.files.path(number), header, batches.start, sizes)

    # -- writing

    def missing(self) -> Iterator[list[StoreBatch]]:
        """Claim incomplete shards one after the other, and yield the missing batches of each.

        The batches of a shard must be committed in order. Shards that another process is writing are skipped, and
        checked again at the end in case that process stopped.

        Raises:
            UserError: no space left, or a file of another store.
        """
        progress = True
        while progress:
            progress = False
            for number in range(self.plan.num_shards):
                batches = self.claim_shard(number)
                progress = progress or batches is not None
                if batches:
                    yield batches

    def claim_shard(self, number: int) -> list[StoreBatch] | None:
        """Claim one shard and return its missing batches, which must be committed in order.

        Returns:
            The batches; none if all were committed, and the shard is now sealed. None if the shard is full or a
            process, this one included, is writing it.

        Raises:
            UserError: no space left, or a file of another store.
        """
        if number in self._writers:
            return None
        if not self._has_folder:
            folder = writable_folder(self.path)
            with user_error_if_full(folder):
                (folder / "shards").mkdir(exist_ok=True)
                fsync(folder)
            self._has_folder = True
        writer = ShardWriter.claim(self._shard(number))
        if writer is None:
            return None
        self._writers[number] = writer
        rest = self.plan.batches_of(number)[writer.committed :]
        self._seal_if_full(number)
        return [self.plan[batch] for batch in rest]

    def commit(self, batch: StoreBatch, maps: np.ndarray) -> None:
        """Encode and write the maps of a batch from `missing`; they are on the disk when this returns.

        Args:
            batch: the next batch of its shard.
            maps: log-saliency (n, h, w), one map per frame of the batch.

        Raises:
            UserError: no space left, or a map contains NaN or is infinite everywhere.
        """
        expected = (len(batch.frames), *self.map_size)
        if maps.shape != expected:
            raise ValueError(f"expected maps of shape {expected}, got {maps.shape}")
        writer = self._writers[batch.shard]
        assert batch.index == self.plan.batches_of(batch.shard)[writer.committed], "batches are committed in order"
        try:
            records = [CODECS[self.codec].encode(log_map) for log_map in maps]
        except ValueError as error:
            raise UserError(
                f"video {batch.video}, frames {batch.frames[0] + 1} to {batch.frames[-1] + 1}: {error}; check the "
                "teacher's weights and precision"
            ) from error
        try:
            writer.append(batch.index, records)
            self._seal_if_full(batch.shard)
        except BaseException:
            self._writers.pop(batch.shard, writer).close()
            raise

    def _seal_if_full(self, number: int) -> None:
        writer = self._writers[number]
        if writer.committed == len(self.plan.batches_of(number)):
            writer.seal()
            del self._writers[number]

    def close(self) -> None:
        """Release claimed shards and close all files; reading opens them again."""
        for number in list(self._writers):
            self._writers.pop(number).close()
        self._reader.close()

    def __enter__(self) -> "TargetStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        assert not self._writers, "a store that is being written cannot be pickled"
        return self.__dict__


def as_store(store: TargetStore | str | Path) -> TargetStore:
    """Return a store, opening it if it is a path."""
    return store if isinstance(store, TargetStore) else TargetStore.open(store)


def writable_folder(path: str | Path) -> Path:
    """Return the folder of a store that this process writes.

    Raises:
        UserError: it is at an address.
    """
    if is_address(path):
        raise UserError(
            f"{path}: a target store at an address cannot be written in place; build it in a folder and upload it "
            "with `saldistill cache push`, or use `saldistill cache build --engine ray`"
        )
    return Path(path)


def first_few(names: Iterable[object], most: int = 5) -> str:
    """Return a list of names for messages, e.g. `a, b, c, d, e and 7 more`."""
    listed = list(map(str, names))
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
