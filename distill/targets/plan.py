"""Layout of a target store: which map is in which batch, which batch in which shard.

Maps are ordered by video, then view, then frame. Each (video, view) is split into batches of `batch_size`
consecutive frames, the last one possibly shorter; `batches_per_shard` consecutive batches make a shard. The
position of a map follows from this alone, whichever process computed it, so no per-map table is stored.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.limits import MAX_STORE_MAPS, MAX_STORE_SHARDS, check_limit

VIEWS = ("plain", "flipped")
"""Views of a frame that the teacher sees: as it is, or mirrored left to right."""


@dataclass(frozen=True)
class StoreBatch:
    """The unit of commit: consecutive frames of one video in one view."""

    index: int
    shard: int
    video: str
    view: str
    frames: tuple[int, ...]
    """0-based."""


class Plan:
    """Order of a store's maps.

    Args:
        videos: name -> frames, 0-based and ascending, in the order of the store.
        views: views of every video, from `VIEWS`.
        batch_size: maps per batch.
        batches_per_shard: batches per shard.
    """

    def __init__(
        self,
        videos: Mapping[str, Sequence[int]],
        *,
        views: Sequence[str],
        batch_size: int,
        batches_per_shard: int,
    ) -> None:
        if batch_size < 1 or batches_per_shard < 1:
            raise UserError(
                f"batch_size and batches_per_shard: expected at least 1, got {batch_size} and {batches_per_shard}"
            )
        if not views or len(set(views)) != len(views) or set(views) - set(VIEWS):
            raise UserError(f"views: expected distinct names from {', '.join(VIEWS)}, got {list(views)}")
        if not videos:
            raise UserError("videos: expected at least one video for the target store, got none")
        self.videos = {name: _checked_frames(name, frames) for name, frames in videos.items()}
        self.views = tuple(views)
        self.batch_size = batch_size
        self.batches_per_shard = batches_per_shard
        self._rows = {name: row for row, name in enumerate(self.videos)}
        self._names = list(self.videos)
        check_limit(sum(map(len, self.videos.values())) * len(views), MAX_STORE_MAPS, "videos: maps in the store")
        lengths = np.repeat([len(frames) for frames in self.videos.values()], len(views))
        zero = np.zeros(1, np.int64)
        self._first_record = np.concatenate([zero, np.cumsum(lengths)])  # of each (video, view), and the end
        self._first_batch = np.concatenate([zero, np.cumsum(-(-lengths // batch_size))])
        check_limit(self.num_shards, MAX_STORE_SHARDS, "batch_size, batches_per_shard: shards of the store")

    def __len__(self) -> int:
        """Return the number of batches."""
        return int(self._first_batch[-1])

    def __getitem__(self, index: int) -> StoreBatch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = int(np.searchsorted(self._first_batch, index, side="right")) - 1
        video, view = self._names[row // len(self.views)], self.views[row % len(self.views)]
        start = (index - int(self._first_batch[row])) * self.batch_size
        frames = tuple(self.videos[video][start : start + self.batch_size])
        return StoreBatch(index, index // self.batches_per_shard, video, view, frames)

    def __iter__(self) -> Iterator[StoreBatch]:
        return (self[index] for index in range(len(self)))

    @property
    def num_shards(self) -> int:
        """Number of shards; all have `batches_per_shard` batches except the last, which may have fewer."""
        return -(-len(self) // self.batches_per_shard)

    @property
    def num_records(self) -> int:
        """Number of maps."""
        return int(self._first_record[-1])

    def batches_of(self, shard: int) -> range:
        """Return the indices of a shard's batches."""
        start = shard * self.batches_per_shard
        return range(start, min(start + self.batches_per_shard, len(self)))

    def records_of(self, batches: range) -> int:
        """Return the number of maps in consecutive batches."""
        return self._records_before(batches.stop) - self._records_before(batches.start)

    def _records_before(self, batch: int) -> int:
        row = min(int(np.searchsorted(self._first_batch, batch, side="right")) - 1, len(self._first_batch) - 2)
        inside = (batch - int(self._first_batch[row])) * self.batch_size
        return min(int(self._first_record[row]) + inside, int(self._first_record[row + 1]))

    def locate(self, video: str, frame: int, view: str) -> tuple[int, int] | None:
        """Return the shard of a map and its position in the shard; None if the plan does not have the map."""
        frames = self.videos.get(video)
        if frames is None or view not in self.views:
            return None
        position = bisect_left(frames, frame)
        if position == len(frames) or frames[position] != frame:
            return None
        row = self._rows[video] * len(self.views) + self.views.index(view)
        shard = (int(self._first_batch[row]) + position // self.batch_size) // self.batches_per_shard
        record = int(self._first_record[row]) + position
        return shard, record - self._records_before(shard * self.batches_per_shard)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; evenly spaced frames become [first, last, step]."""
        return {
            "views": list(self.views),
            "batch_size": self.batch_size,
            "batches_per_shard": self.batches_per_shard,
            "videos": {
                name: {"run": [frames[0], frames[-1], frames.step]}
                if isinstance(frames, range)
                else {"list": list(frames)}
                for name, frames in self.videos.items()
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Plan":
        """Return the plan that `to_json` wrote."""
        videos: dict[str, Sequence[int]] = {
            name: range(frames["run"][0], frames["run"][1] + 1, frames["run"][2])
            if "run" in frames
            else frames["list"]
            for name, frames in values["videos"].items()
        }
        return cls(videos, **{name: values[name] for name in ("views", "batch_size", "batches_per_shard")})


def _checked_frames(name: str, frames: Sequence[int]) -> Sequence[int]:
    """Return a video's frames, checked; evenly spaced ones as a range to save memory."""
    if isinstance(frames, range) and len(frames) and frames[0] >= 0 and frames.step > 0:
        return range(frames[0], frames[-1] + 1, frames.step if len(frames) > 1 else 1)  # may be long: not expanded
    values = np.asarray(frames, dtype=np.int64)
    steps = np.diff(values)
    if values.ndim != 1 or len(values) == 0 or values[0] < 0 or (steps <= 0).any():
        raise UserError(f"video {name}: expected at least one frame, in ascending order, with no negative numbers")
    if (steps == steps[:1]).all():
        return range(int(values[0]), int(values[-1]) + 1, int(steps[0]) if len(steps) else 1)
    return tuple(values.tolist())
