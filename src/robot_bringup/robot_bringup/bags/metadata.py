"""metadata.yaml of a rosbag2 bag, version 9 (Jazzy).

Role: from what is in the files to the text that `ros2 bag`, rosbags and Foxglove read. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from whetstone.files import replacing

NAME = "metadata.yaml"
_FOREVER = {"sec": 9223372036, "nsec": 854775807}


@dataclass(frozen=True)
class Channel:
    """A topic of a bag. hash: of its type (RIHS01); qos: YAML, as `offered_qos` gives it."""

    topic: str
    type: str
    hash: str
    qos: str


@dataclass
class FileFacts:
    """One MCAP file. start, end: ns, of its first and last message, None where it has none; counts: messages of each topic."""

    name: str
    start: int | None = None
    end: int | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, topic: str, time: int) -> None:
        self.start = time if self.start is None else min(self.start, time)
        self.end = time if self.end is None else max(self.end, time)
        self.counts[topic] = self.counts.get(topic, 0) + 1


def offered_qos(*, depth: int, reliable: bool, latched: bool) -> str:
    """How a topic is published, as a bag's channel says it, so that `ros2 bag play` publishes it alike."""
    profile = {
        "history": "keep_last",
        "depth": depth,
        "reliability": "reliable" if reliable else "best_effort",
        "durability": "transient_local" if latched else "volatile",
        "deadline": dict(_FOREVER),
        "lifespan": dict(_FOREVER),
        "liveliness": "automatic",
        "liveliness_lease_duration": dict(_FOREVER),
        "avoid_ros_namespace_conventions": False,
    }
    return yaml.safe_dump([profile], sort_keys=False)


def write(folder: Path, files: Sequence[FileFacts], channels: Sequence[Channel], custom: Mapping[str, str]) -> None:
    """Raises OSError. custom: of our own, `custom_data` in the file."""
    counts: dict[str, int] = {}
    for file in files:
        for topic, count in file.counts.items():
            counts[topic] = counts.get(topic, 0) + count
    bounds = [(file.start, file.end) for file in files if file.start is not None and file.end is not None]
    start, end = min((one for one, _ in bounds), default=0), max((one for _, one in bounds), default=0)
    information: dict[str, Any] = {
        "version": 9,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": sum(counts.values()),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": channel.topic,
                    "type": channel.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": yaml.safe_load(channel.qos) if channel.qos else [],
                    "type_description_hash": channel.hash,
                },
                "message_count": counts.get(channel.topic, 0),
            }
            for channel in channels
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file.name for file in files],
        "files": [
            {
                "path": file.name,
                "starting_time": {"nanoseconds_since_epoch": file.start or 0},
                "duration": {"nanoseconds": (file.end or 0) - (file.start or 0)},
                "message_count": sum(file.counts.values()),
            }
            for file in files
        ],
        "custom_data": dict(custom),
        "ros_distro": "jazzy",
    }
    text = yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False, allow_unicode=True)
    with replacing(folder / NAME) as partial:
        partial.write_text(text, encoding="utf-8")
