"""Plays clips to a reward model as the node would, and its controls.

Role: from clips to curves. A model that looks at whole episodes only (GVL) is asked for those. Does not depend on torch or ROS.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from reward_node.honesty.clips import Clip, backwards, noisy_still, still, under
from whetstone.contracts import RewardModel, RewardSample
from whetstone.controls import other_instructions, swapped

VALUES = ("raw", "progress", "completion", "contrastive")


@dataclass(frozen=True)
class Curve:
    """raw, progress, completion, contrastive: (S,) float64, NaN where a sample was not valid; seconds: (S,) of each score, empty for whole
    episodes; invalid: reasons of samples that were not valid."""

    raw: np.ndarray
    progress: np.ndarray
    completion: np.ndarray
    contrastive: np.ndarray
    seconds: np.ndarray
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Played:
    """One clip and its curve; controls: "static", "noisy", "reversed", "wrong_object", "wrong_task" -> curve, those that were played."""

    clip: Clip
    curve: Curve
    controls: dict[str, Curve] = field(default_factory=dict)


def play(reward: RewardModel, clip: Clip, *, live: bool = True) -> Curve:
    """The model's curve of a clip. live: frame by frame with the time of each score; else as a whole episode."""
    reward.reset("evaluation", clip.instruction, 0)
    seconds: list[float] = []
    if live and not getattr(reward, "offline", False):
        samples: list[RewardSample | None] = []
        for images, stamp in zip(clip.frames, clip.stamps, strict=True):
            begin = time.perf_counter()
            samples.append(reward.observe(images, stamp))
            seconds.append(time.perf_counter() - begin)
    else:
        samples = list(reward.score_episode(clip.frames, clip.stamps))
    valid = [sample if sample is not None and sample.valid else None for sample in samples]
    columns = {name: np.array([np.nan if one is None else getattr(one, name) for one in valid], float) for name in VALUES}
    reasons = tuple(sample.reason for sample in samples if sample is not None and not sample.valid)
    return Curve(**columns, seconds=np.array(seconds), invalid=reasons)


def play_with_controls(
    reward: RewardModel, clip: Clip, instructions: Mapping[str, str], also_true: Mapping[str, Sequence[str]], random: np.random.Generator
) -> Played:
    """A successful clip and all of its controls. instructions, also_true: see whetstone.controls.other_instructions."""
    shown = {"static": still(clip), "noisy": noisy_still(clip, random), "reversed": backwards(clip)}
    words = swapped(clip.instruction)
    if words is not None:
        shown["wrong_object"] = under(clip, words)
    others = other_instructions(clip.task, instructions, also_true)
    if others:
        shown["wrong_task"] = under(clip, str(random.choice(others)))
    return Played(clip, play(reward, clip), {name: play(reward, one, live=False) for name, one in shown.items()})
