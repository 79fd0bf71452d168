"""A bag: its topics, its time, its messages.

Role: `open_bag`, for rosbag2 (MCAP, sqlite3, compressed, split) and ROS 1, whole, cut off or without an index. Messages come in order of
log time, whatever their files' order; memory holds the chunks that overlap in time, not the bag. What could not be read is in `warnings`,
never silent. Does not depend on rclpy.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from backports import zstd

from whetstone import config
from whetstone.bags.files import READ_ERRORS, find_files, open_file, scan_file
from whetstone.bags.messages import Channel, Message, Types
from whetstone.bags.storage import ZSTD, Record, Segment, Storage, in_order
from whetstone.errors import InputError

_FOREVER = 2**63 - 1


@dataclass(frozen=True)
class Topic:
    """type: package/msg/Name. count: messages, before any damage that is found only when they are read. decodable: whether the bag or we
    have the definition of its type."""

    name: str
    type: str
    count: int
    decodable: bool


class Bag:
    """An open bag; a context manager. Made by `open_bag`.

    path: as given. topics: name -> Topic, by name. start, end: log time of the first and the last message, ns. metadata: texts that its
    recorder left (custom_data of metadata.yaml, metadata records of MCAP). warnings: what of it could not be read, and how far it goes;
    reading may add to it.
    """

    def __init__(self, path: Path, definitions: Path | None = None) -> None:
        self.path = path
        self.types = Types(definitions)
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        files = find_files(self.path)
        self.metadata = dict(files.metadata)
        self.warnings: list[str] = [f"{self.path}: {warning}" for warning in files.warnings]
        self._undone: set[str] = set()
        self._scratch: Path | None = None
        self._files: list[Storage] = []
        for path in files.paths:
            try:
                storage = open_file(path, self._unpacked)
            except InputError as error:
                if len(files.paths) == 1:
                    raise
                self.warnings.append(f"{error}: left out")
                continue
            self._stack.callback(storage.close)
            self._files.append(storage)
            self.metadata = {**storage.metadata, **self.metadata}
        times = [(s.start, s.end) for s in self._files if s.start is not None and s.end is not None]
        broken = [warning for storage in self._files for warning in storage.warnings]
        if not times:
            raise InputError(f"{self.path}: the bag has no messages" + (f": {'; '.join(broken)}" if broken else ""))
        self.start, self.end = min(start for start, _ in times), max(end for _, end in times)
        if broken:
            of = f" of about {files.duration / 1e9:.1f} s" if files.duration else ""
            count = sum(sum(storage.counts.values()) for storage in self._files)
            self.warnings.append(
                f"{self.path}: {'; '.join(broken)}: read as far as {(self.end - self.start) / 1e9:.1f} s{of} ({count} messages)"
            )
        self._channels: dict[str, list[Channel]] = {}
        counts: dict[str, int] = {}
        for storage in self._files:
            for channel, count in storage.counts.items():
                self._channels.setdefault(channel.topic, []).append(channel)
                counts[channel.topic] = counts.get(channel.topic, 0) + count
        self.topics = {
            name: Topic(name, self._channels[name][0].type, counts[name], all(map(self.types.known, self._channels[name])))
            for name in sorted(counts)
        }

    @property
    def duration(self) -> float:
        """s, from the first message to the last."""
        return (self.end - self.start) / 1e9

    def topic(self, name: str) -> Topic:
        """Raises InputError where the bag has no such topic, naming those that it has, the nearest first."""
        if name in self.topics:
            return self.topics[name]
        nearest = config.nearest(name, self.topics)
        rest = [topic for topic in self.topics if topic != nearest]
        names = ", ".join([nearest, *rest] if nearest else rest)
        hint = f"; did you mean '{nearest}'?" if nearest else ";"
        raise InputError(f"{self.path}: unknown topic '{name}'{hint} it has {names}")

    def messages(self, topics: Iterable[str] | None = None, start: int | None = None, end: int | None = None) -> Iterator[Message]:
        """Messages in order of log time, those with start <= time_ns < end (ns). topics: None: all. Raises InputError for an unknown topic
        at once, before anything is read."""
        wanted = set(self.topics) if topics is None else {self.topic(name).name for name in topics}
        channels = {channel for name in wanted for channel in self._channels[name]}
        first, last = 0 if start is None else start, _FOREVER if end is None else end
        return self._messages(channels, first, last)

    def _messages(self, channels: Collection[Channel], start: int, end: int) -> Iterator[Message]:
        segments = [
            Segment(storage.start, partial(self._records, storage, channels, start, end))
            for storage in self._files
            if storage.start is not None and storage.end is not None and storage.start < end and storage.end >= start
        ]
        for channel, time, data in in_order(segments):
            if channel.encoding == "cdr" and data[:4] == ZSTD:  # compressed one by one; CDR never begins like that
                try:
                    data = zstd.decompress(data)
                except zstd.ZstdError:
                    self._warn_of(channel.topic, (time - self.start) / 1e9)
                    continue
            yield Message(channel, time, bytes(data), self.types)

    def _records(self, storage: Storage, channels: Collection[Channel], start: int, end: int) -> Iterator[Record]:
        """Of one file. Where its index leads into damage, the rest is read without it."""
        # The time of the newest message, and which of that time were given.
        at, given = start, Counter[tuple[str, str, int, int]]()
        try:
            for record in storage.messages(channels, start, end):
                if record[1] != at:
                    at = record[1]
                    given.clear()
                given[_mark(record)] += 1
                yield record
            return
        except READ_ERRORS as error:
            said = " ".join(str(error).split()) or type(error).__name__
        where = f"damaged after {max(at - self.start, 0) / 1e9:.1f} s"
        if hasattr(storage, "stretches"):
            self._warn(f"{storage.path.name}: {where}: {said}")
            return
        scanned = scan_file(storage.path)
        self._warn(f"{where} ({said}): {'; '.join(scanned.warnings) or storage.path.name}")
        same = {(one.topic, one.type): one for one in channels}
        wanted = [one for one in scanned.counts if (one.topic, one.type) in same]
        for channel, time, data in scanned.messages(wanted, at, end):
            mark = _mark((channel, time, data)) if time == at else None
            if mark is not None and given[mark]:
                given[mark] -= 1
                continue
            yield same[channel.topic, channel.type], time, data

    def _warn(self, text: str) -> None:
        line = f"{self.path}: {text}"
        if line not in self.warnings:
            self.warnings.append(line)

    def _warn_of(self, topic: str, seconds: float) -> None:
        """A message could not be decompressed; a line for each topic."""
        if topic not in self._undone:
            self._undone.add(topic)
            self._warn(f"{topic}: messages that cannot be decompressed are left out, the first after {seconds:.1f} s")

    def _unpacked(self) -> Path:
        """A folder for what must be decompressed before it can be read; it goes when the bag is closed."""
        if self._scratch is None:
            self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="whetstone-bag-")))
        return self._scratch

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _mark(record: Record) -> tuple[str, str, int, int]:
    """What tells messages of one time apart, without keeping them."""
    channel, _, data = record
    return channel.topic, channel.type, len(data), hash(bytes(data[:256]))


def open_bag(path: str | os.PathLike[str], definitions: str | os.PathLike[str] | None = None) -> Bag:
    """Open a rosbag2 folder (whole or split), or a single .mcap, .db3 or .bag file.

    definitions: folder of .msg files (package/msg/Name.msg) for types that neither the bag nor we define. Raises InputError of one line:
    no such path, not a bag, no messages, or nothing of it can be read.
    """
    return Bag(Path(path).expanduser(), None if definitions is None else Path(definitions).expanduser())
