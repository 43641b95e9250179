import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from distill.targets.codec import CODECS, DEEPEST, KNEE

LEVELS = {"log8": 255, "exact": 65535}


def textured(seed: int, size: tuple[int, int] = (56, 72), deepest: float = 16.0) -> np.ndarray:
    """Return two blobs over a background with fine grain, as in a network's maps."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]] / np.reshape(size, (2, 1, 1))
    values = np.full(size, np.exp(-deepest))
    for weight in (1.0, 0.4):
        row, column, spread = random.uniform([0.2, 0.2, 0.06], [0.8, 0.8, 0.15])
        values += weight * np.exp(-0.5 * ((rows - row) ** 2 + (columns - column) ** 2) / spread**2)
    grain = gaussian_filter(random.normal(size=size), 1) * 0.1
    return (np.log(values) + grain).astype(np.float32)


def kl(true: np.ndarray, stored: np.ndarray, temperature: float = 1.0) -> float:
    p, q = (np.asarray(each, np.float64) / temperature for each in (true, stored))
    p, q = (each - each.max() - np.log(np.exp(each - each.max()).sum()) for each in (p, q))
    return float((np.exp(p) * (p - q)).sum())


def round_trip(name: str, log_map: np.ndarray) -> np.ndarray:
    codec = CODECS[name]
    return codec.decode(codec.encode(log_map), log_map.shape)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [(1, 1), (5, 4), (4, 7)])
@pytest.mark.parametrize("value", [0.0, -3.25, 88.0])
def test_round_trip_of_a_constant_map_is_exact(name, size, value):
    decoded = round_trip(name, np.full(size, value, np.float32))
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, np.full(size, value, np.float32))


maps = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.one_of(st.floats(-100, 10, width=32), st.just(-np.inf)),
).filter(lambda values: np.isfinite(values).any())


@pytest.mark.parametrize("name", LEVELS)
@given(log_map=maps)
@example(log_map=np.array([[0, 1e-45]], np.float32))
@settings(deadline=None, max_examples=60)
def test_round_trip_is_within_half_a_step_with_an_exact_peak(name, log_map):
    decoded = round_trip(name, log_map)
    peak = log_map.max()
    assert decoded.max() == peak
    depth, stored = (np.minimum(peak - each.astype(np.float64), DEEPEST) for each in (log_map, decoded))
    span = np.log1p(depth.max() / KNEE)
    error = np.abs(np.log1p(depth / KNEE) - np.log1p(np.maximum(stored, 0) / KNEE))
    assert error.max() <= 0.5 * span / LEVELS[name] + 2e-5  # float32 of values up to 100


@pytest.mark.parametrize("name", CODECS)
@given(log_map=maps)
@settings(deadline=None, max_examples=40)
def test_decoded_density_is_positive_and_encoding_deterministic(name, log_map):
    decoded = round_trip(name, log_map)
    assert decoded.shape == log_map.shape
    assert np.isfinite(decoded).all()
    assert decoded.min() >= decoded.max() - DEEPEST - 1e-4
    assert (np.exp(decoded - decoded.max()) > np.finfo(np.float32).tiny).all()
    assert CODECS[name].encode(log_map) == CODECS[name].encode(log_map.copy())
    assert decoded.tobytes() == round_trip(name, log_map).tobytes()


@pytest.mark.parametrize("deepest", [4.0, 16.0, 40.0])
@pytest.mark.parametrize("seed", range(3))
def test_log8_has_a_small_kl_at_every_temperature(seed, deepest):
    log_map = textured(seed, deepest=deepest)
    decoded = round_trip("log8", log_map)
    assert 0 < kl(log_map, decoded) < 1e-4
    assert kl(log_map, decoded, temperature=4) < 1e-3
    assert kl(decoded, log_map) < 1e-4
    assert np.abs(log_map - decoded).max() < 0.5
    assert len(CODECS["log8"].encode(log_map)) / log_map.size < 0.36


def test_codecs_trade_size_for_error_within_their_tolerance():
    log_map = textured(0)
    cost = {name: len(codec.encode(log_map)) for name, codec in CODECS.items()}
    error = {name: kl(log_map, round_trip(name, log_map)) for name in CODECS}
    assert cost["half"] < 0.5 * cost["log8"] < 0.5 * cost["exact"]
    assert error["exact"] < 1e-8 < error["log8"] < error["half"] < 1e-2
    assert all(error[name] < codec.tolerance for name, codec in CODECS.items())


def test_round_trip_keeps_a_constant_offset():
    log_map = textured(1)
    np.testing.assert_allclose(round_trip("log8", log_map - 7), round_trip("log8", log_map) - 7, atol=0.3)
    assert kl(round_trip("log8", log_map - 7), round_trip("log8", log_map)) < 1e-4


def test_half_aligns_pixel_centres():
    """Half the size and back leaves a ramp unchanged except at its edge."""
    ramp = np.tile(np.arange(12, dtype=np.float32) * 0.25, (6, 1))
    np.testing.assert_allclose(round_trip("half", ramp)[:, 1:-1], ramp[:, 1:-1], atol=0.02)


PINNED = {
    "log8": (
        "0000003f00008042780163d094e27c731c0003f50200",
        [[0.5, -1.0089988, -2.5120118], [0.23731236, -0.5177183, -63.5]],
    ),
    "exact": (
        "0000003f00008042780163f829bb40dc8841438ae3cd0900177f03fe",
        [[0.5, -1.0000238, -2.4999928], [0.2499527, -0.5000596, -63.5]],
    ),
    "half": (
        "a062c0bcc1db4a40780163f80f0001010100",
        [[-0.02348453, -0.8159002, -2.4007313], [-0.02348453, -0.8159002, -2.4007313]],
    ),
}


@pytest.mark.parametrize("name", CODECS)
def test_records_of_format_1_decode_to_pinned_maps(name):
    """Stores outlive versions: records once written for [[.5, -1, -2.5], [.25, -.5, -inf]] must decode."""
    record, decoded = PINNED[name]
    np.testing.assert_allclose(CODECS[name].decode(bytes.fromhex(record), (2, 3)), decoded, rtol=1e-6)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, np.nan]]),
        np.array([[0.0, np.inf]]),
        np.full((2, 2), -np.inf),
        np.zeros((1, 2, 2)),
    ],
    ids=["nan", "infinity", "minus infinity", "two maps"],
)
def test_encode_of_an_invalid_map_raises(name, values):
    with pytest.raises(ValueError, match=r"expected one map|expected a map of finite values"):
        CODECS[name].encode(values)
