"""What is recorded: two cameras and joint states at their rates, of one episode, in real time.

Role: stands in a robot's place in `make bench-bags` alone. Publishes serialised messages, so that the source costs little, and says at its
end how many there were.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from whetstone_msgs.msg import Episode

from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import EPISODE, camera_qos, joints_qos, to_stamp

CAMERA_RATE, JOINT_RATE = 30, 100
PICTURES, NOISE = 8, 3.0
"""Images that are said in turn; standard deviation of their noise, of 255: what a camera's sensor adds indoors."""


def pictures(width: int, height: int, seed: int) -> list[np.ndarray]:
    """A smooth scene with a sensor's noise: what zstd makes of it is near what it makes of a camera's images."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 6, height))
    scene = np.stack([128 + 90 * np.sin(x + phase) * np.cos(y - phase) for phase in (0, 1, 2)], -1)
    return [np.clip(scene + random.normal(0, NOISE, scene.shape), 0, 255).astype(np.uint8) for _ in range(PICTURES)]


def main(robot: str, seconds: float, result: str) -> None:
    profile = load_profile(robot)
    rclpy.init()
    node = Node("source", namespace=f"/{profile.name}")
    episodes = node.create_publisher(Episode, "episode", EPISODE)
    topics = {}
    for seed, camera in enumerate(profile.cameras):
        images = [serialize_message(to_message(image, 0, camera.name)) for image in pictures(camera.width, camera.height, seed)]
        topics[camera.topic] = node.create_publisher(Image, camera.topic, camera_qos(True)), CAMERA_RATE, images
    states = JointState(name=[*profile.joint_names], position=[0.5] * len(profile.joints), velocity=[0.1] * len(profile.joints))
    topics[profile.joint_states] = (
        node.create_publisher(JointState, profile.joint_states, joints_qos(True)),
        JOINT_RATE,
        [serialize_message(states)],
    )
    deadline = time.monotonic() + 30
    while not all(publisher.get_subscription_count() for publisher, *_ in topics.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # the other side's half of the acquaintance

    def say(phase: int) -> None:
        message = Episode(episode_id="bench", robot=profile.name, instruction="bench", phase=phase, max_steps=10**6)
        message.header.stamp = message.start = to_stamp(time.time_ns())
        episodes.publish(message)

    say(Episode.PHASE_RESETTING)
    say(Episode.PHASE_RUNNING)
    time.sleep(0.5)
    began, sent, size = time.monotonic(), dict.fromkeys(topics, 0), 0
    while (elapsed := time.monotonic() - began) < seconds:
        for topic, (publisher, rate, messages) in topics.items():
            while sent[topic] < elapsed * rate:
                data, now = messages[sent[topic] % len(messages)], time.time_ns()
                publisher.publish(data[:4] + struct.pack("<iI", now // 10**9, now % 10**9) + data[12:])
                sent[topic], size = sent[topic] + 1, size + len(data)
        time.sleep(0.001)
    time.sleep(0.5)
    say(Episode.PHASE_ENDED)
    Path(result).write_text(json.dumps({"sent": sent, "bytes": size, "seconds": time.monotonic() - began}))
    time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3])
