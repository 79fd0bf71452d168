"""Joint angles for a pose of the end effector.

Role: differential inverse kinematics of a profile's robot, by mink on the model that forward kinematics reads too. A pose is approached in
damped steps inside the profile's joint limits; position comes before orientation where an arm of five joints cannot choose both. Depends on
mujoco and mink when it is used, not before; on nothing of ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whetstone.kinematics import robot_spec
from whetstone.profile import RobotProfile

POSITION_TOLERANCE, ORIENTATION_TOLERANCE = 1e-4, 1e-3
"""m and rad: nearer than this a pose counts as reached, and the search ends."""
_ITERATIONS, _FINAL = 40, 4  # steps towards a pose at most, and where orientation cannot be chosen steps of position alone after them
_LARGEST_STEP = 0.3  # rad a step: as far as the linearised arm resembles the real one
_SMALLEST_STEP = 1e-5  # rad: the search goes nowhere any more
_ORIENTATION_COST = 1.0  # m per rad: past its reach an arm keeps its orientation and stops short; let it tilt instead, and it swings back
_FEW_JOINTS_COST = 0.03  # the same for an arm that cannot choose its orientation
_POSTURE_COST = 1e-3  # m per rad, towards the pose at the start: what is left to choose stays
_DAMPING = 1e-6
_LEVENBERG_MARQUARDT = 0.05  # damping grows with the square of the weighted error (Sugihara 2011): a stretched arm does not swing
_FURTHEST = 10.0  # m: a target further away is as far out of reach as this one


@dataclass(frozen=True)
class Solution:
    """joints: (n,) rad within the limits. position_error: m, orientation_error: rad, what is left of the way to the pose."""

    joints: np.ndarray
    position_error: float
    orientation_error: float


class InverseKinematics:
    """Of the point between the fingers. Not for several threads at once.

    orientation: whether the arm has joints enough (six) to choose its orientation.
    """

    def __init__(self, profile: RobotProfile) -> None:
        """Raises as whetstone.kinematics.robot_file."""
        import mink
        import mujoco

        assert profile.sim is not None
        spec = robot_spec(profile)
        joints = [profile.sim.joints[name] for name in profile.joint_names]
        # The arm alone: what hangs on other joints (fingers) or acts on any would only be carried along.
        for group in (spec.sensors, spec.keys, spec.actuators, spec.tendons, spec.equalities):
            for element in list(group):
                spec.delete(element)
        for joint in list(spec.joints):
            if joint.name not in [one.model_joint for one in joints]:
                spec.delete(joint)
        for limits, stands_for in zip(profile.joints, joints):
            joint = spec.joint(stands_for.model_joint)
            joint.range, joint.limited = sorted(map(stands_for.to_model, (limits.lower, limits.upper))), True
        model = spec.compile()
        self._addresses = np.array([int(model.joint(one.model_joint).qposadr[0]) for one in joints])
        self._signs, self._offsets = np.array([one.sign for one in joints], float), np.array([one.offset for one in joints])
        self._lower, self._upper = profile.lower, profile.upper
        self.orientation = len(joints) >= 6
        cost = _ORIENTATION_COST if self.orientation else _FEW_JOINTS_COST
        self._configuration = mink.Configuration(model)
        site = {"frame_name": "end_effector", "frame_type": "site", "lm_damping": _LEVENBERG_MARQUARDT}
        self._pose_task = mink.FrameTask(**site, position_cost=1.0, orientation_cost=cost)
        self._position_task = mink.FrameTask(**site, position_cost=1.0, orientation_cost=0.0)
        self._posture_task = mink.PostureTask(model, cost=_POSTURE_COST)
        names = [model.joint(index).name for index in range(model.njnt)]
        self._limits = [mink.ConfigurationLimit(model, gain=1.0), mink.VelocityLimit(model, dict.fromkeys(names, _LARGEST_STEP))]
        self._mink, self._from_rotation_vector = mink, mujoco.mju_axisAngle2Quat

    def pose(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) m and orientation, a unit quaternion (4,) w, x, y, z, in the frame that the base stands in. joints: (n,) rad."""
        self._configuration.update(self._to_model(joints))
        frame = self._frame()
        return frame.translation().copy(), frame.rotation().wxyz.copy()

    def solve(self, start: np.ndarray, position: np.ndarray, quaternion: np.ndarray) -> Solution:
        """The joints nearest to the pose, found from `start` (n,) rad. position: (3,) m; quaternion: (4,) w, x, y, z; all finite."""
        mink = self._mink
        position = np.clip(position, -_FURTHEST, _FURTHEST)
        target = mink.SE3.from_rotation_and_translation(mink.SO3(quaternion / np.linalg.norm(quaternion)), position)
        self._configuration.update(self._to_model(np.clip(start, self._lower, self._upper)))
        self._posture_task.set_target_from_configuration(self._configuration)
        self._pose_task.set_target(target)
        for _ in range(_ITERATIONS):
            if self._reached(target) or self._step((self._pose_task, self._posture_task)) < _SMALLEST_STEP:
                break
        for _ in range(0 if self.orientation else _FINAL):
            if self._errors(target)[0] <= POSITION_TOLERANCE:
                break
            # With the orientation that it has: the error of a pose, a twist, mixes the two.
            self._position_task.set_target(mink.SE3.from_rotation_and_translation(self._frame().rotation(), position))
            self._posture_task.set_target_from_configuration(self._configuration)
            if self._step((self._position_task, self._posture_task)) < _SMALLEST_STEP:
                break
        joints = (self._configuration.q[self._addresses] * self._signs) + self._offsets
        return Solution(np.clip(joints, self._lower, self._upper), *self._errors(target))

    def turned(self, quaternion: np.ndarray, rotation_vector: np.ndarray) -> np.ndarray:
        """(4,) the orientation after a turn by a rotation vector (3,) rad in the base's frame."""
        mink = self._mink
        return (mink.SO3.exp(rotation_vector) @ mink.SO3(quaternion)).normalize().wxyz

    def quaternion(self, rotation_vector: np.ndarray) -> np.ndarray:
        """(4,) w, x, y, z of a rotation vector (3,) rad."""
        return self._mink.SO3.exp(rotation_vector).wxyz

    def rotation_vector(self, quaternion: np.ndarray) -> np.ndarray:
        """(3,) rad, no longer than half a turn: what `quaternion` undoes."""
        return self._mink.SO3(quaternion if quaternion[0] >= 0 else -quaternion).log()

    def turn(self, quaternion: np.ndarray, later: np.ndarray) -> np.ndarray:
        """(3,) the rotation vector, rad in the base's frame, that `turned` makes `later` of `quaternion` by."""
        mink = self._mink
        return self.rotation_vector((mink.SO3(later) @ mink.SO3(quaternion).inverse()).wxyz)

    def _to_model(self, joints: np.ndarray) -> np.ndarray:
        q = np.zeros(len(self._addresses))
        q[self._addresses] = (joints - self._offsets) * self._signs
        return q

    def _frame(self) -> Any:
        return self._configuration.get_transform_frame_to_world("end_effector", "site")

    def _errors(self, target: Any) -> tuple[float, float]:
        """m and rad."""
        frame = self._frame()
        turn = (frame.rotation().inverse() @ target.rotation()).log()
        return float(np.linalg.norm(frame.translation() - target.translation())), float(np.linalg.norm(turn))

    def _reached(self, target: Any) -> bool:
        position_error, orientation_error = self._errors(target)
        return position_error <= POSITION_TOLERANCE and (orientation_error <= ORIENTATION_TOLERANCE or not self.orientation)

    def _step(self, tasks: tuple[object, ...]) -> float:
        """One damped step; its largest joint's, rad."""
        try:
            step = self._mink.solve_ik(self._configuration, tasks, 1.0, "daqp", damping=_DAMPING, limits=self._limits)
        except self._mink.NoSolutionFound:  # stay
            return 0.0
        if not np.isfinite(step).all():
            return 0.0
        self._configuration.integrate_inplace(step, 1.0)
        return float(np.abs(step).max())
