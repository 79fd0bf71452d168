"""Writes what Isaac Sim's stage script needs: the scene and the robot's names, as one JSON file.

Role: pure: from a profile to data. Isaac Sim's Python has neither our packages nor MuJoCo, so the script (stage.py) reads this file and
nothing else. `whetstone isaac-scene` calls it. Does not depend on ROS or Isaac Sim.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robot_bringup.sim.exported import export
from robot_bringup.simulators import robot_in
from whetstone import jsonfile
from whetstone.arguments import parse_arguments
from whetstone.errors import ConfigError
from whetstone.profile import load_profile

STAGE = Path(__file__).with_name("stage.py")
HELP = """whetstone isaac-scene name:=value ...: write the scene for Isaac Sim's stage script, and say how to start it (docs/simulators.md)

  robot:=franka         a file of config/robots that has a profile for isaac
  namespace:=           of its topics; empty: the robot's name
  out:=isaac_scene.json
"""
_DEFAULTS = {"robot": "franka", "namespace": "", "out": "isaac_scene.json"}


def main(words: Sequence[str]) -> int:
    """Returns the exit code. Raises ConfigError."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP, end="")
        return 0
    values = parse_arguments(list(words), _DEFAULTS)
    out = Path(values["out"]).expanduser().absolute()
    if not out.parent.is_dir():
        raise ConfigError(f"argument out:={values['out']}: folder {out.parent} does not exist")
    namespace = values["namespace"].strip("/") or Path(values["robot"]).stem
    jsonfile.write(out, scene(robot_in(values["robot"], "isaac"), namespace))
    print(f"written to {out}; now: ISAAC_SIM/python.sh {STAGE} {out}")
    return 0


def scene(robot: str, namespace: str) -> dict[str, Any]:
    """What stage.py reads. robot: a profile for Isaac Sim."""
    profile = load_profile(robot)
    if profile.command.kind != "joint_state":
        raise ConfigError(
            f"robot '{robot}': Isaac Sim takes joint states; use a profile with command.kind joint_state (docs/simulators.md)"
        )
    assert profile.sim is not None
    exported = export(profile)
    model: dict[str, Any] = profile.sim.model
    return {
        "robot": profile.name,
        "namespace": namespace,
        "rate": profile.rate,
        "joints": [{"name": joint.name, "home": joint.home} for joint in profile.joints],
        "gripper": {"name": profile.gripper.joint, "open": profile.gripper.open},
        "fingers": [name for name in profile.sim.joints if name not in profile.joint_names],
        "base": {"position": model["base_position"], "quaternion": model["base_quaternion"]},
        "topics": {
            "joint_states": profile.joint_states,
            "command": profile.command.topic,
            "cameras": {camera.name: camera.topic for camera in profile.cameras},
        },
        "bodies": [dataclasses.asdict(body) for body in exported.bodies],
        "cameras": [{**dataclasses.asdict(camera), "horizontal": camera.horizontal} for camera in exported.cameras],
    }
