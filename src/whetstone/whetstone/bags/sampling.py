"""A bag of another stack as one episode.

Role: cameras and joint states, and commands where there are any, taken at the robot's control period in one pass over the bag: at each
step what was newest then, never what came later; as its action the newest command before the next step. Decoded images go to the disk as
they come. Does not depend on rclpy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from whetstone.bags.joints import JointReader
from whetstone.bags.messages import Message
from whetstone.bags.reader import Bag
from whetstone.bags.roles import Roles
from whetstone.cdr import stamp_of_raw
from whetstone.contracts import Rollout
from whetstone.errors import InputError
from whetstone.frames import encode
from whetstone.images import fitted, to_array
from whetstone.imported import check_joints, from_steps
from whetstone.profile import RobotProfile
from whetstone.store import RolloutStore

_LATE = 1_000_000_000
"""ns of log time for which a step waits for a stream that has fallen silent."""
_CLOCKS = 10_000_000_000
"""ns by which headers may differ from log times before they are another clock's."""


@dataclass(frozen=True)
class SamplingOptions:
    """execute: steps between two decisions; horizon: rows of a chunk. start, end: s after the bag's first message. clock: "header" stamps,
    "log" times, or "auto": headers where all streams have them and they go with the log. resize: "no", "stretch" or "crop" images to the
    robot's size. frames: keep the images of all steps, or those at decisions. outcome, task, instruction: of the episode."""

    execute: int = 8
    horizon: int = 16
    start: float | None = None
    end: float | None = None
    clock: Literal["auto", "header", "log"] = "auto"
    resize: Literal["no", "stretch", "crop"] = "no"
    frames: Literal["decisions", "all"] = "decisions"
    outcome: str = "success"
    task: str = "imported"
    instruction: str = ""


@dataclass
class Sampled:
    """rollout: as it was written. notes: what had to be made up."""

    rollout: Rollout
    notes: list[str] = field(default_factory=list)


class _Held:
    """The messages of one stream that a step may still need: the newest at or before it, and all after."""

    def __init__(self) -> None:
        self._items: deque[tuple[int, Any]] = deque()
        self.last: int | None = None

    @property
    def first(self) -> int | None:
        """Of those that are held."""
        return self._items[0][0] if self._items else None

    def add(self, stamp: int, item: Any) -> None:
        if self.last is not None and stamp < self.last:
            return  # a stamp that goes back has nothing to say of what comes
        self.last = stamp
        self._items.append((stamp, item))

    def at(self, time: int) -> tuple[int, Any] | None:
        """The newest at this time; what is older is forgotten."""
        while len(self._items) > 1 and self._items[1][0] <= time:
            self._items.popleft()
        return self._items[0] if self._items and self._items[0][0] <= time else None


def sample(bag: Bag, roles: Roles, profile: RobotProfile, store: RolloutStore, name: str, options: SamplingOptions) -> Sampled:
    """Write the bag to the store as the demonstration `name`. Raises InputError naming the stream that is missing or does not fit."""
    if not roles.joint_states:
        has = ", ".join(f"{topic.name} ({topic.type})" for topic in bag.topics.values())
        raise InputError(f"{bag.path}: no joint states, without which there is no episode; it has {has}; say which, joint_states:=TOPIC")
    start, end = (None if one is None else bag.start + round(one * 1e9) for one in (options.start, options.end))
    reading = _Reading(bag, roles, profile, store, name, options, start, end)
    try:
        for message in bag.messages(reading.topics, start, end):
            reading.hear(message)
        return reading.finish()
    except BaseException:
        reading.discard()
        raise


class _Reading:
    """One pass over the bag."""

    def __init__(
        self,
        bag: Bag,
        roles: Roles,
        profile: RobotProfile,
        store: RolloutStore,
        name: str,
        options: SamplingOptions,
        start: int | None,
        end: int | None,
    ) -> None:
        self._bag, self._roles, self._profile, self._store, self._options = bag, roles, profile, store, options
        self._name, self._joints = name, JointReader(str(bag.path), roles, profile)
        self._cameras = {topic: camera for camera, topic in roles.cameras.items()}
        self.topics = tuple(filter(None, dict.fromkeys((*self._cameras, roles.joint_states, roles.commands, self._joints.gripper))))
        self._by_header = options.clock == "header" or (options.clock == "auto" and self._headers_will_do(start, end))
        self._streams = {topic: _Held() for topic in self.topics}
        self._needed = [topic for topic in self.topics if topic != roles.commands]
        self._next: int | None = None
        self._ahead = _CLOCKS
        """ns by which the log's clock is ahead of the headers', with the shortest way to the recorder."""
        self._stamps: list[int] = []
        self._state: list[np.ndarray] = []
        self._action: list[np.ndarray | None] = []
        self._images: dict[str, list[np.ndarray]] = {camera: [] for camera in roles.cameras}
        self._last: dict[str, Message] = {}
        self._stale: dict[str, int] = {}
        self._decoded: dict[str, tuple[Message, np.ndarray, bytes]] = {}
        self._running = store.begin(name)

    def _headers_will_do(self, start: int | None, end: int | None) -> bool:
        for topic in self.topics:
            for message in self._bag.messages([topic], start, end):
                stamp = _header(message.decode())
                if not stamp or abs(stamp - message.time_ns) > _CLOCKS:
                    return False
                break
        return True

    def hear(self, message: Message) -> None:
        stamp, item = message.time_ns, message
        if message.topic not in self._cameras:
            item = message.decode()
            stamp = (_header(item) or stamp) if self._by_header else stamp
        elif self._by_header:
            stamp = _header_of_image(message) or stamp
        self._streams[message.topic].add(stamp, item)
        self._ahead = min(self._ahead, message.time_ns - stamp)
        if self._next is None:
            firsts = [self._streams[topic].first for topic in self._needed]
            if any(first is None for first in firsts):
                for held in self._streams.values():
                    if held.last is not None:
                        held.at(held.last - _LATE)  # what waits for a stream that is not there yet must not pile up
                return
            self._next = max(first for first in firsts if first is not None)
        while self._due(message.time_ns):
            self._step()

    def _due(self, now: int) -> bool:
        """Whether everything that the next step may need has come."""
        assert self._next is not None
        over = self._next + self._profile.period_ns
        if not self._by_header:
            return now >= over
        commands = self._streams.get(self._roles.commands)
        come = all((self._streams[topic].last or 0) > self._next for topic in self._needed)
        return (come and (commands is None or (commands.last or 0) >= over)) or now - self._ahead >= over + _LATE

    def _step(self) -> None:
        assert self._next is not None
        time, row = self._next, len(self._stamps)
        self._next += self._profile.period_ns
        self._state.append(self._measured(time))
        self._action.append(self._commanded(time))
        self._stamps.append(time)
        for topic, camera in self._cameras.items():
            message = self._newest(topic, time)
            self._last[camera] = message
            if self._options.frames == "all":
                _, _, data = self._picture(camera, message, encoded=True)
                self._running.frame(camera, time, data)
            if row % self._options.execute == 0:
                self._images[camera].append(self._picture(camera, message)[1])

    def _newest(self, topic: str, time: int) -> Any:
        found = self._streams[topic].at(time)
        assert found is not None
        if time - found[0] > self._profile.guard.stale_after * 1e9:
            self._stale[topic] = self._stale.get(topic, 0) + 1
        return found[1]

    def _measured(self, time: int) -> np.ndarray:
        aside = self._newest(self._joints.gripper, time) if self._joints.gripper else None
        return self._joints.measured(self._newest(self._roles.joint_states, time), aside)

    def _commanded(self, time: int) -> np.ndarray | None:
        """The newest command before the next step, None where nothing had been told yet: it answers what was seen at this one."""
        commands = self._streams.get(self._roles.commands)
        found = None if commands is None else commands.at(time + self._profile.period_ns - 1)
        return None if found is None else self._joints.commanded(found[1])

    def _picture(self, camera: str, message: Message, encoded: bool = False) -> tuple[Message, np.ndarray, bytes]:
        held = self._decoded.get(camera)
        if held is None or held[0] is not message:
            wanted, image = self._profile.camera(camera), to_array(message.decode(), camera)
            try:
                image = fitted(image, wanted.height, wanted.width, camera, self._options.resize)
            except InputError as error:
                raise InputError(f"{self._bag.path}: {error}; resize:=crop cuts the middle out, resize:=stretch does not") from None
            held = (message, image, b"")
        if encoded and not held[2]:
            held = (message, held[1], encode(held[1]))
        self._decoded[camera] = held
        return held

    def finish(self) -> Sampled:
        ends = [self._streams[topic].last for topic in self._needed]
        while self._next is not None and all(end is not None and self._next <= end for end in ends):
            self._step()
        if len(self._stamps) < 2:
            lengths = ", ".join(f"{topic} {'never' if held.first is None else 'heard'}" for topic, held in self._streams.items())
            raise InputError(
                f"{self._bag.path}: {len(self._stamps)} control steps in which everything was heard; two are needed ({lengths})"
            )
        stamps, state = np.array(self._stamps, np.int64), np.stack(self._state).astype(np.float32)
        check_joints(
            state, self._profile, f"{self._bag.path}: {self._roles.joint_states}", "are its positions in rad, its joints named right?"
        )
        action, notes = self._actions(state)
        for topic, count in self._stale.items():
            notes.append(
                f"{topic}: at {count} of {len(stamps)} steps its newest message was older than {self._profile.guard.stale_after:g} s"
            )
        options = self._options
        rollout = from_steps(
            stamps,
            state,
            action,
            episode_id=self._name,
            task=options.task,
            instruction=options.instruction,
            outcome=options.outcome,
            reason=f"imported from {self._bag.path.name}",
            execute=options.execute,
            horizon=options.horizon,
        )
        images = {camera: np.stack(found[: len(rollout.stamps)]) for camera, found in self._images.items()}
        last = {camera: self._picture(camera, message)[1] for camera, message in self._last.items()}
        rollout = replace(rollout, images=images, last_images=last)
        self._running.close()
        self._store.write(rollout)
        return Sampled(rollout, notes)

    def _actions(self, state: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """What was commanded; where nothing was, what was reached a step later."""
        reached, notes = np.concatenate([state[1:], state[-1:]]), []
        action = np.stack([reached[row] if one is None else one for row, one in enumerate(self._action)]).astype(np.float32)
        silent = sum(one is None for one in self._action)
        if silent:
            why = "no commands in the bag" if not self._roles.commands else f"{self._roles.commands} was silent at first"
            notes.append(f"actions of {silent} of {len(state)} steps are what was reached a step later ({why})")
        open_loop = np.isnan(action[:, -1])
        if open_loop.any():
            action[open_loop, -1] = reached[open_loop, -1]
            notes.append(f"the gripper's actions of {int(open_loop.sum())} of {len(state)} steps are what was reached a step later")
        return action, notes

    def discard(self) -> None:
        self._running.discard()


def _header(message: Any) -> int:
    """Its stamp, ns; 0 where it has none."""
    header = getattr(message, "header", None)
    return 0 if header is None else int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _header_of_image(message: Message) -> int:
    return stamp_of_raw(message.data) if message.channel.encoding == "cdr" else _header(message.decode())
