"""The simulators that a run can be in, and what a robot is called there.

Role: one table. A robot's profile says how its real driver speaks; for a simulator that is not ours a profile of its own extends it, named
ROBOT_SIMULATOR (config/robots/franka_isaac.yaml): robot:=franka sim:=isaac means that one. Depends on configuration only.
"""

from __future__ import annotations

from pathlib import Path

from whetstone import config
from whetstone.errors import ConfigError

SIMULATORS = ("mujoco", "gazebo", "isaac")
"""mujoco: our own, started with the run. The others run beside it, with a scene node of ours before them (docs/simulators.md)."""
EXTERNAL = ("gazebo", "isaac")


def robot_in(robot: str, sim: str) -> str:
    """The profile that stands for the robot in the simulator. Raises ConfigError where the simulator needs one and there is none."""
    if sim not in EXTERNAL:
        return robot
    name, known = Path(robot).stem, config.available("robots")
    if robot.endswith((".yaml", ".yml")) or name.endswith(f"_{sim}"):
        return robot  # somebody's own, or meant so
    if f"{name}_{sim}" in known:
        return f"{name}_{sim}"
    there = [each.removesuffix(f"_{sim}") for each in known if each.endswith(f"_{sim}")]
    raise ConfigError(
        f"robot '{robot}' has no profile for sim:={sim}; there are ones for {', '.join(there) or 'none'}. Write one that extends it, with "
        f"that simulator's topics, and pass it: robot:=/path/{name}_{sim}.yaml (docs/simulators.md)"
    )


def world(namespace: str) -> str:
    """Gazebo's name for the world of the robot in that namespace."""
    return namespace.replace("/", "_")
