"""Bags for the tests, written by writers that know nothing of ours: rosbags' (rosbag2 and ROS 1) and mcap's for ROS 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer as McapRos2Writer
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_typestore

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
LATENCY = 1_000_000
"""ns that joint states are recorded after their stamp, so that no two messages have the same log time."""
CAMERA, JOINTS = "/camera/front/image_raw", "/joint_states"
JAZZY, NOETIC = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
HEIGHT, WIDTH = 12, 16


def picture(index: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width, 3) uint8, another one for each index."""
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def header(time: int, store: Any = JAZZY) -> Any:
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=time // SECOND, nanosec=time % SECOND)
    first = {"seq": 7} if store is NOETIC else {}
    return types["std_msgs/msg/Header"](**first, stamp=stamp, frame_id="f")


def image(time: int, pixels: np.ndarray, store: Any = JAZZY) -> Any:
    height, width = pixels.shape[:2]
    return store.types["sensor_msgs/msg/Image"](
        header=header(time, store), height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=pixels.reshape(-1)
    )


def joints(time: int, positions: Sequence[float], names: Sequence[str] = ("a", "b"), store: Any = JAZZY) -> Any:
    none = np.zeros(0)
    return store.types["sensor_msgs/msg/JointState"](
        header=header(time, store), name=list(names), position=np.array(positions, float), velocity=none, effort=none
    )


def messages(count: int = 20, period: int = SECOND // 10, store: Any = JAZZY) -> list[tuple[str, int, Any]]:
    """Topic, log time and message: a camera at 10 Hz, joint states at 20 Hz, in order of time."""
    found: list[tuple[str, int, Any]] = []
    for index in range(count):
        time = START + index * period
        found.append((CAMERA, time, image(time, picture(index), store)))
        for half in (0.0, 0.5):
            stamp = time + int(half * period)
            found.append((JOINTS, stamp + LATENCY, joints(stamp, [index + half, -index - half], store=store)))
    return found


def _write_all(writer: Any, told: Iterable[tuple[str, int, Any]], store: Any, serialise: Callable[[Any, str], Any]) -> None:
    """What rosbags' two writers have in common."""
    connections: dict[str, Any] = {}
    for topic, time, message in told:
        if topic not in connections:
            connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
        writer.write(connections[topic], time, serialise(message, message.__msgtype__))


def write_rosbag2(
    path: Path,
    told: Iterable[tuple[str, int, Any]],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode = CompressionMode.NONE,
    custom: dict[str, str] | None = None,
    store: Any = JAZZY,
) -> Path:
    """By rosbags: a folder with metadata.yaml."""
    writer = Rosbag2Writer(path, version=9, storage_plugin=storage)
    if compression != CompressionMode.NONE:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        for key, value in (custom or {}).items():
            writer.set_custom_data(key, value)
        _write_all(writer, told, store, store.serialize_cdr)
    return path


def write_ros1(path: Path, told: Iterable[tuple[str, int, Any]], compression: Any = None, store: Any = NOETIC) -> Path:
    """By rosbags: one ROS 1 bag."""
    writer = Rosbag1Writer(path)
    writer.chunk_threshold = 4096
    if compression:
        writer.set_compression(compression)
    with writer:
        _write_all(writer, told, store, store.serialize_ros1)
    return path


def definition(kind: str, store: Any = JAZZY) -> str:
    return store.generate_msgdef(kind, ros_version=2)[0]


def as_dict(message: Any) -> dict[str, Any]:
    """For mcap's writer, which takes dictionaries."""
    if isinstance(message, np.ndarray):
        return message.tolist()  # type: ignore[return-value]
    if not hasattr(message, "__dataclass_fields__"):
        return message
    return {name: as_dict(getattr(message, name)) for name in message.__dataclass_fields__ if not name.startswith("__")}


def write_mcap(
    path: Path,
    told: Iterable[tuple[str, int, Any]],
    chunk_size: int = 4096,
    compression: CompressionType = CompressionType.ZSTD,
    store: Any = JAZZY,
) -> Path:
    """By mcap's ROS 2 writer: one .mcap file."""
    with path.open("wb") as file, McapRos2Writer(file, chunk_size=chunk_size, compression=compression) as writer:
        schemas: dict[str, Any] = {}
        for topic, time, message in told:
            kind = message.__msgtype__
            if kind not in schemas:
                schemas[kind] = writer.register_msgdef(kind, definition(kind, store))
            writer.write_message(topic, schemas[kind], as_dict(message), log_time=time, publish_time=time)
    return path
