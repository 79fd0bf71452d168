"""A bag as what the robot said, control step by control step.

Role: from a bag to an episode and its steps in order of their stamps, the bytes as they were where the robot's nodes take them so, else
converted. Memory holds the steps that overlap in time, not the bag. Does not depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from whetstone.bags.files import bag_name
from whetstone.bags.messages import Message
from whetstone.bags.reader import Bag
from whetstone.bags.roles import IMAGE, Roles, instruction_of
from whetstone.cdr import stamp_of_raw, with_stamp
from whetstone.contracts import PROPRIOCEPTION
from whetstone.errors import InputError
from whetstone.images import Resize, fitted, to_array
from whetstone.profile import RobotProfile

HELD = 2_000_000_000
"""ns of log time by which a message may come after the first of a later step; later ones are said to be late and left out."""


@dataclass(frozen=True)
class Spoken:
    """The episode as the bag has it. start: ns, of control step 0; ours: it has an Episode message, else it was made up from the bag."""

    episode_id: str
    instruction: str
    seed: int
    start: int
    steps: int
    iteration: int = 0
    mode: int = 0
    greedy: bool = False
    ours: bool = True


@dataclass
class Step:
    """One control step. index: from the episode's start; logged: ns of log time of its first message; stamps: of each part, ns; parts:
    camera or PROPRIOCEPTION -> what is said: CDR, or an image or a joint state that must be serialised anew."""

    index: int
    logged: int = 0
    stamps: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def stamp(self) -> int:
        """Of the first camera's image, or of what there is."""
        return next(iter(self.stamps.values()))


@dataclass(frozen=True)
class Rebuilt:
    """A part that is not in the bag as our nodes take it. image: (height, width, 3) uint8 RGB; names, positions: of a joint state."""

    stamp: int
    image: Any = None
    names: tuple[str, ...] = ()
    positions: tuple[float, ...] = ()


class Script:
    """See the module. late: messages left out because they came too late to be in order."""

    def __init__(self, bag: Bag, roles: Roles, profile: RobotProfile, instruction: str = "", resize: Resize = "no") -> None:
        self.bag, self.roles, self.profile = bag, roles, profile
        self.resize: Resize = resize
        self.late = 0
        self._parts = {topic: name for name, topic in roles.cameras.items()}
        if roles.joint_states:
            self._parts[roles.joint_states] = PROPRIOCEPTION
        self.order: tuple[str, ...] = (*roles.cameras, *([PROPRIOCEPTION] if roles.joint_states else []))
        self.spoken = self._spoken(instruction)

    def steps(self) -> Iterator[Step]:
        """In order of their control step, each with what the bag has of it."""
        pending: dict[int, Step] = {}
        newest = done = -1
        for message in self.bag.messages(list(self._parts)):
            stamp = _stamp(message)
            index = round((stamp - self.spoken.start) * self.profile.rate / 1e9)
            if index < 0 or (self.spoken.ours and index > self.spoken.steps):
                continue
            if index <= done:
                self.late += 1
                continue
            step = pending.setdefault(index, Step(index, message.time_ns))
            part = self._parts[message.topic]
            if part not in step.parts:  # a simulator that waits says its frame again
                step.stamps[part], step.parts[part] = stamp, self._part(part, message, stamp)
            newest = max(newest, message.time_ns)
            # By the log's clock alone: that of the headers may be another.
            last = max((key for key, one in pending.items() if one.logged < newest - HELD), default=-1)
            for ready in sorted(key for key in pending if key <= last):
                done = ready
                yield self._ordered(pending.pop(ready))
        for ready in sorted(pending):
            yield self._ordered(pending[ready])

    def _ordered(self, step: Step) -> Step:
        """The first camera first: it gives the step its stamp."""
        step.stamps = {name: step.stamps[name] for name in self.order if name in step.stamps}
        return step

    def _spoken(self, instruction: str) -> Spoken:
        topic = self.roles.own.get("episode")
        for message in self.bag.messages([topic]) if topic else ():
            said = message.decode()
            if said.phase == said.PHASE_RUNNING:
                start = said.start.sec * 10**9 + said.start.nanosec
                words = instruction or said.instruction
                return Spoken(
                    said.episode_id,
                    words,
                    int(said.seed),
                    start,
                    int(said.max_steps),
                    int(said.iteration),
                    int(said.mode),
                    bool(said.greedy),
                )
        words = instruction or instruction_of(self.bag, self.roles.mapping)
        if not words:
            raise InputError(f"{self.bag.path}: nothing in the bag says what the robot was told; say it, instruction:='pick up the cup'")
        first = {topic: next(self.bag.messages([topic]), None) for topic in self.roles.cameras.values()}
        for topic, message in first.items():
            if message is None:
                raise InputError(f"{self.bag.path}: topic '{topic}' has no messages")
        start = max(_stamp(message) for message in first.values() if message is not None)
        steps = round((self.bag.end - self.bag.start) * self.profile.rate / 1e9) + 1
        name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in bag_name(self.bag.path)) or "bag"
        return Spoken(name, words, 0, start, steps, ours=False)

    def _part(self, part: str, message: Message, stamp: int) -> bytes | Rebuilt:
        if part == PROPRIOCEPTION:
            names = {theirs: ours for ours, theirs in self.roles.mapping.joints.items()}
            if not names:
                return with_stamp(message.data, stamp)
            said = message.decode()
            return Rebuilt(stamp, names=tuple(str(names.get(name, name)) for name in said.name), positions=tuple(map(float, said.position)))
        camera = self.profile.camera(part)
        said = message.decode()
        if message.type == IMAGE and said.encoding == "rgb8" and (said.height, said.width) == (camera.height, camera.width):
            return with_stamp(message.data, stamp)
        return Rebuilt(stamp, fitted(to_array(said, part), camera.height, camera.width, part, self.resize))


def _stamp(message: Message) -> int:
    """Of its header; where that is zero, when it was recorded. ns."""
    try:
        return stamp_of_raw(message.data) or message.time_ns
    except InputError as error:
        raise InputError(f"topic '{message.topic}': {error}") from None
