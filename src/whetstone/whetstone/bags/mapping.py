"""Which topic of a bag is what, as a file says it.

Role: the typed form of config/bags/<name>.yaml, for bags whose topics or joints are not named as the robot's profile names them. Every key
may be left out: what is not said is found by the profile's names, else guessed (roles.py). Depends on nothing but the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from whetstone import config


@dataclass(frozen=True)
class GripperSource:
    """Where the gripper's position is, if it is not a joint of `joint_states` under the profile's name.

    topic: of JointState, Float32 or Float64; empty: `joint_states` itself. joint: its name there; empty: the profile's. closed, open: its
    values (any unit) at opening 0 and 1; null: those of the profile. opening: the gripper is not in the bag and was always this far open,
    in [0, 1].
    """

    topic: str = ""
    joint: str = ""
    closed: float | None = None
    open: float | None = None
    opening: float | None = field(default=None, metadata={"ge": 0, "le": 1})

    def __post_init__(self) -> None:
        if (self.closed is None) != (self.open is None):
            raise ValueError("'closed' and 'open' belong together: give both or none")
        if self.closed is not None and self.closed == self.open:
            raise ValueError("'closed' and 'open' must differ")
        if self.opening is not None and (self.topic or self.joint or self.closed is not None):
            raise ValueError("'opening' says that the bag has no gripper; leave out the other keys, or it")


@dataclass(frozen=True)
class CommandSource:
    """What the arm was told. topic: of JointTrajectory, JointState, Float64MultiArray or our Command; names: the joints (the bag's names)
    whose positions a Float64MultiArray holds, in its order; empty: the profile's."""

    topic: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapping:
    """cameras: ours -> topic. joint_states, gripper, commands: topics, and what their messages mean. joints: the profile's joint -> its
    name in the bag. instruction: what the robot was told, or the name of a topic of std_msgs/String that says it. definitions: folder of
    .msg files for types that the bag does not define."""

    cameras: dict[str, str] = field(default_factory=dict)
    joint_states: str = ""
    gripper: GripperSource = field(default_factory=GripperSource)
    commands: CommandSource | None = None
    joints: dict[str, str] = field(default_factory=dict)
    instruction: str = ""
    definitions: str = ""


def load_mapping(name: str) -> Mapping:
    """config/bags/<name>.yaml, or a path that ends in .yaml. Raises ConfigError."""
    return config.load(Mapping, "bags", name)
