"""What can be read from a serialised message without its definition.

Role: the stamp and the episode's id at the front, read or set, so that whoever forwards or sorts raw messages need not decode them.
Does not depend on rclpy.
"""

from __future__ import annotations

import struct

from whetstone.errors import InputError

_STAMP = {0: struct.Struct(">iI"), 1: struct.Struct("<iI")}
_LENGTH = {0: struct.Struct(">I"), 1: struct.Struct("<I")}


def stamp_of_raw(data: bytes) -> int:
    """Stamp (ns) of a serialised message that begins with std_msgs/Header, without reading the rest.

    CDR: four bytes of encapsulation, then `sec` and `nanosec`. Raises InputError where the bytes cannot be that.
    """
    if len(data) < 12 or data[0] != 0 or data[1] not in _STAMP:
        raise InputError(f"{len(data)} bytes are not a serialised message with a header")
    sec, nanosec = _STAMP[data[1]].unpack_from(data, 4)
    return sec * 1_000_000_000 + nanosec


def with_stamp(data: bytes, stamp: int) -> bytes:
    """A serialised message of which `stamp_of_raw` can be had, with this stamp (ns) instead of its own."""
    said = _STAMP[data[1]].pack(stamp // 1_000_000_000, stamp % 1_000_000_000)
    return data if data[4:12] == said else data[:4] + said + data[12:]


def episode_id_of_raw(data: bytes) -> str:
    """Of a serialised message that begins with a header and the episode's id; empty where the bytes cannot be that."""
    length_of = _LENGTH.get(data[1] if len(data) > 1 else -1)
    try:
        if length_of is None:
            return ""
        (length,) = length_of.unpack_from(data, 12)
        begin = 16 + length + -length % 4
        (length,) = length_of.unpack_from(data, begin)
        return data[begin + 4 : begin + 4 + max(length - 1, 0)].decode("utf-8", "replace")
    except struct.error:
        return ""
