"""The scene node over real DDS, with this process as arm, human and episode manager: nobody simulates, somebody brings the scene back."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import PERIOD, Graph
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Command
from whetstone_msgs.srv import ResetScene

from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EVENT, joints_qos, to_ns, to_stamp

PROFILE = load_profile("so100")
NAMES = [*PROFILE.joint_names, PROFILE.gripper.joint]


class Arm:
    """Goes where the scene node wants it, unless it is `stuck`."""

    def __init__(self, graph, tmp_path, **parameters):
        self.graph, self.node = graph, graph.node
        self.pose = np.append(PROFILE.home + 0.2, PROFILE.gripper.closed)
        self.stuck, self.ticks, self.moved = False, 0, 0
        self.joints = self.node.create_publisher(JointState, PROFILE.joint_states, joints_qos(True))
        self.human = self.node.create_publisher(Command, "policy/command", EVENT)
        self.node.create_subscription(JointState, "scene/command", self.on_target, COMMAND)
        self.node.create_timer(PERIOD / 1e9, self.tick)
        graph.start("robot_bringup", "scene", "scene", run_dir=str(tmp_path), **parameters)
        graph.until_matched(self.joints, self.human)

    def tick(self) -> None:
        self.ticks += 1
        message = JointState(name=NAMES, position=self.pose.tolist())
        message.header.stamp = to_stamp(self.ticks * PERIOD)
        self.joints.publish(message)

    def on_target(self, message: JointState) -> None:
        self.moved += 1
        if not self.stuck:
            self.pose = np.array(message.position)

    def reset(self, episode_id: str) -> ResetScene.Response:
        return self.graph.call(ResetScene, "scene/reset", ResetScene.Request(episode_id=episode_id))

    def done(self) -> Trigger.Response:
        return self.graph.call(Trigger, "scene/reset_done", Trigger.Request())


def prompts(tmp_path) -> list[str]:
    file = tmp_path / "prompts.jsonl"
    return [json.loads(line)["text"] for line in file.read_text().splitlines()] if file.exists() else []


def test_the_arm_parks_a_human_is_asked_and_what_it_cannot_do_alone_is_a_humans(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        arm = Arm(graph, tmp_path)
        assert not arm.done().success  # nobody is waited for
        assert arm.reset("one").pending
        graph.until(lambda: arm.moved > 3)
        arm.human.publish(Command(source=Command.SOURCE_HUMAN))  # somebody takes the arm: it is left to them,
        before = arm.ticks
        graph.until(lambda: arm.ticks > before + 2)
        moved = arm.moved
        graph.until(lambda: arm.ticks > before + 6)
        assert arm.moved == moved and arm.reset("one").pending
        graph.until(lambda: prompts(tmp_path))  # and goes on when they have let go
        np.testing.assert_allclose(arm.pose[:-1], PROFILE.home, atol=1e-6)
        assert arm.pose[-1] == pytest.approx(PROFILE.gripper.open)
        assert prompts(tmp_path)[0].startswith(
            "bring the scene back for 'put the red cube in the tray'. When it is ready: ros2 service call"
        )
        assert arm.reset("one").pending
        assert arm.done().success
        answer = arm.reset("one")
        assert answer.ok and not answer.pending and to_ns(answer.start) > 0

        arm.pose, arm.stuck = np.append(PROFILE.home + 0.2, PROFILE.gripper.open), True
        before = arm.ticks
        graph.until(lambda: arm.ticks > before + 2)
        assert arm.reset("two").pending
        graph.until(lambda: len(prompts(tmp_path)) == 2, seconds=30)
        assert "park: the arm does not get there, " in prompts(tmp_path)[1]
        assert " is 0.20 rad off; is something in its way? Please look after it, and bring the scene back" in prompts(tmp_path)[1]
        assert arm.done().success and arm.reset("two").ok
    finally:
        graph.close()


def test_an_episode_to_go_along_that_is_not_there_is_named(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        with pytest.raises(AssertionError):
            graph.start("robot_bringup", "scene", "scene", run_dir=str(tmp_path), reset="replay", reset_episode=str(tmp_path / "nowhere"))
        assert graph.until_exit("scene") == 2
        assert "nowhere: no such folder; name one of an episode" in graph.log("scene")
    finally:
        graph.close()
