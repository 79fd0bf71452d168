"""The controllers of a simulated arm that take set-points instead of trajectories.

Role: what the driver behind each `command.kind` does with a message, sampled once per control period, as trajectory.py does for
trajectories: check it, put it in force, say where the arm shall be. Depends on neither rclpy nor a simulator; works on any objects with the
fields of the messages.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import PoseStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from robot_bringup.trajectory import TrajectoryController
from whetstone.inverse_kinematics import InverseKinematics
from whetstone.profile import RobotProfile


class Controller(Protocol):
    """stamped: whether a message says which frame it answers. grip: where a gripper that travels with the arm was sent, as its driver is
    told; None: nowhere yet."""

    message_type: Any
    stamped: bool
    grip: float | None

    def hold(self, positions: np.ndarray) -> None:
        """Drop what is in force and stay at positions (n,) rad."""
        ...

    def accept(self, message: Any, now: int) -> str | None:
        """Take a command at robot time `now` (ns). Returns None, or why it is ignored; then the one in force stays."""
        ...

    def sample(self, time: int) -> np.ndarray:
        """Desired positions (n,) rad at robot time (ns)."""
        ...


class SetPointController:
    """The joints of the newest command, and the gripper's where it travels with them."""

    message_type: Any
    stamped: bool

    def __init__(self, profile: RobotProfile) -> None:
        self.grip: float | None = None
        self._names, self._count = profile.command_names, len(profile.joints)
        self._desired = profile.home.copy()

    def hold(self, positions: np.ndarray) -> None:
        self._desired, self.grip = np.array(positions, dtype=float), None

    def sample(self, time: int) -> np.ndarray:
        return self._desired.copy()

    def _take(self, positions: np.ndarray) -> str | None:
        if not np.isfinite(positions).all():
            return "a position is not finite"
        self._desired = positions[: self._count]
        if len(positions) > self._count:
            self.grip = float(positions[-1])
        return None


class ForwardController(SetPointController):
    """forward_command_controller: positions in the profile's order."""

    message_type, stamped = Float64MultiArray, False

    def accept(self, message: Any, now: int) -> str | None:
        positions = np.array(message.data, dtype=float)
        if len(positions) != len(self._names):
            return f"it has {len(positions)} numbers; this driver takes {len(self._names)}: {', '.join(self._names)}"
        return self._take(positions)


class JointStateController(SetPointController):
    """Positions by name, in any order; all of them."""

    message_type, stamped = JointState, True

    def accept(self, message: Any, now: int) -> str | None:
        names = list(message.name)
        if sorted(names) != sorted(self._names) or len(message.position) != len(names):
            return (
                f"it has {len(message.position)} positions of {', '.join(names) or 'no joints'}; this driver takes {', '.join(self._names)}"
            )
        by_name = dict(zip(names, message.position))
        return self._take(np.array([by_name[name] for name in self._names], dtype=float))


class PoseController(SetPointController):
    """Follows the newest pose by differential inverse kinematics, from where it wanted the arm last; as far as the arm reaches."""

    message_type, stamped = PoseStamped, True

    def __init__(self, profile: RobotProfile) -> None:
        super().__init__(profile)
        self._frame = profile.command.frame
        self._kinematics = InverseKinematics(profile)

    def accept(self, message: Any, now: int) -> str | None:
        if message.header.frame_id != self._frame:
            return f"its frame is '{message.header.frame_id}', not '{self._frame}'"
        p, q = message.pose.position, message.pose.orientation
        position, quaternion = np.array([p.x, p.y, p.z]), np.array([q.w, q.x, q.y, q.z])
        if not np.isfinite([*position, *quaternion]).all():
            return "a number is not finite"
        if abs(np.linalg.norm(quaternion) - 1) > 1e-3:
            return "its orientation is no unit quaternion"
        return self._take(self._kinematics.solve(self._desired, position, quaternion).joints)


def controller(profile: RobotProfile) -> Controller:
    """The one that the profile's commands go to."""
    if profile.command.kind == "joint_trajectory":
        return TrajectoryController(profile.joint_names)
    return {"forward": ForwardController, "joint_state": JointStateController, "pose": PoseController}[profile.command.kind](profile)
