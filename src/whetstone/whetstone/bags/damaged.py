"""Files of a bag that were cut off, have no index, or are damaged within.

Role: reads what is there, in order of log time, and says how far that goes: MCAP by the `mcap` library's stream reader, ROS 1 by rosbags'
record reader, sqlite3 row by row. A first pass finds where stretches of messages lie; memory holds those places only, and the stretches
that overlap in time while they are read. Does not depend on rclpy.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import apsw
import lz4.frame
from backports import zstd
from mcap import records as mcap_records
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag1.reader import Header, RecordType, normalize, read_bytes, read_uint32
from rosbags.rosbag1.reader import ReaderError as Rosbag1Error
from rosbags.typesys.msg import normalize_msgtype

from whetstone.bags.messages import NO_DEFINITION, Channel, Encoding
from whetstone.bags.storage import MCAP, Record, Segment, in_order

_DEFINITIONS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros1msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}
_MCAP_ENDS = (McapError, ValueError, struct.error, RuntimeError, EOFError, OSError, KeyError, zstd.ZstdError)
"""What the bytes behind the end of what was written may raise."""
_ROS1_ENDS = (Rosbag1Error, ValueError, struct.error, RuntimeError, EOFError, OSError, KeyError)
_RUN = 10_000
"""Messages that lie one by one, not in chunks: as many are a stretch at most."""


@dataclass
class _Stretch:
    """Messages in order of time. read: gives all of them, each with the id of its channel."""

    start: int
    end: int
    read: Callable[[], Iterable[tuple[Any, int, bytes]]]


class _Scanned:
    """What the first pass found. key of channels: whatever the format tells them apart by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channels: dict[Any, Channel] = {}
        self.counts: dict[Channel, int] = {}
        self.stretches: list[_Stretch] = []
        self.metadata: dict[str, str] = {}
        self.warnings: list[str] = []
        self.start: int | None = None
        self.end: int | None = None
        self._unknown = 0

    def messages(self, channels: Collection[Channel], start: int, end: int) -> Iterator[Record]:
        def chosen(stretch: _Stretch) -> Iterator[Record]:
            for key, time, data in stretch.read():
                channel = self.channels.get(key)
                if channel is not None and channel in channels and start <= time < end:
                    yield channel, time, data

        wanted = [stretch for stretch in self.stretches if stretch.start < end and stretch.end >= start]
        return in_order(Segment(stretch.start, partial(chosen, stretch)) for stretch in wanted)

    def close(self) -> None:
        """Files are open only while they are read."""

    def _resume(self, offset: int, places: list[int]) -> int | None:
        """Where to read on when what is at this byte cannot be read: at the next chunk of the file's own index, if there is one."""
        following = next((place for place in places if place > offset), None)
        if following is not None:
            self.warnings.append(f"{self.path.name}: damaged from byte {offset} on; read on at byte {following}")
        return following

    def _add(self, times: list[tuple[Any, int]], read: Callable[[], Iterable[tuple[Any, int, bytes]]]) -> None:
        """A stretch with messages of these channels and times."""
        known = [(self.channels[key], time) for key, time in times if key in self.channels]
        self._unknown += len(times) - len(known)
        if not known:
            return
        for channel, _ in known:
            self.counts[channel] = self.counts.get(channel, 0) + 1
        stretch = _Stretch(min(time for _, time in known), max(time for _, time in known), read)
        self.stretches.append(stretch)
        self.start = stretch.start if self.start is None else min(self.start, stretch.start)
        self.end = stretch.end if self.end is None else max(self.end, stretch.end)

    def _count_unknown(self) -> None:
        """Say how many messages there are of which nothing in the file tells what they are."""
        if self._unknown:
            self.warnings.append(f"{self.path.name}: {self._unknown} messages left out: their topics' names are lost")

    def _know(self, key: Any, channel: Channel) -> None:
        if key not in self.channels:
            self.channels[key] = channel
            self.counts.setdefault(channel, 0)


class ScannedMcap(_Scanned):
    """An MCAP file read from its beginning as far as it goes, without its index. A chunk that is damaged is left out, but one that is cut
    off gives the messages before the cut."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._schemas: dict[int, Any] = {}
        size = path.stat().st_size
        with path.open("rb") as file:
            if file.read(len(MCAP)) != MCAP:
                raise ValueError("its first bytes are not those of an MCAP file")
            places = self._index(file)
            offset: int | None = len(MCAP)
            while offset is not None:
                file.seek(offset)
                end = self._scan(file, size)
                offset = None if end is None else self._resume(end, places)
                if end is not None and offset is None:
                    self._add_cut_off(end, size)
        self._count_unknown()

    def _index(self, file: BinaryIO) -> list[int]:
        """Where chunks begin, by the summary at the file's end, whose channels are taken: the chunk that has them may be damaged. Empty
        where the file has none that can be read."""
        try:
            file.seek(0)
            summary = SeekingReader(file).get_summary()
        except Exception:  # of a damaged file it may be anything: mcap unpacks without a look
            return []
        if summary is None:
            return []
        for schema in summary.schemas.values():
            self._take(schema)
        for channel in summary.channels.values():
            if channel.schema_id in self._schemas:
                self._take(channel)
        return sorted(index.chunk_start_offset for index in summary.chunk_indexes)

    def _scan(self, file: BinaryIO, size: int) -> int | None:
        """From where the file is to its end; the byte at which a record cannot be read, None where all can."""
        run: list[tuple[int, int]] = []
        """Channel and time of top-level messages that follow each other in order of time."""
        run_at, offset = 0, file.tell()
        try:
            for record in StreamReader(file, skip_magic=True, emit_chunks=True, record_size_limit=size).records:
                if isinstance(record, mcap_records.Message):
                    if run and (record.log_time < run[-1][1] or len(run) >= _RUN):
                        self._add_run(run_at, run)
                        run = []
                    run_at = run_at if run else offset
                    run.append((record.channel_id, record.log_time))
                elif isinstance(record, mcap_records.Chunk):
                    self._add_chunk(offset, record)
                elif isinstance(record, (mcap_records.DataEnd, mcap_records.Footer)):
                    return None
                else:
                    self._take(record)
                offset = file.tell()
        except _MCAP_ENDS:
            pass
        finally:
            self._add_run(run_at, run)
        return offset

    def _take(self, record: Any) -> None:
        """A record that is no message and no chunk."""
        if isinstance(record, mcap_records.Schema):
            self._schemas[record.id] = record
        elif isinstance(record, mcap_records.Channel):
            schema = self._schemas.get(record.schema_id)
            name = schema.name if schema else ""
            kind = _DEFINITIONS.get(schema.encoding) if schema else None
            text = MessageDefinition(kind, schema.data.decode(errors="replace")) if kind and schema else NO_DEFINITION
            encoding: Encoding = "cdr" if record.message_encoding == "cdr" else "ros1" if record.message_encoding == "ros1" else "other"
            self._know(record.id, Channel(record.topic, normalize_msgtype(name) if encoding == "ros1" else name, text, encoding))
        elif isinstance(record, mcap_records.Metadata):
            self.metadata.update(metadata_of(record))

    def _add_chunk(self, offset: int, chunk: mcap_records.Chunk) -> None:
        try:
            inside = breakup_chunk(chunk, validate_crc=True)
        except Exception as error:  # mcap's, or of the libraries that it decompresses with
            self.warnings.append(f"{self.path.name}: a chunk at byte {offset} is damaged and left out: {error}")
            return
        self._add_records(inside, partial(self._read_chunk, offset))

    def _add_records(self, inside: list[Any], read: Callable[[], Iterable[tuple[int, int, bytes]]]) -> None:
        for record in inside:
            self._take(record)
        self._add([(one.channel_id, one.log_time) for one in inside if isinstance(one, mcap_records.Message)], read)

    def _add_run(self, offset: int, run: list[tuple[int, int]]) -> None:
        self._add(run, partial(self._read_run, offset, len(run)))

    def _add_cut_off(self, offset: int, size: int) -> None:
        """The record at this byte is not whole: of a chunk take what can be read."""
        inside = cut_off_records(self.path, offset)
        self._add_records(inside, partial(self._read_cut_off, offset))
        lost = size - offset
        if lost:
            self.warnings.append(f"{self.path.name}: cut off or damaged from byte {offset} of {size} on")
        else:
            self.warnings.append(f"{self.path.name}: cut off after a whole record; it has no end mark")

    def _read_chunk(self, offset: int) -> list[tuple[int, int, bytes]]:
        with self.path.open("rb") as file:
            file.seek(offset)
            chunk = next(record for record in StreamReader(file, skip_magic=True, emit_chunks=True).records)
        assert isinstance(chunk, mcap_records.Chunk)
        return _by_time(breakup_chunk(chunk))

    def _read_cut_off(self, offset: int) -> list[tuple[int, int, bytes]]:
        return _by_time(cut_off_records(self.path, offset))

    def _read_run(self, offset: int, count: int) -> Iterator[tuple[int, int, bytes]]:
        with self.path.open("rb") as file:
            file.seek(offset)
            for record in StreamReader(file, skip_magic=True, emit_chunks=True).records:
                if count == 0:
                    return
                if isinstance(record, mcap_records.Message):
                    count -= 1
                    yield record.channel_id, record.log_time, record.data


class ScannedRosbag1(_Scanned):
    """A ROS 1 bag read from its beginning as far as it goes, without its index (a recorder that was killed leaves none)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            file.readline()
            begin = file.tell()
            places = self._index(file)
            file.seek(begin)
            offset: int | None = begin
            while offset is not None and offset < size:
                try:
                    self._scan(file, offset)
                    offset = file.tell()
                except _ROS1_ENDS:
                    end, offset = offset, self._resume(offset, places)
                    if offset is None:
                        self.warnings.append(f"{path.name}: cut off or damaged from byte {end} of {size} on")
                    else:
                        file.seek(offset)
        self._count_unknown()
        if not places and not self.warnings:
            self.warnings.append(f"{path.name}: it has no index")

    def _index(self, file: BinaryIO) -> list[int]:
        """Where chunks begin, by the index at the file's end, whose connections are taken: the chunk that has them may be damaged. Empty
        where the file has none that can be read."""
        found: list[int] = []
        try:
            file.seek(Header.read(file, RecordType.BAGHEADER).get_uint64("index_pos"))
            while True:
                header = Header.read(file)
                kind, content = header.get_uint8("op"), read_bytes(file, read_uint32(file))
                if kind == RecordType.CONNECTION:
                    self._connect(header, content)
                elif kind == RecordType.CHUNK_INFO:
                    found.append(header.get_uint64("chunk_pos"))
        except _ROS1_ENDS:
            return sorted(found)

    def _scan(self, file: BinaryIO, offset: int) -> None:
        """The record at this byte, where the file is."""
        header = Header.read(file)
        kind, length = header.get_uint8("op"), read_uint32(file)
        if kind != RecordType.CHUNK:
            content = read_bytes(file, length)
            if kind == RecordType.CONNECTION:
                self._connect(header, content)
            return
        compression, packed = header.get_string("compression"), file.read(length)
        content = unpacked(compression, packed)
        found, whole = self._records(content)
        self._add([(key, time) for key, time, _ in found], partial(self._read_chunk, offset))
        if len(packed) < length:
            raise EOFError
        if not whole or len(content) != header.get_uint32("size"):
            self.warnings.append(f"{self.path.name}: a chunk at byte {offset} is damaged: {len(found)} messages of it are read")

    def _connect(self, header: Header, content: bytes) -> None:
        # The fields of a connection are written like those of a header.
        fields = Header.read(BytesIO(struct.pack("<L", len(content)) + content))
        definition = MessageDefinition(MessageDefinitionFormat.MSG, fields.get_string("message_definition"))
        topic = normalize(header.get_string("topic"))
        self._know(header.get_uint32("conn"), Channel(topic, normalize_msgtype(fields.get_string("type")), definition, "ros1"))

    def _records(self, content: bytes) -> tuple[list[tuple[int, int, bytes]], bool]:
        """Connection, time and bytes of the messages in a chunk, as far as they are whole; whether all are."""
        source, found = BytesIO(content), []
        try:
            while source.tell() < len(content):
                header = Header.read(source)
                kind = header.get_uint8("op")
                data = read_bytes(source, read_uint32(source))
                if kind == RecordType.CONNECTION:
                    self._connect(header, data)
                elif kind == RecordType.MSGDATA:
                    found.append((header.get_uint32("conn"), header.get_time("time"), data))
        except _ROS1_ENDS:
            return found, False
        return found, True

    def _read_chunk(self, offset: int) -> list[tuple[int, int, bytes]]:
        with self.path.open("rb") as file:
            file.seek(offset)
            header = Header.read(file)
            content = unpacked(header.get_string("compression"), file.read(read_uint32(file)))
        return sorted(self._records(content)[0], key=lambda record: record[1])


class _WholePages(apsw.VFSFile):
    """A database file without the page that it was cut off in: SQLite fills that with zeros and takes it for whole."""

    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._pages = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)

    def xFileSize(self) -> int:
        size = super().xFileSize()
        header = super().xRead(18, 0) if self._pages and size >= 18 else b""
        page = int.from_bytes(header[16:18], "big")  # 1 stands for 65536
        return size - size % (65536 if page == 1 else page) if page else size

    def xRead(self, amount: int, offset: int) -> bytes:
        return super().xRead(amount, offset)[: max(0, self.xFileSize() - offset)] if self._pages else super().xRead(amount, offset)


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(_VFS, "")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _WholePages(name, flags)


_VFS = "whetstone-whole-pages"
_REGISTERED = _Vfs()
"""Registered as long as there is a reference to it."""


class ScannedSqlite(_Scanned):
    """A sqlite3 file row by row, in the order in which rows were written, up to the first that cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        run: list[tuple[int, int]] = []
        first = last = 0
        try:
            with closing(self._open()) as database:
                texts = dict(self._texts(database))
                for key, topic, kind, form in database.execute("SELECT id, name, type, serialization_format FROM topics"):
                    self._know(key, Channel(topic, kind, texts.get(kind, NO_DEFINITION), "cdr" if form == "cdr" else "other"))
                for row, key, time in database.execute("SELECT id, topic_id, timestamp FROM messages NOT INDEXED ORDER BY id"):
                    if not isinstance(time, int):
                        raise apsw.CorruptError(f"no whole row after {last}")
                    if run and (time < run[-1][1] or len(run) >= _RUN):
                        self._add(run, partial(self._read_rows, first, last))
                        run = []
                    first = first if run else row
                    last = row
                    run.append((key, time))
        except apsw.Error as error:
            self.warnings.append(f"{path.name}: cut off or damaged: {error}")
        self._add(run, partial(self._read_rows, first, last))

    def _open(self) -> apsw.Connection:
        database = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY, vfs=_VFS)
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # its journal stays as it is; else closing is an error of the disk
        database.execute("PRAGMA writable_schema = ON")  # a file shorter than its header says is otherwise refused as a whole
        return database

    def _texts(self, database: apsw.Connection) -> Iterator[tuple[str, MessageDefinition]]:
        try:
            for kind, encoding, text in database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                if encoding in _DEFINITIONS:
                    yield kind, MessageDefinition(_DEFINITIONS[encoding], text)
        except apsw.Error:  # bags before ROS 2 Iron have no such table
            return

    def _read_rows(self, first: int, last: int) -> Iterator[tuple[int, int, bytes]]:
        with closing(self._open()) as database:
            query = "SELECT topic_id, timestamp, data FROM messages WHERE id BETWEEN ? AND ? ORDER BY id"
            try:
                yield from database.execute(query, (first, last))
            except apsw.Error:
                self.warnings.append(f"{self.path.name}: rows between {first} and {last} are damaged")


def metadata_of(record: mcap_records.Metadata) -> dict[str, str]:
    """What a metadata record of an MCAP file says; rosbag2's own, which repeats metadata.yaml, says nothing here."""
    return {} if record.name == "rosbag2" else dict(record.metadata)


def cut_off_records(path: Path, offset: int) -> list[Any]:
    """The records before the cut in a chunk of an MCAP file that begins at this byte; none where it is no chunk."""
    with path.open("rb") as file:
        file.seek(offset)
        stream = ReadDataStream(file)
        try:
            if stream.read1() != Opcode.CHUNK:
                return []
            length, _, _, _, _ = stream.read8(), stream.read8(), stream.read8(), stream.read8(), stream.read4()
            compression = stream.read_prefixed_string()
            stream.read8()
            content = unpacked(compression, file.read(length))
        except _MCAP_ENDS:
            return []
    found: list[Any] = []
    try:
        for record in StreamReader(BytesIO(content), skip_magic=True, record_size_limit=len(content)).records:
            found.append(record)
    except _MCAP_ENDS:
        pass
    return found


def unpacked(compression: str, data: bytes) -> bytes:
    """As much as can be had of compressed data that may be cut off. Raises ValueError where the compression is not known."""
    if compression in ("", "none"):
        return data
    makers: dict[str, Callable[[], Any]] = {
        "zstd": zstd.ZstdDecompressor,
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "bz2": bz2.BZ2Decompressor,
    }
    if compression not in makers:
        raise ValueError(f"compression '{compression}' is not known")
    decompressor, parts = makers[compression](), []
    for start in range(0, len(data), 4096):
        try:
            parts.append(decompressor.decompress(data[start : start + 4096]))
        except (zstd.ZstdError, RuntimeError, OSError, EOFError):
            break
    return b"".join(parts)


def _by_time(records: Iterable[Any]) -> list[tuple[int, int, bytes]]:
    found = [(one.channel_id, one.log_time, one.data) for one in records if isinstance(one, mcap_records.Message)]
    return sorted(found, key=lambda record: record[1])
