"""One file of a bag.

Role: what a reader needs of a file, whatever its format: channels with counts, its time range, messages in order of log time. rosbags
reads whole files; whetstone.bags.damaged reads the others. Does not depend on rclpy.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from whetstone.bags.messages import Channel, Encoding

Record = tuple[Channel, int, bytes]
"""Channel, log time (ns), bytes."""
MCAP, SQLITE, ROS1, ZSTD = b"\x89MCAP0\r\n", b"SQLite format 3\0", b"#ROSBAG V", b"\x28\xb5\x2f\xfd"
"""How files of each kind begin."""
_NO_SCHEMA = "__schemaless__"
"""rosbags' word for the type of a channel whose schema is not in the summary."""
_ENCODINGS: dict[str, Encoding] = {"cdr": "cdr", "ros1": "ros1"}


class Storage(Protocol):
    """An open file of a bag. path: the file itself (decompressed). start, end: log time (ns) of its first and its last message; None where
    it has none. counts: messages of each channel. metadata: texts that its recorder left in it. warnings: what of it could not be read."""

    path: Path
    start: int | None
    end: int | None
    counts: dict[Channel, int]
    metadata: dict[str, str]
    warnings: list[str]

    def messages(self, channels: Collection[Channel], start: int, end: int) -> Iterator[Record]:
        """Those with start <= log time < end, in order of log time."""
        ...

    def close(self) -> None: ...


class Segment(NamedTuple):
    """A stretch of messages that is in order of time. start: not after its first; read: opens it."""

    start: int
    read: Callable[[], Iterable[Record]]


def in_order(segments: Iterable[Segment]) -> Iterator[Record]:
    """The messages of all segments by time, those of one time in the segments' order. A segment is opened when its time has come and
    forgotten when it is over, so that only those that overlap are in memory."""
    waiting = sorted(segments, key=lambda segment: segment.start)[::-1]
    heap: list[tuple[int, int, Record, Iterator[Record]]] = []
    opened = 0
    while waiting or heap:
        while waiting and (not heap or waiting[-1].start < heap[0][0]):
            iterator = iter(waiting.pop().read())
            opened += 1
            first = next(iterator, None)
            if first is not None:
                heapq.heappush(heap, (first[1], opened, first, iterator))
        if not heap:
            continue
        _, number, record, iterator = heap[0]
        yield record
        following = next(iterator, None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (following[1], number, following, iterator))


class WholeFile:
    """A file that rosbags reads. Raises what rosbags raises where it cannot."""

    def __init__(self, path: Path, kind: bytes) -> None:
        self.path = path
        self._reader: Any = {MCAP: McapReader, SQLITE: Sqlite3Reader, ROS1: Rosbag1Reader}[kind](path)
        self._channels: dict[int, Channel] = {}
        self._connections: dict[Channel, Any] = {}
        self.counts, self.warnings = {}, []
        self.metadata: dict[str, str] = {}
        self._reader.open()
        try:
            self._learn(kind)
        except BaseException:
            self._reader.close()
            raise

    def _learn(self, kind: bytes) -> None:
        for connection in self._reader.connections:
            encoding = "ros1" if kind == ROS1 else getattr(connection.ext, "serialization_format", "")
            channel = Channel(connection.topic, connection.msgtype, connection.msgdef, _ENCODINGS.get(encoding, "other"))
            self._channels[connection.id] = channel
            self._connections[channel] = connection
            self.counts[channel] = connection.msgcount
        if kind == MCAP:
            self._check_index_of_mcap()
        elif kind == ROS1:
            self._check_index_of_ros1()
        times = self._reader if kind == ROS1 else self._reader.metadata
        some = any(self.counts.values())
        self.start: int | None = times.start_time if some else None
        self.end: int | None = times.end_time - 1 if some else None

    def _check_index_of_mcap(self) -> None:
        """rosbags finds messages by the message indexes of the chunks alone, and types in the summary. A writer may leave out either."""
        chunks = self._reader.chunks
        indexed = sum(sum(chunk.channel_count.values()) for chunk in chunks)
        named = all(channel.type != _NO_SCHEMA for channel in self.counts)
        counted = indexed == self._reader.metadata.message_count == sum(self.counts.values()) and all(one.channel_count for one in chunks)
        if not (counted and named):
            raise ValueError("its index does not have all of its messages")

    def _check_index_of_ros1(self) -> None:
        """It has no checksum, and a message whose entry is damaged would not be found where it belongs."""
        chunks = {chunk.pos: chunk for chunk in self._reader.chunk_infos}
        indexed = sum(map(len, self._reader.indexes.values()))
        within = all(
            chunks[entry.chunk_pos].start_time <= entry.time < chunks[entry.chunk_pos].end_time
            for index in self._reader.indexes.values()
            for entry in index
        )
        if not within or indexed != sum(sum(chunk.connection_counts.values()) for chunk in chunks.values()):
            raise ValueError("its index is damaged")

    def messages(self, channels: Collection[Channel], start: int, end: int) -> Iterator[Record]:
        connections = [self._connections[channel] for channel in channels if channel in self._connections]
        if connections:
            for connection, time, data in self._reader.messages(connections, start, end):
                yield self._channels[connection.id], time, data

    def close(self) -> None:
        self._reader.close()
