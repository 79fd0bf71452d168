"""How the driver treats the arm, as data.

Role: the typed form of config/drivers/<name>.yaml. Every key is explained in config/drivers/so100.yaml. Does not depend on ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robot_bringup.so100.calibration import limits
from whetstone import config
from whetstone.errors import ConfigError
from whetstone.profile import RobotProfile

_POSITIVE: dict[str, Any] = {"gt": 0}


@dataclass(frozen=True)
class ServoSettings:
    """One joint's servo. upper, lower: in words, where the joint goes at the two ends of its range."""

    id: int = field(metadata={"ge": 1, "le": 253})
    upper: str
    lower: str


@dataclass(frozen=True)
class Line:
    """patience: s; retries: how often a question is asked again; lost_after, backoff, backoff_most: s."""

    patience: float = field(metadata={"gt": 0, "le": 0.2})
    retries: int = field(metadata={"ge": 0, "le": 10})
    lost_after: float = field(metadata=_POSITIVE)
    backoff: float = field(metadata=_POSITIVE)
    backoff_most: float = field(metadata=_POSITIVE)


@dataclass(frozen=True)
class GripperSettings:
    """velocity: rad/s; torque: share of the stall torque; arrived, resting: opening; resting_for: s."""

    velocity: float = field(metadata=_POSITIVE)
    torque: float = field(metadata={"gt": 0, "le": 1})
    arrived: float = field(metadata=_POSITIVE)
    resting: float = field(metadata=_POSITIVE)
    resting_for: float = field(metadata=_POSITIVE)


@dataclass(frozen=True)
class Band:
    """warn, stop: where a warning and where holding begins; back: how far it must go back before the arm moves again."""

    warn: float
    stop: float
    back: float = field(metadata={"ge": 0})


@dataclass(frozen=True)
class Health:
    """temperature: degrees Celsius; voltage_low, voltage_high: V; load: share of the voltage given to the motor, for load_for s.
    hold_for: s that the arm holds after the last sign of what was wrong."""

    temperature: Band
    voltage_low: Band
    voltage_high: Band
    load: Band
    load_for: float = field(metadata=_POSITIVE)
    hold_for: float = field(metadata=_POSITIVE)


@dataclass(frozen=True)
class Park:
    """velocity: rad/s; tolerance: rad; patience: s beyond the time that the way should take; pose: joint -> rad."""

    velocity: float = field(metadata=_POSITIVE)
    tolerance: float = field(metadata=_POSITIVE)
    patience: float = field(metadata=_POSITIVE)
    pose: dict[str, float]


@dataclass(frozen=True)
class DriverSettings:
    """rate: Hz, of the line and of joint_states; health_every: s; command_timeout: s."""

    rate: float = field(metadata={"ge": 50, "le": 200})
    health_every: float = field(metadata=_POSITIVE)
    command_timeout: float = field(metadata=_POSITIVE)
    line: Line
    gripper: GripperSettings
    health: Health
    park: Park
    servos: dict[str, ServoSettings]

    def check(self, profile: RobotProfile, source: str) -> None:
        """Raises ConfigError where this does not fit the robot."""
        for key, given, wanted in (
            ("servos", self.servos, (*profile.joint_names, profile.gripper.joint)),
            ("park.pose", self.park.pose, profile.joint_names),
        ):
            missing = [name for name in wanted if name not in given]
            unknown = [name for name in given if name not in wanted]
            if unknown:
                raise ConfigError(f"{source}: key '{key}': {config.unknown('joint', unknown[0], wanted)}")
            if missing:
                raise ConfigError(f"{source}: key '{key}': joint '{missing[0]}' of robot '{profile.name}' is missing")
        for name, position in self.park.pose.items():
            lower, upper = limits(profile)[name]
            if not lower <= position <= upper:
                raise ConfigError(f"{source}: key 'park.pose': {name} {position:g} is outside {lower:g} to {upper:g} rad of the profile")


def load_settings(name: str, profile: RobotProfile) -> DriverSettings:
    """Read config/drivers/<name>.yaml (or a path that ends in .yaml). Raises ConfigError."""
    path = config.find("drivers", name)
    settings = config.parse(DriverSettings, config.load_yaml(path), config.show(path))
    settings.check(profile, config.show(path))
    return settings
