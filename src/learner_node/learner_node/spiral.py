"""SPIRAL: a residual actor-critic on a frozen policy, in rounds.

Role: the learner plug-in `spiral` (arXiv 2606.10305), for a policy that fulfils whetstone.contracts.ResidualPolicy. Depends on torch; knows
nothing of ROS.

With s what is seen, a the rows of a chunk that are carried out, G the discounted sum of the shaped rewards that follow (shaping.py):
    y = blend G + (1 - blend) (r + gamma (1 - done) max over `choices` draws z of min_i Q'_i(s', a'(z)))
    critics: (Q_i(s, a) - y)^2,     which see a as (a - pi(s, 0)) / scale: what it adds to the greedy chunk, for that is all that differs
    actor:   -mean over z of min_i Q_i(s, a(z)) + penalty || residual(s, pi(s, z)) ||^2,     a(z) = pi(s, z) + scale residual(s, pi(s, z))
Q' follow the critics slowly (polyak). The draws are made once for each decision. The blend's Monte-Carlo return (half in the paper) anchors
critics that few episodes cannot bootstrap, and says what came of a noise that was kept for a whole episode, which is how this policy
explores (policy_node/residual.py; not the paper's). What critics see is blurred (replay_learner.py; not the paper's either).
`penalty` weighs the mean square of the residual's numbers against returns of about 1 (30 in the paper, for its chunks and rewards).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from learner_node.descent import Descent
from learner_node.replay import Transitions
from learner_node.replay_learner import ReplayConfig, ReplayLearner
from whetstone.config import parse, source_of
from whetstone.contracts import ResidualPolicy, Rollout
from whetstone.errors import ConfigError

_SOURCE = "config/learners/spiral.yaml"


@dataclass(frozen=True, kw_only=True)
class SPIRALConfig(ReplayConfig):
    """choices: draws of the frozen policy's noise; penalty: see the module."""

    plugin: str = "spiral"
    policy: str = "residual"
    choices: int = field(default=4, metadata={"ge": 1})
    penalty: float = field(default=0.1, metadata={"ge": 0})


class SPIRAL(ReplayLearner[SPIRALConfig]):
    """See the module. The critics belong to the policy: they choose among its chunks."""

    def __init__(self, config: SPIRALConfig, policy: ResidualPolicy, seed: int):
        super().__init__(config, policy, seed, salt=37)
        self.forget(failed=False)

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> SPIRAL:
        """Raises ConfigError for a bad key or a policy without a residual."""
        parsed = parse(SPIRALConfig, config, _SOURCE)
        if not isinstance(policy, ResidualPolicy):
            raise ConfigError(f"learner 'spiral' needs a policy with a residual and critics; use policy:={parsed.policy}")
        return cls(parsed, policy, seed).with_prior(source_of(config, _SOURCE))

    def forget(self, failed: bool) -> None:
        rate, policy = self.config.learning_rate, self.policy
        self._trained = list(policy.critics.parameters()), list(policy.residual.parameters())
        self._critic_optimiser, self._actor_optimiser = (torch.optim.Adam(values, lr=rate) for values in self._trained)
        self._slow = copy.deepcopy(policy.critics).requires_grad_(False)

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"slow": self._slow, "critic_optimiser": self._critic_optimiser, "actor_optimiser": self._actor_optimiser}

    def actions(self, rollout: Rollout) -> torch.Tensor:
        return self.policy.carried_out(rollout.actions, rollout.proprioception)

    def beside(self, rollout: Rollout, inputs: torch.Tensor) -> torch.Tensor:
        """The frozen policy's chunks too, `choices` of each decision, the first from zero noise: to draw them anew at each step costs more
        than all else together."""
        count, generator = self.config.choices, torch.Generator().manual_seed(rollout.seed)
        noise = torch.randn(count, len(inputs), self.policy.noise, generator=generator)
        noise[0] = 0.0
        chunks = [self.policy.propose(inputs, one.to(inputs.device)) for one in noise]
        return torch.cat([inputs, *chunks], dim=-1)

    def step(self, batch: Transitions, descent: Descent, actor: bool) -> dict[str, torch.Tensor]:
        config, policy, (critics, residual) = self.config, self.policy, self._trained
        with torch.no_grad():
            following, chunks, greedy = self._drawn(batch.following)
            added = (policy.correct(following, chunks) - greedy) / policy.scale
            value = self._slow(self.blurred(following), added).min(0).values.view(config.choices, -1).max(0).values
        inputs, chunks, greedy = self._drawn(batch.inputs)
        added = (batch.actions - greedy[: len(batch)]) / policy.scale
        loss = (policy.critics(self.blurred(inputs[: len(batch)]), added) - self.wanted(batch, value)).square().mean()
        descent.step(self._critic_optimiser, loss, critics)
        correction = policy.residual(torch.cat([inputs, chunks], dim=-1))
        added = (chunks - greedy) / policy.scale + correction
        value = policy.critics(self.blurred(inputs), added).min(0).values.mean()
        size = correction.square().mean()
        if actor:
            descent.step(self._actor_optimiser, config.penalty * size - value, residual)
        self.follow(self._slow, policy.critics)
        return {"loss": loss, "value": value, "residual": size.sqrt()}

    def _drawn(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(choices * B, .) inputs, chunks of the frozen policy, and for each its chunk from zero noise."""
        inputs, chunks = seen[:, : self.inputs], seen[:, self.inputs :].chunk(self.config.choices, dim=-1)
        return inputs.repeat(self.config.choices, 1), torch.cat(chunks), chunks[0].repeat(self.config.choices, 1)
