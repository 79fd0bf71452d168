"""Clips that a reward model is judged on: what really happened, and what only looks like it.

Role: labelled episodes become clips of the frames that the node would score; of a clip come its controls: a still, a still with sensor
noise, the clip backwards, wrong instructions. Ground truth is kept beside the frames, to judge, never to score. Does not depend on torch
or ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whetstone import controls
from whetstone.contracts import PROPRIOCEPTION, RewardNeeds
from whetstone.demonstrations import Demonstration
from whetstone.errors import InputError

Frames = list[dict[str, np.ndarray]]

END = 0.5
"""Seconds at the end of a recording that show how it ended, whatever the interval between two scores. A simulated success is recorded
for 0.6 s after it was reached."""


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
    return _reordered(clip, controls.still(len(clip.frames)))


def backwards(clip: Clip) -> Clip:
    """Its frames in reverse, at the stamps of the original: what was done is undone."""
    return _reordered(clip, controls.backwards(len(clip.frames)))


def noisy_still(clip: Clip, random: np.random.Generator) -> Clip:
    """Its first frame under sensor noise of 3 grey levels, new in each."""
    first = clip.frames[0]
    cameras = [name for name in first if name != PROPRIOCEPTION]
    return replace(clip, frames=[{**first, **{name: controls.grainy(first[name], random) for name in cameras}} for _ in clip.frames])


def under(clip: Clip, instruction: str) -> Clip:
    return replace(clip, instruction=instruction)


def _reordered(clip: Clip, order: Sequence[int]) -> Clip:
    return replace(clip, frames=[clip.frames[index] for index in order])
