"""Records of progress bars."""

import pytest
from tqdm import tqdm


def closed_bars(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list to which every progress bar that closes adds its position and total."""
    bars: list[tuple[int, int]] = []
    close = tqdm.close

    def record(bar: tqdm) -> None:
        if not bar.disable:
            bars.append((bar.n, bar.total))
        close(bar)

    monkeypatch.setattr(tqdm, "close", record)
    return bars
