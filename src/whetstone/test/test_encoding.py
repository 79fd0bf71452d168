"""Chunks on the wire: lossless, and no more than was asked for, whatever comes in."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whetstone.encoding import DIFFERENCE, RAW, ZSTD, decode, encode, zstd
from whetstone.errors import InputError


@given(st.binary(max_size=300), st.binary(max_size=300), st.booleans())
def test_what_goes_in_comes_out(chunk: bytes, other: bytes, similar: bool) -> None:
    base = chunk[:-1] + b"x" if similar and chunk else (other + bytes(len(chunk)))[: len(chunk)]
    for older in (None, base):
        how, data = encode(chunk, older)
        assert how != DIFFERENCE or older is not None
        assert bytes(decode(how, bytes(data), len(chunk), older)) == chunk


def test_each_kind_of_weights_gets_the_encoding_that_is_worth_it() -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, 1 << 16, np.uint8).tobytes()
    weights = generator.normal(size=1 << 14).astype(np.float32)
    changed = weights * (1 + 1e-4 * generator.normal(size=weights.size).astype(np.float32))
    assert encode(noise)[0] == RAW and encode(noise, noise[::-1])[0] == RAW
    how, data = encode(weights.tobytes())
    assert how == ZSTD and len(data) < 0.95 * weights.nbytes
    how, data = encode(changed.tobytes(), weights.tobytes())
    assert how == DIFFERENCE and len(data) < 0.5 * weights.nbytes
    assert encode(weights.tobytes(), noise)[0] == ZSTD  # weights that have nothing to do with these


@pytest.mark.parametrize("size", [1 << 10, 1 << 16])
def test_a_bomb_is_refused_before_it_goes_off(size: int) -> None:
    bomb = zstd.compress(bytes(1 << 28))
    tracemalloc.start()
    with pytest.raises(InputError, match=f"are not {size} bytes"):
        decode(ZSTD, bomb, size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size + (1 << 20)


def test_what_cannot_be_right_is_refused() -> None:
    chunk = np.zeros(64, np.uint8).tobytes()
    data = zstd.compress(chunk)
    for how, bad, size, base, word in (
        (RAW, chunk, 63, None, "64 bytes instead of 63"),
        (ZSTD, b"nonsense", 64, None, "Unknown frame"),
        (ZSTD, data[:-1], 64, None, "are not 64 bytes"),
        (ZSTD, data, 65, None, "are not 65 bytes"),
        (ZSTD, b"", 64, None, "are not 64 bytes"),
        (DIFFERENCE, data, 64, None, "not at hand"),
        (DIFFERENCE, data, 64, bytes(63), "not at hand"),
        (9, data, 64, None, "encoding 9 is unknown"),
    ):
        with pytest.raises(InputError, match=word):
            decode(how, bad, size, base)
