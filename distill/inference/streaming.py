"""Streaming models in the sliding window: every frame is encoded once, in chunks, and states link the chunks.

In a window of a streaming model each frame continues the state after the frame before it. The windows of a pass
together form trees: a frame that belongs to many windows is one node, whose state all its successors share.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import torch
from torch import Tensor

from distill.data.windows import ClipFrames
from distill.inference.cuda_graph import graphed
from distill.models.protocols import StreamingModel

CPU_CHUNK = 4
"""Maximum number of frames of a chunk on a CPU, where longer ones are slower.

On one thread `small` took 56 ms per frame in single steps, and 61, 76 and 150 ms in chunks of 4, 8 and 16; `nano`
21 ms, and 14, 18 and 36 ms (best of six interleaved rounds, on a machine that was also busy with other work).
"""

Node = tuple[int, int]
"""(run, frame): a frame of one run of windows, see `number_runs`."""


@dataclass(frozen=True)
class Chunk:
    """Frames that go through the model in one call of `steps`.

    Attributes:
        nodes: the frames, each the predecessor of the next.
        before: the node whose state the first one continues; None for the initial state.
        uses: number of chunks that continue the state after the last one.
    """

    nodes: tuple[Node, ...]
    before: Node | None
    uses: int


@dataclass(frozen=True)
class StreamBatch:
    """The work of one batch of windows: chunks in order of execution, and the node of each requested map."""

    chunks: tuple[Chunk, ...]
    targets: tuple[Node, ...]

    @property
    def frames(self) -> list[int]:
        """The frames that the batch encodes, ascending."""
        return sorted({frame for chunk in self.chunks for _, frame in chunk.nodes})


def plan_chunks(batches: Sequence[Sequence[ClipFrames]], limit: int) -> list[StreamBatch]:
    """Divide the frames of a pass into chunks.

    A chunk ends where its batch ends, after `limit` frames, and at a frame that several frames continue, whose
    state has to be kept. A node belongs to the first batch that needs it, so no frame of a run is encoded twice.

    Args:
        batches: the windows of a streaming model, batch by batch.
        limit: maximum number of frames of a chunk.
    """
    paths = number_runs(batches)
    before: dict[Node, Node] = {}
    for path in chain.from_iterable(paths):
        before.update((node, last) for last, node in pairwise(path) if node != last)  # not a repeated first frame
    uses = Counter(before.values())
    planned: set[Node] = set()
    plan = []
    for batch in paths:
        chunks: dict[Node, list[Node]] = {}  # by last node
        for node in dict.fromkeys(chain.from_iterable(batch)):
            if node in planned:
                continue
            planned.add(node)
            last = before.get(node)
            if last in chunks and uses[last] == 1 and len(chunks[last]) < limit:
                chunks[node] = [*chunks.pop(last), node]
            else:
                chunks[node] = [node]
        plan.append(
            StreamBatch(
                tuple(Chunk(tuple(nodes), before.get(nodes[0]), uses[nodes[-1]]) for nodes in chunks.values()),
                tuple(path[-1] for path in batch),
            )
        )
    return plan


def number_runs(batches: Iterable[Sequence[ClipFrames]]) -> list[list[tuple[Node, ...]]]:
    """Return each window as nodes; windows of one run share states.

    A run is a sequence of windows of ascending frames. A window that runs backwards, as the first ones of a video
    with flipped first frames, is a run of its own.
    """
    run, latest, latest_backwards = 0, -1, False
    numbered = []
    for batch in batches:
        paths = []
        for window in batch:
            first, last = window.frames[0], window.frames[-1]
            if first > last or latest_backwards or last <= latest:
                run += 1
            latest, latest_backwards = last, first > last
            paths.append(tuple((run, frame) for frame in window.frames))
        numbered.append(paths)
    return numbered


class StreamStates:
    """Runs the plan of `plan_chunks` batch by batch, and keeps each state until its last use.

    Args:
        network: the streaming model.
        device: its device.
    """

    def __init__(self, network: StreamingModel, device: torch.device) -> None:
        self.network = network
        self.names = tuple(network.state_shapes)
        self.run = graphed(self._steps, device)
        self.states: dict[Node, dict[str, Tensor]] = {}
        self.uses: dict[Node, int] = {}  # of the kept states

    def maps(self, batch: StreamBatch, frames: Mapping[int, Tensor]) -> Tensor:
        """Compute the requested log-saliency (n, h, w) of a batch: float32, on the device.

        Args:
            batch: the next batch of the plan.
            frames: frame index -> pixels (3, H, W) of all frames of the batch.
        """
        maps: dict[Node, Tensor] = {}
        for chunk in batch.chunks:
            clip = torch.stack([frames[frame] for _, frame in chunk.nodes], 1)[None]  # (1, 3, T, H, W)
            before = self.before(chunk)
            log_saliency, *values = self.run(clip, *(before[name] for name in self.names))
            state = dict(zip(self.names, values, strict=True))
            maps.update(zip(chunk.nodes, log_saliency[0].float(), strict=True))
            if chunk.uses:
                self.states[chunk.nodes[-1]], self.uses[chunk.nodes[-1]] = state, chunk.uses
        return torch.stack([maps[node] for node in batch.targets])

    def _steps(self, clip: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of a chunk, and the state after it in the order of `names`."""
        maps, after = self.network.steps(clip, dict(zip(self.names, state, strict=True)))
        return maps, *(after[name] for name in self.names)

    def before(self, chunk: Chunk) -> dict[str, Tensor]:
        """Return the state that a chunk continues, and forget it after its last use."""
        if chunk.before is None:
            return self.network.initial_state()
        self.uses[chunk.before] -= 1
        return self.states[chunk.before] if self.uses[chunk.before] else self.states.pop(chunk.before)
