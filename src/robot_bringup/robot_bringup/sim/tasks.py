"""Where objects start, when a task is done and how far it has come: the simulator's ground truth.

Role: interpret a task's data (config/tasks) in the simulated world. What is computed here labels demonstrations and judges
evaluation; no policy, reward model or learner sees it at run time. Does not depend on rendering, experts or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from robot_bringup.sim.model import Scene
from whetstone.errors import ConfigError
from whetstone.task import TaskSpec

STANDING = ("tray", "mark", "button_base")
"""Objects that nothing moves but a reset."""


@dataclass(frozen=True)
class Truth:
    """success: the task's condition holds now. stage of stages: sub-goals reached. progress in [0, 1]: geometric, may fall.
    primitive: what the arm ought to be doing now, a name of whetstone.task.PRIMITIVES ("null" once done)."""

    success: bool
    stage: int
    stages: int
    progress: float
    primitive: str


class World:
    """Named access to the bodies of a scene."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, scene: Scene, settings: dict[str, Any], closed: float, opened: float):
        self.model, self.data, self.scene = model, data, scene
        self._site = model.site("end_effector").id
        self._mocap = {name: model.body_mocapid[model.body(name).id] for name in STANDING}
        self._cube_qpos = {name: model.jnt_qposadr[model.joint(name).id] for name in ("red_cube", "blue_cube")}
        self._fingers = [(model.jnt_qposadr[model.joint(name).id], opened) for name, opened in settings["gripper"]["joints_open"].items()]
        self._gripper_qpos = model.jnt_qposadr[model.joint(settings["gripper"]["joint"]).id]
        self._closed, self._opened = closed, opened  # model positions of the gripper joint
        self._release = settings["gripper"]["release_opening"]

    @property
    def end_effector(self) -> np.ndarray:
        return self.data.site_xpos[self._site]

    def cube(self, name: str) -> np.ndarray:
        address = self._cube_qpos[name]
        return self.data.qpos[address : address + 3]

    def cube_yaw(self, name: str) -> float:
        address = self._cube_qpos[name]
        w, x, y, z = self.data.qpos[address + 3 : address + 7]
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    def place_of(self, name: str) -> np.ndarray:
        return self.data.mocap_pos[self._mocap[name]]

    @property
    def opening(self) -> float:
        return float((self.data.qpos[self._gripper_qpos] - self._closed) / (self._opened - self._closed))

    @property
    def released(self) -> bool:
        return self.opening > self._release

    def let_go(self, cube: str) -> bool:
        """The hand is open, or away from the cube."""
        return self.released or bool(np.linalg.norm(self.cube(cube) - self.end_effector) > 1.5 * self.scene.cube)

    def held(self, cube: str) -> bool:
        """Off the table, between the fingers."""
        position = self.cube(cube)
        lifted = position[2] > self.scene.cube * 0.75
        return bool(lifted and np.linalg.norm(position - self.end_effector) < self.scene.cube and not self.released)

    def state(self) -> np.ndarray:
        """What training labels speak of, in the order of whetstone.demonstrations.STATE_NAMES."""
        places = [self.place_of(name) for name in ("tray", "mark", "button_base")]
        flags = [self.opening, float(self.held("red_cube")), float(self.held("blue_cube"))]
        return np.concatenate([self.end_effector, self.cube("red_cube"), self.cube("blue_cube"), *places, flags]).astype(np.float32)

    def set_gripper(self, position: float) -> None:
        for address, opened in self._fingers:
            self.data.qpos[address] = opened
        self.data.qpos[self._gripper_qpos] = position

    @property
    def objects(self) -> tuple[str, ...]:
        """Everything that a layout places."""
        return (*self._cube_qpos, *self._mocap)

    def poses(self, layout: dict[str, tuple[float, float, float]]) -> dict[str, np.ndarray]:
        """layout: object -> (x, y, yaw). Returns object -> (7,) x, y, z (m), w, x, y, z."""
        high = {name: self.scene.cube / 2 + 0.001 for name in self._cube_qpos}
        return {name: np.array([x, y, high.get(name, 0.0), np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]) for name, (x, y, yaw) in layout.items()}

    def place(self, layout: dict[str, tuple[float, float, float]]) -> None:
        """layout: object -> (x, y, yaw)."""
        for name, pose in self.poses(layout).items():
            self.put(name, pose)

    def put(self, name: str, pose: np.ndarray) -> None:
        """pose: (7,) x, y, z (m), w, x, y, z. A cube keeps its velocity; what stands keeps its direction."""
        if name in self._cube_qpos:
            address = self._cube_qpos[name]
            self.data.qpos[address : address + 7] = pose
        else:
            self.data.mocap_pos[self._mocap[name]] = pose[:3]


def sample_layout(ranges: dict[str, Any], scene: Scene, task: TaskSpec, rng: np.random.Generator) -> dict[str, tuple[float, float, float]]:
    """Object -> (x, y, yaw) in the world frame (m, rad), clear of each other.

    ranges: object -> {x: [low, high], y: [low, high]} from the robot profile.
    """
    margins = {"red_cube": 0.75 * scene.cube, "blue_cube": 0.75 * scene.cube, "tray": 0.75 * scene.tray, "button_base": 1.8 * scene.button}
    far = float(task.scene.get("mark_distance", 0.0)) * scene.cube
    for _ in range(1000):
        layout: dict[str, tuple[float, float, float]] = {}
        for name in ("tray", "button_base", "red_cube", "blue_cube", "mark"):
            span = ranges[name]
            yaw = float(rng.uniform(-1, 1)) * float(ranges["cube_yaw"]) if name.endswith("cube") else 0.0
            layout[name] = (float(rng.uniform(*span["x"])), float(rng.uniform(*span["y"])), yaw)
        gaps = [
            np.hypot(layout[a][0] - layout[b][0], layout[a][1] - layout[b][1]) - margins[a] - margins[b] - float(ranges["clearance"])
            for index, a in enumerate(margins)
            for b in list(margins)[index + 1 :]
        ]
        red, mark, blue, tray = layout["red_cube"], layout["mark"], layout["blue_cube"], layout["tray"]
        pushed = np.hypot(red[0] - mark[0], red[1] - mark[1])
        clear = min(np.hypot(mark[0] - other[0], mark[1] - other[1]) for other in (blue, tray)) > scene.mark + scene.cube
        if min(gaps) > 0 and (far == 0 or (pushed > far and clear and _path_clear(red, mark, blue, 2.0 * scene.cube))):
            return layout
    raise ConfigError(f"task '{task.name}': no collision-free layout in 1000 tries; widen `layout` in the robot profile")


def _path_clear(start: tuple[float, ...], end: tuple[float, ...], obstacle: tuple[float, ...], distance: float) -> bool:
    a, b, c = (np.array(point[:2]) for point in (start, end, obstacle))
    along = np.clip((c - a) @ (b - a) / ((b - a) @ (b - a)), -0.6, 1.2)  # the arm also needs room behind the cube
    return bool(np.linalg.norm(c - (a + along * (b - a))) > distance)


class Condition(Protocol):
    def update(self) -> None: ...

    def truth(self) -> Truth: ...


class Reach:
    """The fingertips are at the cube's top."""

    def __init__(self, world: World, cube: str):
        self._world, self._cube = world, cube
        self._first = max(self._distance(), 0.05)

    def _distance(self) -> float:
        top = self._world.cube(self._cube) + [0, 0, self._world.scene.cube * 0.9]
        return float(np.linalg.norm(self._world.end_effector - top))

    def update(self) -> None:
        pass

    def truth(self) -> Truth:
        near = self._world.scene.cube * 0.55
        distance = self._distance()
        done = distance < near
        progress = 1.0 if done else 0.95 * (1 - np.clip((distance - near) / (self._first - near), 0, 1))
        return Truth(done, int(done), 1, float(progress), "null" if done else "reach")


class Push:
    """The cube lies on the mark, pushed there along the table."""

    def __init__(self, world: World, cube: str):
        self._world, self._cube = world, cube
        self._first = self._to_mark()
        self._first_reach = max(self._to_cube(), 0.05)

    def _to_mark(self) -> float:
        return float(np.linalg.norm((self._world.cube(self._cube) - self._world.place_of("mark"))[:2]))

    def _to_cube(self) -> float:
        return float(np.linalg.norm(self._world.end_effector - self._world.cube(self._cube)))

    def update(self) -> None:
        pass

    def truth(self) -> Truth:
        scene = self._world.scene
        on_table = self._world.cube(self._cube)[2] < scene.cube * 0.7
        distance = self._to_mark()
        done = bool(distance < scene.mark * 0.9 and on_table)
        touch = scene.cube * 1.3
        reach = 1 - np.clip((self._to_cube() - touch) / (self._first_reach - touch), 0, 1)
        moved = 1 - np.clip((distance - scene.mark * 0.9) / (self._first - scene.mark * 0.9), 0, 1)
        pushing = self._to_cube() < touch * 1.3
        progress = 1.0 if done else max(0.3 * reach, 0.3 + 0.65 * moved if moved > 0.05 else 0.0)
        return Truth(done, int(done), 1, float(progress), "null" if done else "push" if pushing else "reach")


class Carry:
    """The cube was picked up and lies, released, in the tray or on the other cube."""

    def __init__(self, world: World, cube: str, destination: str):
        self._world, self._cube, self._destination = world, cube, destination
        self._first_reach = max(float(np.linalg.norm(world.end_effector - world.cube(cube))), 0.05)
        self._first_carry = max(float(np.linalg.norm((world.cube(cube) - self._target())[:2])), 0.05)

    def _target(self) -> np.ndarray:
        if self._destination == "tray":
            return self._world.place_of("tray") + [0, 0, self._world.scene.cube / 2]
        return self._world.cube(self._destination) + [0, 0, self._world.scene.cube]

    def update(self) -> None:
        pass

    def arrived(self) -> bool:
        scene, world = self._world.scene, self._world
        offset = world.cube(self._cube) - self._target()
        if self._destination == "tray":
            inside = max(abs(offset[0]), abs(offset[1])) < scene.tray / 2 and offset[2] < scene.cube * 0.4
        else:
            inside = np.linalg.norm(offset[:2]) < scene.cube * 0.5 and abs(offset[2]) < scene.cube * 0.25
        return bool(inside and world.let_go(self._cube))

    def truth(self) -> Truth:
        world, scene = self._world, self._world.scene
        if self.arrived():
            return Truth(True, 2, 2, 1.0, "null")
        cube = world.cube(self._cube)
        offset = cube - self._target()
        near = scene.cube * 0.6
        over = bool(np.linalg.norm(offset[:2]) < (scene.tray / 2 if self._destination == "tray" else scene.cube * 0.6))
        if world.held(self._cube):
            carried = 1 - np.clip(np.linalg.norm(offset[:2]) / self._first_carry, 0, 1)
            lift = np.clip((cube[2] - scene.cube / 2) / scene.cube, 0, 1)
            lowered = np.clip(1 - offset[2] / (3 * scene.cube), 0, 1) if over else 0.0
            return Truth(False, 1, 2, float(0.35 + 0.05 * lift + 0.4 * carried + 0.12 * lowered), "place" if over else "transport")
        if over and offset[2] > -scene.cube * 0.2 and self._destination == "tray":
            return Truth(False, 1, 2, 0.9, "place")  # leaving the hand, or not yet at rest
        distance = float(np.linalg.norm(world.end_effector - cube))
        reach = 1 - np.clip((distance - near) / (self._first_reach - near), 0, 1)
        return Truth(False, 0, 2, float(0.3 * reach), "grasp" if distance < 2 * near else "reach")


class CarryThenPress:
    """The cube lies in the tray, and after that the button was pressed."""

    def __init__(self, world: World, cube: str):
        self._world = world
        self._carry = Carry(world, cube, "tray")
        self._pressed = False
        self._first: float | None = None

    def _to_button(self) -> float:
        top = self._world.place_of("button_base") + [0, 0, 0.03]
        return float(np.linalg.norm(self._world.end_effector - top))

    def update(self) -> None:
        if not self._carry.arrived():
            self._pressed, self._first = False, None
            return
        if self._first is None:
            self._first = max(self._to_button(), 0.05)
        offset = self._world.end_effector - self._world.place_of("button_base")
        if np.linalg.norm(offset[:2]) < self._world.scene.button * 1.2 and offset[2] < 0.042:
            self._pressed = True

    def truth(self) -> Truth:
        carry = self._carry.truth()
        if not carry.success:
            return Truth(False, carry.stage, 3, 0.65 * carry.progress, carry.primitive)
        if self._pressed:
            return Truth(True, 3, 3, 1.0, "null")
        assert self._first is not None, "update() runs after every step"
        near = 1 - np.clip(self._to_button() / self._first, 0, 1)
        return Truth(False, 2, 3, float(0.65 + 0.3 * near), "press")


def make_condition(task: TaskSpec, world: World) -> Condition:
    """The condition that the task's data names, started on the world as it is now."""
    kind, cube = task.scene["condition"], task.scene["cube"]
    if kind == "reach":
        return Reach(world, cube)
    if kind == "push":
        return Push(world, cube)
    if kind == "carry":
        return Carry(world, cube, task.scene["destination"])
    if kind == "carry_then_press":
        return CarryThenPress(world, cube)
    raise ConfigError(f"task '{task.name}': condition '{kind}' is unknown; known: reach, push, carry, carry_then_press")
