"""Writes down a simulated episode with the labels of the ground truth, for training.

Role: the rows of a demonstration file, whoever acts: an expert (demonstrate.py) or a policy (collect.py). Does not depend on ROS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robot_bringup.sim.simulation import SimState, Simulation
from robot_bringup.sim.tasks import Truth
from whetstone.demonstrations import save_demonstration
from whetstone.task import PRIMITIVES, TaskSpec

_ROWS = ("proprioception", "actions", "frame_steps", "progress", "primitive", "completed", "state", "pixels")
_TYPES = {"frame_steps": np.int64, "primitive": np.int64, "completed": bool}


class Recording:
    """One episode: frame() for each frame kept, act() for each control step, then save()."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._rows: dict[str, list] = {name: [] for name in _ROWS}
        self._images: dict[str, list[np.ndarray]] = {camera.name: [] for camera in sim.profile.cameras}

    def frame(self, step: int, seen: SimState, truth: Truth) -> None:
        state = self._sim.world.state()
        cameras = [self._sim.project(state[:18].reshape(6, 3), name) for name in self._images]
        values = (step, truth.progress, PRIMITIVES.index(truth.primitive), truth.success, state, cameras)
        for name, value in zip(_ROWS[2:], values, strict=True):
            self._rows[name].append(value)
        for camera, image in seen.images.items():
            self._images[camera].append(image.copy())

    def act(self, measured: np.ndarray, command: np.ndarray) -> None:
        """measured, command: (joints + 1,), rad and opening."""
        self._rows["proprioception"].append(measured)
        self._rows["actions"].append(command)

    def save(self, path: Path, task: TaskSpec, kind: str, seed: int, success: bool) -> None:
        arrays = {name: np.asarray(values, _TYPES.get(name, np.float32)) for name, values in self._rows.items()}
        texts = {"robot": self._sim.profile.name, "task": task.name, "instruction": task.instruction, "kind": kind}
        save_demonstration(path, texts, seed, success, arrays, {camera: np.stack(frames) for camera, frames in self._images.items()})
