"""From what a policy's chunk means to joint targets, and back.

Role: pure conversion of a chunk in any action space (whetstone.contracts.ActionSpace) to rows that execution and guard take, once per
inference; and of what was commanded to what such a policy would have said. Poses of the end effector go through differential inverse
kinematics, each row from the one before and no further than the joints can turn in a control period: near a singularity a small way of the
hand may be a long one of the joints, which then takes several rows. Does not depend on ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whetstone.contracts import ActionSpace
from whetstone.inverse_kinematics import InverseKinematics
from whetstone.profile import RobotProfile

POSE_COLUMNS = ("x", "y", "z", "rx", "ry", "rz")
OUT_OF_REACH = (0.005, 0.05)
"""m and rad: further off than this a pose is out of reach. Arms that cannot choose their orientation are judged by the first alone."""


@dataclass(frozen=True)
class Converted:
    """actions: (horizon, joints + 1) float32 joint targets, rad, and gripper opening. out_of_reach: rows that are the nearest pose that the
    arm reaches; furthest: m, by how much at most. refused: rows that were not finite and say what the row before said."""

    actions: np.ndarray
    out_of_reach: int = 0
    furthest: float = 0.0
    refused: int = 0


class ActionConverter:
    """Of one policy on one robot. Not for several threads at once."""

    def __init__(self, space: ActionSpace, profile: RobotProfile) -> None:
        """Raises as whetstone.kinematics where the robot's model is needed."""
        self.space: ActionSpace = space
        self.names = (*(profile.joint_names if space.startswith("joint") else POSE_COLUMNS), "gripper")
        self._at_most = profile.velocity * profile.period
        self._kinematics = None if space.startswith("joint") else InverseKinematics(profile)

    def convert(self, actions: np.ndarray, measured: np.ndarray) -> Converted:
        """actions: (horizon, columns) in the space; measured: (joints + 1,) proprioception of the observation that they answer, finite."""
        if self.space == "joint_position":
            return Converted(actions)
        if self._kinematics is None:
            offset = np.append(measured[:-1], 0.0)
            return Converted((actions + offset).astype(np.float32))
        return self._follow(self._kinematics, np.asarray(actions, np.float64), np.asarray(measured, np.float64))

    def of_joints(self, rows: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """(horizon, columns) float32: the chunk in the space that stands for joint targets. rows: (horizon, joints + 1), rad and opening;
        measured: (joints + 1,) at the observation."""
        rows, measured = np.asarray(rows, np.float64), np.asarray(measured, np.float64)
        if self._kinematics is None:
            offset = np.append(measured[:-1], 0.0) if self.space == "joint_delta" else 0.0
            return (rows - offset).astype(np.float32)
        kinematics, made = self._kinematics, np.empty((len(rows), len(POSE_COLUMNS) + 1))
        position, quaternion = kinematics.pose(measured[:-1])
        for index, row in enumerate(rows):
            there, turned = kinematics.pose(row[:-1])
            if self.space == "end_effector_delta":
                made[index] = [*(there - position), *kinematics.turn(quaternion, turned), row[-1]]
                position, quaternion = there, turned
            else:
                made[index] = [*there, *kinematics.rotation_vector(turned), row[-1]]
        return made.astype(np.float32)

    def _follow(self, kinematics: InverseKinematics, actions: np.ndarray, measured: np.ndarray) -> Converted:
        joints = measured[:-1]
        position, quaternion = kinematics.pose(joints)
        rows = np.empty((len(actions), len(joints) + 1))
        opening, out_of_reach, furthest, refused = float(measured[-1]), 0, 0.0, 0
        for index, action in enumerate(actions):
            if not np.isfinite(action).all():
                refused += 1
                rows[index] = np.append(joints, opening)
                continue
            if self.space == "end_effector_delta":
                position, quaternion = position + action[:3], kinematics.turned(quaternion, action[3:6])
            else:
                position, quaternion = action[:3], kinematics.quaternion(action[3:6])
            found = kinematics.solve(joints, position, quaternion)
            way = found.joints - joints
            joints = joints + way * min(1.0, 1 / max(float(np.max(np.abs(way) / self._at_most)), 1e-9))
            opening = float(action[6])
            rows[index] = np.append(joints, opening)
            turned_off = kinematics.orientation and found.orientation_error > OUT_OF_REACH[1]
            if found.position_error > OUT_OF_REACH[0] or turned_off:
                out_of_reach += 1
                furthest = max(furthest, found.position_error)
        return Converted(np.clip(rows, -_LARGEST, _LARGEST).astype(np.float32), out_of_reach, furthest, refused)


_LARGEST = float(np.finfo(np.float32).max)
