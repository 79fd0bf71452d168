"""The way to the gripper's driver: an action, or a topic.

Role: one interface over both for the node, which decides what is sent and when. Speaks ROS; judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rclpy.action import ActionClient
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from whetstone.commands import gripper_action_type, gripper_goal, gripper_message
from whetstone.profile import RobotProfile
from whetstone.ros import COMMAND


class GripperLink(Protocol):
    """name: as an error names it."""

    name: str

    def ready(self) -> bool:
        """Whether the driver is there."""
        ...

    def send(self, opening: float, answered: Callable[[bool], None]) -> None:
        """opening: in [0, 1]; answered: whether the driver took it."""
        ...

    def destroy(self) -> None: ...


class GripperAction:
    """GripperCommand or ParallelGripperCommand."""

    def __init__(self, node: Any, profile: RobotProfile) -> None:
        self.name, self._profile, self._guarded = profile.gripper.action, profile, node.guarded
        self._client = ActionClient(node, gripper_action_type(profile), self.name)

    def ready(self) -> bool:
        return self._client.server_is_ready()

    def send(self, opening: float, answered: Callable[[bool], None]) -> None:
        future = self._client.send_goal_async(gripper_goal(self._profile, opening))
        future.add_done_callback(self._guarded(lambda done: answered(done.result().accepted)))

    def destroy(self) -> None:
        self._client.destroy()


class GripperTopic:
    """JointTrajectory or Float64MultiArray: nobody answers, so that somebody listens must do."""

    def __init__(self, node: Any, profile: RobotProfile) -> None:
        self.name, self._profile = profile.gripper.topic, profile
        self._publisher = node.create_publisher(
            Float64MultiArray if profile.gripper.kind == "forward" else JointTrajectory, self.name, COMMAND
        )

    def ready(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def send(self, opening: float, answered: Callable[[bool], None]) -> None:
        self._publisher.publish(gripper_message(self._profile, opening))
        answered(True)

    def destroy(self) -> None:
        pass


def gripper_link(node: Any, profile: RobotProfile) -> GripperLink | None:
    """None where the gripper travels with the arm's command."""
    if profile.gripper.kind == "with_arm":
        return None
    return GripperTopic(node, profile) if profile.gripper.kind in ("trajectory", "forward") else GripperAction(node, profile)
