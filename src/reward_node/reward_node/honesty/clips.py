"""Clips that a reward model is judged on: what really happened, and what only looks like it.

Role: labelled episodes become clips of the frames that the node would score; of a clip come its controls: a still, a still with sensor
noise, the clip backwards, wrong instructions. Ground truth is kept beside the frames, to judge, never to score. Does not depend on torch
or ROS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whetstone.contracts import PROPRIOCEPTION, RewardNeeds
from whetstone.demonstrations import Demonstration
from whetstone.errors import InputError

Frames = list[dict[str, np.ndarray]]

END = 0.5
"""Seconds at the end of a recording that show how it ended, whatever the interval between two scores. A simulated success is recorded
for 0.6 s after it was reached."""
_SWAPS = (("red", "blue"), ("left", "right"), ("open", "close"), ("up", "down"))
"""Words whose exchange makes an instruction another one about the same scene."""


@dataclass(frozen=True)
class Clip:
    """S scored frames. stamps: ns from the first frame; progress: (S,) and completed: (S,): ground truth; success: of the episode; last:
    number of scores that show its end."""

    task: str
    instruction: str
    success: bool
    frames: Frames
    stamps: list[int]
    progress: np.ndarray
    completed: np.ndarray
    last: int = 1


def clip_of(episode: Demonstration, needs: RewardNeeds, rate: float) -> Clip:
    """The frames of an episode that are due, every `needs.every` control steps of `rate` Hz.

    Raises InputError where the episode lacks a camera.
    """
    missing = [camera for camera in needs.cameras if camera not in episode.cameras]
    if missing:
        raise InputError(f"{episode.path}: has no camera '{missing[0]}'; the reward model needs {', '.join(needs.cameras)}")
    seen = {camera: images for camera, images in episode.images().items() if camera in needs.cameras}
    if needs.proprioception:
        seen[PROPRIOCEPTION] = episode.measured()
    due = np.arange(0, int(episode.frame_steps[-1]) + 1, needs.every)
    rows = np.unique(np.searchsorted(episode.frame_steps, due).clip(max=len(episode.frame_steps) - 1))
    return Clip(
        episode.task,
        episode.instruction,
        bool(episode.success),
        [{name: values[row] for name, values in seen.items()} for row in rows],
        [round(int(episode.frame_steps[row]) * 1e9 / rate) for row in rows],
        np.asarray(episode.progress)[rows],
        np.asarray(episode.completed, bool)[rows],
        max(1, int((episode.frame_steps[rows] > episode.frame_steps[-1] - END * rate).sum())),
    )


def still(clip: Clip) -> Clip:
    """Its first frame, as often as it has frames: nothing was done."""
    return replace(clip, frames=[clip.frames[0]] * len(clip.frames))


def noisy_still(clip: Clip, random: np.random.Generator) -> Clip:
    """Its first frame under sensor noise of 3 grey levels, new in each."""
    first = clip.frames[0]
    cameras = [name for name in first if name != PROPRIOCEPTION]
    return replace(clip, frames=[{**first, **{name: grainy(first[name], random) for name in cameras}} for _ in clip.frames])


def backwards(clip: Clip) -> Clip:
    """Its frames in reverse, at the stamps of the original: what was done is undone."""
    return replace(clip, frames=clip.frames[::-1])


def under(clip: Clip, instruction: str) -> Clip:
    return replace(clip, instruction=instruction)


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
    return sorted({words for name, words in instructions.items() if name not in excluded and words != instructions[task]})


def grainy(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image with sensor noise of 3 grey levels."""
    return np.clip(image + random.normal(0.0, 3.0, image.shape), 0, 255).astype(np.uint8)
