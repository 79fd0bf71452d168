"""Labelled episodes for judging and calibrating reward models.

Role: finds them, or has the simulator make them, under seeds that nothing else uses. Does not depend on torch or ROS.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

from whetstone import config
from whetstone.demonstrations import Demonstration, load_demonstrations
from whetstone.errors import InputError

Purpose = Literal["evaluation", "calibration"]

_SETS: dict[Purpose, tuple[str, int]] = {"evaluation": ("noisy=12,failure=8", 7_000_000), "calibration": ("noisy=5,failure=6", 8_000_000)}
"""Purpose -> (episodes of each task, seed); no demonstration, rollout or run begins near these seeds."""


def labelled(folders: str, robot: str, purpose: Purpose, tasks: tuple[str, ...] | None = None) -> list[Demonstration]:
    """The episodes of the folders (joined by commas), or, where none is named, simulated ones, made where they are missing.

    Raises InputError where there are none or one is of another robot.
    """
    found = folders.split(",") if folders else [str(_simulated(robot, purpose))]
    episodes = [episode for folder in found for episode in load_demonstrations(folder, tasks)]
    other = next((episode for episode in episodes if episode.robot != robot), None)
    if other is not None:
        raise InputError(f"{other.path}: is of robot '{other.robot}', not of '{robot}'")
    return episodes


def _simulated(robot: str, purpose: Purpose) -> Path:
    counts, seed = _SETS[purpose]
    folder = config.root() / "build" / purpose
    command = [sys.executable, "-m", "robot_bringup.demonstrate", f"robot:={robot}", f"out:={folder}", f"counts:={counts}", f"seed:={seed}"]
    if subprocess.run(command, check=False).returncode:
        raise InputError(f"episodes of {robot} could not be simulated; name a folder of labelled episodes with data:=")
    return folder / robot
