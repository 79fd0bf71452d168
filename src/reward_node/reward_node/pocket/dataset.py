"""Training data of the pocket VLM: windows of simulated episodes, each with right and wrong instructions in equal number.

Role: encodes every frame once with the frozen vision encoder, draws windows as the reward's own (topreward/window.py), says how true each
instruction is of the newest frame. Labels are the simulator's ground truth; nothing at run time reads it. Does not depend on ROS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from reward_node.pocket.wordings import WORDINGS, other_cube_done, other_tasks, say
from reward_node.sarm2.dataset import encode
from reward_node.signals import uniform_window
from whetstone.demonstrations import Demonstration
from whetstone.vision import CAMERAS

FALSE, TRUE = 0.02, 0.98
UNFINISHED = {"broad": 0.75, "sharp": 0.5}
"""Truth of an instruction short of done: FALSE + UNFINISHED * progress; a gap below done, so that done can be told."""
Phase = Literal["broad", "sharp"]
"""broad: what is seen and what was asked for, all of an episode. sharp: done or nearly done, failures as often as successes, their ends."""


@dataclass(frozen=True)
class Window:
    """One clip. features: (frames, features); questions: (instruction, truth in [0, 1]) of its newest frame."""

    features: torch.Tensor
    questions: list[tuple[str, float]]


class Windows:
    """All training episodes and random windows of them. frames: in a window; every: control steps between two scores."""

    def __init__(
        self,
        encoder: Any,
        demonstrations: Sequence[Demonstration],
        scene: dict[str, float],
        also_true: dict[str, tuple[str, ...]],
        frames: int,
        stride: int,
        seed: int,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.also_true, self.frames, self.stride = also_true, frames, stride
        self.episodes = list(demonstrations)
        self.features: list[torch.Tensor] = []
        self.swapped: list[np.ndarray] = []
        for episode in tqdm(self.episodes, desc="encoding", unit="episode", leave=False):
            self.features.append(torch.from_numpy(encode(encoder, episode, CAMERAS)))
            self.swapped.append(other_cube_done(episode.task, episode.state, scene))
        # Tasks count alike; episodes that end with the wrong cube where the right one should be are few and tell the most.
        self.weight: dict[Phase, np.ndarray] = {
            "broad": self._weight([episode.task for episode in self.episodes]),
            "sharp": self._weight([f"{episode.task} {episode.success}" for episode in self.episodes]),
        }

    def _weight(self, groups: list[str]) -> np.ndarray:
        count = Counter(groups)
        weight = [(3.0 if done[-1] else 1.0) / count[group] for group, done in zip(groups, self.swapped, strict=True)]
        return np.array(weight) / np.sum(weight)

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and scale of the features, (features,) each."""
        sample = torch.cat([one[::5] for one in self.features]).float()
        return sample.mean(dim=0), sample.std(dim=0).clamp_min(1e-3)

    def scenes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, features) and (N, values) of all frames: what the auxiliary head learns, standardised."""
        state = torch.from_numpy(np.concatenate([episode.state for episode in self.episodes])).float()
        return torch.cat(self.features).float(), (state - state.mean(0)) / state.std(0).clamp_min(1e-3)

    def draw(self, phase: Phase) -> Window:
        """A random window with two right and two wrong instructions; in the sharp phase, which needs windows more than words, one each."""
        random = self.random
        number = int(random.choice(len(self.episodes), p=self.weight[phase]))
        episode, length = self.episodes[number], len(self.features[number])
        # A policy is slower or faster than the expert.
        step = max(1, self.stride + int(random.integers(-2, 3)))
        scored = np.arange(0, length, step)
        late = 0.4 if phase == "broad" else 0.7
        place = random.random() if random.random() > late else 1.0 - 0.4 * random.random()
        newest = min(int(place * len(scored)), len(scored) - 1)
        rows = scored[uniform_window(newest + 1, self.frames)]
        sort = random.random()
        if sort < 0.08:
            rows = np.full_like(rows, rows[-1])  # a still, of any time: what is there counts, not that time passed
        elif sort < 0.16:
            rows = rows[::-1].copy()  # backwards: what was done is undone
        questions = self._questions(number, episode, int(rows[-1]), UNFINISHED[phase])
        if phase == "sharp":
            questions = [questions[int(random.integers(2))], questions[2 + int(random.integers(2))]]
        return Window(self.features[number][rows], questions)

    def _questions(self, number: int, episode: Demonstration, frame: int, slope: float) -> list[tuple[str, float]]:
        random, task = self.random, episode.task
        truth = TRUE if episode.completed[frame] else FALSE + slope * float(episode.progress[frame])
        right = [(episode.instruction, truth), (say(str(random.choice(WORDINGS[task]))), truth)]
        others = other_tasks(task, self.also_true)
        swapped = say(WORDINGS[task][0] if random.random() < 0.5 else str(random.choice(WORDINGS[task])), "blue")
        wrong = [(swapped, TRUE if self.swapped[number][frame] else FALSE)]
        if others:
            other = str(random.choice(others))
            wrong.append((say(WORDINGS[other][0] if random.random() < 0.5 else str(random.choice(WORDINGS[other]))), FALSE))
        else:
            wrong.append((say(str(random.choice(WORDINGS[task])), "blue"), wrong[0][1]))
        return [*right, *wrong]
