"""What our SO-100 driver must be told before it starts, and how long it takes to stop.

Role: from launch arguments to the driver node's parameters, for the launch plan and launch/so100.launch.py; whatever would make the driver
refuse to configure and can be known without opening the port is refused here. Does not depend on ROS or on the servos' SDK.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robot_bringup.so100.calibration import Calibration, limits, load_calibration
from robot_bringup.so100.settings import DriverSettings, load_settings
from whetstone.errors import ConfigError
from whetstone.profile import RobotProfile, load_profile

EXECUTABLE = "so100_driver"
"""Also the node's name."""
_MARGIN = 3.0
"""Seconds for the rest of stopping, less than the node gives itself (whetstone.ros.GRACE)."""


def parameters(robot: str, driver: str, port: str, calibration: str) -> dict[str, Any]:
    """The driver node's own parameters. driver: a file of config/drivers. Raises ConfigError naming what is missing and how to get it."""
    profile = load_profile(robot)
    check(profile)
    load_settings(driver, profile)
    if not port:
        raise ConfigError("argument port is empty; name the arm's serial adapter, one of `ls /dev/serial/by-id/*` or port:=/dev/ttyACM0")
    if not Path(port).exists():
        raise ConfigError(f"port:={port}: no such device; is the USB cable in? `ls /dev/serial/by-id/*` shows the adapters that are")
    if not calibration:
        raise ConfigError(f"argument calibration is empty; `whetstone calibrate-arm robot:={robot} port:={port} out:=arm.yaml` makes one")
    load_calibration(calibration, profile)
    return {"robot": robot, "driver": driver, "port": port, "calibration": calibration}


def check(profile: RobotProfile) -> None:
    """Raises ConfigError for a robot whose commands this driver does not take."""
    if profile.command.kind != "joint_trajectory" or profile.gripper.kind not in ("gripper_command", "parallel_gripper_command"):
        kinds = f"command.kind {profile.command.kind} and gripper.kind {profile.gripper.kind}"
        raise ConfigError(f"robot '{profile.name}' has {kinds}; this driver takes joint_trajectory and a gripper action")


def parking(profile: RobotProfile, calibration: Calibration, settings: DriverSettings) -> float:
    """Seconds that parking takes at most: the longest way that a joint can have, and the patience after it."""
    longest = 0.0
    for name in profile.joint_names:
        (lower, upper), (low, high) = limits(profile)[name], calibration.joints[name].reach()
        longest = max(longest, min(upper, high) - max(lower, low))
    return longest / settings.park.velocity + settings.park.patience


def stopping(told: dict[str, Any]) -> float:
    """Seconds that the driver with these `parameters` takes to stop at most, whoever asks it to."""
    profile = load_profile(told["robot"])
    return _MARGIN + parking(profile, load_calibration(told["calibration"], profile), load_settings(told["driver"], profile))
