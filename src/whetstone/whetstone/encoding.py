"""What a chunk of weights looks like on the wire: as it is, compressed, or as the difference from weights that the receiver has.

Role: one chunk in, bytes out, and back; lossless. Bytes of equal rank are put beside each other (the first byte of every four, then the
second, ...: Blosc's shuffle filter) before zstd sees them: the exponents of float32 resemble each other, the lowest bytes are noise.
A difference is the exclusive or with the older weights, which leaves zeros where the upper bytes stayed the same. Nobody has to trust what
comes in: decoding never makes more than the bytes asked for. Knows no messages and no tables.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from whetstone.errors import InputError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RAW, ZSTD, DIFFERENCE = 0, 1, 2
"""As in whetstone_msgs/WeightsChunk. DIFFERENCE is compressed too."""
_LEVEL = 1  # higher ones take several times as long for the same size, on weights
_WORTH = 0.97  # of its size; what shrinks less is sent as it is
_STRIDE = 4  # bytes of float32; does for bfloat16 as well
_WINDOW = {int(zstd.DecompressionParameter.window_log_max): 23}  # 8 MiB: more than any chunk
Buffer = Any
"""bytes, bytearray, memoryview, array.array: what numpy can look at as bytes."""


def encode(chunk: Buffer, base: Buffer | None = None) -> tuple[int, Buffer]:
    """(encoding, data) of a chunk, the smallest it can be made. base: the older weights' bytes of the same place."""
    if base is not None:
        data = zstd.compress(_shuffled(np.bitwise_xor(_bytes(chunk), _bytes(base))).data, _LEVEL)
        if len(data) < _WORTH * len(chunk):
            return DIFFERENCE, data
    data = zstd.compress(_shuffled(_bytes(chunk)).data, _LEVEL)
    return (ZSTD, data) if len(data) < _WORTH * len(chunk) else (RAW, chunk)


def decode(encoding: int, data: Buffer, size: int, base: Buffer | None = None) -> Buffer:
    """The chunk of `size` bytes. Raises InputError where the data cannot be that (which is no proof that it is right: its hash is)."""
    if encoding == RAW:
        if len(data) != size:
            raise InputError(f"{len(data)} bytes instead of {size}")
        return data
    if encoding not in (ZSTD, DIFFERENCE):
        raise InputError(f"encoding {encoding} is unknown")
    if encoding == DIFFERENCE and (base is None or len(base) != size):
        raise InputError("a difference from weights that are not at hand")
    decompressor = zstd.ZstdDecompressor(options=_WINDOW)
    try:
        plain = decompressor.decompress(data, max_length=size)
    except zstd.ZstdError as error:
        raise InputError(f"{error}") from None
    if len(plain) != size or not decompressor.eof:
        raise InputError(f"what was compressed are not {size} bytes")
    values = _unshuffled(np.frombuffer(plain, np.uint8))
    return values if encoding == ZSTD else np.bitwise_xor(values, _bytes(base), out=values)


def _bytes(data: Buffer) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _shuffled(values: np.ndarray) -> np.ndarray:
    """(n,) -> (n,). What is left over at the end stays where it is."""
    whole = len(values) // _STRIDE * _STRIDE
    out = np.empty_like(values)
    out[:whole].reshape(_STRIDE, -1)[...] = values[:whole].reshape(-1, _STRIDE).T
    out[whole:] = values[whole:]
    return out


def _unshuffled(values: np.ndarray) -> np.ndarray:
    whole = len(values) // _STRIDE * _STRIDE
    out = np.empty_like(values)
    rows = out[:whole].reshape(-1, _STRIDE)
    for rank, part in enumerate(values[:whole].reshape(_STRIDE, -1)):  # twice as fast as one transposed assignment
        rows[:, rank] = part
    out[whole:] = values[whole:]
    return out
