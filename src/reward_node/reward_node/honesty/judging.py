"""From labelled episodes to rows of figures.

Role: what `whetstone evaluate-reward` does between its arguments and its files; trainers judge by it too. Depends on torch for the peak
memory of a GPU alone; does not depend on ROS.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from reward_node.honesty.clips import clip_of
from reward_node.honesty.figures import figures
from reward_node.honesty.playing import Played, play, play_with_controls
from whetstone.completion import Completion
from whetstone.contracts import RewardModel
from whetstone.demonstrations import Demonstration
from whetstone.task import also_true


def evaluate(reward: RewardModel, episodes: Sequence[Demonstration], rate: float, count: int, seed: int) -> list[Played]:
    """Every episode played once; of each task `count` successes with controls, under the seed. rate: control steps per second."""
    random = np.random.default_rng(seed)
    instructions = {episode.task: episode.instruction for episode in episodes}
    left, known = dict.fromkeys(instructions, count), also_true()
    played = []
    for episode in tqdm(episodes, desc="clips", unit="clip", disable=None):
        clip = clip_of(episode, reward.needs, rate)
        if clip.success and left[clip.task]:
            left[clip.task] -= 1
            played.append(play_with_controls(reward, clip, instructions, known, random))
        else:
            played.append(Played(clip, play(reward, clip)))
    return played


def rows_of(played: Sequence[Played], success: Completion, subject: str, robot: str) -> list[dict[str, Any]]:
    """In the results format, of every task and of all."""
    rows = []
    for task in [*sorted({one.clip.task for one in played}), "all"]:
        found = figures([one for one in played if task in (one.clip.task, "all")], success)
        rows += [
            {"case": f"{robot}/{task}", "subject": subject, "metric": metric, "value": value, "unit": unit, "n": n}
            for metric, (value, unit, n) in found.items()
        ]
    return rows


def cost(reward: RewardModel, played: Sequence[Played], subject: str, robot: str) -> list[dict[str, Any]]:
    """Memory: of the process, or the GPU, and of the weights; tokens through the language model, where there is one that counts them.

    played: all that the model was asked since it was loaded.
    """
    found: dict[str, tuple[float, str]] = {
        "peak_memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, "MB"),
        "weights": (reward.needs.memory / 1e6, "MB"),
    }
    if tokens := getattr(reward, "counters", {}).get("tokens"):
        found["tokens_per_score"] = (tokens / sum(len(curve.raw) for one in played for curve in (one.curve, *one.controls.values())), "1")
    if reward.needs.device.startswith("cuda"):
        import torch

        found["peak_memory"] = (torch.cuda.max_memory_allocated() / 1e6, "MB")
    return [
        {"case": f"{robot}/all", "subject": subject, "metric": metric, "value": float(f"{value:.4g}"), "unit": unit}
        for metric, (value, unit) in found.items()
    ]
