"""A gripper that hears a topic: the other kind of simulated gripper beside gripper_server.py.

Role: ROS only: JointTrajectory or Float64MultiArray by the profile. The simulator stands behind it.
"""

from __future__ import annotations

import math
from typing import Any

from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from whetstone.profile import RobotProfile
from whetstone.ros import COMMAND, WhetstoneNode


class GripperTopic:
    """A gripper that hears a topic, or nothing of its own where it travels with the arm. opening: where the fingers are sent, in [0, 1]."""

    def __init__(self, node: WhetstoneNode[Any], profile: RobotProfile) -> None:
        self.opening = 1.0
        self._node, self._profile = node, profile
        kind, topic = profile.gripper.kind, profile.gripper.topic
        if kind == "trajectory":
            node.create_subscription(JointTrajectory, topic, self._on_trajectory, COMMAND)
        elif kind == "forward":
            node.create_subscription(Float64MultiArray, topic, lambda message: self.take(list(message.data)), COMMAND)

    def reset(self, opening: float) -> None:
        """A new scene."""
        self.opening = opening

    def measured(self, opening: float) -> None:
        """Nobody asks."""

    def take(self, positions: list[float]) -> None:
        """One number, as profile.opening_to_goal gives it."""
        if len(positions) != 1 or not math.isfinite(positions[0]):
            self._node.get_logger().warning("gripper command ignored: it needs one finite position", throttle_duration_sec=0.5)
            return
        self.opening = self._profile.position_to_opening(positions[0] / self._profile.gripper.scale)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        fits = list(message.joint_names) == [self._profile.gripper.joint] and len(message.points) > 0
        self.take(list([*message.points][-1].positions) if fits else [])

    def destroy(self) -> None:
        pass
