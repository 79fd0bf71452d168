"""What a robot says, told to a recorder.

Role: from messages (of our types, whoever decoded them: rclpy or the reader of a bag) to the calls of a recorder. The learner node hears
its robots through this, and an episode is put together from a bag through this: one way. Does not depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from learner_node.durable import DurableRecorder
from learner_node.recorder import Decision, EpisodeInfo
from whetstone.contracts import REWARD_VALUES, RewardSample
from whetstone.profile import RobotProfile

OUTCOMES = ("aborted", "success", "failure", "timeout", "aborted")
"""By Episode.outcome: unknown, success, failure, timeout, aborted."""


def stamp_of(message: Any) -> int:
    """Of its header, ns."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


class Hearing:
    """Of one robot. wanted: whether an episode is to be recorded, by what the episode manager says of it; name: its id here.

    starts: episode -> robot time, ns, at which it began to run.
    """

    def __init__(
        self,
        profile: RobotProfile,
        recorder: DurableRecorder,
        wanted: Callable[[Any], bool],
        name: Callable[[str], str] = lambda episode_id: episode_id,
    ) -> None:
        self.recorder = recorder
        self.starts: dict[str, int] = {}
        self._profile, self._wanted, self._name = profile, wanted, name

    def episode(self, message: Any, now: float) -> list[str]:
        """whetstone_msgs/Episode. now: s, the clock by which the recorder waits. Returns a line on each episode whose end never came."""
        if message.phase == message.PHASE_UPDATING:
            return []
        name, lines = self._name(message.episode_id), []
        if message.phase in (message.PHASE_RESETTING, message.PHASE_RUNNING):
            # A run that died says no end of its last episode; the next may begin with the same name.
            for lost in self.recorder.running():
                if lost != name or message.phase == message.PHASE_RESETTING:
                    self.starts.pop(lost, None)
                    self.recorder.abandon(lost, "its run ended without a word")
                    lines.append(f"{lost}: its run ended without a word; nothing is learned from it")
        if not self._wanted(message):
            return lines
        if message.phase == message.PHASE_RUNNING:
            self.starts[name] = int(message.start.sec) * 1_000_000_000 + int(message.start.nanosec)
        if message.phase in (message.PHASE_RESETTING, message.PHASE_RUNNING):
            # Already while resetting, for actions and frames may come before the message that says RUNNING.
            info = EpisodeInfo(name, int(message.iteration), message.task, message.instruction, int(message.seed))
            self.recorder.begin(info)
        elif message.phase == message.PHASE_ENDED:
            if message.outcome in (message.OUTCOME_ABORTED, message.OUTCOME_UNKNOWN):
                self.recorder.discard(name)
            else:
                self.recorder.end(name, stamp_of(message), OUTCOMES[message.outcome], message.reason, now)
        elif message.phase == message.PHASE_FINISHED and name not in self.recorder.waiting():
            self.recorder.discard(name)
        return lines

    def image(self, camera: str, stamp: int, data: bytes) -> None:
        """A picture as it came, decoded only if it becomes part of an episode."""
        if self.recorder.recording:
            self.recorder.image(camera, stamp, data)

    def joints(self, message: Any) -> None:
        """sensor_msgs/JointState"""
        self.recorder.joints(stamp_of(message), self._profile.proprioception(message.name, message.position))

    def command(self, message: Any) -> None:
        """whetstone_msgs/Command"""
        if self.recorder.recording:
            command = self._profile.proprioception(list(message.names), message.position)
            self.recorder.command(stamp_of(message), command, message.source == message.SOURCE_HUMAN)

    def action(self, message: Any) -> None:
        """whetstone_msgs/Action"""
        columns = len(message.names)
        latent = np.array(message.latent, np.float32)
        self.recorder.action(
            self._name(message.episode_id),
            Decision(
                stamp=stamp_of(message),
                actions=np.array(message.chunk, np.float32).reshape(message.horizon, columns),
                latent=latent if latent.size else None,
                log_probability=message.log_probability,
                version=message.policy_version,
            ),
        )

    def reward(self, message: Any) -> None:
        """whetstone_msgs/Reward"""
        values = {name: getattr(message, name) for name in REWARD_VALUES}
        sample = RewardSample(stamp=stamp_of(message), valid=message.valid, reason=message.reason, window=message.window, **values)
        self.recorder.reward(self._name(message.episode_id), sample, message.model_id)
