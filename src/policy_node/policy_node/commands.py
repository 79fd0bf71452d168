"""Commands in the words of the robot's driver.

Role: turns joint targets and a gripper opening into the messages that the profile's driver takes: a JointTrajectory with one
point per control period. (When a goal is due says whetstone.gripper.) Builds messages, does not send them; depends on
message packages, not on rclpy.
"""

from __future__ import annotations

import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from whetstone.profile import RobotProfile

NANOSECONDS = 1_000_000_000
ARM_COMMAND = "policy/arm_command"
"""Where the policy's commands go, in the words of the driver, when the watchdog (watchdog_node.py) stands before it."""


class ArmCommand:
    """Builds the trajectory message; one message object is reused, publishing copies it."""

    def __init__(self, profile: RobotProfile) -> None:
        self._period_ns = profile.period_ns
        self._point = JointTrajectoryPoint()
        self._point.time_from_start = Duration()
        self._message = JointTrajectory()
        self._message.joint_names = list(profile.joint_names)
        self._message.points = [self._point]

    def build(self, positions: np.ndarray, velocities: np.ndarray, stamp: int, within_ns: int = 0) -> JointTrajectory:
        """positions (n,) rad to reach one period, or within_ns, from now, velocities (n,) rad/s there; stamp: ns, 0 = start on arrival."""
        duration = self._point.time_from_start
        duration.sec, duration.nanosec = divmod(within_ns or self._period_ns, NANOSECONDS)
        header = self._message.header.stamp
        header.sec, header.nanosec = divmod(stamp, NANOSECONDS)
        self._point.positions = array.array("d", np.asarray(positions, dtype=np.float64).tobytes())
        self._point.velocities = array.array("d", np.asarray(velocities, dtype=np.float64).tobytes())
        return self._message


def gripper_action_type(profile: RobotProfile) -> Any:
    """The action class of the profile's gripper driver."""
    if profile.gripper.kind == "gripper_command":
        from control_msgs.action import GripperCommand

        return GripperCommand
    from control_msgs.action import ParallelGripperCommand

    return ParallelGripperCommand


def gripper_goal(profile: RobotProfile, opening: float) -> Any:
    """A goal for an opening in [0, 1], in the driver's unit (Franka: half the width in m)."""
    goal = gripper_action_type(profile).Goal()
    position, effort = profile.opening_to_goal(opening), profile.gripper.max_effort
    if profile.gripper.kind == "gripper_command":
        goal.command.position = position
        goal.command.max_effort = effort
    else:
        goal.command.name = [profile.gripper.joint]
        goal.command.position = [position]
        if effort > 0:
            goal.command.effort = [effort]
    return goal
