"""Demonstrations on disk: what an expert did, with the labels that training needs.

Role: the file format between the simulator's experts (writer) and the trainers of vision, policy and reward (readers). Labels come
from the simulator's ground truth, so nothing that runs in the loop may read these files. Depends on numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whetstone import files
from whetstone.errors import InputError

FRAME_STRIDE = 2  # every how many control steps a frame is kept
STATE_NAMES = (
    *(f"{name}_{axis}" for name in ("end_effector", "red_cube", "blue_cube", "tray", "mark", "button_base") for axis in "xyz"),
    "opening",
    "held_red",
    "held_blue",
)


@dataclass(frozen=True)
class Demonstration:
    """One episode of an expert.

    kind: "noisy" (a careful demonstrator), "habitual" (one with a habit), "failure" or "rollout" (a policy's).
    T control steps, F frames at frame_steps.
    proprioception: (T, joints + 1) measured before each step; actions: (T, joints + 1) commanded: rad, last column opening.
    frame_steps: (F,) control step of each frame. progress: (F,) in [0, 1]. primitive: (F,) index into whetstone.task.PRIMITIVES.
    pixels: (F, cameras, 6, 3) where the six named points of `state` are in each image: x, y in [-1, 1] where seen, depth in m.
    completed: (F,) bool. state: (F, len(STATE_NAMES)) positions in the world frame (m), gripper opening, what is held.
    """

    path: Path
    robot: str
    task: str
    instruction: str
    kind: str
    seed: int
    success: bool
    proprioception: np.ndarray
    actions: np.ndarray
    frame_steps: np.ndarray
    progress: np.ndarray
    primitive: np.ndarray
    completed: np.ndarray
    state: np.ndarray
    pixels: np.ndarray
    cameras: tuple[str, ...]

    def measured(self) -> np.ndarray:
        """(F, joints + 1) float32: the proprioception at each frame. The last may come after the last control step, when nothing is
        measured any more."""
        return self.proprioception[np.minimum(self.frame_steps, len(self.proprioception) - 1)].astype(np.float32)

    def images(self) -> dict[str, np.ndarray]:
        """Camera -> (F, height, width, 3) uint8 RGB, read from disk at each call."""
        with np.load(self.path, allow_pickle=False) as file:
            return {camera: file[f"image_{camera}"] for camera in self.cameras}


_ARRAYS = ("proprioception", "actions", "frame_steps", "progress", "primitive", "completed", "state", "pixels")
_TEXTS = ("robot", "task", "instruction", "kind")


def save_demonstration(
    path: Path, texts: dict[str, str], seed: int, success: bool, arrays: dict[str, np.ndarray], images: dict[str, np.ndarray]
) -> None:
    """Write one episode; a file appears under its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as partial, partial.open("wb") as file:
        everything: dict[str, Any] = {"seed": np.int64(seed), "success": np.bool_(success)}
        everything |= {name: np.str_(texts[name]) for name in _TEXTS} | {name: arrays[name] for name in _ARRAYS}
        everything |= {f"image_{camera}": value for camera, value in images.items()}
        np.savez(file, **everything)


def load_demonstrations(directory: Path | str, tasks: tuple[str, ...] | None = None) -> list[Demonstration]:
    """All episodes below a directory in the order of their names, without their images.

    Raises InputError where there are none or a file is not a demonstration.
    """
    root = Path(directory)
    demonstrations = []
    for path in sorted(root.rglob("*.npz")):
        if tasks is not None and path.parent.name not in tasks:
            continue
        try:
            with np.load(path, allow_pickle=False) as file:
                demonstrations.append(
                    Demonstration(
                        path=path,
                        seed=int(file["seed"]),
                        success=bool(file["success"]),
                        cameras=tuple(name[len("image_") :] for name in file.files if name.startswith("image_")),
                        **{name: str(file[name]) for name in _TEXTS},
                        **{name: file[name] for name in _ARRAYS},
                    )
                )
        except (KeyError, ValueError, OSError) as error:
            raise InputError(f"{path}: not a demonstration ({error}); make them again with `make assets`") from None
    if not demonstrations:
        raise InputError(f"no demonstrations below {root}; make them with `whetstone assets` or `python -m robot_bringup.demonstrate`")
    return demonstrations
