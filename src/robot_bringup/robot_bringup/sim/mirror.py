"""Another simulator's scene, seen in our model: the same layouts, and the same conditions for success.

Role: pure: joint states and objects' poses in, ground truth out. So a task means in Gazebo and Isaac Sim just what it means in MuJoCo.
Nothing is simulated here: the model is put where the other one's arm and objects are. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from robot_bringup.sim.simulation import Simulation
from robot_bringup.sim.tasks import Truth, make_condition
from whetstone.profile import RobotProfile
from whetstone.task import TaskSpec


class Mirror:
    """Of one robot and its table."""

    def __init__(self, profile: RobotProfile) -> None:
        """Raises as sim.simulation.Simulation."""
        self._simulation = Simulation(profile, cameras=False)
        self._world = self._simulation.world
        self._condition = None

    @property
    def objects(self) -> tuple[str, ...]:
        return self._world.objects

    def layout(self, task: TaskSpec, seed: int) -> dict[str, np.ndarray]:
        """Where (task, seed) puts the objects: name -> (7,) x, y, z (m), w, x, y, z; as our own simulator does."""
        return self._world.poses(self._simulation.draw(task, seed)[1])

    def begin(self, task: TaskSpec, row: np.ndarray, poses: Mapping[str, np.ndarray]) -> None:
        """A new episode: the task's condition starts on the scene as it is now. Arguments as of `update`."""
        self._put(row, poses)
        self._condition = make_condition(task, self._world)
        self._condition.update()

    def update(self, row: np.ndarray, poses: Mapping[str, np.ndarray]) -> Truth:
        """What the condition says of a frame. row: (joints + 1,) measured joints (rad) and gripper opening; poses: every object."""
        assert self._condition is not None, "begin() comes before update()"
        self._put(row, poses)
        self._condition.update()
        return self._condition.truth()

    def _put(self, row: np.ndarray, poses: Mapping[str, np.ndarray]) -> None:
        simulation = self._simulation
        simulation.data.qpos[simulation.qpos_addresses] = simulation.to_model(row[:-1])
        closed, opened = simulation.gripper_range
        self._world.set_gripper(closed + float(row[-1]) * (opened - closed))
        for name, pose in poses.items():
            self._world.put(name, pose)
        mujoco.mj_kinematics(simulation.model, simulation.data)
