"""A bag that rosbags wrote: what reading and evaluating are measured on. Does not depend on ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from whetstone.profile import RobotProfile

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def write_bag(path: Path, profile: RobotProfile, seconds: float, rate: float, seed: int = 0) -> int:
    """The profile's cameras at `rate` Hz, joint states at 100 Hz, not compressed. Returns the number of images."""
    store, random = get_typestore(Stores.ROS2_JAZZY), np.random.default_rng(seed)
    types = store.types
    names, positions = profile.joint_state(np.append(profile.home, 1.0))
    none, images = np.zeros(0), 0
    # Few pictures, often: what they show does not matter to the time, and noise that compresses badly is the worst case.
    pictures = {camera.name: random.integers(0, 256, (8, camera.height, camera.width, 3), np.uint8) for camera in profile.cameras}

    def header(stamp: int) -> Any:
        return types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](stamp // SECOND, stamp % SECOND), "")

    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        image, joints = "sensor_msgs/msg/Image", "sensor_msgs/msg/JointState"
        cameras = {name: writer.add_connection(f"/camera/{name}/image_raw", image, typestore=store) for name in pictures}
        states = writer.add_connection("/joint_states", joints, typestore=store)
        frame, count = 0, round(seconds * 100)
        for tick in range(count):
            stamp = START + tick * SECOND // 100
            message = types[joints](header(stamp), names, np.array(positions), none, none)
            writer.write(states, stamp, store.serialize_cdr(message, joints))
            if stamp < START + frame * SECOND / rate:
                continue
            for name, choice in pictures.items():
                pixels = choice[frame % len(choice)]
                height, width = pixels.shape[:2]
                message = types[image](header(stamp), height, width, "rgb8", 0, 3 * width, pixels.reshape(-1))
                writer.write(cameras[name], stamp, store.serialize_cdr(message, image))
                images += 1
            frame += 1
    return images
