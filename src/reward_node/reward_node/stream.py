"""One robot as the reward node sees it: its episode, its frames on their way to the model, its scores.

Role: ROS only. Joins the cameras' frames, and joint states where the model needs them, by control step, hands those that are due to the
worker, publishes what the model says with the stamp of the scored frame. The node has one of these for every robot it serves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image, JointState
from whetstone_msgs.msg import Episode, Reward

from reward_node.worker import Job, Worker
from whetstone.contracts import PROPRIOCEPTION, REWARD_VALUES, RewardModel, RewardSample
from whetstone.errors import InputError
from whetstone.frame_sets import FrameSet, FrameSets, decoded, parts_of
from whetstone.profile import RobotProfile
from whetstone.ros import (
    EPISODE,
    EVENT,
    Deadline,
    WhetstoneNode,
    camera_qos,
    deserialize,
    joints_qos,
    stamp_of_raw,
    to_ns,
    to_stamp,
)

EARLY = 64
"""Messages of each topic kept that came before the episode they belong to was announced."""


@dataclass(frozen=True)
class StreamSettings:
    """index: number of the robot among those of the worker; namespace: of its topics, empty: the node's own; transport: "raw" or
    "compressed"; realtime, deadline, patience: as the node's parameters; strict: a camera that never gives an image ends the node (who
    serves several robots lives on and says so)."""

    index: int
    namespace: str
    transport: str
    realtime: bool
    deadline: float
    patience: float
    strict: bool


class RobotStream:
    """See the module's docstring. Its counters are the node's, behind the robot's name where that has several."""

    def __init__(self, node: WhetstoneNode[Any], profile: RobotProfile, model: RewardModel, settings: StreamSettings) -> None:
        self.node, self.profile, self.model, self.settings = node, profile, model, settings
        self.log = node.get_logger().get_child(settings.namespace.replace("/", ".")) if settings.namespace else node.get_logger()
        self.worker: Worker | None = None
        self.episode: Episode | None = None
        self.deadlines: dict[str, Deadline] = {}
        self.begun, self.told = "", ""
        self.arrived: dict[str, float] = {}
        self.lost: set[str] = set()
        self.warned = 0.0
        self.sets: FrameSets[bytes] = FrameSets(parts_of(model.needs), profile.rate, model.needs.every)
        self.scoring, self.refused = "", ""  # of the worker's thread
        self.early: dict[str, dict[int, bytes]] = {}
        self._forget()
        self._subscribe()

    def _subscribe(self) -> None:
        needs, realtime = self.model.needs, self.settings.realtime
        for name in ("scored", "invalid", "dropped", "not_due"):
            self.count(name, 0)
        self.node.counters[self._key("latency_ms")] = 0.0
        self.rewards = self.node.create_publisher(Reward, self._topic("reward"), EVENT)
        self.node.create_subscription(Episode, self._topic("episode"), self._on_episode, EPISODE)
        compressed = self.settings.transport == "compressed"
        self.image_type = CompressedImage if compressed else Image
        topics = {name: self.profile.camera(name).topic + ("/compressed" if compressed else "") for name in needs.cameras}
        if needs.proprioception:
            topics[PROPRIOCEPTION] = self.profile.joint_states
        self.topics = {name: self._topic(topic) for name, topic in topics.items()}
        for name, topic in self.topics.items():
            self.count(f"frames_{name}", 0)
            joints = name == PROPRIOCEPTION
            self.node.create_subscription(
                JointState if joints else self.image_type,
                topic,
                lambda data, part=name: self._on_part(part, data),
                (joints_qos if joints else camera_qos)(realtime),
                raw=True,
            )
        self.node.create_timer(self.settings.patience / 4, self._expire, clock=self.node.steady_clock)

    def _topic(self, name: str) -> str:
        return self.profile.topic(name, self.settings.namespace)

    def _key(self, name: str) -> str:
        return f"{self.settings.namespace}/{name}" if self.settings.namespace else name

    def count(self, name: str, more: int) -> None:
        """Add to a counter of this robot."""
        key = self._key(name)
        self.node.counters[key] = self.node.counters.get(key, 0) + more

    def activate(self, worker: Worker) -> None:
        """Scores go through `worker` from now on; an episode that runs already begins anew."""
        self.begun, self.worker = "", worker
        if self.episode is not None:
            self._on_episode(self.episode)

    def deactivate(self) -> None:
        for name in list(self.deadlines):
            self.deadlines.pop(name).meet()
        self.worker = None

    def _forget(self) -> None:
        """Forget frames and scores of the last episode."""
        self.sets.begin(to_ns(self.episode.start) if self.episode is not None else 0)
        self.newest: dict[str, int] = {}
        self.last: Reward | None = None

    # Episodes.

    def _on_episode(self, episode: Episode) -> None:
        self.episode = episode
        if self.worker is None:
            return
        if episode.phase == Episode.PHASE_RUNNING:
            self.sets.start = to_ns(episode.start)
            # The same id again: it was paused and goes on, or is told something else.
            if episode.episode_id != self.begun:
                self._begin(episode)
            elif episode.instruction != self.told:
                self.told = episode.instruction
                self._give(episode, None)
                self.log.info(f"episode {episode.episode_id}: the instruction is now '{episode.instruction}'")
            self._wait_for_cameras()
        else:
            for name in list(self.deadlines):
                self.deadlines.pop(name).meet()

    def _begin(self, episode: Episode) -> None:
        self._forget()
        self.begun, self.told = episode.episode_id, episode.instruction
        assert self.worker is not None
        self._give(episode, None)
        early, self.early = self.early, {}
        for stamp, part in sorted((stamp, part) for part, kept in early.items() for stamp in kept):
            self._take(episode, part, stamp, early[part][stamp])

    def _wait_for_cameras(self) -> None:
        """For a camera's first image; later ones too in lockstep, where an image that does not come stops everything. Alike for joint
        states. Who serves several robots counts them as silent from now on."""
        for name, topic in self.topics.items():
            if not self.settings.strict:
                self.arrived.setdefault(name, time.monotonic())
            elif name not in self.deadlines and not (self.settings.realtime and self.arrived.get(name)):
                what = "joint state" if name == PROPRIOCEPTION else "image"
                self.deadlines[name] = self.node.deadline(self.settings.deadline, topic, what)

    # Frames.

    def _on_part(self, part: str, data: bytes) -> None:
        """A part of a frame set: an image of the camera of that name, or what the joints are."""
        self.count(f"frames_{part}", 1)
        self._arrived(part)
        if self.worker is None:
            return
        try:
            stamp = stamp_of_raw(data)
        except InputError:
            self.count("invalid", 1)
            return
        episode = self.episode
        if episode is None or episode.phase != Episode.PHASE_RUNNING or not 0 <= self.sets.index(stamp) <= episode.max_steps:
            # The images' topic and the episode's are not ordered: this may be the first frame of an episode to come.
            kept = self.early.setdefault(part, {})
            kept[stamp] = data
            while len(kept) > EARLY:
                del kept[min(kept)]
            return
        self._take(episode, part, stamp, data)

    def _arrived(self, part: str) -> None:
        if part in self.deadlines:
            if self.settings.realtime:
                self.deadlines.pop(part).meet()
            else:
                self.deadlines[part].restart()
        if part in self.lost:
            self.lost.discard(part)
            what = "joint states are" if part == PROPRIOCEPTION else f"camera '{part}' is"
            self.log.info(f"{what} back after {time.monotonic() - self.arrived[part]:.1f} s")
        self.arrived[part] = time.monotonic()

    def _without(self, part: str, when: str) -> str:
        return f"joint states: none {when}" if part == PROPRIOCEPTION else f"camera '{part}': no image {when}"

    def _take(self, episode: Episode, part: str, stamp: int, data: bytes) -> None:
        """A part of a frame set of the running episode."""
        if stamp == self.newest.get(part) and self.last is not None and not self.settings.realtime:
            # A simulator that waits says its frame again: perhaps it is the score that it missed.
            self.rewards.publish(self.last)
        self.newest[part] = stamp
        joined = self.sets.take(part, stamp, data) if episode.mode != Episode.MODE_EVALUATE else None
        if joined is None or not joined.due:
            self.count("not_due", 1)
            return
        for frames in joined.given_up:
            self._refuse(frames)
        if joined.whole is not None:
            joined.whole.arrived = time.monotonic()
            self._give(episode, joined.whole)

    def _give(self, episode: Episode, frames: FrameSet[bytes] | None) -> None:
        assert self.worker is not None
        job = Job(self.settings.index, episode.episode_id, episode.instruction, int(episode.seed), frames)
        self.count("dropped", self.worker.give(job))

    def _expire(self) -> None:
        """Frame sets that have waited too long for one of their parts, and topics on which nothing comes any more."""
        if self.worker is None:
            return
        if self.settings.realtime and self.episode is not None and self.episode.phase == Episode.PHASE_RUNNING:
            self._watch(self.episode)
        for frames in self.sets.give_up(time.monotonic() - self.settings.patience):
            self._refuse(frames)

    def _watch(self, episode: Episode) -> None:
        """Once every `patience` seconds: an invalid score while a camera that gave images, or joint states, give none."""
        now = time.monotonic()
        silent = {name: now - arrived for name, arrived in self.arrived.items() if now - arrived > self.settings.patience}
        for name in sorted(set(silent) - self.lost):
            self.lost.add(name)
            self.log.warning(f"{self._without(name, f'for {silent[name]:.1f} s')}; scores are invalid until it is back")
        if not silent or now - self.warned < self.settings.patience:
            return
        self.warned = now
        name = max(silent, key=lambda one: silent[one])
        # In robot time as far as it is known: no frame, so no stamp of one.
        stamp = max(self.newest.values(), default=to_ns(episode.start)) + round(silent[name] * 1e9)
        sample = RewardSample(stamp, valid=False, reason=self._without(name, f"for {silent[name]:.1f} s"))
        self.publish(episode.episode_id, sample, now)

    def _refuse(self, frames: FrameSet[bytes]) -> None:
        missing = self.sets.missing(frames)
        assert self.episode is not None
        sample = RewardSample(frames.stamp, valid=False, reason=self._without(missing, "of this step"))
        self.publish(self.episode.episode_id, sample, frames.arrived)

    # The worker's thread.

    def begin_or_tell(self, job: Job) -> None:
        """A new episode; or, within one, other words: a model that can `tell` keeps what it saw, another begins with the next frame."""
        tell = getattr(self.model, "tell", None)
        try:
            if job.episode_id == self.scoring and tell is not None:
                tell(job.instruction)
            else:
                self.model.reset(job.episode_id, job.instruction, job.seed)
            self.refused = ""
        except InputError as error:
            self.refused = str(error)
        self.scoring = job.episode_id

    def decode(self, frames: FrameSet[bytes]) -> dict[str, np.ndarray]:
        """What the model is shown. InputError where a part cannot be read, or the instruction was refused."""
        if self.refused:
            raise InputError(self.refused)
        messages = {
            name: deserialize(data, JointState if name == PROPRIOCEPTION else self.image_type) for name, data in frames.parts.items()
        }
        return decoded(messages, self.model.needs.cameras, self.model.needs.image_size, self.profile)

    def publish(self, episode_id: str, sample: RewardSample, taken: float) -> None:
        latency = time.monotonic() - taken
        message = Reward(
            episode_id=episode_id,
            model_id=self.model.provenance.model_id,
            config_hash=self.model.provenance.config,
            valid=sample.valid,
            reason=sample.reason,
            window=sample.window,
            latency=latency,
        )
        for name in REWARD_VALUES:
            setattr(message, name, float(getattr(sample, name)))
        message.header.stamp = to_stamp(sample.stamp)
        message.header.frame_id = self.model.needs.cameras[0]
        self.rewards.publish(message)
        self.last = message
        self.count("scored" if sample.valid else "invalid", 1)
        counters = {"latency_ms": round(latency * 1e3, 2), **getattr(self.model, "counters", {})}
        self.node.counters.update({self._key(name): value for name, value in counters.items()})
