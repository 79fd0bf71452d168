"""What the conformance kit saw of a running robot.

Role: plain data, filled in by observe.py and judged by checks.py, so that every check can be tested without ROS. Times of arrival are
seconds of a monotonic clock; stamps are integer ns as the robot wrote them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class End:
    """A publisher or subscription. node: with its namespace; type: package/msg/Name."""

    node: str
    type: str
    reliable: bool = True
    latched: bool = False


@dataclass(frozen=True)
class Joints:
    """One joint state. positions, velocities: rad (fingers: the driver's unit), as long as they came."""

    arrival: float
    stamp: int
    names: tuple[str, ...]
    positions: np.ndarray
    velocities: np.ndarray


@dataclass(frozen=True)
class Picture:
    """One image. wrong: why it cannot be read, empty if it can; spread: standard deviation of its values, 0 to 255."""

    arrival: float
    stamp: int
    width: int
    height: int
    encoding: str
    wrong: str = ""
    spread: float = 0.0


@dataclass(frozen=True)
class Tick:
    """One /clock."""

    arrival: float
    stamp: int


@dataclass(frozen=True)
class Reset:
    """One call of scene/reset. seed: -1 where it was asked for a task that does not exist. answered: within the time it had; ok, reason,
    start (ns): the answer; before: stamp of the last joint state before it, 0 if there was none; frames: stamps of those after the answer;
    arm (joints,) rad and pictures, camera -> (height, width, 3) uint8: stamped when the scene had settled, else left out."""

    task: str
    seed: int
    answered: bool
    ok: bool = False
    reason: str = ""
    start: int = 0
    before: int = 0
    frames: tuple[int, ...] = ()
    arm: np.ndarray | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Swing:
    """One joint was sent out by `by` rad and back, between two times of arrival; the others were told to stay."""

    joint: str
    by: float
    begin: float
    end: float


@dataclass(frozen=True)
class Beyond:
    """One joint was sent past its limit and back, between two times of arrival. side: -1 lower, +1 upper; target: rad."""

    joint: str
    side: int
    target: float
    begin: float
    end: float


@dataclass(frozen=True)
class Grip:
    """The gripper was sent to an opening in [0, 1]. answer: of the action, "reached", "stalled", "refused", "aborted" or "none"; empty
    where nobody answers (a topic). opening: measured at the end."""

    wanted: float
    answer: str
    opening: float


@dataclass
class Record:
    """publishers, subscribers: by topic as the profile names it, also of topics that nobody has (then empty lists). services, actions: name
    as the profile or Whetstone says it -> types offered. elsewhere: topics of the graph that end like a missing one. heard_from, heard_to:
    times of arrival of the listening, in which nothing was commanded. others: namespace of another robot -> its joint states during the
    swings. untried: name of a part -> why it was left out."""

    publishers: dict[str, list[End]] = field(default_factory=dict)
    subscribers: dict[str, list[End]] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=dict)
    actions: dict[str, list[str]] = field(default_factory=dict)
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    heard_from: float = 0.0
    heard_to: float = 0.0
    joints: list[Joints] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    clock: list[Tick] = field(default_factory=list)
    truths: list[int] = field(default_factory=list)
    resets: list[Reset] = field(default_factory=list)
    swings: list[Swing] = field(default_factory=list)
    beyond: Beyond | None = None
    grips: list[Grip] = field(default_factory=list)
    others: dict[str, list[Joints]] = field(default_factory=dict)
    untried: dict[str, str] = field(default_factory=dict)

    def heard(self) -> list[Joints]:
        """Joint states of the listening."""
        return [one for one in self.joints if self.heard_from <= one.arrival <= self.heard_to]

    def seen(self, camera: str) -> list[Picture]:
        """Images of the listening."""
        return [one for one in self.pictures.get(camera, []) if self.heard_from <= one.arrival <= self.heard_to]
