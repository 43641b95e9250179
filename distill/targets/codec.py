"""Codecs of target stores: each encodes one teacher map as one record of quantised, compressed log-saliency.

Codecs store the logarithm of the map because training needs it: a value decoded as zero would have a logarithm of
minus infinity, which breaks temperature scaling, reverse KL and log-MSE. A record is an 8-byte header (peak and
span, float32, little-endian) and a zlib stream of integer codes.

Range. Let `depth` be the distance of a value from its map's peak, in nats. The codes cover the depths that occur in
the map, from 0 to the largest (the span), at most DEEPEST: deeper values, including minus infinity, are clamped to
DEEPEST, i.e. e^-64 times the peak, which is still a normal float32. Steps grow with the depth, `code ~ log(1 +
depth / KNEE)`: fine near the peak, where most of the mass is, and coarse in the tail, which has almost no mass and
compresses to almost nothing.

The codes are then replaced by their differences from a prediction by the left, upper and upper-left neighbours
(left + upper - upper-left, modulo the integer size). Teacher maps are smooth, so most differences are near zero.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

DEEPEST = 64.0
"""Largest stored depth below the map's peak, in nats."""
KNEE = 2.0
"""Depth in nats at which the step is twice its size at the peak."""
FLAT = 1e-6
"""Span in nats below which a map counts as constant."""

_HEADER = struct.Struct("<ff")  # peak, span


@dataclass(frozen=True)
class Codec:
    """One encoding of maps.

    Attributes:
        encode: log-saliency (h, w) -> record; deterministic.
        decode: record and map size (h, w) -> log-saliency, float32 (h, w), finite.
        tolerance: KL in nats from the stored to the true map above which `cache verify` reports a mismatch.
        summary: what is stored.
        help: typical size and error.
    """

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, tuple[int, int]], np.ndarray]
    tolerance: float
    summary: str
    help: str


def _checked(log_map: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return a map (h, w) as float32 and its largest value.

    Raises:
        ValueError: not a single map, NaN, plus infinity, or minus infinity everywhere.
    """
    values = np.asarray(log_map, dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"expected one map (h, w), got an array of shape {values.shape}")
    peak = values.max()
    if not np.isfinite(peak):
        raise ValueError(f"expected a map of finite values, got one whose largest value is {peak}")
    return values, peak


def _encode(log_map: np.ndarray, *, dtype: str) -> bytes:
    """Encode log-saliency (h, w) as integers of a type: "u1" for 256 levels, "<u2" for 65,536.

    A map that spans less than FLAT is stored with span 0 and decodes to its peak everywhere.
    """
    values, peak = _checked(log_map)
    depth = np.minimum(peak - values, np.float32(DEEPEST))
    span = depth.max()
    levels = np.iinfo(dtype).max
    if span < FLAT:
        span, codes = np.float32(0), np.zeros(values.shape, dtype)
    else:
        codes = np.rint(np.log1p(depth / KNEE) * (levels / np.log1p(span / KNEE))).astype(dtype)
    residuals = codes.copy()
    residuals[:, 1:] -= codes[:, :-1]
    residuals[1:] -= residuals[:-1].copy()
    planes = residuals.reshape(-1, 1).view("u1").T  # all low bytes, then all high bytes: compresses better
    return _HEADER.pack(peak, span) + _deflate(planes.tobytes())


def _deflate(content: bytes) -> bytes:
    """Return the shorter of two zlib streams, one with Huffman codes only and one with run lengths.

    Residuals repeat only as runs of zeros: searching for longer matches takes 15 times as long and often yields
    more bytes.
    """
    streams = []
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE):
        compressor = zlib.compressobj(strategy=strategy, memLevel=9)
        streams.append(compressor.compress(content) + compressor.flush())
    return min(streams, key=len)


def _decode(record: bytes, size: tuple[int, int], *, dtype: str) -> np.ndarray:
    """Decode log-saliency, float32 (h, w): the inverse of `_encode` up to half a step."""
    peak, span = _HEADER.unpack_from(record)
    if not (np.isfinite(peak) and 0 <= span <= DEEPEST):
        raise ValueError(f"peak {peak} and span {span} of no map")
    width, stream = np.dtype(dtype).itemsize, zlib.decompressobj()
    length = width * size[0] * size[1]
    content = stream.decompress(memoryview(record)[_HEADER.size :], length + 1)  # bounded: a bomb is not unpacked
    if len(content) != length or not stream.eof:
        raise ValueError(f"not the {length} bytes of a map")
    planes = np.frombuffer(content, "u1").reshape(width, -1)
    residuals = np.ascontiguousarray(planes.T).view(dtype).reshape(size)
    codes = np.cumsum(np.cumsum(residuals, axis=0, dtype=dtype), axis=1, dtype=dtype)
    levels = np.iinfo(dtype).max
    table = peak - KNEE * np.expm1(np.arange(levels + 1) * (np.log1p(span / KNEE) / levels))
    return table.astype(np.float32)[codes]


def _encode_half(log_map: np.ndarray) -> bytes:
    """Encode at half the size: each value is the logarithm of the mean of four (odd sizes repeat the edge).

    Averaging the map and interpolating its logarithm has a third of the KL of doing both on the logarithm, and half
    of doing both on the map.
    """
    values, peak = _checked(log_map)
    values = np.exp(np.maximum(values - peak, -np.float32(DEEPEST)))
    values = np.pad(values, [(0, length % 2) for length in values.shape], mode="edge")
    h, w = values.shape
    halved = values.reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3))
    return _encode(peak + np.log(halved), dtype="u1")


def _decode_half(record: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode a map stored at half the size: bilinear interpolation of the logarithm, pixel centres aligned."""
    values = _decode(record, ((size[0] + 1) // 2, (size[1] + 1) // 2), dtype="u1")
    return np.ascontiguousarray(_double(_double(values, axis=0), axis=1)[: size[0], : size[1]])


def _double(values: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly to twice the length along one axis, repeating the first and last value."""
    values = np.moveaxis(values, axis, 0)
    doubled = np.empty((2 * len(values), *values.shape[1:]), values.dtype)
    before = np.concatenate([values[:1], values[:-1]])
    after = np.concatenate([values[1:], values[-1:]])
    doubled[0::2] = 0.75 * values + 0.25 * before
    doubled[1::2] = 0.75 * values + 0.25 * after
    return np.moveaxis(doubled, 0, axis)


# Measured on 50 maps (112 x 192, 15 nats from peak to floor) of a small SalFoM after 120 steps of training on one
# video; times on one core. `saldistill benchmark --of cache` prints this table for any teacher. With teachers that
# were trained for longer, the KL was at most 5e-5 for log8 and 8e-3 for half.
#
#           KL       at T=4   reverse KL  log RMSE  bytes/pixel  encode   decode
#   log8    3.0e-05  1.6e-05  3.0e-05     0.028     0.19         0.27 ms  0.20 ms
#   exact   4.5e-10  2.4e-10  4.5e-10     0.0001    1.06         0.53 ms  0.43 ms
#   half    1.6e-03  3.0e-03  1.8e-03     0.38      0.06         0.26 ms  0.13 ms
CODECS = {
    "log8": Codec(
        partial(_encode, dtype="u1"),
        partial(_decode, dtype="u1"),
        tolerance=1e-3,
        summary="8 bits of log-saliency per pixel",
        help="0.2 bytes per pixel, KL 5e-5 nats",
    ),
    "exact": Codec(
        partial(_encode, dtype="<u2"),
        partial(_decode, dtype="<u2"),
        tolerance=1e-6,
        summary="16 bits of log-saliency per pixel",
        help="1.1 bytes per pixel, KL 1e-9 nats",
    ),
    "half": Codec(
        _encode_half,
        _decode_half,
        tolerance=5e-2,
        summary="8 bits of log-saliency per pixel at half the height and width",
        help="0.06 bytes per pixel, KL 2e-3 to 1e-2 nats",
    ),
}
"""Codecs by their name in configs."""

DEFAULT_CODEC = "log8"
