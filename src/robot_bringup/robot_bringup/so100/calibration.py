"""What the ticks of one arm's servos mean.

Role: the calibration file: for each joint the servo's id, the ticks at 0 rad, the ticks it can reach, and which way it counts; the
conversion between ticks and rad; and everything that makes a file unfit for this arm or this robot. A servo counts 4096 ticks a turn.
Depends on numpy only; speaks to no servo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

from robot_bringup.so100.registers import TICKS
from whetstone import config, files
from whetstone.errors import ConfigError, InputError
from whetstone.profile import RobotProfile

RAD_PER_TICK = 2 * math.pi / TICKS
COVERAGE = 0.75
"""Share of the range in the robot's profile that a joint must be able to reach."""

_TITLE = "# Made by `whetstone calibrate-arm`; docs/so100.md says what each key is. It belongs to one arm: never copy it to another.\n"


@dataclass(frozen=True)
class JointCalibration:
    """One joint. id: of its servo. offset: ticks at 0 rad. low, high: ticks that it can reach. sign: 1 where more ticks are more rad.

    correction: what the servo itself subtracts from its sensor, ticks; with another one this calibration is void.
    """

    id: int = field(metadata={"ge": 1, "le": 253})
    offset: int = field(metadata={"ge": -TICKS, "le": 2 * TICKS})
    low: int = field(metadata={"ge": 0, "le": TICKS - 1})
    high: int = field(metadata={"ge": 0, "le": TICKS - 1})
    sign: Literal[1, -1]
    correction: int = field(metadata={"ge": -2047, "le": 2047})

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be less than high {self.high}")

    def to_rad(self, ticks: float) -> float:
        return self.sign * (ticks - self.offset) * RAD_PER_TICK

    def to_ticks(self, rad: float) -> int:
        """The nearest tick within reach."""
        return min(max(round(self.offset + self.sign * rad / RAD_PER_TICK), self.low), self.high)

    def reach(self) -> tuple[float, float]:
        """(lower, upper), rad."""
        ends = self.to_rad(self.low), self.to_rad(self.high)
        return min(ends), max(ends)


@dataclass(frozen=True)
class Calibration:
    """An arm. robot: name of its profile; made: when, ISO 8601; joints: name -> calibration, the gripper's among them."""

    robot: str
    made: str
    joints: dict[str, JointCalibration]

    def __post_init__(self) -> None:
        by_id: dict[int, str] = {}
        for name, joint in self.joints.items():
            if joint.id in by_id:
                raise ValueError(f"joints '{by_id[joint.id]}' and '{name}' both have servo id {joint.id}")
            by_id[joint.id] = name

    def check(self, profile: RobotProfile, source: str) -> None:
        """Raises ConfigError, which begins with `source`, unless this can be the calibration of an arm with this profile."""
        wanted = (*profile.joint_names, profile.gripper.joint)
        if self.robot != profile.name:
            raise ConfigError(f"{source}: is of robot '{self.robot}', not of '{profile.name}'")
        for name in self.joints:
            if name not in wanted:
                raise ConfigError(f"{source}: {config.unknown('joint', name, wanted)}")
        for name in wanted:
            if name not in self.joints:
                raise ConfigError(f"{source}: joint '{name}' of robot '{profile.name}' is missing; run `whetstone calibrate-arm`")
        for name, (lower, upper) in limits(profile).items():
            low, high = self.joints[name].reach()
            covered = (min(high, upper) - max(low, lower)) / (upper - lower)
            if covered < COVERAGE:
                raise ConfigError(
                    f"{source}: joint '{name}' reaches {low:.2f} to {high:.2f} rad, {max(covered, 0):.0%} of the {lower:g} to {upper:g} "
                    f"rad in the profile of '{profile.name}'; run `whetstone calibrate-arm` and move it to both its ends"
                )


def limits(profile: RobotProfile) -> dict[str, tuple[float, float]]:
    """Joint, the gripper's too -> (lower, upper) of the profile, rad."""
    found = {joint.name: (joint.lower, joint.upper) for joint in profile.joints}
    ends = profile.gripper.closed, profile.gripper.open
    return found | {profile.gripper.joint: (min(ends), max(ends))}


class Converter:
    """Ticks <-> rad of several joints in one order. names: in that order."""

    def __init__(self, calibration: Calibration, names: Sequence[str]) -> None:
        self.joints = [calibration.joints[name] for name in names]
        self.ids = [joint.id for joint in self.joints]
        reach = np.array([joint.reach() for joint in self.joints])
        self.lower, self.upper = reach[:, 0], reach[:, 1]

    def to_rad(self, ticks: Mapping[int, int]) -> np.ndarray:
        """Servo id -> ticks, as (n,) rad."""
        return np.array([joint.to_rad(ticks[joint.id]) for joint in self.joints])

    def to_speed(self, ticks: Mapping[int, int]) -> np.ndarray:
        """Servo id -> ticks/s, as (n,) rad/s."""
        return np.array([joint.sign * ticks[joint.id] * RAD_PER_TICK for joint in self.joints])

    def to_ticks(self, positions: np.ndarray) -> dict[int, int]:
        """(n,) rad as servo id -> the nearest tick within reach."""
        return {joint.id: joint.to_ticks(float(position)) for joint, position in zip(self.joints, positions)}


def load_calibration(path: str, profile: RobotProfile) -> Calibration:
    """Read and check a file. Raises ConfigError."""
    if not path:
        raise ConfigError(f"no calibration of this arm is given; `whetstone calibrate-arm robot:={profile.name}` makes one")
    if not Path(path).expanduser().is_file():
        raise ConfigError(f"{path}: no such calibration; `whetstone calibrate-arm robot:={profile.name} out:={path}` makes it")
    file = Path(path).expanduser()
    found = config.parse(Calibration, config.load_yaml(file), config.show(file))
    found.check(profile, config.show(file))
    return found


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file, whole or not at all. Raises InputError."""
    text = _TITLE + yaml.safe_dump(asdict(calibration), sort_keys=False, default_flow_style=None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
