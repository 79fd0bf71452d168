"""What a scene can be asked: instructions of the simulated tasks in many words, true ones and false ones.

Role: the language side of the pocket VLM's training data. For every scene there are as many wrong instructions as right ones, of the
other tasks and of the other cube, so that "something arrived" is not enough. Does not depend on torch or ROS.
"""

from __future__ import annotations

import numpy as np

from whetstone.demonstrations import STATE_NAMES

WORDINGS: dict[str, tuple[str, ...]] = {
    "pick_and_place": (
        "put the {cube} cube in the tray",
        "place the {cube} cube into the tray",
        "move the {cube} cube to the yellow tray",
        "drop the {cube} block in the tray",
        "pick up the {cube} cube and put it in the yellow tray",
        "the {cube} block goes into the tray",
    ),
    "push": (
        "push the {cube} cube onto the green mark",
        "slide the {cube} cube to the green spot",
        "push the {cube} block to the mark",
        "shove the {cube} cube along the table onto the green mark",
        "move the {cube} block onto the green mark by pushing it",
    ),
    "reach": (
        "touch the {cube} cube",
        "reach for the {cube} cube",
        "bring the gripper to the {cube} block",
        "move the fingertips to the top of the {cube} cube",
        "go to the {cube} block",
    ),
    "stack": (
        "stack the {cube} cube on the {other} cube",
        "put the {cube} cube on top of the {other} cube",
        "place the {cube} block on the {other} block",
        "set the {cube} cube onto the {other} cube",
        "the {cube} block goes on the {other} one",
    ),
    "tray_then_button": (
        "put the {cube} cube in the tray and then press the button",
        "place the {cube} block in the tray, then push the red button",
        "first the {cube} cube into the tray, then press the button",
        "drop the {cube} cube in the yellow tray and press the red button afterwards",
        "move the {cube} cube to the tray and then hit the button",
    ),
}
"""Task -> wordings; the first is that of config/tasks."""

_OTHER = {"red": "blue", "blue": "red"}


def say(wording: str, cube: str = "red") -> str:
    return wording.format(cube=cube, other=_OTHER[cube])


def other_tasks(task: str, also_true: dict[str, tuple[str, ...]]) -> list[str]:
    """Tasks whose instruction is certainly wrong for the frames of `task`. also_true: see whetstone.task."""
    return [name for name in WORDINGS if name not in (task, *also_true.get(task, ()))]


def other_cube_done(task: str, state: np.ndarray, scene: dict[str, float]) -> np.ndarray:
    """(F,) bool: whether the task holds of the blue cube instead of the red one (an expert that took the wrong cube).

    state: (F, len(STATE_NAMES)); scene: sizes in m (`sim.scene` of the robot's profile). A task of several stages never does.
    """

    def at(*names: str) -> list[np.ndarray]:
        return [state[:, [STATE_NAMES.index(f"{name}_{axis}") for axis in "xyz"]] for name in names]

    hand, blue, red, tray, mark = at("end_effector", "blue_cube", "red_cube", "tray", "mark")
    cube = scene["cube"]
    free = (state[:, STATE_NAMES.index("held_blue")] < 0.5) & (np.linalg.norm(hand - blue, axis=1) > cube)
    if task == "pick_and_place":
        inside = np.abs(blue - tray)[:, :2].max(axis=1) < scene["tray"] / 2
        return inside & (blue[:, 2] < cube * 0.9) & free
    if task == "push":
        return (np.linalg.norm((blue - mark)[:, :2], axis=1) < scene["mark"] * 0.9) & (blue[:, 2] < cube * 0.7)
    if task == "stack":
        offset = blue - red
        return (np.linalg.norm(offset[:, :2], axis=1) < cube * 0.5) & (np.abs(offset[:, 2] - cube) < cube * 0.25) & free
    if task == "reach":
        return np.linalg.norm(hand - blue - [0, 0, cube * 0.9], axis=1) < cube * 0.55
    return np.zeros(len(state), bool)
