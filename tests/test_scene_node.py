"""The scene node over real DDS, with this process as arm, human and episode manager: nobody simulates, somebody brings the scene back."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import PERIOD, Graph
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Command, Episode
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
        self.stuck, self.ticks, self.moved, self.broken, self.ahead = False, 0, 0, False, 0.0
        self.joints = self.node.create_publisher(JointState, PROFILE.joint_states, joints_qos(True))
        self.human = self.node.create_publisher(Command, "policy/command", EVENT)
        self.node.create_subscription(JointState, "scene/command", self.on_target, COMMAND)
        self.node.create_timer(PERIOD / 1e9, self.tick)
        graph.start("robot_bringup", "scene", "scene", run_dir=str(tmp_path), **parameters)
        graph.until_matched(self.joints, self.human, graph.episodes)

    def tick(self) -> None:
        self.ticks += 1
        message = JointState(
            name=NAMES[1:] if self.broken else NAMES, position=self.pose.tolist()[1:] if self.broken else self.pose.tolist()
        )
        message.header.stamp = to_stamp(self.ticks * PERIOD)
        self.joints.publish(message)

    def on_target(self, message: JointState) -> None:
        self.moved += 1
        self.ahead = max(self.ahead, float(np.abs(np.array(message.position) - self.pose)[:-1].max()))
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
        # And goes on when they have let go. The prompt may be read before the last row of the way was heard.
        graph.until(lambda: prompts(tmp_path) and np.allclose(arm.pose[:-1], PROFILE.home, atol=1e-6))
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


def test_one_scene_at_a_time(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        arm = Arm(graph, tmp_path)
        assert arm.reset("one").pending
        other = arm.reset("two")
        assert other.pending and not other.ok and other.reason == "the scene is being brought back for 'one'"
        graph.until(lambda: prompts(tmp_path))
        assert arm.done().success and arm.reset("one").ok
        for phase in (Episode.PHASE_RUNNING, Episode.PHASE_PAUSED):
            graph.say(phase, "one")
            graph.until(lambda: arm.reset("two").reason == "episode 'one' runs", 10)
        moved = arm.moved
        graph.say(Episode.PHASE_ENDED, "one")
        graph.until(lambda: arm.reset("two").reason == "", 10)
        graph.until(lambda: arm.moved > moved)
        assert len(prompts(tmp_path)) == 1 or "two" not in prompts(tmp_path)[0]
    finally:
        graph.close()


def test_a_broken_joint_state_is_none_and_the_way_waits_for_an_arm_that_does_not_follow(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        arm = Arm(graph, tmp_path)
        arm.pose = np.append(PROFILE.home - 1.0, PROFILE.gripper.open)
        arm.broken = True
        assert arm.reset("one").pending
        graph.until(lambda: "joint state has no position of 'shoulder_pan_joint'" in graph.log("scene"))
        before = arm.ticks
        graph.until(lambda: arm.ticks > before + 20)
        assert arm.moved == 0 and graph.log("scene").count("it counts for nothing") == 1
        arm.broken, arm.stuck = False, True
        before = arm.ticks
        graph.until(lambda: arm.moved > 60)
        assert arm.ahead < PROFILE.guard.max_step + 0.1, "let go, the arm would hurry after it"
        arm.stuck = False
        graph.until(lambda: prompts(tmp_path))
        assert prompts(tmp_path)[0].startswith("bring the scene back"), "in time"
        np.testing.assert_allclose(arm.pose[:-1], PROFILE.home, atol=1e-6)
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
