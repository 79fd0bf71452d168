"""What a killed recorder left, made a bag again.

Role: reads MCAP files as far as they go; ends the one that was cut off as it should have ended, and writes metadata.yaml. Does not depend
on ROS.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from mcap.records import Channel as McapChannel
from mcap.records import Chunk, Message, Metadata, Schema
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType, Writer

from robot_bringup.bags import metadata
from robot_bringup.bags.metadata import Channel, FileFacts
from robot_bringup.bags.writer import CHUNK, RECORD
from whetstone.bags.damaged import cut_off_records
from whetstone.files import replacing

_END = b"\x89MCAP0\r\n"


def recover(folder: Path, last_words: Mapping[str, str]) -> int:
    """Make the folder a readable bag, whatever was in its writer's hands; returns how many messages are in it. Raises OSError."""
    files, channels, about = [], {}, {}
    for path in sorted(folder.glob("*.mcap"), key=_number):
        if not _ended(path):
            _end(path)
        facts = FileFacts(path.name)
        for record, schema in _records(path):
            if isinstance(record, Metadata) and record.name == RECORD:
                about |= record.metadata
            elif isinstance(record, tuple):
                channel, message = record
                facts.add(channel.topic, message.log_time)
                about_topic = channel.metadata
                channels[channel.topic] = Channel(
                    channel.topic,
                    schema.name if schema else "",
                    about_topic.get("topic_type_hash", ""),
                    about_topic.get("offered_qos_profiles", ""),
                )
        files.append(facts)
    count = sum(sum(file.counts.values()) for file in files)
    if count:
        metadata.write(folder, files, list(channels.values()), {**about, **last_words})
    return count


def _number(path: Path) -> int:
    tail = path.stem.rpartition("_")[2]
    return int(tail) if tail.isdigit() else 0


def _ended(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END and make_reader(file).get_summary() is not None
    except Exception:  # of a damaged file it may be anything: mcap unpacks without a look
        return False


def _records(path: Path) -> Iterator[tuple[Any, Schema | None]]:
    """Metadata, and (channel, message) with the message's schema, in the file's order and as far as it goes; without chunks that are
    damaged, and what cannot be told without them."""
    schemas: dict[int, Schema] = {}
    channels: dict[int, McapChannel] = {}
    for record in _unpacked(path):
        if isinstance(record, Schema):
            schemas[record.id] = record
        elif isinstance(record, McapChannel):
            channels[record.id] = record
        elif isinstance(record, Message) and record.channel_id in channels:
            channel = channels[record.channel_id]
            yield (channel, record), schemas.get(channel.schema_id)
        elif isinstance(record, Metadata):
            yield record, None


def _unpacked(path: Path) -> Iterator[Any]:
    """The records of a file, those in chunks too; of a chunk that was cut off those before the cut."""
    offset = 0
    try:
        with path.open("rb") as file:
            for record in StreamReader(file, emit_chunks=True).records:
                offset = file.tell()
                if not isinstance(record, Chunk):
                    yield record
                    continue
                try:
                    inside = breakup_chunk(record, validate_crc=True)
                except Exception:  # as above
                    continue
                yield from inside
    except Exception:  # as above: here it ends
        yield from cut_off_records(path, offset)


def _end(path: Path) -> None:
    """Write the file anew with all that can be read of it."""
    with replacing(path) as partial, partial.open("wb") as file:
        writer = Writer(file, chunk_size=CHUNK, compression=CompressionType.ZSTD)
        writer.start(profile="ros2", library="whetstone")
        ids: dict[int, int] = {}
        types: dict[str, int] = {}
        for record, schema in _records(path):
            if isinstance(record, Metadata):
                writer.add_metadata(record.name, record.metadata)
                continue
            channel, message = record
            if channel.id not in ids:
                if schema is not None and schema.name not in types:
                    types[schema.name] = writer.register_schema(schema.name, schema.encoding, schema.data)
                number = types[schema.name] if schema is not None else 0
                ids[channel.id] = writer.register_channel(channel.topic, channel.message_encoding, number, channel.metadata)
            writer.add_message(ids[channel.id], message.log_time, message.data, message.publish_time, message.sequence)
        writer.finish()
