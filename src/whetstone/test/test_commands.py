"""Commands are in the driver's words: names, units, and no goal twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("trajectory_msgs")

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from whetstone.commands import arm_command, gripper_action_type, gripper_goal, gripper_message
from whetstone.gripper import GripperTrigger
from whetstone.kinematics import robot_file
from whetstone.profile import ARM_COMMANDS, GRIPPER_COMMANDS, load_profile


def test_trajectory_has_one_point_one_period_ahead() -> None:
    profile = load_profile("so100")
    message = arm_command(profile).build(np.arange(5) / 10, np.arange(5) / 5, 12_345_678_901)
    assert message.joint_names == list(profile.joint_names)
    (point,) = message.points
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 50_000_000)
    np.testing.assert_allclose(point.positions, np.arange(5) / 10)
    np.testing.assert_allclose(point.velocities, np.arange(5) / 5)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345_678_901)


def test_a_forward_controller_is_told_of_all_joints_the_gripper_last() -> None:
    profile = load_profile("so101_follower")
    command = arm_command(profile)
    message = command.build(np.arange(6) / 10, np.zeros(5), 12_345_678_901)
    assert isinstance(message, Float64MultiArray) and not command.interpolates
    assert list(message.data) == list(np.arange(6) / 10) and profile.command_names[-1] == "gripper"


def test_a_joint_controller_is_told_of_joints_by_name() -> None:
    profile = load_profile("fr3_crisp_joint")
    message = arm_command(profile).build(np.arange(7) / 10, np.ones(7), 12_345_678_901)
    assert isinstance(message, JointState) and list(message.name) == list(profile.joint_names)
    assert list(message.position) == list(np.arange(7) / 10) and len(message.velocity) == 0
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345_678_901)


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_a_pose_is_where_the_joints_bring_the_hand(part: list[float]) -> None:
    """Position and orientation against MuJoCo's own body frame of the hand; w is positive or not, as the rotation may be either."""
    profile = load_profile("fr3_crisp")
    joints = profile.lower + np.array(part) * (profile.upper - profile.lower)
    message = POSE.build(joints, np.zeros(7), 12_345_678_901)
    assert isinstance(message, PoseStamped) and message.header.frame_id == "base" and message.header.stamp.sec == 12
    p, q = message.pose.position, message.pose.orientation
    for index in range(7):
        HAND.data.joint(f"joint{index + 1}").qpos[0] = joints[index]
    HAND.forward()
    body = HAND.data.body("hand")
    np.testing.assert_allclose([p.x, p.y, p.z], body.xpos + body.xmat.reshape(3, 3) @ [0, 0, 0.1034], atol=1e-9)
    assert abs(np.dot([q.w, q.x, q.y, q.z], body.xquat)) == pytest.approx(1, abs=1e-9)


class Hand:
    """The Panda's own model file, without what the profile adds."""

    def __init__(self) -> None:
        import mujoco

        self._mujoco: Any = mujoco
        self._model = mujoco.MjModel.from_xml_path(str(robot_file(load_profile("fr3_crisp"))))
        self.data: Any = mujoco.MjData(self._model)

    def forward(self) -> None:
        self._mujoco.mj_kinematics(self._model, self.data)


POSE, HAND = arm_command(load_profile("fr3_crisp")), Hand()


def test_a_gripper_that_hears_a_topic() -> None:
    """Half open is half way between its ends, in the driver's unit."""
    profile = load_profile("so100")
    middle = profile.opening_to_goal(0.5)
    forward = replace(profile, gripper=replace(profile.gripper, kind="forward", action="", topic="gripper/commands"))
    assert list(gripper_message(forward, 0.5).data) == [middle]
    trajectory = replace(profile, gripper=replace(profile.gripper, kind="trajectory", action="", topic="gripper/joint_trajectory"))
    message = gripper_message(trajectory, 0.5)
    assert list(message.joint_names) == ["gripper_joint"]
    (point,) = message.points
    assert list(point.positions) == [middle] and point.time_from_start.nanosec == 50_000_000


def test_franka_gripper_goal_is_half_the_width() -> None:
    goal = gripper_goal(load_profile("franka"), 0.5)
    assert goal.command.position == pytest.approx(0.02)
    assert goal.command.max_effort > 0


def test_so100_gripper_goal_names_its_joint() -> None:
    profile = load_profile("so100")
    goal = gripper_goal(profile, 0.0)
    assert list(goal.command.name) == [profile.gripper.joint]
    assert list(goal.command.position) == pytest.approx([profile.gripper.closed])


@given(st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=50), st.floats(0.05, 0.9))
def test_gripper_goals_differ_by_more_than_the_hysteresis_and_follow_the_wish(wishes: list[float], hysteresis: float) -> None:
    trigger = GripperTrigger(hysteresis)
    last = None
    for wish in wishes:
        goal = trigger.update(wish)
        clipped = min(max(wish, 0.0), 1.0)
        if goal is not None:
            assert goal == clipped and (last is None or abs(goal - last) > hysteresis)
            last = goal
        assert last is not None and abs(last - clipped) <= hysteresis
    trigger.reset()
    assert trigger.update(0.3) == 0.3


def test_the_types_by_name_are_those_that_are_sent() -> None:
    """Bags and the conformance kit, which know no messages, name them by the profile's table."""
    for robot in ("so100", "so101_follower", "franka_isaac", "fr3_crisp"):
        profile = load_profile(robot)
        package, _, name = ARM_COMMANDS[profile.command.kind].split("/")
        sent = arm_command(profile).message_type
        assert (sent.__module__.split(".")[0], sent.__name__) == (package, name)
    for robot in ("franka", "so100"):
        profile = load_profile(robot)
        package, _, name = GRIPPER_COMMANDS[profile.gripper.kind].split("/")
        goal = gripper_action_type(profile)
        assert (goal.__module__.split(".")[0], goal.__name__) == (package, name)
