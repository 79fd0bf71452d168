"""What franka_bringup must be told so that a profile's arm can be driven.

Role: from a robot profile to the launch arguments of franka_bringup's franka.launch.py and the controller to spawn beside;
launch/franka.launch.py turns that into actions. Pure; does not depend on launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whetstone import config
from whetstone.errors import ConfigError
from whetstone.profile import load_profile


@dataclass(frozen=True)
class Bringup:
    """arguments: of franka.launch.py. controller: name of the trajectory controller that the spawner is to start."""

    arguments: dict[str, str]
    controller: str


def bringup(robot: str, robot_ip: str, namespace: str, fake: bool) -> Bringup:
    """Raises ConfigError for a robot that is no Franka on its trajectory controller, and for hardware without an address."""
    profile, path = load_profile(robot), controllers(fake)
    configured = config.load_yaml(path)
    known = {one: _controller(one) for one in (robot, *config.available("robots")) if f"/**/{_controller(one)}" in configured}
    if robot not in known:
        raise ConfigError(f"robot '{robot}': {config.show(path)} has no trajectory controller for it; known: {', '.join(known)}")
    if not fake and not robot_ip:
        raise ConfigError("argument robot_ip is empty; give the robot's address, for example robot_ip:=172.16.0.2, or fake:=true")
    arguments = {
        "robot_type": profile.arm_id,
        "robot_ip": robot_ip or "dont-care",
        "namespace": namespace,
        "load_gripper": "true",
        "use_fake_hardware": str(fake).lower(),
        "controllers_yaml": str(path),
    }
    return Bringup(arguments, known[robot])


def _controller(robot: str) -> str:
    """fr3_arm_controller/joint_trajectory -> fr3_arm_controller"""
    return load_profile(robot).command.topic.split("/")[0]


def controllers(fake: bool) -> Path:
    """The file of controllers."""
    return config.root() / "config" / "controllers" / ("franka_fake.yaml" if fake else "franka.yaml")
