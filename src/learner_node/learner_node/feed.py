"""One robot as the learner node hears it: its episodes into a recorder, its weights and reports back to it.

Role: ROS only. The node has one of these for every robot that feeds it, each with a recorder of its own, for robots' clocks have nothing to
do with each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from whetstone_msgs.msg import Action, Command, Episode, Reward, Update

from learner_node.durable import DurableRecorder
from learner_node.hearing import Hearing
from learner_node.journal import Done
from learner_node.publisher import Options
from learner_node.weights_topics import WeightsTopics
from whetstone.contracts import PolicySpec, Rollout
from whetstone.errors import InputError
from whetstone.profile import RobotProfile
from whetstone.ros import EPISODE, EVENT, LATCHED, WhetstoneNode, camera_qos, deserialize, joints_qos, stamp_of_raw, to_ns, to_stamp

SETTLING = 1.0
"""Seconds from when all publishers are known here: on a busy machine it takes them as long to know of us."""


class RobotFeed:
    """namespace: of the robot's topics; empty: the node's own. known: whether an episode (its id here, its iteration) was dealt with before
    this process was started again.

    recorder: of its episodes, whose ids bear the robot's name where there are several. asked: iteration whose update it waits for, None:
    none. over: its run has ended, nobody waits for it. listens: all its topics are heard.
    """

    def __init__(
        self,
        node: WhetstoneNode[Any],
        profile: RobotProfile,
        spec: PolicySpec,
        recorder: DurableRecorder,
        options: Options,
        key: bytes,
        *,
        namespace: str = "",
        realtime: bool = False,
        known: Callable[[str, int], bool] = lambda *_: False,
    ) -> None:
        self.namespace, self.recorder = namespace, recorder
        self.asked: int | None = None
        self.over = False
        self._profile, self._spec, self._log = profile, spec, node.get_logger()

        def wanted(message: Any) -> bool:
            return message.mode == Episode.MODE_TRAIN and not known(self._id(message.episode_id), message.iteration)

        self._hearing = Hearing(profile, recorder, wanted, self._id)
        self._stamp = 0
        self._unfit = False  # the newest joint state
        self.weights = WeightsTopics(
            node, options, (spec.policy_id, spec.config_hash), key, lambda: self._stamp, prefix=f"/{namespace}/" if namespace else ""
        )
        self._updates = node.create_publisher(Update, self._topic("learner/update"), LATCHED)
        self._listening = node.create_publisher(Bool, self._topic("learner/listening"), LATCHED)
        self.listens, self._met = False, time.monotonic()
        node.create_subscription(Reward, self._topic("reward"), self._hearing.reward, EVENT)
        self.heard = [
            node.create_subscription(Episode, self._topic("episode"), self._on_episode, EPISODE),
            node.create_subscription(Action, self._topic("policy/action"), self._hearing.action, EVENT),
            node.create_subscription(Command, self._topic("policy/command"), self._hearing.command, EVENT),
            node.create_subscription(JointState, self._topic(profile.joint_states), self._on_joints, joints_qos(realtime), raw=True),
        ]
        for name in spec.cameras:

            def on_image(data: bytes, name: str = name) -> None:
                self._hearing.image(name, stamp_of_raw(data), data)

            topic = self._topic(profile.camera(name).topic)
            self.heard.append(node.create_subscription(Image, topic, on_image, camera_qos(realtime), raw=True))

    def begun_before(self, rollout: Rollout) -> bool:
        """Whether the first decision of an episode was not heard: it ran already when this process was started. To be asked once."""
        # In real time the first frame, and so the first decision, comes a step or two after the start.
        start = self._hearing.starts.pop(rollout.episode_id, int(rollout.stamps[0]))
        return int(rollout.stamps[0]) - start >= self._spec.execute * self._profile.period_ns

    def greet(self) -> None:
        """Tell the robot's episode manager once all its topics are heard here: what is said before is lost, however reliable."""
        met, now = all(subscription.get_publisher_count() for subscription in self.heard), time.monotonic()
        self._met = self._met if met else now
        listens = now - self._met > SETTLING
        if listens != self.listens:
            self.listens = listens
            self._listening.publish(Bool(data=listens))

    def say(self, done: Done) -> None:
        """Tell the robot's episode manager of an update. Its iteration has the number that the robot gave it."""
        report = done.report
        message = Update(
            iteration=done.iteration if self.asked is None else self.asked,
            version=done.version,
            deployed=report.deploy,
            interim=done.interim,
            stop=report.stop,
            reason=report.reason,
            names=list(report.metrics),
            values=[float(value) for value in report.metrics.values()],
        )
        message.header.stamp = to_stamp(self._stamp)
        self._updates.publish(message)
        if not done.interim:
            self.asked = None

    def _topic(self, name: str) -> str:
        return self._profile.topic(name, self.namespace)

    def _id(self, episode_id: str) -> str:
        return f"{self.namespace.replace('/', '.')}.{episode_id}" if self.namespace else episode_id

    # What the robot says.

    def _on_episode(self, message: Episode) -> None:
        self._stamp = to_ns(message.header.stamp)
        self.over = message.phase == Episode.PHASE_FINISHED
        if message.phase == Episode.PHASE_UPDATING:
            if message.mode == Episode.MODE_TRAIN:
                self.asked = int(message.iteration)
            return
        for line in self._hearing.episode(message, time.monotonic()):
            self._log.warning(line)

    def _on_joints(self, data: bytes) -> None:
        if self.recorder.recording:
            try:
                self._hearing.joints(deserialize(data, JointState))
                self._unfit = False
            except InputError as error:  # a run must not end for it: a decision that has no other is left out
                if not self._unfit:
                    self._log.warning(f"'{self._topic(self._profile.joint_states)}': {error}; it counts for nothing")
                self._unfit = True
