"""The plain way to record, for comparison: an rclpy subscriber that takes messages and hands them to the rosbags Writer.

Role: stands in the bag recorder's place in `make bench-bags` alone. Same bag, same compression of chunks; deserialised on arrival,
serialised to be written, in the callback.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState

from whetstone.profile import load_profile


def main(robot: str, folder: str) -> None:
    profile = load_profile(robot)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node, store = Node("plain", namespace=f"/{profile.name}"), get_typestore(Stores.ROS2_JAZZY)
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    writer = Writer(Path(folder), version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        topics = {camera.topic: Image for camera in profile.cameras} | {profile.joint_states: JointState}
        for topic, kind in topics.items():
            name = f"sensor_msgs/msg/{kind.__name__}"
            connection = writer.add_connection(node.resolve_topic_name(topic), name, typestore=store)

            def write(message: Any, connection: Any = connection) -> None:
                writer.write(connection, time.time_ns(), serialize_message(message))

            node.create_subscription(kind, topic, write, qos_profile_sensor_data)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stopped:
            executor.spin_once(timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
