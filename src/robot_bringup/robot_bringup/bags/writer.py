"""One rosbag2 bag, written as it comes: MCAP files with zstd chunks, split by size, and metadata.yaml at the end.

Role: serialised messages in, a folder out that `ros2 bag info` and play, rosbags and Foxglove read. What is in a finished chunk survives
the writer's death (recovery.py). Knows nothing of topics' meaning, threads or ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

from mcap.writer import CompressionType, Writer

from robot_bringup.bags import metadata
from robot_bringup.bags.definitions import Definition
from robot_bringup.bags.metadata import Channel, FileFacts
from whetstone.files import sync, sync_folder

CHUNK = 1 << 20
"""Bytes of messages from which on a chunk is compressed and written; `flush` writes a smaller one."""
RECORD = "whetstone"
"""Name of the MCAP metadata records that hold what the bag's custom_data holds: of the recording in every file, of its end in the last."""


class BagWriter:
    """See the module. Everything raises OSError where the disk refuses; the bag is then to be left as it is."""

    def __init__(self, folder: Path, about: Mapping[str, str], split: int = 0) -> None:
        """folder: made here. about: texts for the metadata. split: bytes after which another file begins; 0: never."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.files: list[FileFacts] = []
        self._about, self._split = dict(about), split
        self._channels: dict[str, Channel] = {}
        self._definitions: dict[str, Definition] = {}
        self._done = 0  # bytes in files that are ended
        self._file: IO[bytes]
        self._begin()

    def add_topic(self, topic: str, definition: Definition, qos: str) -> None:
        """A topic that `write` may be called with. It is in the bag once it has a message."""
        self._definitions[topic] = definition
        self._channels[topic] = Channel(topic, definition.type, definition.hash, qos)

    def has(self, topic: str) -> bool:
        return topic in self._channels

    def write(self, topic: str, time: int, data: bytes, *, publish_time: int | None = None, sequence: int = 0) -> None:
        """time, publish_time: ns; sequence: the publisher's number of the message."""
        if self._split and self._file.tell() >= self._split:
            self._end()
            self._begin()
        number = self._ids.get(topic)
        if number is None:
            number = self._register(topic)
        sent = time if publish_time is None else publish_time
        self._writer.add_message(number, log_time=time, data=data, publish_time=sent, sequence=sequence & 0xFFFFFFFF)
        self.files[-1].add(topic, time)

    def flush(self) -> None:
        """What was written so far is in the file."""
        self._writer.flush()

    @property
    def size(self) -> int:
        """Bytes in the files so far."""
        return self._done + (0 if self._file.closed else self._file.tell())

    def close(self, last_words: Mapping[str, str]) -> None:
        """The bag is whole. last_words: what is known only now, for the metadata."""
        self._writer.add_metadata(RECORD, dict(last_words))
        self._end()
        heard = {topic for file in self.files for topic in file.counts}
        channels = [channel for topic, channel in self._channels.items() if topic in heard]
        metadata.write(self.folder, self.files, channels, {**self._about, **last_words})
        sync_folder(self.folder)

    def abandon(self) -> None:
        """Let go of the file as it is, after an OSError."""
        try:
            self._file.close()
        except OSError:
            pass

    def _begin(self) -> None:
        name = f"{self.folder.name}_{len(self.files)}.mcap"
        self._file = (self.folder / name).open("xb")
        self.files.append(FileFacts(name))
        self._writer = Writer(self._file, chunk_size=CHUNK, compression=CompressionType.ZSTD)
        self._writer.start(profile="ros2", library="whetstone")
        self._writer.add_metadata(RECORD, self._about)
        self._ids: dict[str, int] = {}
        self._schemas: dict[str, int] = {}

    def _register(self, topic: str) -> int:
        channel, definition = self._channels[topic], self._definitions[topic]
        schema = self._schemas.get(definition.type)
        if schema is None:
            schema = self._writer.register_schema(definition.type, "ros2msg", definition.text.encode())
            self._schemas[definition.type] = schema
        about = {"offered_qos_profiles": channel.qos, "topic_type_hash": channel.hash}
        self._ids[topic] = self._writer.register_channel(topic, "cdr", schema, about)
        return self._ids[topic]

    def _end(self) -> None:
        self._writer.finish()
        sync(self._file)
        self._done += self._file.tell()
        self._file.close()
