"""Commands are in the driver's words: names, units, and no goal twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("trajectory_msgs")

from policy_node.commands import ArmCommand, gripper_goal
from whetstone.gripper import GripperTrigger
from whetstone.profile import load_profile


def test_trajectory_has_one_point_one_period_ahead() -> None:
    profile = load_profile("so100")
    message = ArmCommand(profile).build(np.arange(5) / 10, np.arange(5) / 5, 12_345_678_901)
    assert message.joint_names == list(profile.joint_names)
    (point,) = message.points
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (0, 50_000_000)
    np.testing.assert_allclose(point.positions, np.arange(5) / 10)
    np.testing.assert_allclose(point.velocities, np.arange(5) / 5)
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345_678_901)


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
