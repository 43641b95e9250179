"""Fixtures of the tests of the metrics."""

import pytest
from helpers.metric_cases import PATHS, Score


@pytest.fixture(params=PATHS, ids=[path.replace(" ", "_") for path in PATHS])
def score(request: pytest.FixtureRequest) -> Score:
    """Score a frame with the single-frame function, and with the batched form."""
    return PATHS[request.param]
