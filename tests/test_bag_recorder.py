"""The bag recorder as a process over real DDS: what it wrote, read by a reader that is not ours, and what is left when it is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from graph import ROBOT, Graph
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header, String
from whetstone_msgs.msg import Episode, Reward, Watchdog

from robot_bringup.bag_recorder_node import BagRecorder, _Ear
from robot_bringup.bags.topics import RecordedTopic
from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import CAMERA_LIVE, EVENT, LATCHED, camera_qos, joints_qos, to_stamp

PROFILE = load_profile(ROBOT)
PERIOD, START = 50_000_000, 1_000_000_000
FRAMES = 60


class Robot:
    """This process as the robot and the reward node: what it says, and what it has said, serialised."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.said = graph, {}
        node = graph.node
        self.cameras = {camera.name: node.create_publisher(Image, camera.topic, camera_qos(False)) for camera in PROFILE.cameras}
        self.joints = node.create_publisher(JointState, PROFILE.joint_states, joints_qos(False))
        self.rewards = node.create_publisher(Reward, "reward", EVENT)
        self.watchdog = node.create_publisher(Watchdog, "watchdog", LATCHED)
        self.wind = node.create_publisher(String, "/wind", CAMERA_LIVE)

    def say(self, publisher, message) -> None:
        # Published serialised: serialised a second time, it may have other bytes where fields are padded.
        data = serialize_message(message)
        self.said.setdefault(publisher.topic_name, []).append(data)
        publisher.publish(data)

    def frame(self, index: int, seed: int) -> None:
        stamp = START + index * PERIOD
        for number, (name, publisher) in enumerate(self.cameras.items()):
            image = np.random.default_rng((seed, index, number)).integers(0, 255, (128, 128, 3), np.uint8)
            self.say(publisher, to_message(image, stamp, name))
        joints = JointState(name=list(PROFILE.joint_names), position=[0.1 * index] * len(PROFILE.joint_names))
        joints.header.stamp = to_stamp(stamp)
        self.say(self.joints, joints)

    def reward(self, index: int, episode_id: str) -> None:
        message = Reward(episode_id=episode_id, progress=index / FRAMES, valid=True)
        message.header.stamp = to_stamp(START + index * PERIOD)
        self.say(self.rewards, message)


def same(found: list[bytes], said: list[bytes]) -> bool:
    """Byte for byte; the middleware fills up to a multiple of four."""
    return len(found) == len(said) and all(
        one.startswith(other) and len(one) - len(other) < 4 for one, other in zip(found, said, strict=True)
    )


def read(bag: Path) -> tuple[dict[str, list[bytes]], list[int], dict[str, str]]:
    found: dict[str, list[bytes]] = {}
    with Reader(bag) as reader:
        times = []
        for connection, time, data in reader.messages():
            found.setdefault(connection.topic, []).append(bytes(data))
            times.append(time)
    custom = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["custom_data"]
    return found, times, custom


def test_what_is_said_of_an_episode_is_in_its_bag_byte_for_byte_and_a_killed_recorder_loses_little(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        robot = Robot(graph)
        robot.say(robot.watchdog, Watchdog(stopped=False))
        parameters: dict[str, Any] = {"run_dir": str(tmp_path / "run"), "reward": "sarm2", "topics": "/wind", "restarted": False}
        graph.start("robot_bringup", "bag_recorder", "bag_recorder", **parameters)
        graph.until_matched(graph.episodes, robot.joints, robot.rewards, robot.watchdog, robot.wind, *robot.cameras.values())
        graph.say(Episode.PHASE_RESETTING, "one")
        graph.say(Episode.PHASE_RUNNING, "one", START, seed=7)
        for index in range(FRAMES):
            robot.frame(index, 1)
        robot.say(robot.wind, String(data="from the north"))
        graph.say(Episode.PHASE_ENDED, "one", START, header=Header(stamp=to_stamp(START + (FRAMES - 1) * PERIOD)))
        robot.reward(FRAMES - 1, "one")  # late, and the only one
        bags = tmp_path / "run" / "bags"
        graph.until((bags / "one").is_dir)

        found, times, custom = read(bags / "one")
        names = {publisher.topic_name for publisher in (*robot.cameras.values(), robot.joints, robot.rewards, robot.watchdog, robot.wind)}
        assert [topic for topic in names if not same(found.get(topic, []), robot.said[topic])] == [], custom["whetstone.audit"]
        assert len(found[f"/{ROBOT}/episode"]) == 3 and set(found) <= names | {f"/{ROBOT}/episode", "/diagnostics"}
        assert times == sorted(times) and times[0] == START and times[-1] == START + (FRAMES - 1) * PERIOD
        audit = json.loads(custom["whetstone.audit"])
        assert audit["complete"], audit
        assert audit["topics"][f"/{ROBOT}/joint_states"]["published"] == FRAMES
        assert f"/{ROBOT}/robot_description" in audit["absent"] and "/wind" not in audit["absent"]
        assert (custom["whetstone.robot"], custom["whetstone.reward"], custom["whetstone.seed"]) == (ROBOT, "sarm2", "7")
        assert json.loads(custom["whetstone.dds"])["ROS_DOMAIN_ID"] == str(domain) and custom["whetstone.whole"] == "true"

        # Killed in the middle of the second episode; as the supervisor does, started again while that still goes on.
        graph.say(Episode.PHASE_RESETTING, "two")
        graph.say(Episode.PHASE_RUNNING, "two", START)
        for index in range(20):
            robot.frame(index, 2)
        part = bags / "running" / "two" / "two_0.mcap"
        graph.until(lambda: part.exists() and part.stat().st_size > 10 * 2 * 128 * 128 * 3)
        graph.processes["bag_recorder"].send_signal(signal.SIGKILL)
        graph.until_exit("bag_recorder")
        graph.start("robot_bringup", "bag_recorder", "bag_recorder", active=False, **{**parameters, "restarted": True})
        graph.until(lambda: (bags / "interrupted" / "two").is_dir() and (bags / "running" / "two").is_dir())
        before = {topic: len(said) for topic, said in robot.said.items()}
        graph.until_matched(robot.joints, *robot.cameras.values())
        for index in range(20, 30):
            robot.frame(index, 2)
        graph.say(Episode.PHASE_ENDED, "two", START, header=Header(stamp=to_stamp(START + 29 * PERIOD)))
        graph.until((bags / "two").is_dir)
        first, _, custom = read(bags / "interrupted" / "two")
        assert custom["whetstone.whole"] == "false" and custom["whetstone.robot"] == ROBOT
        front = robot.cameras["front"].topic_name
        assert first[front] and same(first[front], robot.said[front][FRAMES : FRAMES + len(first[front])])
        second, _, custom = read(bags / "two")
        assert same(second[front], robot.said[front][before[front] :])
        assert json.loads(custom["whetstone.audit"])["faults"] == ["the recorder was started in the middle of the episode"]
        assert "its recorder was killed; what there is of it is in" in graph.log("bag_recorder")
    finally:
        graph.close()


@pytest.mark.parametrize("latched", [True, False])
def test_a_camera_s_machine_whose_clock_is_behind_is_heard(latched: bool) -> None:
    """A publisher's own time tells what was kept for late joiners from what is said now only where something is kept."""
    heard: list[Any] = []
    node: Any = object.__new__(BagRecorder)
    node.parameters = SimpleNamespace(wall_time=True, realtime=True)
    node._since, node._robot_time, node._router = 10**18, 0, SimpleNamespace(hear=lambda now, message, *_: heard.append(message))
    subscription = SimpleNamespace(get_publisher_count=lambda: 1)
    row = RecordedTopic("camera", "sensor_msgs/msg/Image", "camera")
    ear = _Ear("/camera", row, Image, subscription, stamped=True, named=False, clock=True, latched=latched)
    data = serialize_message(to_message(np.zeros((2, 2, 3), np.uint8), 5, "camera"))
    node._hear(0.0, 10**18 + 5, ear, data, {"source_timestamp": 10**18 - 60 * 10**9, "publication_sequence_number": 1})
    assert [(message.time, message.publish_time) for message in heard] == ([] if latched else [(10**18 + 5, 10**18 - 60 * 10**9)])
