"""Scripted experts with human faults: they make the demonstrations that policies imitate and reward models learn from.

Role: watch the simulated world, give joint targets. An expert sees ground truth, so it never runs in the loop. Does not depend
on rendering or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robot_bringup.sim.kinematics import InverseKinematics
from robot_bringup.sim.simulation import Simulation
from whetstone.task import TaskSpec

DOWN = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True)
class Faults:
    """How a demonstrator errs.

    aim: standard deviation (in cube edges) of where it grasps, drawn once per try. habit: where it grasps on average, in cube edges
    off the middle (x, y of the world). jitter: standard deviation (m) of a slowly varying error of the hand's path. speed: range of
    the episode's speed factor. pause: chance per step to stop for a while. blind: goes on without noticing a missed grasp. miss:
    aims this many cube edges beside the cube (the first time only, unless blind). drop: opens the hand on the way. stray: lets go
    this many tray edges beside the goal. other: takes the other cube. stop: stops after this share of max_steps.
    """

    aim: float = 0.0
    habit: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0
    speed: tuple[float, float] = (1.0, 1.0)
    pause: float = 0.0
    blind: bool = False
    miss: float = 0.0
    drop: bool = False
    stray: float = 0.0
    other: bool = False
    stop: float = 1.0


class Expert:
    """A small state machine over hand waypoints; tries again when a grasp failed (unless blind)."""

    def __init__(self, sim: Simulation, task: TaskSpec, faults: Faults, seed: int):
        assert sim.profile.sim is not None, "a simulation has a sim section"
        settings = sim.profile.sim.model["expert"]
        self._sim, self._task, self._faults = sim, task, faults
        self._world, self._scene = sim.world, sim.scene
        self._rng = np.random.default_rng([seed, 11])
        self._ik = InverseKinematics(sim.model, sim.qpos_addresses, sim.dof_addresses, settings["orientation_weight"])
        self._joints = sim.joint_targets
        self._position, _ = self._ik.pose(self._joints)
        self._stride = settings["speed"] / sim.profile.rate * self._rng.uniform(*faults.speed)
        self._ramp = settings["acceleration"] / sim.profile.rate**2  # m per period, per period
        self._velocity = np.zeros(3)
        self._hover = settings["hover"] * sim.scene.cube
        self._grasp_height = settings["grasp_height"]
        self._close_steps, self._open_steps = settings["close_steps"], settings["open_steps"]
        self._closed_opening = settings["closed_opening"]
        self._open_opening = settings.get("open_opening", 1.0)
        self._drift = np.zeros(3)
        self._opening = self._open_opening
        self._phase, self._since, self._pausing, self._step = "start", 0, 0, 0
        self._yaw: float | None = None
        self._drop_at = self._rng.uniform(0.55, 0.85)
        cube = task.scene["cube"]
        self._cube = {"red_cube": "blue_cube", "blue_cube": "red_cube"}[cube] if faults.other else cube
        self._new_aim()

    def _new_aim(self) -> None:
        direction = self._rng.uniform(0, 2 * np.pi)
        again = self._step > 0 and not self._faults.blind
        miss = (0.0 if again else self._faults.miss) * np.array([np.cos(direction), np.sin(direction)])
        self._aim = np.append((self._rng.normal(self._faults.habit, self._faults.aim, 2) + miss) * self._scene.cube, 0.0)

    def _enter(self, phase: str) -> None:
        self._phase, self._since = phase, 0

    def act(self) -> tuple[np.ndarray, float]:
        """Joint targets (n,) rad in the driver's convention and a gripper opening, for the next control period."""
        self._step += 1
        self._since += 1
        if self._step > self._faults.stop * self._task.max_steps:
            return self._sim.to_driver(self._joints), self._opening
        if self._pausing > 0:
            self._pausing -= 1
            return self._sim.to_driver(self._joints), self._opening
        if self._rng.random() < self._faults.pause:
            self._pausing = int(self._rng.integers(3, 9))
        kind = self._task.scene["condition"]
        waypoint = {"reach": self._reach, "push": self._push, "carry": self._carry, "carry_then_press": self._carry_then_press}[kind]()
        self._drift = 0.9 * self._drift + self._rng.normal(0, 1, 3) * self._faults.jitter * np.sqrt(1 - 0.81)
        gap = waypoint - self._position
        distance = float(np.linalg.norm(gap))
        # Speed changes by no more than a hand's acceleration: a command that the guard must cut is a bad example.
        stride = self._stride * (0.4 if self._phase == "push" else 1.0)
        wanted = gap / max(distance, 1e-9) * min(stride, float(np.sqrt(2 * self._ramp * distance)), distance)
        change = wanted - self._velocity
        size = float(np.linalg.norm(change))
        self._velocity = self._velocity + change * min(1.0, self._ramp / max(size, 1e-9))
        self._position = self._position + self._velocity
        self._joints = self._ik.solve(self._joints, self._position + self._drift, DOWN, self._yaw)
        return self._sim.to_driver(self._joints), self._opening

    def _near(self, point: np.ndarray, tolerance: float = 0.006) -> bool:
        return bool(np.linalg.norm(self._position - point) < tolerance)

    def _cube_top(self, height: float) -> np.ndarray:
        return np.append(self._world.cube(self._cube)[:2], 0.0) + self._aim + [0, 0, height]

    def _align(self) -> None:
        """Turn the fingers to the cube's faces by the smaller angle."""
        _, rotation = self._ik.pose(self._joints)
        present = np.arctan2(rotation[1, 0], rotation[0, 0])
        quarter = np.pi / 2
        wanted = self._world.cube_yaw(self._cube)
        self._yaw = float(present + (wanted - present + quarter / 2) % quarter - quarter / 2)

    def _reach(self) -> np.ndarray:
        return self._cube_top(self._scene.cube * 1.4)

    def _push(self) -> np.ndarray:
        cube, mark = self._world.cube(self._cube)[:2], self._world.place_of("mark")[:2]
        direction = (mark - cube) / max(float(np.linalg.norm(mark - cube)), 1e-6)
        behind = cube - direction * self._scene.cube * 1.6 + self._aim[:2] * 0.5
        low, high = self._scene.cube * 0.55, self._hover + self._scene.cube
        self._opening = self._closed_opening
        if self._phase == "start":
            target = np.append(behind, high)
            if self._near(target, 0.01):
                self._enter("down")
            return target
        if self._phase == "down":
            target = np.append(behind, low)
            if self._near(target) or self._since > 30:
                self._enter("push")
            return target
        if self._phase == "push":
            offset = self._world.end_effector[:2] - cube  # where the hand is, not where it was sent: it lags
            side = float(np.linalg.norm(offset - (offset @ direction) * direction))
            reached = np.linalg.norm(mark - cube) < self._scene.mark * 0.6
            if reached:
                self._enter("up")
            elif (side > self._scene.cube * 0.6 or self._since > 80) and not self._faults.blind:
                self._new_aim()
                self._enter("lift")
            # Forward only as far as the hand is behind the cube: pushed off centre, a cube leaves sideways.
            left = float(np.linalg.norm(mark - cube))
            forward = min(0.03, left) * max(0.0, 1 - side / (0.4 * self._scene.cube)) + self._faults.stray * self._scene.tray
            return np.append(cube + direction * (forward - self._scene.cube * 0.75), low)
        target = np.append(self._position[:2], high)
        if self._phase == "lift" and self._near(target, 0.02):
            self._enter("start")
        return target

    def _carry_then_press(self) -> np.ndarray:
        if self._phase not in ("button", "press", "rest"):
            target = self._carry()
            if self._phase == "retreat" and (self._near(target, 0.02)):
                self._enter("button")
            return target
        button = self._world.place_of("button_base")
        self._opening = self._closed_opening
        offset = np.append(self._faults.stray * self._scene.tray * np.ones(2), 0.0)
        if self._phase == "button":
            target = button + offset + [0, 0, self._hover + 0.05]
            if self._near(target, 0.01):
                self._enter("press")
            return target
        if self._phase == "press":
            target = button + offset + [0, 0, 0.032]
            if self._since > 14:  # the hand lags behind its target: wait on the button
                self._enter("rest")
            return target
        return button + offset + [0, 0, self._hover + 0.03]

    def _carry(self) -> np.ndarray:
        scene, world = self._scene, self._world
        if self._task.scene["condition"] == "carry" and self._task.scene["destination"] != "tray":
            base = world.cube("blue_cube" if self._cube == "red_cube" else "red_cube")
            goal, floor = base[:2].copy(), base[2] + scene.cube / 2
        else:
            goal, floor = world.place_of("tray")[:2].copy(), 0.004
        goal = goal + self._faults.stray * scene.tray * np.array([-0.7, -0.7])
        carry_height = self._hover + max(scene.tray_wall, floor) + scene.cube
        grip = self._cube_top(self._grasp_height)
        if self._phase == "start":
            self._opening = self._open_opening
            if self._since == 1:
                self._align()
            target = grip + [0, 0, self._hover]
            if self._near(target, 0.012):
                self._enter("down")
            return target
        if self._phase == "down":
            if self._near(grip, 0.004) or self._since > 40:
                self._grip = grip
                self._enter("close")
            return grip
        if self._phase == "close":
            self._opening = self._closed_opening
            if self._since > self._close_steps:
                self._lift = np.append(self._grip[:2], carry_height)
                self._enter("lift")
            return self._grip
        if self._phase in ("lift", "carry") and not self._faults.blind and self._since > 6 and not self._holding():
            self._new_aim()
            self._enter("start")
            self._opening = self._open_opening
            return self._position + [0, 0, 0.02]
        if self._phase == "lift":
            if self._near(self._lift, 0.02):
                self._span = max(float(np.linalg.norm(goal - self._position[:2])), 0.01)
                self._enter("carry")
            return self._lift
        if self._phase == "carry":
            target = np.append(goal, carry_height)
            if self._faults.drop and np.linalg.norm(goal - self._position[:2]) < self._span * self._drop_at:
                self._opening = self._open_opening
            if self._near(target, 0.012):
                self._enter("lower")
            return target
        if self._phase == "lower":
            target = np.append(goal, floor + self._grasp_height + 0.006)
            if self._near(target, 0.006) or self._since > 40:
                self._place = target
                self._enter("open")
            return target
        if self._phase == "open":
            self._opening = self._open_opening
            if self._since <= self._open_steps:
                return self._place
            self._enter("retreat")
        target = np.append(self._place[:2], carry_height)
        if self._near(target, 0.02) and not self._faults.blind and not self._sim.truth().stage >= 2:
            self._new_aim()
            self._enter("start")
        return target

    def _holding(self) -> bool:
        return bool(np.linalg.norm(self._world.cube(self._cube) - self._world.end_effector) < self._scene.cube * 1.2)
