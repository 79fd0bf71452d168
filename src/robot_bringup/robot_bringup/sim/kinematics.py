"""Damped-least-squares inverse kinematics for the scripted experts.

Role: joint targets that move the end effector towards a pose. Used to make demonstrations only; policies act in joint
space. Does not depend on tasks, cameras or ROS.
"""

from __future__ import annotations

import mujoco
import numpy as np


class InverseKinematics:
    """Follows end-effector poses from the arm's present joint targets.

    Position error in metres and orientation error in radians are weighted; a five-joint arm needs a low orientation weight.
    """

    def __init__(
        self, model: mujoco.MjModel, qpos_addresses: np.ndarray, dof_addresses: np.ndarray, orientation_weight: float, damping: float = 0.02
    ):
        self._model = model
        self._data = mujoco.MjData(model)
        self._qpos = qpos_addresses
        self._dof = dof_addresses
        self._site = model.site("end_effector").id
        self._weight = orientation_weight
        self._damping = damping
        self._position_jacobian = np.zeros((3, model.nv))
        self._rotation_jacobian = np.zeros((3, model.nv))
        joints = [int(np.flatnonzero(model.jnt_qposadr == address)[0]) for address in qpos_addresses]
        self._lower = model.jnt_range[joints, 0] + 0.02
        self._upper = model.jnt_range[joints, 1] - 0.02

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """End-effector position (3,) and rotation matrix (3, 3) in the world frame for model joint angles (rad)."""
        self._data.qpos[self._qpos] = joints
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.site_xpos[self._site].copy(), self._data.site_xmat[self._site].reshape(3, 3).copy()

    def solve(self, joints: np.ndarray, position: np.ndarray, down: np.ndarray, yaw: float | None, iterations: int = 4) -> np.ndarray:
        """Joint angles near `joints` whose end effector is at `position` with its z axis along `down`.

        yaw: angle of the end effector's x axis about the vertical (rad, modulo pi); None leaves it free.
        """
        joints = joints.copy()
        for _ in range(iterations):
            current, rotation = self.pose(joints)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, self._position_jacobian, self._rotation_jacobian, self._site)
            orientation_error = np.cross(rotation[:, 2], down)
            if yaw is not None:
                axis = rotation[:, 0]
                wanted = np.array([np.cos(yaw), np.sin(yaw), 0.0])
                if axis @ wanted < 0:
                    wanted = -wanted
                orientation_error = orientation_error + np.array([0, 0, np.cross(axis, wanted)[2]])
            error = np.concatenate([position - current, self._weight * orientation_error])
            jacobian = np.concatenate([self._position_jacobian[:, self._dof], self._weight * self._rotation_jacobian[:, self._dof]])
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + self._damping**2 * np.eye(6), error)
            joints = np.clip(joints + np.clip(step, -0.2, 0.2), self._lower, self._upper)
        return joints
