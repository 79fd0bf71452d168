"""Clips that only look like what happened: what a reward model must not like.

Role: in which order frames are shown again, noise, wrong instructions; for the honesty suite and for the evaluation of recordings. Knows
nothing of reward models, files or ROS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

_SWAPS = (("red", "blue"), ("left", "right"), ("open", "close"), ("up", "down"))
"""Words whose exchange makes an instruction another one about the same scene."""


def still(count: int) -> list[int]:
    """The first frame as often as there are frames: nothing was done."""
    return [0] * count


def backwards(count: int) -> list[int]:
    """What was done is undone."""
    return list(range(count))[::-1]


def shuffled(count: int, random: np.random.Generator) -> list[int]:
    """No order at all; the frames are the same, and as many."""
    return [int(index) for index in random.permutation(count)]


def grainy(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image with sensor noise of 3 grey levels."""
    return np.clip(image + random.normal(0.0, 3.0, image.shape), 0, 255).astype(np.uint8)


def swapped(instruction: str) -> str | None:
    """The instruction with its first pair of opposite words exchanged, None where it has none: the same scene, the wrong object."""
    for one, other in _SWAPS:
        words = {one: other, other: one}
        changed = re.sub(rf"\b({one}|{other})\b", lambda match, words=words: words[match[0]], instruction)
        if changed != instruction:
            return changed
    return None


def other_instructions(task: str, instructions: Mapping[str, str], also_true: Mapping[str, Sequence[str]]) -> list[str]:
    """Instructions that are certainly wrong for a task's clips. instructions: task -> its words; also_true: task -> tasks that may be
    true of its clips too."""
    excluded = (task, *also_true.get(task, ()))
    own = instructions.get(task)
    return sorted({words for name, words in instructions.items() if name not in excluded and words != own})
