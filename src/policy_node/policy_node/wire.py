"""What goes over the socket between a policy's server and its client: openpi's messages.

Role: msgpack with arrays as openpi-client packs them ({b"__ndarray__": True, b"data", b"dtype", b"shape"}), for both sides: remote.py and
serve.py. Numbers only: no pickle, no objects. Depends on numpy and msgpack.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np

from whetstone.errors import InputError

LARGEST = 1 << 26
"""Bytes of a message, at most."""
_KINDS = "biufSU"


def pack(message: Any) -> bytes:
    """ValueError for what is neither plain nor an array of numbers."""
    packed = msgpack.packb(message, default=_packed)
    assert packed is not None
    return packed


def unpack(data: bytes | str) -> Any:
    """Raises InputError where that is no such message."""
    if isinstance(data, str):
        raise InputError(f"text where a message was expected: {last_line(data)}")
    try:
        return msgpack.unpackb(data, object_hook=_unpacked, strict_map_key=False)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InputError(f"a message that cannot be read ({error})") from error


def _packed(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind not in _KINDS:
        raise ValueError(f"arrays of {value.dtype} do not travel")
    if isinstance(value, np.ndarray):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise ValueError(f"a {type(value).__name__} does not travel")


def _unpacked(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        # A copy: what numpy reads straight from the message cannot be written to.
        return np.ndarray(shape=tuple(found[b"shape"]), dtype=_dtype(found), buffer=found[b"data"]).copy()
    if b"__npgeneric__" in found:
        return _dtype(found).type(found[b"data"])
    return found


def _dtype(found: dict[Any, Any]) -> np.dtype[Any]:
    dtype = np.dtype(found[b"dtype"])
    if dtype.kind not in _KINDS:
        raise ValueError(f"dtype {dtype} is not one of numbers")
    return dtype


def last_line(text: str) -> str:
    """Of a traceback: the error itself."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing")
