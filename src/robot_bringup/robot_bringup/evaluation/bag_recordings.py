"""A bag as recordings to evaluate: an episode of ours each, or all of it where it holds none.

Role: from topics and roles (whetstone/bags) to the parts of frame sets in their order, and to what the arm did at each control step. Images
are decoded only where a model looks at them; memory holds one message of each topic, and a row of numbers for each control step. Does not
depend on ROS.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from robot_bringup.evaluation.recordings import Done, Facts, Part
from robot_bringup.evaluation.settings import Settings
from whetstone.bags.joints import JointReader
from whetstone.bags.mapping import Mapping as BagMapping
from whetstone.bags.mapping import load_mapping
from whetstone.bags.messages import Message
from whetstone.bags.reader import Bag, open_bag
from whetstone.bags.roles import Roles, find_roles, instruction_of, robot_of
from whetstone.cdr import stamp_of_raw
from whetstone.contracts import PROPRIOCEPTION
from whetstone.errors import InputError
from whetstone.profile import RobotProfile

SLACK = 1_000_000_000
"""ns that a message may have been recorded before or after the episode that its stamp belongs to."""
_RUNNING, _ENDED = 2, 3
_OUTCOMES = {0: "", 1: "success", 2: "failure", 3: "timeout", 4: "aborted"}
"""As whetstone_msgs/Episode numbers them."""


@dataclass(frozen=True)
class Window:
    """An episode within a bag. start, end: ns of robot time, end None: as far as it goes; log_start, log_end: when it was recorded."""

    facts: Facts
    start: int
    end: int | None
    log_start: int
    log_end: int


class BagRecording:
    """One episode of an open bag."""

    def __init__(self, bag: Bag, roles: Roles, profile: RobotProfile, window: Window) -> None:
        self._bag, self._roles, self._profile, self._window = bag, roles, profile, window
        self.cameras = tuple(roles.cameras)
        self._said: list[str] = []
        self._joints = JointReader(str(bag.path), roles, profile)
        self._gripper: Any = None  # what came last of it, where it has a topic of its own

    @property
    def facts(self) -> Facts:
        return replace(self._window.facts, warnings=tuple(dict.fromkeys([*self._bag.warnings, *self._said])))

    def grid(self, every: int) -> tuple[int, int, str]:
        return self._window.start, every, ""

    def parts(self, cameras: Sequence[str], joints: bool) -> Iterator[Part]:
        topics = {self._roles.cameras[camera]: camera for camera in cameras}
        if joints and self._roles.joint_states:
            topics[self._roles.joint_states] = PROPRIOCEPTION
        for message, stamp in self._messages(topics):
            name = topics[message.topic]
            if name == PROPRIOCEPTION:
                with suppress(InputError):  # a message without these joints (another's on the same topic)
                    yield name, stamp, self._joints.measured(message.decode(), self._gripper)
            else:
                yield name, stamp, message.decode

    @property
    def done(self) -> Done | None:
        return self._done

    @cached_property
    def _done(self) -> Done | None:
        """Of each control step the joint state and the command nearest to it, not further than half a period."""
        if not self._roles.joint_states:
            return None
        measured, commanded = dict[int, tuple[int, np.ndarray]](), dict[int, tuple[int, np.ndarray]]()
        own = self._roles.own.get("command", "")
        commands = own or self._roles.commands
        wrong = ""
        for message, stamp in self._messages([topic for topic in (self._roles.joint_states, commands) if topic]):
            measures = message.topic == self._roles.joint_states
            try:
                row = self._joints.measured(message.decode(), self._gripper) if measures else self._sent(message, own)
            except InputError as error:
                wrong = wrong or str(error)
                continue
            step = round((stamp - self._window.start) / self._profile.period_ns)
            off, found = abs(stamp - self._window.start - step * self._profile.period_ns), measured if measures else commanded
            if step >= 0 and (step not in found or off < found[step][0]):
                found[step] = (off, row)
        if not measured:
            self._said += [f"no joint state could be read: {wrong}"] if wrong else []
            return None
        steps = sorted(measured)
        nothing = np.full(len(self._profile.joints) + 1, np.nan, np.float32)
        return Done(
            self._window.start + np.array(steps, np.int64) * self._profile.period_ns,
            np.stack([measured[step][1] for step in steps]),
            np.stack([commanded[step][1] if step in commanded else nothing for step in steps]),
        )

    def _sent(self, message: Message, own: str) -> np.ndarray:
        """(joints + 1,) of a command, its gripper NaN where that is not in it. own: the topic of our own commands."""
        if message.topic != own:
            return self._joints.commanded(message.decode())
        decoded = message.decode()
        return self._profile.proprioception(list(decoded.names), decoded.position)

    def _messages(self, topics: Collection[str]) -> Iterator[tuple[Message, int]]:
        """With their stamps: of the header, or of the log where that has none."""
        window, aside = self._window, self._joints.gripper
        wanted = {*topics, *([aside] if aside and self._roles.joint_states in topics else [])}
        for message in self._bag.messages(wanted, window.log_start - SLACK, window.log_end + SLACK):
            if message.topic == aside:
                self._gripper = message.decode()
                continue
            stamp = stamp_of(message)
            if stamp >= window.start - self._profile.period_ns // 2 and (window.end is None or stamp <= window.end):
                yield message, stamp


def recordings_of(path: str, name: str, profile: RobotProfile, settings: Settings, cameras: Sequence[str]) -> Iterator[BagRecording]:
    """The episodes of a bag, or all of it as one. cameras: that some model looks at. Raises InputError."""
    mapping = load_mapping(settings.mapping) if settings.mapping else None
    definitions = mapping.definitions if mapping and mapping.definitions else None
    with open_bag(Path(path), definitions) as bag:
        roles = find_roles(bag, profile, mapping, cameras, dict(settings.cameras))
        for window in _windows(bag, roles, name, mapping, settings):
            yield BagRecording(bag, roles, profile, _cut(window, settings))


def robot_in(path: str) -> str:
    """The robot that a bag says it is of; empty where it does not. Raises InputError where the bag cannot be read."""
    with open_bag(Path(path)) as bag:
        return robot_of(bag)


def _windows(bag: Bag, roles: Roles, name: str, mapping: BagMapping | None, settings: Settings) -> list[Window]:
    found = _episodes(bag, roles.own, settings.task) if "episode" in roles.own else []
    if found:
        return found
    told = instruction_of(bag, mapping)
    start = min((stamp for topic in roles.cameras.values() if (stamp := _first(bag, topic)) is not None), default=bag.start)
    outcome = bag.metadata.get("outcome", "")
    facts = Facts(name, settings.task, told, outcome if outcome in _OUTCOMES.values() else "", "whoever recorded it" if outcome else "")
    return [Window(facts, start, None, bag.start, bag.end)]


def _episodes(bag: Bag, own: Mapping[str, str], task: str) -> list[Window]:
    """Those that ran, whether or not their end is there. own: role -> topic of ours."""
    begun: dict[str, tuple[Any, int]] = {}
    ended: dict[str, tuple[Any, int, int]] = {}
    for message in bag.messages([own["episode"]]):
        said = message.decode()
        if said.phase == _RUNNING:
            begun.setdefault(said.episode_id, (said, message.time_ns))
        elif said.phase == _ENDED and said.episode_id in begun:
            ended.setdefault(said.episode_id, (said, stamp_of(message), message.time_ns))
    model = next((str(one.decode().model_id) for one in bag.messages([own["reward"]])), "") if "reward" in own else ""
    found = []
    for name, (said, log_start) in begun.items():
        end = ended.get(name)
        outcome = _OUTCOMES.get(int(end[0].outcome), "") if end else ""
        judge = f"the reward of its run ({model})" if model and outcome else "whoever recorded it" if outcome else ""
        facts = Facts(name, task or said.task, said.instruction, outcome, judge, int(said.seed))
        start = said.start.sec * 1_000_000_000 + said.start.nanosec
        found.append(Window(facts, start, end[1] if end else None, log_start, end[2] if end else bag.end))
    # Where there is one alone, stamps tell what is of it, however late its beginning was heard.
    return [replace(found[0], log_start=bag.start, log_end=bag.end)] if len(found) == 1 else found


def _cut(window: Window, settings: Settings) -> Window:
    """start:=, end:= in seconds from the beginning."""
    length = (window.log_end - window.log_start) / 1e9
    if settings.start and settings.start > length:
        raise InputError(f"{window.facts.name}: start:={settings.start:g} is after its end, at {length:.1f} s")
    if settings.end is not None:
        end = window.start + round(settings.end * 1e9)
        window = replace(window, end=end if window.end is None else min(end, window.end))
        window = replace(window, log_end=min(window.log_end, window.log_start + round(settings.end * 1e9) + SLACK))
    if settings.start:
        more = round(settings.start * 1e9)
        window = replace(window, start=window.start + more, log_start=window.log_start + max(more - SLACK, 0))
    return window


def _first(bag: Bag, topic: str) -> int | None:
    for message in bag.messages([topic]):
        return stamp_of(message)
    return None


def stamp_of(message: Message) -> int:
    """ns, of the header of a message that begins with one, without decoding the rest; where that is zero, when it was recorded."""
    raw, stamp = message.raw, 0
    if message.channel.encoding == "ros1" and len(raw) >= 12:
        _, seconds, nanoseconds = struct.unpack_from("<III", raw)
        stamp = seconds * 1_000_000_000 + nanoseconds
    else:
        with suppress(InputError):
            stamp = stamp_of_raw(raw)
    return stamp if stamp > 0 else message.time_ns
