"""What the tests of bags share: messages, and a reader that is not ours."""

from __future__ import annotations

import os
from pathlib import Path

from rosbags.rosbag2 import Reader

from robot_bringup.bags import metadata
from robot_bringup.bags.definitions import Definition

QOS = metadata.offered_qos(depth=10, reliable=True, latched=False)
STRING = Definition("std_msgs/msg/String", "string data\n", "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18")


def text(number: int, size: int = 0) -> bytes:
    """A serialised std_msgs/String."""
    data = (f"{number} ".encode() + os.urandom(size // 2).hex().encode())[: max(size, 8)] + b"\0"
    return b"\0\1\0\0" + len(data).to_bytes(4, "little") + data


def read(folder: Path) -> list[tuple[str, int, bytes]]:
    with Reader(folder) as reader:
        return [(connection.topic, time, bytes(data)) for connection, time, data in reader.messages()]
