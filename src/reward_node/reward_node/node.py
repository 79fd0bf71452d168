"""The reward node: camera frames in, `reward` out.

Role: ROS only. Joins the cameras' frames, and joint states where the model needs them, by control step, hands those that are due to
the reward model in a worker thread, publishes what it says with the stamp of the scored frame. What a reward is, the plug-in knows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from sensor_msgs.msg import CompressedImage, Image, JointState
from whetstone_msgs.msg import Episode, Reward

from reward_node.worker import FrameSet, Job, Worker
from whetstone.config import find, show
from whetstone.contracts import PROPRIOCEPTION, REWARD_VALUES, RewardModel, RewardSample
from whetstone.errors import ConfigError, InputError
from whetstone.images import check_size, to_array
from whetstone.profile import load_profile
from whetstone.rewards import load_reward
from whetstone.ros import (
    EPISODE,
    EVENT,
    Deadline,
    WhetstoneNode,
    camera_qos,
    deserialize,
    joints_qos,
    run_node,
    stamp_of_raw,
    to_ns,
    to_stamp,
)

EARLY = 64
"""Messages of each topic kept that came before the episode they belong to was announced."""


@dataclass(frozen=True)
class Parameters:
    """robot, reward: names of configurations; realtime: false = lockstep, where no due frame may be dropped.

    deadline: s until a missing camera ends the process; patience: s after which, in real time, a frame set that is not whole
    is published as invalid (in lockstep nothing is lost, so it is waited for until the deadline);
    device: for the model, as torch names it; image_transport: compressed listens to <topic>/compressed, as image_transport has it.
    Episodes of evaluations are not scored: the evaluator judges them, and a slow model would only hold them up.
    """

    robot: str
    reward: str
    realtime: bool = False
    deadline: float = field(default=20.0, metadata={"gt": 0})
    patience: float = field(default=1.0, metadata={"gt": 0})
    device: str = "cpu"
    image_transport: Literal["raw", "compressed"] = "raw"


class RewardNode(WhetstoneNode[Parameters]):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("reward", Parameters)
        self.counters.update(scored=0, invalid=0, dropped=0, not_due=0, latency_ms=0.0)
        self.episode: Episode | None = None
        self.worker: Worker | None = None
        self.deadlines: dict[str, Deadline] = {}
        self.begun, self.told = "", ""
        self.arrived: dict[str, float] = {}
        self.lost: set[str] = set()
        self.warned = 0.0
        self.scoring, self.refused = "", ""  # of the worker's thread
        self.topics: dict[str, str] = {}
        self.early: dict[str, dict[int, bytes]] = {}
        self._forget()

    def configure(self) -> None:
        self.profile = load_profile(self.parameters.robot)
        path = find("rewards", self.parameters.reward)
        self.model: RewardModel = load_reward(self.parameters.reward, self.profile, self.parameters.device)
        needs = self.model.needs
        for name in needs.cameras:
            camera = self.profile.camera(name)
            if (camera.height, camera.width) != tuple(needs.image_size):
                raise ConfigError(
                    f"{show(path)}: image_size is {needs.image_size[1]}x{needs.image_size[0]}, "
                    f"but camera '{name}' of robot '{self.profile.name}' gives {camera.width}x{camera.height}"
                )
        if needs.proprioception not in (0, len(self.profile.joints) + 1):
            raise ConfigError(
                f"{show(path)}: the model wants {needs.proprioception} numbers of proprioception, "
                f"but robot '{self.profile.name}' has {len(self.profile.joints)} joints and a gripper"
            )
        self._self_test()
        self.counters.update(
            model=self.model.provenance.model_id,
            device=needs.device or "elsewhere",
            memory_mb=round(needs.memory / 1e6, 1),
            images_per_score=needs.images * len(needs.cameras),
            scores_per_second=round(self.profile.rate / needs.every, 2),
        )
        self.rewards = self.create_publisher(Reward, "reward", EVENT)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        compressed = self.parameters.image_transport == "compressed"
        self.image_type = CompressedImage if compressed else Image
        self.topics = {name: self.profile.camera(name).topic + ("/compressed" if compressed else "") for name in needs.cameras}
        if needs.proprioception:
            self.topics[PROPRIOCEPTION] = self.profile.joint_states
        for name, topic in self.topics.items():
            self.counters[f"frames_{name}"] = 0
            joints = name == PROPRIOCEPTION
            self.create_subscription(
                JointState if joints else self.image_type,
                topic,
                lambda data, part=name: self._on_part(part, data),
                (joints_qos if joints else camera_qos)(self.parameters.realtime),
                raw=True,
            )
        self.patience = self.parameters.patience if self.parameters.realtime else self.parameters.deadline
        self.create_timer(self.patience / 4, self._expire, clock=self.steady_clock)

    def activate(self) -> None:
        self.begun = ""
        self.worker = Worker(self._work, newest_only=self.parameters.realtime)
        if self.episode is not None:
            self._on_episode(self.episode)

    def deactivate(self) -> None:
        for name in list(self.deadlines):
            self.deadlines.pop(name).meet()
        if self.worker is not None:
            self.worker.stop(2.0)
            self.worker = None

    def _self_test(self) -> None:
        """One score of a grey image: the model runs before the episode does."""
        needs = self.model.needs
        grey = np.full((*needs.image_size, 3), 128, np.uint8)
        self.model.reset("self-test", "self-test", 0)
        frames: dict[str, np.ndarray] = {name: grey for name in needs.cameras}
        if needs.proprioception:
            frames[PROPRIOCEPTION] = np.zeros(needs.proprioception, np.float32)
        sample = self.model.observe(frames, 0)
        if sample is not None and not sample.valid:
            raise ConfigError(f"reward '{self.parameters.reward}' failed its self-test: {sample.reason}")

    def _forget(self) -> None:
        """Forget frames and scores of the last episode."""
        self.pending: dict[int, FrameSet] = {}
        self.done = -1
        self.newest: dict[str, int] = {}
        self.last: Reward | None = None

    # Episodes.

    def _on_episode(self, episode: Episode) -> None:
        self.episode = episode
        if self.worker is None:
            return
        if episode.phase == Episode.PHASE_RUNNING:
            # The same id again: it was paused and goes on, or is told something else.
            if episode.episode_id != self.begun:
                self._begin(episode)
            elif episode.instruction != self.told:
                self.told = episode.instruction
                self.worker.give(Job(episode.episode_id, episode.instruction, int(episode.seed), None))
                self.get_logger().info(f"episode {episode.episode_id}: the instruction is now '{episode.instruction}'")
            self._wait_for_cameras()
        else:
            for name in list(self.deadlines):
                self.deadlines.pop(name).meet()

    def _begin(self, episode: Episode) -> None:
        self._forget()
        self.begun, self.told = episode.episode_id, episode.instruction
        assert self.worker is not None
        self.counters["dropped"] += self.worker.give(Job(episode.episode_id, episode.instruction, int(episode.seed), None))
        early, self.early = self.early, {}
        for stamp, part in sorted((stamp, part) for part, kept in early.items() for stamp in kept):
            self._take(episode, part, stamp, early[part][stamp])

    def _wait_for_cameras(self) -> None:
        """For a camera's first image; later ones too in lockstep, where an image that does not come stops everything. Alike for joint
        states."""
        for name, topic in self.topics.items():
            if name not in self.deadlines and not (self.parameters.realtime and self.arrived.get(name)):
                what = "joint state" if name == PROPRIOCEPTION else "image"
                self.deadlines[name] = self.deadline(self.parameters.deadline, topic, what)

    # Frames.

    def _on_part(self, part: str, data: bytes) -> None:
        """A part of a frame set: an image of the camera of that name, or what the joints are."""
        self.counters[f"frames_{part}"] += 1
        self._arrived(part)
        if self.worker is None:
            return
        try:
            stamp = stamp_of_raw(data)
        except InputError:
            self.counters["invalid"] += 1
            return
        episode = self.episode
        if episode is None or episode.phase != Episode.PHASE_RUNNING or not 0 <= self._index(episode, stamp) <= episode.max_steps:
            # The images' topic and the episode's are not ordered: this may be the first frame of an episode to come.
            kept = self.early.setdefault(part, {})
            kept[stamp] = data
            while len(kept) > EARLY:
                del kept[min(kept)]
            return
        self._take(episode, part, stamp, data)

    def _arrived(self, part: str) -> None:
        if part in self.deadlines:
            if self.parameters.realtime:
                self.deadlines.pop(part).meet()
            else:
                self.deadlines[part].restart()
        if part in self.lost:
            self.lost.discard(part)
            what = "joint states are" if part == PROPRIOCEPTION else f"camera '{part}' is"
            self.get_logger().info(f"{what} back after {time.monotonic() - self.arrived[part]:.1f} s")
        self.arrived[part] = time.monotonic()

    def _without(self, part: str, when: str) -> str:
        return f"joint states: none {when}" if part == PROPRIOCEPTION else f"camera '{part}': no image {when}"

    def _index(self, episode: Episode, stamp: int) -> int:
        """Control step of a stamp within the episode."""
        return round((stamp - to_ns(episode.start)) * self.profile.rate / 1e9)

    def _take(self, episode: Episode, part: str, stamp: int, data: bytes) -> None:
        """A part of a frame set of the running episode."""
        index = self._index(episode, stamp)
        if stamp == self.newest.get(part) and self.last is not None and not self.parameters.realtime:
            # A simulator that waits says its frame again: perhaps it is the score that it missed.
            self.rewards.publish(self.last)
        self.newest[part] = stamp
        due = episode.mode != Episode.MODE_EVALUATE and index % self.model.needs.every == 0
        if not due or index < 0 or index <= self.done:
            self.counters["not_due"] += 1
            return
        frames = self.pending.setdefault(index, FrameSet())
        frames.parts[part] = data
        first = self.model.needs.cameras[0]
        if part == first or not frames.stamp:
            frames.stamp = stamp
        if len(frames.parts) == len(self.topics):
            self._give(index)

    def _give(self, index: int) -> None:
        """Hand this frame set to the worker; older ones that are not complete never will be."""
        assert self.episode is not None and self.worker is not None
        for older in sorted(key for key in self.pending if key < index):
            self._refuse(self.pending.pop(older))
        frames = self.pending.pop(index)
        frames.arrived = time.monotonic()
        self.done = index
        episode = self.episode
        self.counters["dropped"] += self.worker.give(Job(episode.episode_id, episode.instruction, int(episode.seed), frames))

    def _expire(self) -> None:
        """Frame sets that have waited too long for one of their parts, and topics on which nothing comes any more."""
        if self.worker is None:
            return
        if self.parameters.realtime and self.episode is not None and self.episode.phase == Episode.PHASE_RUNNING:
            self._watch(self.episode)
        old = time.monotonic() - self.patience
        for index in sorted(key for key, frames in self.pending.items() if frames.arrived < old):
            self.done = max(self.done, index)
            self._refuse(self.pending.pop(index))

    def _watch(self, episode: Episode) -> None:
        """Once every `patience` seconds: an invalid score while a camera that gave images, or joint states, give none."""
        now = time.monotonic()
        silent = {name: now - arrived for name, arrived in self.arrived.items() if now - arrived > self.patience}
        for name in sorted(set(silent) - self.lost):
            self.lost.add(name)
            self.get_logger().warning(f"{self._without(name, f'for {silent[name]:.1f} s')}; scores are invalid until it is back")
        if not silent or now - self.warned < self.patience:
            return
        self.warned = now
        name = max(silent, key=lambda one: silent[one])
        # In robot time as far as it is known: no frame, so no stamp of one.
        stamp = max(self.newest.values(), default=to_ns(episode.start)) + round(silent[name] * 1e9)
        sample = RewardSample(stamp, valid=False, reason=self._without(name, f"for {silent[name]:.1f} s"))
        self._publish(episode.episode_id, sample, now)

    def _refuse(self, frames: FrameSet) -> None:
        missing = next(name for name in self.topics if name not in frames.parts)
        assert self.episode is not None
        sample = RewardSample(frames.stamp, valid=False, reason=self._without(missing, "of this step"))
        self._publish(self.episode.episode_id, sample, frames.arrived)

    # The worker's thread.

    def _work(self, job: Job) -> None:
        try:
            if job.frames is None:
                self._begin_or_tell(job)
            else:
                sample = self._score(job.frames)
                if sample is not None:
                    self._publish(job.episode_id, sample, job.frames.arrived)
        except Exception as error:
            self.fail(error)

    def _begin_or_tell(self, job: Job) -> None:
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

    def _score(self, frames: FrameSet) -> RewardSample | None:
        height, width = self.model.needs.image_size
        if self.refused:
            return RewardSample(frames.stamp, valid=False, reason=self.refused)
        try:
            images = {}
            for name in self.model.needs.cameras:
                images[name] = check_size(to_array(deserialize(frames.parts[name], self.image_type), name), height, width, name)
            if PROPRIOCEPTION in frames.parts:
                joints = deserialize(frames.parts[PROPRIOCEPTION], JointState)
                images[PROPRIOCEPTION] = self.profile.proprioception(list(joints.name), joints.position)
            return self.model.observe(images, frames.stamp)
        except InputError as error:
            return RewardSample(frames.stamp, valid=False, reason=str(error))

    def _publish(self, episode_id: str, sample: RewardSample, taken: float) -> None:
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
        self.counters["scored" if sample.valid else "invalid"] += 1
        self.counters["latency_ms"] = round(latency * 1e3, 2)
        self.counters.update(getattr(self.model, "counters", {}))


def main(args: list[str] | None = None) -> int:
    return run_node(RewardNode, args)
