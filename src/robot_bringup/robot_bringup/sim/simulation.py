"""One simulated robot at a table: seeded resets, control steps, camera images, ground truth.

Role: the pure simulator behind the ROS node, the demonstrations and the tests. Does not depend on ROS; ground truth leaves it
only through truth().
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from robot_bringup.sim.model import Scene, build_model
from robot_bringup.sim.tasks import Truth, World, make_condition, sample_layout
from whetstone.errors import ConfigError
from whetstone.profile import RobotProfile
from whetstone.task import TaskSpec


@dataclass(frozen=True)
class SimState:
    """positions, velocities: (n,) rad and rad/s in profile order; gripper_opening in [0, 1], gripper_position in the driver's unit;
    images: camera -> (height, width, 3) uint8 RGB."""

    positions: np.ndarray
    velocities: np.ndarray
    gripper_opening: float
    gripper_position: float
    images: dict[str, np.ndarray]


class Simulation:
    """Steps the scene one control period at a time.

    One renderer is built and kept: building costs 0.2 s. Call close() when done.
    """

    def __init__(self, profile: RobotProfile, scene: Scene | None = None, pretty: bool = False, cameras: bool = True):
        if profile.sim is None:
            raise ConfigError(f"robot '{profile.name}' has no 'sim' section, so there is nothing to simulate; add one to its profile")
        self._settings = settings = profile.sim.model
        self.profile = profile
        self.scene = scene or Scene(**settings["scene"])
        self.model = build_model(profile, self.scene, pretty)
        self.data = mujoco.MjData(self.model)
        self.pretty = pretty
        joints = [profile.sim.joints[joint.name] for joint in profile.joints]
        self._signs = np.array([joint.sign for joint in joints], dtype=float)
        self._offsets = np.array([joint.offset for joint in joints], dtype=float)
        ids = [self.model.joint(joint.model_joint).id for joint in joints]
        self.qpos_addresses = self.model.jnt_qposadr[ids]
        self.dof_addresses = self.model.jnt_dofadr[ids]
        self._actuators = np.array([self.model.actuator(name).id for name in settings["arm_actuators"]])
        gripper = settings["gripper"]
        self._gripper_actuator = self.model.actuator(gripper["actuator"]).id
        self._gripper_control = np.array([gripper["control_closed"], gripper["control_open"]], dtype=float)
        self._gripper_qpos = self.model.jnt_qposadr[self.model.joint(gripper["joint"]).id]
        closed, opened = (profile.sim.joints[profile.gripper.joint].to_model(p) for p in (profile.gripper.closed, profile.gripper.open))
        self.gripper_range = np.array([closed, opened])
        self.substeps = round(1.0 / profile.rate / self.model.opt.timestep)
        self.world = World(self.model, self.data, self.scene, settings, closed, opened)
        self._renderer: mujoco.Renderer | None = None
        self._drawn = mujoco.MjvOption()
        self._drawn.flags[mujoco.mjtVisFlag.mjVIS_CONVEXHULL] = not pretty
        self._with_cameras = cameras
        self._targets = np.zeros(len(joints))
        self._home_noise = float(settings.get("home_noise", 0.03))
        self._condition = None

    def to_model(self, positions: np.ndarray) -> np.ndarray:
        """Driver joint angles -> model joint angles (rad)."""
        return (np.asarray(positions, dtype=float) - self._offsets) * self._signs

    def to_driver(self, angles: np.ndarray) -> np.ndarray:
        """Model joint angles -> driver joint angles (rad)."""
        return angles * self._signs + self._offsets

    def draw(self, task: TaskSpec, seed: int) -> tuple[np.ndarray, dict[str, tuple[float, float, float]]]:
        """Where (task, seed) puts the arm, (n,) rad in the driver's convention, and the objects, name -> (x, y, yaw)."""
        rng = np.random.default_rng([seed, 7])
        home = np.array([joint.home for joint in self.profile.joints])
        arm = home + rng.normal(0, self._home_noise, len(home))
        return arm, sample_layout(self._settings["layout"], self.scene, task, rng)

    def reset(self, task: TaskSpec, seed: int) -> None:
        """Put arm and objects where (task, seed) says. The same pair gives the same scene, bit for bit."""
        arm, layout = self.draw(task, seed)
        mujoco.mj_resetData(self.model, self.data)
        joints = self.to_model(arm)
        self.data.qpos[self.qpos_addresses] = joints
        self.world.set_gripper(self.gripper_range[1])
        self._targets = joints.copy()
        self.data.ctrl[self._actuators] = joints
        self.data.ctrl[self._gripper_actuator] = self._gripper_control[1]
        self.world.place(layout)
        for _ in range(20):  # let the cubes settle, the servos take the load
            mujoco.mj_step(self.model, self.data)
        self.data.time = 0.0
        mujoco.mj_forward(self.model, self.data)
        self._condition = make_condition(task, self.world)
        self._condition.update()

    def step(self, targets: np.ndarray, opening: float) -> None:
        """Advance one control period towards joint targets (n,) rad (driver's convention) and a gripper opening in [0, 1].

        The target is approached linearly over the period, as a joint trajectory controller does with one point.
        """
        goal = self.to_model(targets)
        start = self._targets
        self.data.ctrl[self._gripper_actuator] = self._gripper_control[0] + np.clip(opening, 0, 1) * (
            self._gripper_control[1] - self._gripper_control[0]
        )
        for index in range(1, self.substeps + 1):
            self.data.ctrl[self._actuators] = start + (goal - start) * (index / self.substeps)
            mujoco.mj_step(self.model, self.data)
        self._targets = goal
        assert self._condition is not None, "reset() comes before step()"
        self._condition.update()

    @property
    def joint_targets(self) -> np.ndarray:
        """Model joint angles (n,) that the servos hold now."""
        return self._targets.copy()

    def gripper_opening(self) -> float:
        """Measured opening in [0, 1]."""
        closed, opened = self.gripper_range
        return float(np.clip((self.data.qpos[self._gripper_qpos] - closed) / (opened - closed), 0, 1))

    def observe(self, images: bool = True) -> SimState:
        """Measured state and, unless told otherwise, one image per camera."""
        return SimState(
            positions=self.to_driver(self.data.qpos[self.qpos_addresses]),
            velocities=self.data.qvel[self.dof_addresses] * self._signs,
            gripper_opening=self.gripper_opening(),
            gripper_position=float(self.data.qpos[self._gripper_qpos]),
            images=self.render() if images and self._with_cameras else {},
        )

    def render(self) -> dict[str, np.ndarray]:
        """Images of all the profile's cameras: name -> (height, width, 3) uint8 RGB."""
        return {camera.name: self.render_camera(camera.name, camera.width, camera.height) for camera in self.profile.cameras}

    def render_camera(self, name: str, width: int, height: int) -> np.ndarray:
        """One camera's image, (height, width, 3) uint8 RGB."""
        if self._renderer is None or (self._renderer.width, self._renderer.height) != (width, height):
            if self._renderer is not None:
                self._renderer.close()
            self._renderer = mujoco.Renderer(self.model, height, width)
            flags = self._renderer.scene.flags
            for flag in (
                () if self.pretty else (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX)
            ):
                flags[flag] = 0
        self._renderer.update_scene(self.data, camera=name, scene_option=self._drawn)
        return self._renderer.render()

    def project(self, points: np.ndarray, camera: str) -> np.ndarray:
        """World points (N, 3) in m -> (N, 3): x, y in the camera's image from -1 (left, top) to 1, and depth in m (behind: <= 0).

        Square pixels are assumed; what hides a point is not looked at.
        """
        index = self.model.camera(camera).id
        size = self.profile.camera(camera)
        local = (points - self.data.cam_xpos[index]) @ self.data.cam_xmat[index].reshape(3, 3)
        depth = -local[:, 2]
        focal = 1.0 / np.tan(np.radians(self.model.cam_fovy[index]) / 2)
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        return np.stack([focal * local[:, 0] / safe * size.height / size.width, -focal * local[:, 1] / safe, depth], axis=1)

    def truth(self) -> Truth:
        """Ground truth; for evaluation and for labelling training data only."""
        assert self._condition is not None, "reset() comes before truth()"
        return self._condition.truth()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
