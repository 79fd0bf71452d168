"""Which topics of a robot a bag holds.

Role: pure data from the robot's profile: what a later evaluation or replay needs, as rows of name, type and how it is published. The bag
recorder and its tests read the same rows. Does not depend on ROS.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from whetstone.errors import ConfigError
from whetstone.profile import ARM_COMMANDS, GRIPPER_COMMANDS, RobotProfile

Kind = Literal["camera", "joints", "command", "event", "latched", "episode", "state", "static", "any"]
_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_TYPE = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")


@dataclass(frozen=True)
class RecordedTopic:
    """name: as the robot's nodes say it (with a leading / where it is the same for all robots). type: package/msg/Name; empty: whatever a
    publisher says. kind: how it is published; any: as its publishers offer it."""

    name: str
    type: str
    kind: Kind

    @property
    def keeps(self) -> int:
        """Messages of before an episode that tell the state in which it begins: a bag of the episode has them too."""
        return {"latched": 1, "episode": 0, "static": 64}.get(self.kind, 0)


def topics_of(profile: RobotProfile) -> tuple[RecordedTopic, ...]:
    """What a bag of this robot holds. Weights themselves are not in it: their announcement names the snapshot by its hash."""
    arm = ARM_COMMANDS[profile.command.kind]
    found = [RecordedTopic(camera.topic, "sensor_msgs/msg/Image", "camera") for camera in profile.cameras]
    found += [
        RecordedTopic(profile.joint_states, "sensor_msgs/msg/JointState", "joints"),
        RecordedTopic(profile.command.topic, arm, "command"),
        RecordedTopic("policy/arm_command", arm, "command"),
    ]
    if profile.gripper.topic:
        found.append(RecordedTopic(profile.gripper.topic, GRIPPER_COMMANDS[profile.gripper.kind], "command"))
    if profile.mode:
        found.append(RecordedTopic(profile.mode.topic, profile.mode.type, "any"))
    found += [
        RecordedTopic("episode", "whetstone_msgs/msg/Episode", "episode"),
        RecordedTopic("reward", "whetstone_msgs/msg/Reward", "event"),
        RecordedTopic("policy/action", "whetstone_msgs/msg/Action", "event"),
        RecordedTopic("policy/command", "whetstone_msgs/msg/Command", "event"),
        RecordedTopic("guard", "whetstone_msgs/msg/Guard", "event"),
        RecordedTopic("truth", "whetstone_msgs/msg/Truth", "event"),
        RecordedTopic("watchdog", "whetstone_msgs/msg/Watchdog", "latched"),
        RecordedTopic("weights/manifest", "whetstone_msgs/msg/WeightsManifest", "latched"),
        RecordedTopic("weights/ack", "whetstone_msgs/msg/WeightsAck", "event"),
        RecordedTopic("learner/update", "whetstone_msgs/msg/Update", "latched"),
        RecordedTopic("teleop/command", "sensor_msgs/msg/JointState", "command"),
        RecordedTopic("e_stop", "std_msgs/msg/Bool", "any"),
        RecordedTopic("robot_description", "std_msgs/msg/String", "static"),
        RecordedTopic("/clock", "rosgraph_msgs/msg/Clock", "state"),
        RecordedTopic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "state"),
        RecordedTopic("/tf", "tf2_msgs/msg/TFMessage", "any"),
        RecordedTopic("/tf_static", "tf2_msgs/msg/TFMessage", "static"),
    ]
    return tuple({topic.name: topic for topic in found}.values())


def extra_topics(text: str) -> tuple[RecordedTopic, ...]:
    """`record_topics:=a,b=package/msg/Name`; without a type, whatever a publisher says. Raises ConfigError naming the word."""
    found = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, separator, kind = word.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"record_topics: '{name}' is no topic; use letters, digits and _ (parts joined by /)")
        if separator and not _TYPE.fullmatch(kind):
            raise ConfigError(f"record_topics: '{kind}' of topic '{name}' is no message type; it is package/msg/Name")
        found.append(RecordedTopic(name, kind, "any"))
    return tuple(found)
