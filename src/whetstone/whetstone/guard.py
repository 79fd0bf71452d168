"""The guard: the last look at a command before it leaves the process.

Role: pure function of the wanted command, the measured state and the previous result. Whatever comes in, what goes out is
finite and inside the limits; what it changed or refused is named. Depends on numpy and a RobotProfile, and on kinematics.py where the
profile has a workspace.

Of two limits that contradict each other the first in this order wins: position limits, step from the measured position,
velocity, acceleration, workspace. Near a position limit the velocity is kept low enough to stop before it. A command from which the arm
could not brake inside the workspace is replaced by braking, which the command before it left possible: so none of the limits gives way.

Whoever takes a command goes there within one control period, however long ago the one before it was: so a late command reaches no further
than one in time, and after a pause the arm starts from rest. A hold is a brake too. It begins at the last command, not where the arm is
measured: that is behind, by the lag of an arm that moves and by the sag of one that carries its own weight, which would be followed down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from whetstone.profile import RobotProfile

_CHANGED = 1e-6  # rad: smaller corrections are rounding and not reported
_BRAKING_STEPS = 20  # points at most at which the way to rest is looked at
_SHORTEST = 1e-6  # s: between two commands
_PAUSE = 2.0  # control periods without a command after which the arm has come to rest


@dataclass(frozen=True)
class GuardResult:
    """What to send.

    command: (joints + 1,) float64: joint positions (rad), then gripper opening in [0, 1]; finite and within limits.
    velocity: (joints,) float64 rad/s that leads from the previous command to this one.
    held: the wanted command was refused and replaced by coming to rest, and staying there.
    reasons: e.g. "velocity: fer_joint4", "stale observation 0.31 s".
    send: False where nothing is known about where the arm is: send nothing at all.
    """

    command: np.ndarray
    velocity: np.ndarray
    held: bool
    reasons: tuple[str, ...]
    send: bool = True


class Reach(Protocol):
    """What whetstone.kinematics.Workspace is."""

    def excess(self, joints: np.ndarray) -> tuple[float, str]: ...


class Guard:
    """Checks commands against a profile's limits. Holds no state: the caller hands back the previous result."""

    def __init__(self, profile: RobotProfile, workspace: Reach | None = None) -> None:
        """workspace: instead of the profile's. Raises as whetstone.kinematics."""
        if workspace is None and profile.guard.workspace is not None:
            from whetstone.kinematics import Workspace

            workspace = Workspace(profile)
        self._workspace = workspace
        self._names = profile.joint_names
        self._lower, self._upper = profile.lower, profile.upper
        self._velocity, self._acceleration = profile.velocity, profile.acceleration
        self._home, self._period = profile.home, profile.period
        self._max_step = profile.guard.max_step
        self._stale_after = profile.guard.stale_after

    def check(
        self,
        target: np.ndarray,
        measured: np.ndarray,
        previous: GuardResult | None = None,
        dt: float = 0.0,
        observation_age: float = 0.0,
    ) -> GuardResult:
        """One command.

        target: (joints + 1,) wanted joint positions (rad) and gripper opening. measured: (joints + 1,) proprioception.
        previous: result of the command before, None at the start of an episode (the arm rests at `measured`).
        dt: s from the previous command to this one. observation_age: s from the observation behind `target` to now.
        """
        here = self._row(measured)
        if here is None:
            return self.hold(f"measured state is not {len(self._names) + 1} finite numbers", measured, previous, dt)
        if not abs(observation_age) <= self._stale_after:
            return self.hold(f"stale observation {observation_age:.2f} s", measured, previous, dt)
        if not _SHORTEST <= dt < math.inf:
            return self.hold(f"control period of {dt} s", measured, previous, dt)
        wanted = self._row(target)
        if wanted is None:
            return self.hold(self._refusal(target), measured, previous, dt)
        return self._limit(wanted, self._inside(here), previous, dt)

    def hold(self, reason: str, measured: np.ndarray, previous: GuardResult | None = None, dt: float = 0.0) -> GuardResult:
        """Come to rest instead of any command, and stay there. Arguments as of `check`; a `measured` that is none limits nothing."""
        count, here = len(self._names), self._row(measured)
        previous = previous if previous is not None and previous.send else None
        rest = None if here is None else self._inside(here)
        if previous is None:
            known = np.append(self._home, 1.0) if rest is None else rest
            return GuardResult(known, np.zeros(count), True, (reason,), rest is not None)
        last, speed, dt = self._before(previous, dt if _SHORTEST <= dt < math.inf else self._period)
        command = previous.command.copy()
        command[:count] = last + _slower(speed, self._acceleration * dt) * dt
        if rest is not None:
            command[:count] = np.clip(command[:count], rest[:count] - self._max_step, rest[:count] + self._max_step)
        command[:count] = np.clip(command[:count], self._lower, self._upper)
        velocity = np.clip((command[:count] - last) / dt, -self._velocity, self._velocity)
        return GuardResult(command, velocity, True, (reason,))

    def _before(self, previous: GuardResult, dt: float) -> tuple[np.ndarray, np.ndarray, float]:
        """The command before (rad), the speed that the arm has from it (rad/s), and the seconds that the next one has."""
        speed = previous.velocity if dt <= _PAUSE * self._period else np.zeros(len(self._names))
        return previous.command[: len(self._names)], speed, min(dt, self._period)

    def _limit(self, wanted: np.ndarray, rest: np.ndarray, previous: GuardResult | None, dt: float) -> GuardResult:
        count = len(self._names)
        reasons: list[str] = []
        if previous is None or not previous.send:
            last, speed, dt = rest[:count], np.zeros(count), min(dt, self._period)
        else:
            last, speed, dt = self._before(previous, dt)
        # Velocity that still lets the arm stop at the limit: braking by a * dt per period covers v^2 / 2a + v dt / 2.
        brake = self._acceleration * dt / 2
        up = np.sqrt(brake**2 + 2 * self._acceleration * np.maximum(self._upper - last, 0)) - brake
        down = np.sqrt(brake**2 + 2 * self._acceleration * np.maximum(last - self._lower, 0)) - brake
        limits = (
            ("acceleration", last + (speed - self._acceleration * dt) * dt, last + (speed + self._acceleration * dt) * dt),
            ("velocity", last - np.minimum(self._velocity, down) * dt, last + np.minimum(self._velocity, up) * dt),
            ("step", rest[:count] - self._max_step, rest[:count] + self._max_step),
            ("position", self._lower, self._upper),
        )
        command = np.empty(count + 1)
        command[:count] = wanted[:count]
        # Clipping by the strongest limit last lets it win.
        for name, low, high in limits:
            clipped = np.clip(command[:count], low, high)
            for joint in np.flatnonzero(np.abs(clipped - command[:count]) > _CHANGED):
                reasons.append(f"{name}: {self._names[joint]}")
            command[:count] = clipped
        command[count] = min(max(wanted[count], 0.0), 1.0)
        if self._workspace is not None:
            before, _ = self._workspace.excess(last)
            worst, side = self._braking(self._workspace, command[:count], (command[:count] - last) / dt, dt)
            if worst > before + _CHANGED:
                command[:count] = last + _slower(speed, self._acceleration * dt) * dt
                for _, low, high in limits[2:]:
                    command[:count] = np.clip(command[:count], low, high)
                reasons.append(f"workspace: {side}")
        velocity = (command[:count] - last) / dt
        return GuardResult(command, np.clip(velocity, -self._velocity, self._velocity), False, tuple(reasons))

    def _braking(self, workspace: Reach, arm: np.ndarray, speed: np.ndarray, dt: float) -> tuple[float, str]:
        """The furthest outside that the end effector is on the way from here to rest, braking all the time."""
        dt = max(dt, float((self._velocity / self._acceleration).max()) / _BRAKING_STEPS)
        speed = np.clip(speed, -self._velocity, self._velocity)
        found = workspace.excess(arm)
        while speed.any():
            speed = _slower(speed, self._acceleration * dt)
            arm = np.clip(arm + speed * dt, self._lower, self._upper)
            found = max(found, workspace.excess(arm))
        return found

    def _row(self, values: np.ndarray) -> np.ndarray | None:
        try:
            row = np.asarray(values, np.float64)
        except (TypeError, ValueError):
            return None
        return row if row.shape == (len(self._names) + 1,) and np.isfinite(row).all() else None

    def _refusal(self, target: np.ndarray) -> str:
        try:
            row = np.asarray(target, np.float64)
        except (TypeError, ValueError):
            return "shape: the command is not an array of numbers"
        if row.shape != (len(self._names) + 1,):
            return f"shape: the command is {row.shape}, not ({len(self._names) + 1},)"
        bad = np.flatnonzero(~np.isfinite(row))
        return "not finite: " + ", ".join((*self._names, "gripper")[i] for i in bad)

    def _inside(self, row: np.ndarray) -> np.ndarray:
        return np.append(np.clip(row[:-1], self._lower, self._upper), min(max(row[-1], 0.0), 1.0))


def put_elsewhere(profile: RobotProfile, before: np.ndarray, now: np.ndarray) -> bool:
    """Whether the arm is further from where it was measured before than any command may be: nobody sent it there, a simulator was reset.
    before, now: (joints,) rad, of two joint states that follow each other."""
    return bool((np.abs(now - before) > profile.guard.max_step).any())


def _slower(speed: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Each joint's speed, rad/s, nearer to rest."""
    return np.sign(speed) * np.maximum(np.abs(speed) - by, 0.0)
