"""Every profile speaks to its driver in the driver's words: against the table robot_interfaces.yaml, and on the running nodes over DDS."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from graph import PERIOD, ROBOT, Graph
from rclpy.action.graph import get_action_client_names_and_types_by_node, get_action_server_names_and_types_by_node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from whetstone_msgs.msg import Episode
from whetstone_msgs.srv import ResetScene

from robot_bringup.set_points import controller
from whetstone import config
from whetstone.commands import arm_command, gripper_action_type
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, joints_qos, to_ns

TABLE = config.load_yaml(Path(__file__).with_name("robot_interfaces.yaml"))


def type_of(message_class) -> str:
    """sensor_msgs.msg._joint_state.JointState -> sensor_msgs/msg/JointState"""
    package, kind, *_ = message_class.__module__.split(".")
    return f"{package}/{kind}/{message_class.__name__}"


def test_the_table_has_every_robot() -> None:
    assert sorted(TABLE) == config.available("robots")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_profile_says_what_the_driver_has(name: str) -> None:
    profile, row = load_profile(name), TABLE[name]
    assert list(profile.joint_names) == row["joints"]
    assert profile.joint_states == row["joint_states"]
    spoken = arm_command(profile)
    command = row["command"]
    assert (profile.command.topic, type_of(spoken.message_type)) == (command["topic"], command["type"])
    assert spoken.interpolates is command["interpolates"] and profile.command.frame == command.get("frame", "")
    assert type_of(controller(profile).message_type) == command["type"], "what the simulated driver takes"
    gripper = row["gripper"]
    assert (profile.gripper.joint, profile.gripper.action or profile.gripper.topic) == (gripper["joint"], gripper["name"])
    assert gripper["type"] == (type_of(gripper_action_type(profile)) if profile.gripper.action else "")
    assert profile.opening_to_goal(0.0) == pytest.approx(gripper["closed"]) and profile.opening_to_goal(1.0) == pytest.approx(
        gripper["open"]
    )
    assert profile.command_names == (*row["joints"], *(() if gripper["name"] else (gripper["joint"],)))
    mode = profile.mode and {
        "topic": profile.mode.topic,
        "type": profile.mode.type,
        "field": profile.mode.field,
        "commandable": list(profile.mode.commandable),
    }
    assert mode == row.get("mode")


@pytest.mark.parametrize("name", ["franka", "so100"])
def test_the_running_nodes_offer_just_that(tmp_path, domain, name: str) -> None:
    """Policy, watchdog and simulated driver as processes: who publishes and who hears what, of which type, with which QoS."""
    row, graph = TABLE[name], Graph(tmp_path, domain)
    try:
        shared = {"robot": name, "realtime": True}
        graph.start("robot_bringup", "simulator", "simulator", active=False, **shared)  # all three wake up at the same time
        graph.start("policy_node", "watchdog", "watchdog", active=False, **shared)
        graph.start("policy_node", "policy_node", "policy", active=False, policy=graph.stand_in, gated=True, **shared)
        for one in ("simulator", "watchdog", "policy"):
            graph.activate(one)
        node, space = graph.node, f"/{ROBOT}"

        def ends(topic: str) -> tuple[list, list]:
            return node.get_publishers_info_by_topic(topic), node.get_subscriptions_info_by_topic(topic)

        command = row["command"]

        def all_known() -> bool:  # an end is discovered before its node has told its name
            found = [*ends(command["topic"]), *ends(row["joint_states"])]
            return all(found) and not any("UNKNOWN" in end.node_name for part in found for end in part)

        graph.until(all_known)
        publishers, subscribers = ends(command["topic"])
        assert [one.node_name for one in publishers] == ["watchdog"], "nobody else commands the arm"
        assert [one.node_name for one in subscribers] == ["simulator"]
        states, hearers = ends(row["joint_states"])
        assert [one.node_name for one in states] == ["simulator"] and {one.node_name for one in hearers} >= {"policy", "watchdog"}
        for end in (*publishers, *subscribers):
            assert end.topic_type == command["type"]
        for end in (*states, *hearers):
            assert end.topic_type == "sensor_msgs/msg/JointState"
        for end in (*publishers, *subscribers, *states, *hearers):
            assert end.qos_profile.reliability == ReliabilityPolicy.RELIABLE and end.qos_profile.durability == DurabilityPolicy.VOLATILE
        gripper = (f"{space}/{row['gripper']['name']}", [row["gripper"]["type"]])
        graph.until(lambda: get_action_client_names_and_types_by_node(node, "policy", space) == [gripper])
        graph.until(lambda: get_action_server_names_and_types_by_node(node, "simulator", space) == [gripper])

        frames: list[JointState] = []
        node.create_subscription(JointState, row["joint_states"], frames.append, joints_qos(True))
        graph.call(ResetScene, "scene/reset", ResetScene.Request(episode_id="e", task="pick_and_place", seed=1))
        graph.until(lambda: frames)
        assert list(frames[0].name)[: len(row["joints"])] == row["joints"] and row["gripper"]["joint"] in frames[0].name
    finally:
        graph.close()


GRIPPERS = {
    "gripper_command": {"action": "driver/gripper", "scale": 0.5},
    "parallel_gripper_command": {"action": "driver/gripper"},
    "trajectory": {"topic": "driver/gripper", "action": None},
    "forward": {"topic": "driver/gripper", "action": None, "scale": 0.5},
    "with_arm": {},
}


@pytest.mark.parametrize("kind", GRIPPERS)
def test_a_gripper_of_every_kind_closes_when_the_policy_says_so(tmp_path, domain, kind: str) -> None:
    """Policy and simulated driver over DDS: the stand-in policy closes the gripper with its third chunk."""
    name = "so101_follower" if kind == "with_arm" else ROBOT
    robot, graph = tmp_path / "robot.yaml", Graph(tmp_path, domain)
    robot.write_text(yaml.safe_dump({"extends": name, "name": name, "gripper": {"kind": kind, **GRIPPERS[kind]}}))
    profile = load_profile(str(robot))
    assert profile.gripper.kind == kind
    try:
        frames: list[JointState] = []
        graph.node.create_subscription(JointState, profile.joint_states, frames.append, joints_qos(False))
        graph.start("robot_bringup", "simulator", "simulator", active=False, robot=str(robot))
        graph.start("policy_node", "policy_node", "policy", robot=str(robot), policy=graph.stand_in)  # the two wake up at the same time
        graph.activate("simulator")
        graph.until_matched(graph.episodes)
        reset = graph.call(ResetScene, "scene/reset", ResetScene.Request(episode_id="e", task="pick_and_place", seed=1))
        assert reset is not None
        start = to_ns(reset.start)
        graph.say(Episode.PHASE_RUNNING, "e", start, max_steps=24)
        graph.until(lambda: bool(frames) and to_ns(frames[-1].header.stamp) == start + 24 * PERIOD)
        jaw, openings = list(frames[0].name).index(profile.gripper.joint), {}
        for one in frames:
            openings[(to_ns(one.header.stamp) - start) // PERIOD] = profile.position_to_opening(one.position[jaw])
        assert all(openings[step] > 0.9 for step in range(7)), openings
        assert openings[24] < 0.1, openings
    finally:
        graph.close()


def test_in_lockstep_a_command_without_a_stamp_answers_each_frame_once(tmp_path, domain) -> None:
    """A frame that was published twice is answered twice, and the second answer is none to the next frame."""
    profile, graph = load_profile("so101_follower"), Graph(tmp_path, domain)
    try:
        commands = graph.node.create_publisher(Float64MultiArray, profile.command.topic, COMMAND)
        frames: list[JointState] = []
        graph.node.create_subscription(JointState, profile.joint_states, frames.append, joints_qos(False))
        graph.start("robot_bringup", "simulator", "simulator", robot="so101_follower")
        graph.until_matched(commands, graph.episodes)
        reset = graph.call(ResetScene, "scene/reset", ResetScene.Request(episode_id="e", task="pick_and_place", seed=1))
        assert reset is not None
        start = to_ns(reset.start)
        graph.say(Episode.PHASE_RUNNING, "e", start)

        def at(step: int) -> bool:
            return bool(frames) and to_ns(frames[-1].header.stamp) == start + step * PERIOD

        graph.until(lambda: at(0) and len(frames) >= 2)  # nobody answered: said again
        home = np.array(frames[-1].position[:5])

        def answer(shift: float) -> None:
            commands.publish(Float64MultiArray(data=[*(home + shift), 0.5]))

        def pause() -> None:  # of two commands at once the newer is all that is heard
            graph.until(lambda: time.sleep(0.1) is None)

        def answer_again(step: int, shift: float) -> None:
            """Once more for each time that the frame was said again: as who answers every message does."""
            said = sum(to_ns(frame.header.stamp) == start + step * PERIOD for frame in frames)
            for _ in range(said - 1):
                answer(shift)
                pause()

        answer(0.01)
        graph.until(lambda: at(1))
        answer_again(0, 0.01)
        count = len(frames)
        graph.until(lambda: len(frames) > count)  # said again, for it had no answer
        assert at(1)
        answer(0.02)
        graph.until(lambda: at(2))
        answer_again(1, 0.02)
        answer(0.03)
        graph.until(lambda: at(3))
        answer(0.03)  # frame 2 was said once: the same command again is an answer
        graph.until(lambda: at(4))
        for step in range(4, 12):
            answer(0.03)
            graph.until(lambda step=step: at(step + 1))
        jaw = list(frames[-1].name).index("gripper")
        np.testing.assert_allclose(frames[-1].position[:5], home + 0.03, atol=0.02)
        assert profile.position_to_opening(frames[-1].position[jaw]) == pytest.approx(0.5, abs=0.05), "the jaw goes where the sixth says"
    finally:
        graph.close()
