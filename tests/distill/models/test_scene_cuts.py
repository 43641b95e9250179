"""Tests of the reader that detects scene cuts among the frames read through it."""

import numpy as np

from distill.data.video.array_reader import ArrayReader
from distill.models.edge import CutReader


def test_cuts_are_found_while_frames_are_read_in_parts() -> None:
    frames = np.full((12, 36, 64, 3), 20, dtype=np.uint8)
    frames[5:] = 200
    frames[9:] = 90
    reader = CutReader(ArrayReader(frames))
    assert (reader.num_frames, reader.size) == (12, (36, 64))
    read = [reader.read(range(first, first + 4), (24, 40)) for first in (0, 4, 8)]
    assert np.array_equal(np.concatenate(read)[:, 0, 0, 0], frames[:, 0, 0, 0])
    assert reader.cuts == [5, 9]
