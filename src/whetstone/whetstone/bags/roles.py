"""Which topic of a bag is what.

Role: cameras, joint states, commands and our own topics, by a mapping file, else by the robot profile's names in whatever namespace, else
by good guesses for what other stacks record (camera drivers, ros2_control, leader and follower arms). What is not clear is an error that
names the choices and the argument that makes one. Does not depend on rclpy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whetstone.bags.mapping import Mapping as BagMapping
from whetstone.bags.reader import Bag
from whetstone.errors import InputError
from whetstone.profile import RobotProfile

IMAGE, COMPRESSED, JOINT_STATE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/JointState"
COMMAND_TYPES = (
    "trajectory_msgs/msg/JointTrajectory",
    "std_msgs/msg/Float64MultiArray",
    JOINT_STATE,
    "whetstone_msgs/msg/Command",
)
OWN = {
    "episode": "whetstone_msgs/msg/Episode",
    "reward": "whetstone_msgs/msg/Reward",
    "action": "whetstone_msgs/msg/Action",
    "command": "whetstone_msgs/msg/Command",
    "truth": "whetstone_msgs/msg/Truth",
}
"""Role of ours -> its message type; there is one topic of each to a robot."""
ROBOT = "whetstone.robot"
"""Key of a bag's metadata."""
_TRANSPORTS = ("compressed", "compressedDepth", "theora", "ffmpeg", "zstd")
_NO_PICTURE = re.compile(r"depth|infra|disparity|confidence|mask|segmentation|heatmap|debug|overlay", re.IGNORECASE)
_PLAIN_WORDS = frozenset("image raw rect color colour rgb bgr mono compressed camera cameras cam node rgbd usb".split())
_WRIST = re.compile(r"wrist|hand|gripper|ee_?cam|tool|follower", re.IGNORECASE)
_OUTSIDE = re.compile(r"front|top|static|scene|exterior|external|base|overhead|third|side|agent|table|global", re.IGNORECASE)
_NOT_MEASURED = re.compile(r"leader|teleop|target|command|cmd|desired|goal|reference", re.IGNORECASE)
_INSTRUCTION = re.compile(r"(^|[/_.])(instruction|language_instruction|prompt|operator_prompt|task)$", re.IGNORECASE)


@dataclass(frozen=True)
class Roles:
    """Topics of a bag; empty: there is none. cameras: ours -> topic. own: role of OWN -> topic, of those that the bag has. namespace: of
    our topics. mapping: what the file said."""

    cameras: Mapping[str, str]
    joint_states: str
    commands: str
    own: Mapping[str, str]
    namespace: str = ""
    mapping: BagMapping = field(default_factory=BagMapping)

    @property
    def ours(self) -> bool:
        """Whether an episode can be put together from it as the learner does it live."""
        return "episode" in self.own and "action" in self.own

    @property
    def used(self) -> tuple[str, ...]:
        """Every topic that has a role."""
        gripper = (self.mapping.gripper.topic,) if self.mapping.gripper.topic else ()
        return tuple(dict.fromkeys(filter(None, (*self.cameras.values(), self.joint_states, self.commands, *self.own.values(), *gripper))))


def find_roles(
    bag: Bag,
    profile: RobotProfile | None = None,
    mapping: BagMapping | None = None,
    cameras: Sequence[str] | None = None,
    given: Mapping[str, str] | None = None,
    joint_states: str = "",
    namespace: str = "",
) -> Roles:
    """The roles of a bag's topics.

    cameras: names that are wanted; None: those of the profile, or all where there is no profile. given: camera -> topic, and joint_states:
    topic, before all else. namespace: of our topics, where the bag has several robots. InputError names what is missing or not clear.
    """
    mapping = mapping or BagMapping()
    own, space = _own(bag, namespace)
    known = {**mapping.cameras, **(given or {})}
    for topic in (
        *known.values(),
        joint_states,
        mapping.joint_states,
        mapping.gripper.topic,
        mapping.commands.topic if mapping.commands else "",
    ):
        if topic:
            bag.topic(topic)
    wanted = tuple(cameras) if cameras is not None else tuple(camera.name for camera in profile.cameras) if profile else None
    joint_states = joint_states or mapping.joint_states or _joint_states(bag, profile, mapping, space)
    commands = mapping.commands.topic if mapping.commands else _commands(bag, profile, space, joint_states)
    return Roles(_cameras(bag, wanted, known, space), joint_states, commands, own, space, mapping)


def pictures(bag: Bag) -> dict[str, str]:
    """Every camera of a bag: a name made of what tells its topic from the others -> topic; the plain images of a camera rather than the
    compressed ones, and no depth, masks or drawings unless there is nothing else."""
    found: dict[str, str] = {}
    for name, topic in bag.topics.items():
        if topic.type not in (IMAGE, COMPRESSED) or not topic.count:
            continue
        base, _, last = name.rpartition("/")
        camera = base if last in _TRANSPORTS else name
        if camera not in found or topic.type == IMAGE:
            found[camera] = name
    plain = {camera: topic for camera, topic in found.items() if not _NO_PICTURE.search(camera)}
    return _named(plain or found)


def one_camera(bag: Bag, topic: str = "") -> str:
    """The topic of a bag's camera. topic: as asked for, by name or topic; empty: the only one. Raises InputError naming those that there
    are."""
    cameras = pictures(bag)
    if topic:
        return cameras.get(topic) or bag.topic(topic).name
    if not cameras:
        raise no_images(bag)
    if len(cameras) > 1:
        raise InputError(f"{bag.path}: one camera is asked for and the bag has {_listed(cameras)}; say which, camera:=NAME")
    return next(iter(cameras.values()))


def instruction_of(bag: Bag, mapping: BagMapping | None = None) -> str:
    """What the robot was told, as far as the bag says it; empty: it does not."""
    said = mapping.instruction if mapping else ""
    if said.startswith("/"):
        return _text(bag, bag.topic(said).name)
    if said:
        return said
    for key, text in bag.metadata.items():
        if text and _INSTRUCTION.search(key):
            return text
    for name, topic in bag.topics.items():
        if topic.type == "std_msgs/msg/String" and _INSTRUCTION.search(name):
            return _text(bag, name)
    return ""


def robot_of(bag: Bag) -> str:
    """The robot that a bag says it is of; empty: it does not."""
    if ROBOT in bag.metadata:
        return bag.metadata[ROBOT]
    for name, topic in bag.topics.items():
        if topic.type == OWN["episode"]:
            for message in bag.messages([name]):
                return str(message.decode().robot)
    return ""


def no_images(bag: Bag) -> InputError:
    """The bag has no camera at all."""
    has = ", ".join(f"{topic.name} ({topic.type})" for topic in bag.topics.values())
    return InputError(f"{bag.path}: the bag has no images (sensor_msgs/Image or CompressedImage); it has {has}")


def _text(bag: Bag, name: str) -> str:
    for message in bag.messages([name]):
        return str(message.decode().data)
    return ""


def _own(bag: Bag, namespace: str) -> tuple[dict[str, str], str]:
    """Our own topics, of one robot, and its namespace."""
    own: dict[str, str] = {}
    spaces: list[str] = []
    for role, kind in OWN.items():
        for name, topic in bag.topics.items():
            if topic.type == kind:
                ending = {"action": "/policy/action", "command": "/policy/command"}.get(role, f"/{role}")
                space = name.removesuffix(ending)
                if namespace and space != _absolute(namespace):
                    continue
                if role in own:
                    raise InputError(f"{bag.path}: the bag has several robots ({own[role]}, {name}); say which, namespace:=NAME")
                own[role] = name
                spaces.append(space)
    return own, spaces[0] if spaces else _absolute(namespace) if namespace else ""


def _absolute(name: str) -> str:
    return "/" + name.strip("/")


def _by_profile(bag: Bag, name: str, namespace: str) -> str:
    """The bag's topic that a profile calls `name`, in our namespace or in any; empty: none, or several."""
    if f"{namespace}/{name.lstrip('/')}" in bag.topics:
        return f"{namespace}/{name.lstrip('/')}"
    ending = [topic for topic in bag.topics if topic == _absolute(name) or topic.endswith(_absolute(name))]
    return ending[0] if len(ending) == 1 else ""


def _cameras(bag: Bag, wanted: Sequence[str] | None, known: Mapping[str, str], namespace: str) -> dict[str, str]:
    all_of_them = pictures(bag)
    if wanted is None:
        return {**all_of_them, **known}
    found: dict[str, str] = {}
    for name in wanted:
        topics = (f"camera/{name}/image_raw", f"camera/{name}/image_raw/compressed")
        topic = known.get(name) or next(filter(None, (_by_profile(bag, topic, namespace) for topic in topics)), "") or all_of_them.get(name)
        if topic:
            found[name] = topic
    missing = [name for name in wanted if name not in found]
    left = {name: topic for name, topic in all_of_them.items() if topic not in found.values()}
    for name in list(missing):
        rule = _WRIST if _WRIST.search(name) else _OUTSIDE if _OUTSIDE.search(name) else None
        fitting = [one for one in left if rule is not None and rule.search(one)]
        if len(fitting) == 1:
            found[name] = left.pop(fitting[0])
            missing.remove(name)
    if len(missing) == 1 and len(left) == 1:
        found[missing.pop()] = left.popitem()[1]
    if missing:
        if not all_of_them:
            raise no_images(bag)
        name = missing[0]
        asked = "one camera is asked for and" if len(wanted) == 1 < len(all_of_them) else f"no topic is clearly camera '{name}';"
        raise InputError(f"{bag.path}: {asked} the bag has {_listed(all_of_them)}; say which, cameras:={name}=TOPIC")
    return {name: found[name] for name in wanted}


def _listed(cameras: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({topic})" for name, topic in cameras.items())


def _named(topics: Mapping[str, str]) -> dict[str, str]:
    """/static_camera/image_raw -> static; /camera/wrist/color/image_raw -> wrist; what would not be unique keeps its whole topic."""
    names: dict[str, list[str]] = {}
    for camera in topics:
        words = [word for word in re.split(r"[/_]+", camera) if word and word.lower() not in _PLAIN_WORDS]
        names.setdefault("_".join(dict.fromkeys(words)) or "camera", []).append(camera)
    return {
        name if len(cameras) == 1 else camera.strip("/").replace("/", "_"): topics[camera]
        for name, cameras in names.items()
        for camera in cameras
    }


def _joint_states(bag: Bag, profile: RobotProfile | None, mapping: BagMapping, namespace: str) -> str:
    if profile:
        named = _by_profile(bag, profile.joint_states, namespace)
        if named and bag.topics[named].type == JOINT_STATE:
            return named
    found = [name for name, topic in bag.topics.items() if topic.type == JOINT_STATE and topic.count]
    found = [name for name in found if not _NOT_MEASURED.search(name)] or found
    if profile and len(found) > 1:
        wanted = {mapping.joints.get(joint, joint) for joint in profile.joint_names}
        found = [name for name in found if wanted <= set(_first_names(bag, name))] or found
    if len(found) > 1:
        plain = [name for name in found if name == "/joint_states"]
        found = plain or found
    if len(found) > 1:
        raise InputError(f"{bag.path}: the bag has several joint states ({', '.join(found)}); say which, joint_states:=TOPIC")
    return found[0] if found else ""


def _first_names(bag: Bag, topic: str) -> Iterable[str]:
    for message in bag.messages([topic]):
        return list(message.decode().name)
    return []


def _commands(bag: Bag, profile: RobotProfile | None, namespace: str, joint_states: str) -> str:
    if profile:
        named = _by_profile(bag, profile.command.topic, namespace)
        if named and bag.topics[named].type in COMMAND_TYPES:
            return named
    found = [name for name, topic in bag.topics.items() if topic.type in COMMAND_TYPES[:3] and topic.count and name != joint_states]
    found = [name for name in found if bag.topics[name].type != JOINT_STATE or _NOT_MEASURED.search(name)]
    found = [name for name in found if not re.search(r"gripper|hand|head|lift", name)] or found
    return found[0] if len(found) == 1 else ""
