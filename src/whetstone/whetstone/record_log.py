"""Append-only files that survive a killed writer.

Role: records, each a small JSON header and raw bytes, framed by length and checksum. Every append is one write to the operating system,
so a process that is killed loses nothing that it appended; `sync` makes it survive a power cut. A reader stops at the first record that
is cut off or damaged. No pickle. Depends on the standard library only.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_SIZES, _CHECKSUM = struct.Struct("<II"), struct.Struct("<I")  # bytes of the header and of the payload; CRC-32 of sizes, header, payload
_FRAME = _SIZES.size + _CHECKSUM.size
_MAX_HEADER = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One record. header: what was given to `append`; offset, size: where its payload lies in the file, bytes."""

    header: dict[str, Any]
    offset: int
    size: int


class RecordLog:
    """A file that one process appends to. Opening an existing one goes on at its end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)

    def append(self, header: dict[str, Any], payload: bytes = b"") -> Entry:
        """Write one record. Raises OSError (a full disk), after which the file ends as before the call."""
        text = json.dumps(header, ensure_ascii=False).encode()
        sizes = _SIZES.pack(len(text), len(payload))
        data = b"".join((sizes, _CHECKSUM.pack(_checksum(sizes, text, payload)), text, payload))
        try:
            written = self._file.write(data)
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(self._end)
            raise
        entry = Entry(header, self._end + _FRAME + len(text), len(payload))
        self._end += len(data)
        return entry

    def sync(self) -> None:
        """Return when everything is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def entries(path: Path) -> Iterator[Entry]:
    """The whole records of a file in their order. Ends without a word where a record is cut off or damaged (see `whole`)."""
    with path.open("rb") as file:
        while len(frame := file.read(_FRAME)) == _FRAME:
            header_size, size = _SIZES.unpack_from(frame)
            if header_size > _MAX_HEADER:
                return
            text, offset = file.read(header_size), file.tell()
            content = file.read(size)
            checksum = _checksum(frame[: _SIZES.size], text, content)
            if len(content) < size or _CHECKSUM.unpack_from(frame, _SIZES.size)[0] != checksum:
                return
            yield Entry(json.loads(text), offset, size)


def _checksum(sizes: bytes, text: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(text, zlib.crc32(sizes)))


def payload(path: Path, entry: Entry) -> bytes:
    """The bytes of a record."""
    with path.open("rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def whole(path: Path) -> bool:
    """Whether the file ends with a whole record."""
    end = max((entry.offset + entry.size for entry in entries(path)), default=0)
    return path.stat().st_size == end
