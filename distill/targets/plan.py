"""The order of a store: which map is in which batch, which batch in which shard.

Maps are ordered by video, then view, then frame. Each (video, view) is cut into batches of `batch_size`
consecutive frames, the last one shorter; `batches_per_shard` consecutive batches make a shard. Where a map lies
follows from this alone, not from who computed it or when, and nothing has to be stored per map to find it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.errors import UserError

VIEWS = ("plain", "flipped")
"""What a teacher can have been shown: the frame as it is, or mirrored left to right."""


@dataclass(frozen=True)
class Batch:
    """The unit of commit: consecutive frames of one video in one view."""

    index: int
    shard: int
    video: str
    view: str
    frames: tuple[int, ...]
    """0-based."""


class Plan:
    """The order of a store's maps.

    Args:
        videos: name -> its frames, 0-based and ascending, in the order of the store.
        views: of every video, among `VIEWS`.
        batch_size: maps in a batch.
        batches_per_shard: batches in a shard.
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
            raise UserError(f"views: expected different ones among {', '.join(VIEWS)}, got {list(views)}")
        if not videos:
            raise UserError("a store needs at least one video")
        self.videos = {name: _frames(name, frames) for name, frames in videos.items()}
        self.views = tuple(views)
        self.batch_size = batch_size
        self.batches_per_shard = batches_per_shard
        self._rows = {name: row for row, name in enumerate(self.videos)}
        self._names = list(self.videos)
        lengths = np.repeat([len(frames) for frames in self.videos.values()], len(views))
        zero = np.zeros(1, np.int64)
        self._first_record = np.concatenate([zero, np.cumsum(lengths)])  # of each (video, view), and the end
        self._first_batch = np.concatenate([zero, np.cumsum(-(-lengths // batch_size))])

    def __len__(self) -> int:
        """Number of batches."""
        return int(self._first_batch[-1])

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = int(np.searchsorted(self._first_batch, index, side="right")) - 1
        video, view = self._names[row // len(self.views)], self.views[row % len(self.views)]
        start = (index - int(self._first_batch[row])) * self.batch_size
        frames = tuple(self.videos[video][start : start + self.batch_size])
        return Batch(index, index // self.batches_per_shard, video, view, frames)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    @property
    def num_shards(self) -> int:
        """Number of shards; all hold `batches_per_shard` batches but the last, which may hold fewer."""
        return -(-len(self) // self.batches_per_shard)

    @property
    def num_records(self) -> int:
        """Number of maps."""
        return int(self._first_record[-1])

    def batches_of(self, shard: int) -> range:
        """Return the indices of a shard's batches."""
        start = shard * self.batches_per_shard
        return range(start, min(start + self.batches_per_shard, len(self)))

    def records_before(self, batch: int) -> int:
        """Return how many maps come before a batch; before the one behind the last: all."""
        row = min(int(np.searchsorted(self._first_batch, batch, side="right")) - 1, len(self._first_batch) - 2)
        inside = (batch - int(self._first_batch[row])) * self.batch_size
        return min(int(self._first_record[row]) + inside, int(self._first_record[row + 1]))

    def records_of(self, batches: range) -> int:
        """Return how many maps consecutive batches hold."""
        return self.records_before(batches.stop) - self.records_before(batches.start)

    def locate(self, video: str, frame: int, view: str) -> tuple[int, int] | None:
        """Return the shard of a map and its place in the shard; None when the plan does not have it."""
        frames = self.videos.get(video)
        if frames is None or view not in self.views:
            return None
        if isinstance(frames, range):
            if frame not in frames:
                return None
            position = frames.index(frame)
        else:
            position = int(np.searchsorted(np.asarray(frames), frame))
            if position == len(frames) or frames[position] != frame:
                return None
        row = self._rows[video] * len(self.views) + self.views.index(view)
        shard = (int(self._first_batch[row]) + position // self.batch_size) // self.batches_per_shard
        record = int(self._first_record[row]) + position
        return shard, record - self.records_before(shard * self.batches_per_shard)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, an evenly spaced run of frames as [first, last, step]."""
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
        videos: dict[str, Sequence[int]] = {}
        for name, frames in values["videos"].items():
            if "run" in frames:
                first, last, step = frames["run"]
                videos[name] = range(first, last + 1, step)
            else:
                videos[name] = frames["list"]
        return cls(
            videos,
            views=values["views"],
            batch_size=values["batch_size"],
            batches_per_shard=values["batches_per_shard"],
        )


def _frames(name: str, frames: Sequence[int]) -> Sequence[int]:
    """Check a video's frames, and write evenly spaced ones as a range: 350,000 frames need no list."""
    values = np.asarray(frames, dtype=np.int64)
    steps = np.diff(values)
    if values.ndim != 1 or len(values) == 0 or values[0] < 0 or (steps <= 0).any():
        raise UserError(f"video {name}: expected its frames in ascending order from 0 on, at least one")
    if len(values) == 1 or (steps == steps[0]).all():
        step = int(steps[0]) if len(steps) else 1
        return range(int(values[0]), int(values[-1]) + 1, step)
    return tuple(values.tolist())
