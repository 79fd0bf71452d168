"""A robot as data.

Role: the typed form of config/robots/<name>.yaml: joints with limits, gripper, topics of the real driver, cameras, guard
limits and, apart from those, what a simulator needs to stand in for the driver. Also the small conversions that follow
from it (gripper opening <-> driver position, JointState -> proprioception). Depends on numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from whetstone import config
from whetstone.errors import ConfigError, InputError


@dataclass(frozen=True)
class Joint:
    """An arm joint under its driver's name. lower, upper, home: rad; velocity: rad/s; acceleration: rad/s^2 (what we allow ourselves)."""

    name: str
    lower: float
    upper: float
    velocity: float = field(metadata={"gt": 0})
    acceleration: float = field(metadata={"gt": 0})
    home: float = 0.0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"joint '{self.name}': lower {self.lower} must be less than upper {self.upper}")
        if not self.lower <= self.home <= self.upper:
            raise ValueError(f"joint '{self.name}': home {self.home} must lie in [{self.lower}, {self.upper}]")


ARM_COMMANDS = {
    "joint_trajectory": "trajectory_msgs/msg/JointTrajectory",
    "forward": "std_msgs/msg/Float64MultiArray",
    "joint_state": "sensor_msgs/msg/JointState",
    "pose": "geometry_msgs/msg/PoseStamped",
}
"""Type of the arm's commands by `command.kind`, as ROS names it."""
GRIPPER_COMMANDS = {
    "gripper_command": "control_msgs/action/GripperCommand",
    "parallel_gripper_command": "control_msgs/action/ParallelGripperCommand",
    "trajectory": "trajectory_msgs/msg/JointTrajectory",
    "forward": "std_msgs/msg/Float64MultiArray",
}
"""The same of the gripper by `gripper.kind`; with_arm has none of its own."""


@dataclass(frozen=True)
class Gripper:
    """The gripper. closed, open: position of `joint` in JointState (m or rad) at opening 0 and 1.

    kind: gripper_command = control_msgs/action/GripperCommand, parallel_gripper_command = control_msgs/action/ParallelGripperCommand, both
    on `action`, its name; trajectory = trajectory_msgs/JointTrajectory of `joint` alone, forward = std_msgs/Float64MultiArray of one
    number, both on `topic`; with_arm: the last joint of the arm's own command (`command.kind` forward or joint_state).
    scale: position in the goal = scale * joint position. max_effort: N or N m in an action's goal (0: the driver's own).
    hysteresis: a goal is sent only when the wanted opening moved by more than this since the last goal.
    """

    joint: str
    closed: float
    open: float
    kind: Literal["gripper_command", "parallel_gripper_command", "trajectory", "forward", "with_arm"]
    action: str = ""
    topic: str = ""
    scale: float = field(default=1.0, metadata={"gt": 0})
    max_effort: float = field(default=0.0, metadata={"ge": 0})
    hysteresis: float = field(default=0.2, metadata={"ge": 0, "lt": 1})

    def __post_init__(self) -> None:
        if self.closed == self.open:
            raise ValueError("'closed' and 'open' must differ")
        needed = {"with_arm": "", "trajectory": "topic", "forward": "topic"}.get(self.kind, "action")
        for key in ("action", "topic"):
            if bool(getattr(self, key)) != (key == needed):
                raise ValueError(f"'{key}' is {'missing' if key == needed else 'not used'} with kind {self.kind}")


@dataclass(frozen=True)
class Command:
    """How the arm is driven: one message on `topic` per control period.

    kind: joint_trajectory = trajectory_msgs/JointTrajectory with one point, one period ahead, which the driver interpolates;
    forward = std_msgs/Float64MultiArray, joint positions in the profile's order (ros2_control's forward_command_controller);
    joint_state = sensor_msgs/JointState, positions by name (crisp_controllers' target_joint, Isaac Sim's joint_command);
    pose = geometry_msgs/PoseStamped of the end effector (crisp_controllers' target_pose) in `frame`, the name of the frame that the robot's
    base stands in.
    """

    kind: Literal["joint_trajectory", "forward", "joint_state", "pose"]
    topic: str
    frame: str = ""

    def __post_init__(self) -> None:
        if bool(self.frame) != (self.kind == "pose"):
            raise ValueError(f"'frame' is {'missing' if self.kind == 'pose' else 'not used'} with kind {self.kind}")


@dataclass(frozen=True)
class Camera:
    """width, height: pixels, as published. Topic: camera/<name>/image_raw."""

    name: str
    width: int = field(default=128, metadata={"ge": 1, "le": 8192})
    height: int = field(default=128, metadata={"ge": 1, "le": 8192})

    @property
    def topic(self) -> str:
        return f"camera/{self.name}/image_raw"


@dataclass(frozen=True)
class Box:
    """lower, upper: corners (x, y, z), m, in the frame that the robot's base stands in: x forward, z up."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.lower) != 3 or len(self.upper) != 3:
            raise ValueError("'lower' and 'upper' must be three numbers each: x, y, z")
        if not all(low < high for low, high in zip(self.lower, self.upper)):
            raise ValueError(f"'lower' {list(self.lower)} must be less than 'upper' {list(self.upper)} in x, y and z")


@dataclass(frozen=True)
class GuardLimits:
    """max_step: rad that a command may lie from the measured position. stale_after: s that an observation may be old. workspace: that the
    point between the fingers must stay in; none: anywhere."""

    max_step: float = field(metadata={"gt": 0})
    stale_after: float = field(metadata={"gt": 0})
    workspace: Box | None = None


@dataclass(frozen=True)
class DriverMode:
    """Where the driver says whether it takes commands. topic: of message type `type` (package/msg/Name); field: its integer; commandable:
    the values in which it does."""

    topic: str
    type: str
    field: str
    commandable: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.type.count("/msg/") != 1:
            raise ValueError(f"'type' is '{self.type}'; it must be package/msg/Name")
        if not self.commandable:
            raise ValueError("'commandable' must hold at least one value")


@dataclass(frozen=True)
class SimJoint:
    """How a simulator's joint stands for a driver's joint: driver position = sign * model position + offset (rad or m)."""

    model_joint: str
    sign: Literal[1, -1] = 1
    offset: float = 0.0

    def to_driver(self, model_position: float) -> float:
        return self.sign * model_position + self.offset

    def to_model(self, driver_position: float) -> float:
        return self.sign * (driver_position - self.offset)


@dataclass(frozen=True)
class SimProfile:
    """Where the simulated robot comes from. distribution: the wheel; module: its package; xml: path inside the package.

    joints: driver joint name (arm, gripper and whatever else the driver publishes) -> SimJoint, in JointState order.
    model: settings that only the simulator reads.
    """

    distribution: str
    module: str
    xml: str
    joints: dict[str, SimJoint]
    model: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RobotProfile:
    """A robot. rate: control rate, Hz. joint_states: topic of the driver. `joints` is the arm without the gripper, in command order.

    assets: name of the robot whose weights, calibrations and task settings it shares, joint for joint; empty: its own.
    """

    name: str
    arm_id: str
    joints: tuple[Joint, ...]
    gripper: Gripper
    rate: float = field(metadata={"gt": 0, "le": 1000})
    joint_states: str
    command: Command
    cameras: tuple[Camera, ...]
    guard: GuardLimits
    mode: DriverMode | None = None
    sim: SimProfile | None = None
    assets: str = ""

    def __post_init__(self) -> None:
        if not self.joints:
            raise ValueError("a robot needs at least one joint in 'joints'")
        if self.gripper.kind == "with_arm" and self.command.kind not in ("forward", "joint_state"):
            raise ValueError(f"key 'gripper.kind': with_arm needs a 'command.kind' of forward or joint_state, not {self.command.kind}")
        for what, names in (("joint", [*self.joint_names, self.gripper.joint]), ("camera", [camera.name for camera in self.cameras])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} '{twice[0]}' is given twice")
        if self.sim:
            for name in (*self.joint_names, self.gripper.joint):
                if name not in self.sim.joints:
                    raise ValueError(f"'sim.joints' lacks joint '{name}'; it has {', '.join(self.sim.joints)}")

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Arm joints in command order, without the gripper."""
        return tuple(joint.name for joint in self.joints)

    @cached_property
    def command_names(self) -> tuple[str, ...]:
        """Joints that the arm's commands speak of: its own, and the gripper's where that travels with them."""
        return (*self.joint_names, self.gripper.joint) if self.gripper.kind == "with_arm" else self.joint_names

    @property
    def asset_name(self) -> str:
        """The name under which weights, calibrations and task settings for this robot are kept."""
        return self.assets or self.name

    @cached_property
    def asset_joints(self) -> tuple[str, ...]:
        """`joint_names` of that robot. Raises ConfigError where they cannot be this one's, joint for joint."""
        if self.asset_name == self.name:
            return self.joint_names
        other = load_profile(self.assets)
        if len(other.joints) != len(self.joints):
            raise ConfigError(
                f"robot '{self.name}': key 'assets' is {self.assets}, which has {len(other.joints)} joints; this one has {len(self.joints)}"
            )
        return other.joint_names

    def topic(self, name: str, namespace: str) -> str:
        """`name` as a node elsewhere says it that hears several robots of this kind; namespace: of one of them; empty: the node's own.
        Raises ConfigError where all of them would share the topic."""
        if not namespace:
            return name
        if name.startswith("/"):
            raise ConfigError(f"robot '{self.name}' has the topic '{name}', which several robots would share; leave its first / out")
        return f"/{namespace}/{name}"

    @property
    def period(self) -> float:
        """Control period, s."""
        return 1.0 / self.rate

    @property
    def period_ns(self) -> int:
        """Control period, integer ns."""
        return round(1e9 / self.rate)

    @cached_property
    def home(self) -> np.ndarray:
        """(joints,) float64 rad."""
        return self._column("home")

    @cached_property
    def lower(self) -> np.ndarray:
        """(joints,) float64 rad."""
        return self._column("lower")

    @cached_property
    def upper(self) -> np.ndarray:
        """(joints,) float64 rad."""
        return self._column("upper")

    @cached_property
    def velocity(self) -> np.ndarray:
        """(joints,) float64 rad/s."""
        return self._column("velocity")

    @cached_property
    def acceleration(self) -> np.ndarray:
        """(joints,) float64 rad/s^2."""
        return self._column("acceleration")

    def camera(self, name: str) -> Camera:
        """Raises ConfigError where the robot has no such camera."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise ConfigError(f"robot '{self.name}': {config.unknown('camera', name, [camera.name for camera in self.cameras])}")

    def opening_to_position(self, opening: float) -> float:
        """Gripper opening in [0, 1] (clipped) -> position of the gripper joint (m or rad)."""
        opening = min(max(float(opening), 0.0), 1.0)
        return (1 - opening) * self.gripper.closed + opening * self.gripper.open

    def position_to_opening(self, position: float) -> float:
        """Position of the gripper joint (m or rad) -> opening in [0, 1], clipped."""
        opening = (float(position) - self.gripper.closed) / (self.gripper.open - self.gripper.closed)
        return min(max(opening, 0.0), 1.0)

    def opening_to_goal(self, opening: float) -> float:
        """Gripper opening in [0, 1] -> position in what the gripper's driver is told."""
        return self.gripper.scale * self.opening_to_position(opening)

    def joint_state(self, command: np.ndarray) -> tuple[list[str], list[float]]:
        """The inverse of proprioception: names and positions as the driver says them (rad; the gripper in its joint's unit) of
        (joints + 1,): arm joints in profile order, then gripper opening."""
        return [*self.joint_names, self.gripper.joint], [*map(float, command[:-1]), self.opening_to_position(float(command[-1]))]

    def proprioception(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """(joints + 1,) float32 from a JointState's `name` and `position`, whatever their order and whatever else is in there.

        Measured joint positions in profile order (rad), then gripper opening in [0, 1]. Raises InputError naming a joint
        that is missing or not finite.
        """
        index = {name: i for i, name in enumerate(names)}
        result = np.empty(len(self.joints) + 1, np.float32)
        for column, joint in enumerate((*self.joint_names, self.gripper.joint)):
            i = index.get(joint)
            if i is None or i >= len(positions):
                raise InputError(f"joint state has no position of '{joint}'; it has {', '.join(names) or 'no names'}")
            value = float(positions[i])
            if not math.isfinite(value):
                raise InputError(f"joint state: position of '{joint}' is {value}")
            result[column] = value if column < len(self.joints) else self.position_to_opening(value)
        return result

    def _column(self, name: str) -> np.ndarray:
        array = np.array([getattr(joint, name) for joint in self.joints], np.float64)
        array.flags.writeable = False
        return array


def load_profile(name: str) -> RobotProfile:
    """Read config/robots/<name>.yaml (or a path that ends in .yaml); `{arm_id}` in its texts stands for that key's value. Raises
    ConfigError."""
    data = config.load_extended("robots", name)
    arm_id = data.get("arm_id")
    filled = _fill(data, arm_id) if isinstance(arm_id, str) else data
    return config.parse(RobotProfile, filled, data.source)


def _fill(value: Any, arm_id: str) -> Any:
    if isinstance(value, str):
        return value.replace("{arm_id}", arm_id)
    if isinstance(value, dict):
        return {_fill(key, arm_id): _fill(item, arm_id) for key, item in value.items()}
    return [_fill(item, arm_id) for item in value] if isinstance(value, list) else value
