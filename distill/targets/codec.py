"""From a map to bytes and back: how one teacher map is stored, and what each way costs.

Every codec stores the logarithm of the map, because training needs it: a value that came back as zero would be
minus infinity there, and temperature, reverse KL and log-MSE would break on it. One record is 8 bytes of header
(peak and span, float32, little-endian) and a zlib stream of integer codes.

The range rule. Let `depth` be how far a value lies below its map's peak, in nats. The codes cover each map's own
depths, from 0 to its deepest value (the span), never beyond DEEPEST: a value deeper than that, minus infinity
included, is stored as DEEPEST below the peak, e^-64 of it, which float32 still holds as a normal number. Within the
span the steps grow with the depth, `code ~ log(1 + depth / KNEE)`: fine at the peak, where the density is,
coarse in the tail, where a density has next to nothing and zlib next to nothing to do.

The codes are then replaced by what is left of each after its left, upper and upper-left neighbours predict it
(left + upper - upper-left, modulo the integer size): teacher maps are smooth, so most of it is near zero.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

DEEPEST = 64.0
"""Nats below its map's peak that a stored value can lie at most."""
KNEE = 2.0
"""Depth in nats at which the steps have grown to twice their size at the peak."""
FLAT = 1e-6
"""Nats below which a map's span is nothing but rounding."""

_HEADER = struct.Struct("<ff")  # peak, span


@dataclass(frozen=True)
class Codec:
    """One way to store a map."""

    encode: Callable[[np.ndarray], bytes]
    """Log-saliency (h, w) to the bytes of a record; the same map gives the same bytes."""
    decode: Callable[[bytes, tuple[int, int]], np.ndarray]
    """The bytes of a record and the map's size (h, w) to log-saliency, float32 (h, w), finite."""
    tolerance: float
    """KL in nats, stored against true map, above which one stored map counts as wrong."""
    summary: str
    """What it keeps, in words."""


def _checked(log_map: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return a map (h, w) in float32 and its largest value, or raise a ValueError that says why it is no map."""
    values = np.asarray(log_map, dtype=np.float32)
    if values.ndim != 2:
        raise ValueError(f"expected one map (h, w), got an array of shape {values.shape}")
    peak = values.max()
    if not np.isfinite(peak):
        raise ValueError(f"the map is not made of numbers: its largest value is {peak}")
    return values, peak


def _encode(log_map: np.ndarray, *, dtype: str) -> bytes:
    """Encode log-saliency (h, w) with integer codes of a type: "u1" for 256 levels, "<u2" for 65,536.

    A constant map, or one that spans less than FLAT, has span 0 and decodes to its peak everywhere.

    Raises:
        ValueError: not one map, NaN, plus infinity, or minus infinity everywhere.
    """
    values, peak = _checked(log_map)
    depth = np.minimum(peak - values, np.float32(DEEPEST))
    span = depth.max()
    levels = np.iinfo(dtype).max
    if span < FLAT:
        span, codes = np.float32(0), np.zeros(values.shape, dtype)
    else:
        codes = np.rint(np.log1p(depth / KNEE) * (levels / np.log1p(span / KNEE))).astype(dtype)
    rest = codes.copy()
    rest[:, 1:] -= codes[:, :-1]
    rest[1:] -= rest[:-1].copy()
    planes = rest.reshape(-1, 1).view("u1").T  # low bytes together, then high bytes together: they pack better
    return _HEADER.pack(peak, span) + _deflate(planes.tobytes())


def _deflate(content: bytes) -> bytes:
    """Compress to a zlib stream.

    What the prediction leaves repeats in runs of zeros or not at all, so looking for longer repetitions would take
    fifteen times as long and often give more bytes.
    """
    streams = []
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE):
        packer = zlib.compressobj(strategy=strategy, memLevel=9)
        streams.append(packer.compress(content) + packer.flush())
    return min(streams, key=len)


def _decode(record: bytes, size: tuple[int, int], *, dtype: str) -> np.ndarray:
    """Decode log-saliency, float32 (h, w): `_encode`'s inverse up to half a step."""
    peak, span = _HEADER.unpack_from(record)
    width = np.dtype(dtype).itemsize
    planes = np.frombuffer(zlib.decompress(memoryview(record)[_HEADER.size :]), "u1").reshape(width, -1)
    rest = np.ascontiguousarray(planes.T).view(dtype).reshape(size)
    codes = np.cumsum(np.cumsum(rest, axis=0, dtype=dtype), axis=1, dtype=dtype)
    levels = np.iinfo(dtype).max
    table = peak - KNEE * np.expm1(np.arange(levels + 1) * (np.log1p(span / KNEE) / levels))
    return table.astype(np.float32)[codes]


def _half_size(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def _encode_half(log_map: np.ndarray) -> bytes:
    """Encode at half the size: each pixel the logarithm of the mean of four (the edge repeats for odd sizes).

    Averaging the map and interpolating its logarithm costs a third of the KL of doing both in the log domain, and
    half of doing both on the map.
    """
    values, peak = _checked(log_map)
    values = np.exp(np.maximum(values - peak, -np.float32(DEEPEST)))
    values = np.pad(values, [(0, length % 2) for length in values.shape], mode="edge")
    h, w = values.shape
    halved = values.reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3))
    return _encode(peak + np.log(halved), dtype="u1")


def _decode_half(record: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decode a map stored at half the size: bilinear in the log domain, pixel centres aligned."""
    values = _decode(record, _half_size(size), dtype="u1")
    return np.ascontiguousarray(_double(_double(values, axis=0), axis=1)[: size[0], : size[1]])


def _double(values: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly to twice the length along one axis; beyond the first and last centre, repeat them."""
    values = np.moveaxis(values, axis, 0)
    doubled = np.empty((2 * len(values), *values.shape[1:]), values.dtype)
    before = np.concatenate([values[:1], values[:-1]])
    after = np.concatenate([values[1:], values[-1:]])
    doubled[0::2] = 0.75 * values + 0.25 * before
    doubled[1::2] = 0.75 * values + 0.25 * after
    return np.moveaxis(doubled, 0, axis)


# Measured on 50 maps (112 x 192, 15 nats from peak to floor) of a small SalFoM after 120 steps of training on one
# video; times on one core. `saldistill benchmark --of cache` makes this table of any teacher. Others that were
# trained longer gave log8 up to 5e-5 and half up to 8e-3.
#
#           KL       at T=4   reverse KL  log RMSE  bytes a pixel  encode   decode
#   log8    3.0e-05  1.6e-05  3.0e-05     0.028     0.19           0.27 ms  0.20 ms
#   exact   4.5e-10  2.4e-10  4.5e-10     0.0001    1.06           0.53 ms  0.43 ms
#   half    1.6e-03  3.0e-03  1.8e-03     0.38      0.06           0.26 ms  0.13 ms
CODECS: dict[str, Codec] = {
    "log8": Codec(
        encode=partial(_encode, dtype="u1"),
        decode=partial(_decode, dtype="u1"),
        tolerance=1e-3,
        summary="8 bits of log-saliency a pixel",
    ),
    "exact": Codec(
        encode=partial(_encode, dtype="<u2"),
        decode=partial(_decode, dtype="<u2"),
        tolerance=1e-6,
        summary="16 bits of log-saliency a pixel",
    ),
    "half": Codec(
        encode=_encode_half,
        decode=_decode_half,
        tolerance=5e-2,
        summary="8 bits of log-saliency a pixel at half the height and width",
    ),
}
