"""Small networks that policies and learners share: what a learner trains, a policy runs.

Role: perceptrons over a policy's inputs. Depends on torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn


def perceptron(sizes: Sequence[int], last_gain: float = 1.0) -> nn.Sequential:
    """Linear layers with LayerNorm and GELU between them; the last one's weights times `last_gain` (0: the output begins as zero).

    LayerNorm keeps critics that bootstrap from running away (Ball et al., arXiv 2302.02948, "RLPD").
    """
    layers: list[nn.Module] = []
    for index, (entering, leaving) in enumerate(zip(sizes, sizes[1:], strict=False)):
        linear = nn.Linear(entering, leaving)
        layers.append(linear)
        if index < len(sizes) - 2:
            layers += [nn.LayerNorm(leaving), nn.GELU()]
        else:
            with torch.no_grad():
                linear.weight.mul_(last_gain)
                linear.bias.zero_()
    return nn.Sequential(*layers)


class Critics(nn.Module):
    """Several estimates of the return of an action: inputs (B, .), actions (B, .) -> (count, B). They begin as zero: no action is preferred
    to another."""

    def __init__(self, inputs: int, actions: int, width: int, count: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(perceptron((inputs + actions, width, width, 1), last_gain=0.0) for _ in range(count))

    def forward(self, inputs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        both = torch.cat([inputs, actions], dim=-1)
        return torch.stack([member(both)[:, 0] for member in self.members])


class NoiseActor(nn.Module):
    """Chooses the initial noise of a flow: inputs (B, .) -> mean and log standard deviation (B, size), before they are squashed to
    [-bound, bound] by tanh. Begins around zero with a deviation of about `spread`, whatever is seen."""

    def __init__(self, inputs: int, size: int, width: int, bound: float, spread: float) -> None:
        super().__init__()
        self.bound, self.size, self.spread = bound, size, spread
        self.layers = perceptron((inputs, width, width, 2 * size), last_gain=0.0)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, spread = self.layers(inputs).chunk(2, dim=-1)
        # At the start bound * tanh(x) has a deviation of about `spread`; later anything from nearly none to the whole range.
        return mean, (spread + math.log(self.spread / self.bound)).clamp(-5.0, 1.0)

    def sample(self, inputs: torch.Tensor, generator: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, size) noise and its log-probability (B,), differentiable in the actor's weights."""
        mean, spread = self(inputs)
        drawn = torch.randn(mean.shape, generator=generator).to(mean.device)
        plain = mean + spread.exp() * drawn
        density = -0.5 * drawn.square() - spread - 0.5 * math.log(2 * math.pi)
        # The change of variables through bound * tanh(x), in a form that does not overflow.
        stretch = math.log(self.bound) + 2 * (math.log(2.0) - plain - nn.functional.softplus(-2 * plain))
        return self.bound * plain.tanh(), (density - stretch).sum(-1)

    def greedy(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, size): the middle of its distribution."""
        return self.bound * self(inputs)[0].tanh()
