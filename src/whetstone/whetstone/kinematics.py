"""Where the end effector is: forward kinematics of a profile's robot, and the box that it must stay in.

Role: the one place that reads a robot's MJCF and knows where its hand is. Depends on mujoco when it is used, not before; on nothing of ROS.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from whetstone.errors import AssetError, ConfigError
from whetstone.profile import RobotProfile

_AXES = ("x", "y", "z")


def robot_file(profile: RobotProfile) -> Path:
    """Path of the robot's MJCF inside the wheel that carries it. Raises AssetError where it is not installed."""
    sim = profile.sim
    if sim is None:
        raise ConfigError(f"robot '{profile.name}': key 'sim' is missing: where its model is")
    found = importlib.util.find_spec(sim.module)
    if found is None or found.origin is None:
        raise AssetError(f"robot '{profile.name}': the model wheel '{sim.distribution}' is not installed; run `make setup`")
    path = Path(found.origin).parent / sim.xml
    if not path.is_file():
        raise AssetError(f"robot '{profile.name}': '{sim.xml}' is missing in wheel '{sim.distribution}'; reinstall it with `make setup`")
    return path


def robot_spec(profile: RobotProfile) -> Any:
    """mujoco.MjSpec of the robot alone, its base where the profile puts it, with the site "end_effector". Raises as `robot_file`."""
    import mujoco

    path = robot_file(profile)
    assert profile.sim is not None
    settings = profile.sim.model
    wrapper = settings.get("wrapper")
    if not wrapper:
        spec = mujoco.MjSpec.from_file(str(path))
    else:
        # A body file meant for <include> has no meshes or defaults of its own: include what the profile names, in order.
        includes = "".join(f'<include file="{path.parent / name}"/>' for name in wrapper["before"])
        xml = f'<mujoco><compiler meshdir="{path.parent}"/>{includes}<worldbody><include file="{path}"/></worldbody></mujoco>'
        spec = mujoco.MjSpec.from_string(xml)
        spec.meshdir = str(path.parent)
    root = spec.body(settings["root_body"])
    root.pos, root.quat = settings["base_position"], settings["base_quaternion"]
    turned = settings.get("end_effector_quaternion", [1, 0, 0, 0])
    spec.body(settings["hand_body"]).add_site(name="end_effector", pos=settings["end_effector_position"], quat=turned, group=5)
    return spec


class ForwardKinematics:
    """Of the point between the fingers. Not for several threads at once."""

    def __init__(self, profile: RobotProfile) -> None:
        """Raises as `robot_file`."""
        import mujoco

        spec = robot_spec(profile)
        assert profile.sim is not None
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("end_effector").id
        self._solve, self._to_quaternion = mujoco.mj_kinematics, mujoco.mju_mat2Quat
        joints = [profile.sim.joints[name] for name in profile.joint_names]
        self._addresses = [int(self._model.joint(joint.model_joint).qposadr[0]) for joint in joints]
        self._to_model = [joint.to_model for joint in joints]

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m as `end_effector`, and orientation as a unit quaternion (4,) w, x, y, z in the same frame."""
        position, quaternion = self.end_effector(joints), np.empty(4)
        self._to_quaternion(quaternion, self._data.site_xmat[self._site])
        return position, quaternion

    def end_effector(self, joints: np.ndarray) -> np.ndarray:
        """(3,) m in the frame that the base stands in (x forward, z up). joints: (n,) rad, the driver's."""
        for address, to_model, position in zip(self._addresses, self._to_model, joints, strict=True):
            self._data.qpos[address] = to_model(float(position))
        self._solve(self._model, self._data)
        return self._data.site_xpos[self._site].copy()


class Workspace:
    """The box of a profile's `guard.workspace` around the end effector."""

    def __init__(self, profile: RobotProfile) -> None:
        """Raises as `robot_file`."""
        assert profile.guard.workspace is not None
        self._kinematics = ForwardKinematics(profile)
        self._lower, self._upper = np.array(profile.guard.workspace.lower), np.array(profile.guard.workspace.upper)

    def excess(self, joints: np.ndarray) -> tuple[float, str]:
        """How far outside the end effector is, m, 0 inside; and through which side, e.g. "z below 0.02 m"."""
        position = self._kinematics.end_effector(joints)
        beyond = np.concatenate([self._lower - position, position - self._upper])
        worst = int(beyond.argmax())
        if beyond[worst] <= 0:
            return 0.0, ""
        axis = worst % 3
        side = f"below {self._lower[axis]:g}" if worst < 3 else f"above {self._upper[axis]:g}"
        return float(beyond[worst]), f"{_AXES[axis]} {side} m"
