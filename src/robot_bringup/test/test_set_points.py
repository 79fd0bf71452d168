"""What simulated controllers make of set-points: which they take, which they refuse and why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("std_msgs")

from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from robot_bringup.set_points import controller
from whetstone.kinematics import ForwardKinematics
from whetstone.profile import load_profile


def test_forward_takes_all_joints_in_order_and_the_gripper_last() -> None:
    profile = load_profile("so101_follower")
    arm = controller(profile)
    arm.hold(profile.home)
    np.testing.assert_array_equal(arm.sample(0), profile.home)
    assert arm.grip is None and not arm.stamped
    assert arm.accept(Float64MultiArray(data=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), 0) is None
    np.testing.assert_array_equal(arm.sample(0), [0.1, 0.2, 0.3, 0.4, 0.5])
    assert arm.grip == 0.6
    assert arm.accept(Float64MultiArray(data=[0.1] * 5), 0) == (
        "it has 5 numbers; this driver takes 6: shoulder_pan, shoulder_lift, elbow_flex, wrist_flex, wrist_roll, gripper"
    )
    assert arm.accept(Float64MultiArray(data=[float("nan")] * 6), 0) == "a position is not finite"
    np.testing.assert_array_equal(arm.sample(0), [0.1, 0.2, 0.3, 0.4, 0.5])


def test_joint_states_are_taken_by_name() -> None:
    profile = load_profile("fr3_crisp_joint")
    arm = controller(profile)
    names, wanted = list(profile.joint_names), np.arange(7) / 10
    assert arm.accept(JointState(name=names[::-1], position=wanted[::-1].tolist()), 0) is None
    np.testing.assert_array_equal(arm.sample(0), wanted)
    refused = arm.accept(JointState(name=names[:-1], position=[0.0] * 6), 0)
    assert refused is not None and refused.startswith("it has 6 positions of fr3_joint1")


def pose(position, quaternion, frame: str = "base") -> PoseStamped:
    message = PoseStamped()
    message.header.frame_id = frame
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z = map(float, position)
    q.w, q.x, q.y, q.z = map(float, quaternion)
    return message


@given(st.lists(st.floats(-0.2, 0.2), min_size=7, max_size=7))
def test_a_pose_is_followed(away: list[float]) -> None:
    profile = load_profile("fr3_crisp")
    FOLLOWING.hold(profile.home)
    position, quaternion = KINEMATICS.pose(profile.home + np.array(away))
    assert FOLLOWING.accept(pose(position, quaternion), 0) is None
    there, turned = KINEMATICS.pose(FOLLOWING.sample(0))
    np.testing.assert_allclose(there, position, atol=2e-4)
    assert abs(turned @ quaternion) == pytest.approx(1, abs=1e-5)


def test_poses_that_are_none() -> None:
    FOLLOWING.hold(load_profile("fr3_crisp").home)
    assert FOLLOWING.accept(pose([0.4, 0, 0.4], [1, 0, 0, 0], "world"), 0) == "its frame is 'world', not 'base'"
    assert FOLLOWING.accept(pose([0.4, 0, float("inf")], [1, 0, 0, 0]), 0) == "a number is not finite"
    assert FOLLOWING.accept(pose([0.4, 0, 0.4], [0, 0, 0, 0]), 0) == "its orientation is no unit quaternion"


FOLLOWING, KINEMATICS = controller(load_profile("fr3_crisp")), ForwardKinematics(load_profile("fr3_crisp"))
