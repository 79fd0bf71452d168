"""Our own bags as episodes.

Role: tells a recorder what a bag holds, through the very joining that the learner node does live (learner_node.hearing, .recorder), and
writes what becomes of it to a store. Images wait on the disk, as they do there. Does not depend on rclpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from learner_node.durable import DurableRecorder
from learner_node.hearing import OUTCOMES, Hearing
from whetstone.bags.messages import Channel, Message
from whetstone.bags.reader import Bag
from whetstone.bags.roles import Roles
from whetstone.cdr import stamp_of_raw
from whetstone.images import to_array
from whetstone.profile import RobotProfile
from whetstone.store import RolloutStore

SOURCE = "whetstone.source"
"""Key of a bag's metadata: who acted, where it was not a policy."""
LOCKSTEP = "whetstone.lockstep"
"""Key of a bag's metadata: "true" where stamps agree exactly."""
_CUT_OFF = "the bag ends before the episode does"
_RING = 1024  # steps by which the order of a bag may differ from that of stamps


@dataclass
class Heard:
    """written: ids of the episodes. left_out: episode -> why."""

    written: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def hear(
    bag: Bag,
    roles: Roles,
    profile: RobotProfile,
    store: RolloutStore,
    every_frame: bool = True,
    start: int | None = None,
    end: int | None = None,
) -> Heard:
    """Write the episodes of a bag that Whetstone recorded. start, end: log time, ns. Raises InputError where the bag and the profile do not
    go together."""
    return _Listener(bag, roles, profile, store, every_frame).run(start, end)


class _Listener:
    def __init__(self, bag: Bag, roles: Roles, profile: RobotProfile, store: RolloutStore, every_frame: bool) -> None:
        self._bag, self._roles, self._store = bag, roles, store
        self._cameras = {topic: camera for camera, topic in roles.cameras.items()}
        self._channels: dict[str, Channel] = {}
        self._there = set(store.list())
        self.heard = Heard()
        # Where clocks differ a camera's stamps are not the joint states': the rule of the learner node.
        tolerance = 0 if bag.metadata.get(LOCKSTEP, "true") == "true" else profile.period_ns // 2
        self._recorder = DurableRecorder(
            store, roles.cameras, self._decode, every_frame, grace=math.inf, ring=_RING, tolerance=tolerance
        )  # fmt: skip
        self._hearing = Hearing(profile, self._recorder, self._wanted)
        self._last = 0

    def _wanted(self, episode: Any) -> bool:
        if episode.episode_id in self._there:
            self.heard.left_out[episode.episode_id] = f"it is in {self._store.root} already"
            return False
        return bool(episode.episode_id)

    def _decode(self, data: Any, camera: str) -> np.ndarray:
        return to_array(self._bag.types.decode(self._channels[camera], data), camera)

    def run(self, start: int | None, end: int | None) -> Heard:
        own = self._roles.own
        what = {own[role]: role for role in ("episode", "action", "command", "reward") if role in own}
        topics: Sequence[str] = [topic for topic in (*self._cameras, self._roles.joint_states, *what) if topic]
        for message in self._bag.messages(topics, start, end):
            if message.topic in self._cameras:
                self._image(message)
            elif message.topic == self._roles.joint_states:
                if self._recorder.recording:
                    state = message.decode()
                    self._last = max(self._last, state.header.stamp.sec * 1_000_000_000 + state.header.stamp.nanosec)
                    self._hearing.joints(state)
            elif what[message.topic] == "episode":
                self._episode(message)
            else:
                getattr(self._hearing, what[message.topic])(message.decode())
        self._finish()
        return self.heard

    def _image(self, message: Message) -> None:
        camera = self._cameras[message.topic]
        self._channels.setdefault(camera, message.channel)
        self._hearing.image(camera, stamp_of_raw(message.data), message.data)

    def _episode(self, message: Message) -> None:
        episode = message.decode()
        if episode.phase == episode.PHASE_ENDED and OUTCOMES[episode.outcome] == "aborted" and self._recorder.known(episode.episode_id):
            self.heard.left_out[episode.episode_id] = f"aborted: {episode.reason}" if episode.reason else "aborted"
        for line in self._hearing.episode(episode, message.time_ns / 1e9):
            name, _, reason = line.partition(": ")
            self.heard.left_out[name] = reason
        self._write(message.time_ns / 1e9, ())

    def _finish(self) -> None:
        cut_off = self._recorder.running()
        for name in cut_off:
            self._recorder.end(name, self._last, "aborted", _CUT_OFF, now=0.0)
        begun = {*cut_off, *self._recorder.waiting()}
        self._write(math.inf, cut_off)
        for name in begun - {*self.heard.written, *self.heard.left_out}:
            self.heard.left_out[name] = "it has no whole decision: a picture of every camera, joint states and an action of one stamp"

    def _write(self, now: float, cut_off: Sequence[str]) -> None:
        for rollout in self._recorder.ready(now):
            rollout = replace(rollout, source=self._bag.metadata.get(SOURCE, rollout.source))
            name = rollout.episode_id
            if name in cut_off:
                kept = self._store.interrupt(name, rollout, _CUT_OFF)
                self.heard.left_out[name] = f"{_CUT_OFF}: {len(rollout.stamps)} decisions kept in {kept}"
                continue
            self._store.write(rollout)
            self.heard.written.append(name)
