"""What belongs to one control step: the images of several cameras, and the joint states.

Role: joins parts by control step, says which sets are due and whole, and makes arrays of their messages. The reward node's frames and those
of a bag or of stored episodes go through the same code, so that a model sees the same. Does not depend on ROS or on a model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from whetstone.contracts import PROPRIOCEPTION, RewardNeeds
from whetstone.images import Resize, fitted, to_array
from whetstone.profile import RobotProfile

P = TypeVar("P")


@dataclass
class FrameSet(Generic[P]):
    """Parts of one control step by name: of each camera its image, PROPRIOCEPTION the joint states. stamp: ns, of the first camera's image;
    arrived: s of the monotonic clock."""

    parts: dict[str, P] = field(default_factory=dict)
    stamp: int = 0
    arrived: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Joined(Generic[P]):
    """What came of a part. due: its control step is one of those wanted; whole: the set that it completed; given_up: older ones that never
    will be whole, for parts come in their order."""

    due: bool
    whole: FrameSet[P] | None = None
    given_up: tuple[FrameSet[P], ...] = ()


class FrameSets(Generic[P]):
    """The sets of one episode that are due: those of every `every`-th control step, each once.

    parts: names of all that a set holds, the first camera first; rate: control steps per second.
    """

    def __init__(self, parts: Sequence[str], rate: float, every: int) -> None:
        self.parts, self.rate, self.every = tuple(parts), rate, every
        self.begin(0)

    def begin(self, start: int) -> None:
        """Another episode. start: ns, of its control step 0."""
        self.start, self.done = start, -1
        self.pending: dict[int, FrameSet[P]] = {}

    def index(self, stamp: int) -> int:
        """Control step of a stamp."""
        return round((stamp - self.start) * self.rate / 1e9)

    def take(self, part: str, stamp: int, payload: P) -> Joined[P]:
        """A part as it comes; the last of its step counts until the set is whole."""
        index = self.index(stamp)
        if index % self.every or index < 0 or index <= self.done:
            return Joined(False)
        frames = self.pending.setdefault(index, FrameSet())
        frames.parts[part] = payload
        if part == self.parts[0] or not frames.stamp:
            frames.stamp = stamp
        if len(frames.parts) < len(self.parts):
            return Joined(True)
        older = tuple(self.pending.pop(key) for key in sorted(key for key in self.pending if key < index))
        del self.pending[index]
        self.done = index
        return Joined(True, frames, older)

    def give_up(self, before: float) -> list[FrameSet[P]]:
        """Those that began to come before this time of the monotonic clock and are not whole, oldest first: they are not waited for."""
        return self._give_up(key for key, frames in self.pending.items() if frames.arrived < before)

    def overtaken(self, stamp: int) -> list[FrameSet[P]]:
        """Those of control steps before a stamp (ns) that are not whole, oldest first: they are not waited for."""
        index = self.index(stamp)
        return self._give_up(key for key in self.pending if key < index)

    def _give_up(self, indices: Iterable[int]) -> list[FrameSet[P]]:
        late = sorted(indices)
        self.done = max([self.done, *late])
        return [self.pending.pop(key) for key in late]

    def missing(self, frames: FrameSet[P]) -> str:
        """The first part that a set lacks."""
        return next(name for name in self.parts if name not in frames.parts)


def parts_of(needs: RewardNeeds) -> tuple[str, ...]:
    """What a set holds for a reward model."""
    return (*needs.cameras, *([PROPRIOCEPTION] if needs.proprioception else []))


def decoded(
    parts: Mapping[str, Any], cameras: Sequence[str], size: tuple[int, int] | None, profile: RobotProfile, resize: Resize = "no"
) -> dict[str, np.ndarray]:
    """What a model is shown: camera -> (height, width, 3) uint8 RGB, and PROPRIOCEPTION -> (joints + 1,) where there are joint states.

    parts: of one set: messages with the fields of sensor_msgs, or arrays that are these already. size: (height, width) that every image
    must have; None: any. resize: what is done with another one. Raises InputError naming the part that cannot be read.
    """
    seen = {}
    for name in cameras:
        image = parts[name] if isinstance(parts[name], np.ndarray) else to_array(parts[name], name)
        seen[name] = image if size is None else fitted(image, *size, name, resize)
    joints = parts.get(PROPRIOCEPTION)
    if joints is not None:
        seen[PROPRIOCEPTION] = joints if isinstance(joints, np.ndarray) else profile.proprioception(list(joints.name), joints.position)
    return seen
