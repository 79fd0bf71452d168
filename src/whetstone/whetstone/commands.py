"""Commands in the words of the robot's driver.

Role: turns joint targets into the message that the profile's driver takes, one class per `command.kind`; what a gripper is told as well.
(When a gripper goal is due says gripper.py.) Builds messages, does not send them; depends on message packages, not on rclpy.
"""

from __future__ import annotations

import array
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from whetstone.profile import RobotProfile

NANOSECONDS = 1_000_000_000
ARM_COMMAND = "policy/arm_command"
"""Where the policy's commands go when the watchdog (policy_node/watchdog_node.py) stands before the driver: JointTrajectory, whatever the
driver takes, so that the watchdog judges joints."""


class ArmCommand(Protocol):
    """One kind of command.

    interpolates: the driver itself draws the way to the target; else each message is one set-point, and whoever wants the arm to come to
    rest sends them all.
    """

    message_type: Any
    interpolates: bool

    def build(self, positions: np.ndarray, velocities: np.ndarray, stamp: int, within_ns: int = 0) -> Any:
        """positions: of profile.command_names, rad (a gripper that travels with the arm: in its joint's unit), to reach one period, or
        within_ns, from now; velocities (joints,) rad/s there; stamp: ns, 0 = start on arrival. One message object is reused, publishing
        copies it."""
        ...


class TrajectoryCommand:
    """trajectory_msgs/JointTrajectory with one point. author: of the commands, for the watchdog, in the header's frame_id."""

    message_type = JointTrajectory
    interpolates = True

    def __init__(self, profile: RobotProfile, author: str = "") -> None:
        self._period_ns = profile.period_ns
        self._point = JointTrajectoryPoint()
        self._point.time_from_start = Duration()
        self._message = JointTrajectory()
        self._message.joint_names = list(profile.command_names)
        self._message.points = [self._point]
        self._message.header.frame_id = author

    def build(self, positions: np.ndarray, velocities: np.ndarray, stamp: int, within_ns: int = 0) -> JointTrajectory:
        duration = self._point.time_from_start
        duration.sec, duration.nanosec = divmod(within_ns or self._period_ns, NANOSECONDS)
        _stamp(self._message, stamp)
        rest = np.zeros(len(positions) - len(velocities))
        self._point.positions = _doubles(positions)
        self._point.velocities = _doubles(np.append(velocities, rest))
        return self._message


class ForwardCommand:
    """std_msgs/Float64MultiArray: ros2_control's forward_command_controller. It has no stamp."""

    message_type = Float64MultiArray
    interpolates = False

    def __init__(self, profile: RobotProfile) -> None:
        self._message = Float64MultiArray()

    def build(self, positions: np.ndarray, velocities: np.ndarray, stamp: int, within_ns: int = 0) -> Float64MultiArray:
        self._message.data = _doubles(positions)
        return self._message


class JointStateCommand:
    """sensor_msgs/JointState with positions alone: crisp_controllers' target_joint, Isaac Sim's joint_command."""

    message_type = JointState
    interpolates = False

    def __init__(self, profile: RobotProfile) -> None:
        self._message = JointState(name=list(profile.command_names))

    def build(self, positions: np.ndarray, velocities: np.ndarray, stamp: int, within_ns: int = 0) -> JointState:
        _stamp(self._message, stamp)
        self._message.position = _doubles(positions)
        return self._message


class PoseCommand:
    """geometry_msgs/PoseStamped of the end effector at the joint targets: crisp_controllers' target_pose."""

    message_type = PoseStamped
    interpolates = False

    def __init__(self, profile: RobotProfile) -> None:
        """Raises as whetstone.kinematics."""
        from whetstone.kinematics import ForwardKinematics

        self._kinematics = ForwardKinematics(profile)
        self._message = PoseStamped()
        self._message.header.frame_id = profile.command.frame

    def build(self, positions: np.ndarray, velocities: np.ndarray, stamp: int, within_ns: int = 0) -> PoseStamped:
        _stamp(self._message, stamp)
        position, quaternion = self._kinematics.pose(positions)
        pose = self._message.pose
        pose.position.x, pose.position.y, pose.position.z = position.tolist()
        pose.orientation.w, pose.orientation.x, pose.orientation.y, pose.orientation.z = quaternion.tolist()
        return self._message


_KINDS: dict[str, Any] = {
    "joint_trajectory": TrajectoryCommand,
    "forward": ForwardCommand,
    "joint_state": JointStateCommand,
    "pose": PoseCommand,
}


def arm_command(profile: RobotProfile) -> ArmCommand:
    """What the profile's driver takes. Raises as whetstone.kinematics where that needs the robot's model."""
    return _KINDS[profile.command.kind](profile)


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


def gripper_message(profile: RobotProfile, opening: float) -> JointTrajectory | Float64MultiArray:
    """The same for a gripper that hears a topic: as soon as it can, so one control period from now."""
    position = profile.opening_to_goal(opening)
    if profile.gripper.kind == "forward":
        return Float64MultiArray(data=[position])
    point = JointTrajectoryPoint(positions=[position], time_from_start=Duration(nanosec=profile.period_ns % NANOSECONDS))
    point.time_from_start.sec = profile.period_ns // NANOSECONDS
    return JointTrajectory(joint_names=[profile.gripper.joint], points=[point])


def _stamp(message: Any, stamp: int) -> None:
    header = message.header.stamp
    header.sec, header.nanosec = divmod(stamp, NANOSECONDS)


def _doubles(values: np.ndarray) -> array.array:
    return array.array("d", np.asarray(values, np.float64).tobytes())
