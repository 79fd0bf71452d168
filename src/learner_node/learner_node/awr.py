"""AWR, advantage-weighted regression: a chunk is imitated by how much better the episode went from there than was to be expected.

Role: the learner plug-in `awr` (Peng et al., arXiv 1910.00177). What it shares with others: imitation.py; its rewards: shaping.py.

    G = discounted sum of the rewards that follow,  V = a value function fitted to G over the buffer
    w = min(exp((G - V) / (temperature * std(G - V))), limit)

V is fitted anew in each update, on other episodes than those that it judges (two halves, each judged by the other's): fitted on its own, a
small network learns the outcome of every single episode by heart, and no advantage is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from learner_node.descent import Descent
from learner_node.imitation import FlowImitation, ImitationConfig, Kept, labelled
from learner_node.shaping import Shaping, returns, rewards
from whetstone.networks import perceptron


@dataclass(frozen=True, kw_only=True)
class AWRConfig(ImitationConfig):
    """temperature: advantages, in standard deviations, that make a factor of e; limit: of a weight; shaping: of the rewards; value_steps:
    of the value function's training in each update."""

    temperature: float = field(default=0.5, metadata={"gt": 0})
    limit: float = field(default=20.0, metadata={"gt": 0})
    shaping: Shaping = field(default_factory=Shaping)
    value_steps: int = field(default=200, metadata={"ge": 1})


class AWR(FlowImitation[AWRConfig]):
    """See the module."""

    name = "awr"
    settings = AWRConfig
    nothing = "no decision has a reward before and behind it"

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        if not episodes:
            return []
        config = self.config
        known = [labelled(kept.rollout) for kept in episodes]
        wanted = [returns(rewards(kept.rollout, config.shaping), config.shaping.discount) for kept in episodes]
        values = values_by_halves(episodes, wanted, config.value_steps, self._generator)
        advantages = [one - value for one, value in zip(wanted, values, strict=True)]
        spread = max(float(np.concatenate(advantages).std()), 1e-6)
        weights = [np.exp(np.minimum(one / (config.temperature * spread), np.log(config.limit))) for one in advantages]
        return [weight * mask for weight, mask in zip(weights, known, strict=True)]


def values_by_halves(episodes: Sequence[Kept], wanted: Sequence[np.ndarray], steps: int, generator: torch.Generator) -> list[np.ndarray]:
    """(T,) for each episode: the return to be expected at each of its decisions, fitted on the other half of the episodes. With a single
    episode: zeros."""
    values = [np.zeros(len(one)) for one in wanted]
    for half in (0, 1):
        judged = [index for index in range(len(episodes)) if index % 2 == half]
        others = [index for index in range(len(episodes)) if index % 2 != half]
        if not others:
            continue
        inputs = torch.cat([_seen(episodes[index]) for index in others])
        targets = torch.from_numpy(np.concatenate([wanted[index] for index in others])).float()
        value = fit_value(inputs, targets, steps, generator)
        for index in judged:
            with torch.no_grad():
                values[index] = value(_seen(episodes[index])).numpy().astype(np.float64)
    return values


def _seen(kept: Kept) -> torch.Tensor:
    """(T, . + 1): what the policy saw, and the number of the decision: what is yet to come depends on the time left."""
    return torch.cat([kept.inputs.float().cpu(), torch.arange(len(kept.inputs))[:, None]], dim=1)


class Value(nn.Module):
    """(N, inputs) -> (N,): a small network over inputs of unit variance."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__()
        self.mean, self.scale = inputs.mean(0), inputs.std(0, correction=0).clamp_min(1e-3)
        self.offset, self.spread = targets.mean(), targets.std(correction=0).clamp_min(1e-6)
        self.layers = perceptron((inputs.shape[1], 64, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers((inputs - self.mean) / self.scale)[:, 0] * self.spread + self.offset


def fit_value(inputs: torch.Tensor, targets: torch.Tensor, steps: int, generator: torch.Generator) -> Value:
    """Least squares by AdamW in `steps` batches of at most 256, with weight decay against learning single episodes by heart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        value = Value(inputs, targets)
    trained, descent = list(value.parameters()), Descent(norm=math.inf)
    optimiser = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.1)
    for _ in range(steps):
        index = torch.randint(len(inputs), (min(256, len(inputs)),), generator=generator)
        loss = ((value(inputs[index]) - targets[index]) / value.spread).square().mean()
        descent.step(optimiser, loss, trained)
    return value
