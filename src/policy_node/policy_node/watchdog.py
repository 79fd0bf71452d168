"""The watchdog's judgement: whether commands may go through to the arm, and how the arm is brought to rest where they may not.

Role: pure bookkeeping of when what was heard last, and arithmetic. What it is told comes from a process of its own (watchdog_node.py), for
it must outlive the policy's. Does not depend on ROS.

Once stopped it stays so, whatever gets better, until a human releases it; it cannot be released while what is wrong is still wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from whetstone.profile import RobotProfile

POLICY = "policy"
MODE = "robot mode"
FIRST_WORD = 5.0
"""s that commands are held back for who was never heard. Fast DDS was seen to take more than 0.3 s for one topic of a graph that is ready
otherwise, and an arm that never had a command rests."""
_ROUNDING = 1e-6  # rad
LOOKS = 8
"""Judgements that are asked for in a control period."""


class Watchdog:
    """patience: control periods after the last word of the policy by which the arm is being stopped.

    needed: parts without a word of which no command goes through, e.g. MODE. What was not heard yet may be still on its way to this
    process: commands are held back meanwhile, and the arm counts as stopped after FIRST_WORD.
    stopped: why, empty while commands go through. A part (camera, joint states) is watched once it was heard and while commands move the
    arm: from the first command of an episode to its end.
    """

    def __init__(self, profile: RobotProfile, patience: float = 2.0, needed: Sequence[str] = ()) -> None:
        self._needed = tuple(needed)
        self.stopped: tuple[str, ...] = ()
        self._names, self._max_step = profile.joint_names, profile.guard.max_step
        self._lower, self._upper = profile.lower - _ROUNDING, profile.upper + _ROUNDING
        self._policy = (patience - 1 / LOOKS) * profile.period  # one look early, so that the arm is stopped in time
        self._stale = profile.guard.stale_after
        self._heard: dict[str, float] = {}
        self._unfit: dict[str, str] = {}  # part -> what it says in place of what it ought to
        self._author: tuple[str, float] | None = None  # who commanded last, and when
        self._moving = False
        self._blind: float | None = None  # since when commands come without what must be known for them
        self._put = -math.inf  # when the arm was last found elsewhere

    def heard(self, part: str, now: float) -> None:
        """now: s of a steady clock."""
        self._heard[part] = now
        self._unfit.pop(part, None)

    def unfit(self, part: str, why: str, now: float) -> None:
        """It spoke, but of no use: it counts as silent, and who is told of that is told why."""
        self._heard.setdefault(part, now)
        self._unfit[part] = why

    def put_elsewhere(self, now: float) -> None:
        """The arm is not where it can have gone: a simulator was reset. A command that was on its way is for the arm of before."""
        self._put = now

    def rest(self) -> None:
        """No episode runs: nobody is expected to command."""
        self._moving = False
        self._heard.pop(POLICY, None)
        self._author = None

    def passes(self, command: np.ndarray, measured: np.ndarray | None, running: bool, now: float, author: str = "") -> bool:
        """Whether this command (joints,) rad may go to the driver; running: an episode does; author: the process that it comes from.

        One that is no finite number, outside the joints' limits or further from `measured` than the guard lets any be stops the arm: it
        never passed the guard; soon after the arm was put elsewhere it is held back and no more. So does one by another author than the
        last command's, unless that one is silent since.
        """
        if self.stopped:
            return False
        before, self._author = self._author, (author, now)
        if before is not None and before[0] != author and now - before[1] <= self._stale:
            self.stop("second publisher: two policies command the arm")
            return False
        unknown = self._never() if measured is not None else (*self._never(), "command: where the arm is is not known")
        if measured is None or unknown:
            self._blind = now if self._blind is None else self._blind
            if now - self._blind > FIRST_WORD:
                self.stop(unknown[0])
            return False
        self._blind = None
        if command.shape != measured.shape or not np.isfinite(command).all():
            self.stop("command: not finite, or of another arm")
        elif (outside := (command < self._lower) | (command > self._upper)).any():
            joint = int(outside.argmax())
            self.stop(f"command: {self._names[joint]} would go to {command[joint]:.2f} rad, outside its limits")
        elif (np.abs(command - measured) > 2 * self._max_step).any():  # the arm moves on while a command is under way
            if now - self._put <= self._stale:
                return False
            away = np.abs(command - measured)
            self.stop(f"command: {self._names[away.argmax()]} would jump by {away.max():.2f} rad")
        else:
            self._moving = self._moving or running
        return not self.stopped

    def wrong(self, now: float, found: Sequence[str] = ()) -> tuple[str, ...]:
        """What is not as it must be now, and what was found elsewhere to be so."""
        late = []
        for part, last in self._heard.items() if self._moving else ():
            limit = self._policy if part == POLICY else self._stale
            if now - last > limit:
                what = "no command" if part == POLICY else self._unfit.get(part, "nothing")
                late.append(f"{part}: {what} for {now - last:.2f} s")
        return (*found, *late)

    def look(self, now: float, found: Sequence[str] = ()) -> bool:
        """Judge. True where the arm has to be stopped just now."""
        if self.stopped or not (wrong := self.wrong(now, found)):
            return False
        self.stopped = wrong
        return True

    def stop(self, reason: str) -> bool:
        """True where it was not stopped before."""
        before, self.stopped = self.stopped, self.stopped or (reason,)
        return not before

    def told_more(self, kind: str, unknown: str, found: Sequence[str]) -> bool:
        """Where it was stopped for a reason of this kind (how it begins) with something `unknown` in it, say the one without that is found
        now instead. True where there is one."""
        better = [one for one in found if one.startswith(kind) and unknown not in one]
        vague = [one for one in self.stopped if one.startswith(kind) and unknown in one]
        if not better or not vague:
            return False
        self.stopped = tuple(better[0] if one in vague else one for one in self.stopped)
        return True

    def release(self, now: float, found: Sequence[str] = ()) -> tuple[bool, str]:
        """A human says that commands may go through again. Whether they do, and why not."""
        if not self.stopped:
            return False, "not stopped"
        if found := (*found, *self._never()):
            return False, f"still stopped: {'; '.join(found)}"
        silent = [part for part, last in self._heard.items() if part != POLICY and now - last > self._stale]
        if silent:
            said = [f"{self._unfit.get(part, 'nothing')} from {part}" for part in silent]
            return False, f"still stopped: {', '.join(said)}"
        self.stopped = ()
        self.rest()
        return True, "released"

    def _never(self) -> tuple[str, ...]:
        return tuple(f"{part}: never heard" for part in self._needed if part not in self._heard)


def braking(profile: RobotProfile, positions: np.ndarray, velocities: np.ndarray, within: float = 0.0) -> tuple[np.ndarray, float]:
    """Where the arm rests when all joints brake evenly from now, each at its limit or less: (joints,) rad within the position limits, and
    the seconds that it takes, at least one control period and `within`. positions (joints,) rad and velocities (joints,) rad/s of now.

    A cubic from (q, v) to (q + v T / 2, 0) in T has the constant deceleration v / T: what a trajectory controller makes of it is a brake.
    """
    speed = np.clip(np.nan_to_num(velocities), -profile.velocity, profile.velocity)
    seconds = max(profile.period, within, float((np.abs(speed) / profile.acceleration).max()))
    return np.clip(positions + speed * seconds / 2, profile.lower, profile.upper), seconds


def set_points(profile: RobotProfile, last: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """The same brake for a driver that draws no way to its target: (K, joints) rad, one for each control period from now, the last of them
    where the arm rests. last: (joints,) rad, the set-point that it follows now; velocities: (joints,) rad/s of the arm.

    It begins at the set-point in force, ahead of where the arm is measured, and at the arm's speed, so without a step: an arm that follows
    goes on following. rest + (last - rest) (1 - t/T)^2: constant deceleration.
    """
    _, seconds = braking(profile, last, velocities)
    count = max(1, int(np.ceil(seconds / profile.period - 1e-9)))
    rest, _ = braking(profile, last, velocities, count * profile.period)  # in whole periods, at the same speed in the first one
    share = 1 - np.arange(1, count + 1)[:, None] / count
    return rest + (last - rest) * share**2
